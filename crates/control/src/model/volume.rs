//! Block devices, and the virtio-blk controllers that serve them to guests.

use serde::Serialize;

use super::port::read_queue_size;
use super::{Kind, SOCKET_MODES, SocketMode, Spec};
use crate::decode::{
    Field, Fields, FilePath, FromValue, Name, SocketPath, Wrong, optional, required,
};
use crate::value::ByteSize;

/// Size of a logical block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// 512 bytes.
    B512,
    /// 4096 bytes.
    B4096,
}

impl BlockSize {
    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B4096 => 4096,
        }
    }
}

impl Serialize for BlockSize {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u32(self.bytes())
    }
}

impl FromValue for BlockSize {
    fn from_value(value: &serde_json::Value) -> Result<Self, Wrong> {
        match value.as_u64() {
            Some(512) => Ok(Self::B512),
            Some(4096) => Ok(Self::B4096),
            _ => Err(Wrong {
                expected: "512 or 4096".to_owned(),
            }),
        }
    }
}

/// Where a volume's blocks are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum VolumeKind {
    /// In the daemon's memory; gone when the daemon ends.
    Memory {
        /// Size.
        size: ByteSize,
    },
    /// Nowhere: reads give zeroes, writes are forgotten. For measurements.
    Null {
        /// Size.
        size: ByteSize,
    },
    /// In a file or on a block device.
    File {
        /// The file or the device.
        path: String,
        /// Whether the page cache is bypassed (`O_DIRECT`).
        direct: bool,
        /// Size. Left out: that of the file or device, as it is.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<ByteSize>,
        /// Whether a file that does not exist is made, sparse, of the given size.
        create: bool,
    },
}

impl VolumeKind {
    /// The word for it in configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Memory { .. } => "memory",
            Self::Null { .. } => "null",
            Self::File { .. } => "file",
        }
    }

    /// The configured size, if one is.
    pub fn size(&self) -> Option<ByteSize> {
        match self {
            Self::Memory { size } | Self::Null { size } => Some(*size),
            Self::File { size, .. } => *size,
        }
    }

    /// The same with another size.
    pub fn with_size(&self, new: ByteSize) -> Self {
        match self.clone() {
            Self::Memory { .. } => Self::Memory { size: new },
            Self::Null { .. } => Self::Null { size: new },
            Self::File {
                path,
                direct,
                create,
                ..
            } => Self::File {
                path,
                direct,
                size: Some(new),
                create,
            },
        }
    }
}

/// What is configured of a volume. Its UUID is its identity towards a guest unless the controller
/// gives a serial of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VolumeSpec {
    /// Name.
    pub name: String,
    /// Where the blocks are.
    #[serde(flatten)]
    pub kind: VolumeKind,
    /// Size of a logical block.
    pub block_size: BlockSize,
    /// Whether writes are refused.
    pub read_only: bool,
}

#[derive(Clone, Copy)]
enum Word {
    Memory,
    Null,
    File,
}

impl Spec for VolumeSpec {
    const KIND: Kind = Kind::Volume;
    const FIXED: &'static [&'static str] = &[
        "kind",
        "path",
        "direct",
        "create",
        "block_size",
        "read_only",
    ];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the volume"),
        required(
            "kind",
            "\"memory\" | \"null\" | \"file\"",
            "where the blocks are",
        ),
        optional(
            "size",
            "size (64MiB or bytes)",
            "size, a multiple of the block size (memory and null need it)",
        ),
        optional(
            "path",
            "absolute path",
            "file: the file or block device (needed)",
        ),
        optional(
            "direct",
            "boolean",
            "file: bypass the page cache (default false)",
        ),
        optional(
            "create",
            "boolean",
            "file: make a missing file, sparse, of the given size (default false)",
        ),
        optional(
            "block_size",
            "512 | 4096",
            "logical block, bytes (default 512)",
        ),
        optional("read_only", "boolean", "refuse writes (default false)"),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let block_size = fields.or("block_size", BlockSize::B512);
        let read_only = fields.or("read_only", false);
        let kind = read_kind(fields);
        if let Some(size) = kind.as_ref().and_then(VolumeKind::size)
            && !size.bytes().is_multiple_of(u64::from(block_size.bytes()))
        {
            let expected = format!("a multiple of the block size, {} bytes", block_size.bytes());
            fields.fault("size", size.bytes().to_string(), expected);
        }
        Some(Self {
            name: name?.0,
            kind: kind?,
            block_size,
            read_only,
        })
    }
}

fn read_kind(fields: &mut Fields<'_>) -> Option<VolumeKind> {
    let words = [
        ("memory", Word::Memory),
        ("null", Word::Null),
        ("file", Word::File),
    ];
    let word = fields.required_word("kind", &words)?;
    if let Word::File = word {
        let path = fields.required::<FilePath>("path");
        let direct = fields.or("direct", false);
        let create = fields.or("create", false);
        let size = fields.optional::<ByteSize>("size");
        if create && !fields.has("size") {
            fields.fault(
                "size",
                "missing",
                "the size of the file to make, because create is true",
            );
        }
        return Some(VolumeKind::File {
            path: path?.0,
            direct,
            size,
            create,
        });
    }
    fields.forbid(&["path", "direct", "create"], "only a file volume has it");
    let size = fields.required::<ByteSize>("size")?;
    Some(match word {
        Word::Memory => VolumeKind::Memory { size },
        _ => VolumeKind::Null { size },
    })
}

/// What is configured of a virtio-blk controller on a vhost-user socket.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ControllerSpec {
    /// Name.
    pub name: String,
    /// Name of the volume that it serves.
    pub volume: String,
    /// Path of the Unix socket.
    pub socket: String,
    /// Who listens.
    pub mode: SocketMode,
    /// Number of request queues, 1 to 64.
    pub queues: u16,
    /// Largest number of descriptors per queue, a power of two from 2 to 32768.
    pub queue_size: u16,
    /// Whether the guest sees a read-only disk.
    pub read_only: bool,
    /// What the guest reads by GET_ID (virtio 1.2 section 5.2.6): at most 20 bytes of ASCII.
    /// Without one it is the beginning of the volume's UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
}

impl Spec for ControllerSpec {
    const KIND: Kind = Kind::Controller;
    const FIXED: &'static [&'static str] = &[
        "volume",
        "socket",
        "mode",
        "queues",
        "queue_size",
        "read_only",
        "serial",
    ];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the controller"),
        required("volume", "volume name", "the volume to serve"),
        required("socket", "absolute path", "path of the Unix socket"),
        optional(
            "mode",
            "\"server\" | \"client\"",
            "who listens on the socket (default server: the daemon)",
        ),
        optional("queues", "integer 1..64", "request queues (default 1)"),
        optional(
            "queue_size",
            "power of two 2..32768",
            "descriptors per queue at most (default 256)",
        ),
        optional(
            "read_only",
            "boolean",
            "show the guest a read-only disk (default false)",
        ),
        optional(
            "serial",
            "string of 1..20 ASCII characters",
            "serial that the guest reads (default: from the volume's UUID)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let volume = fields.required::<Name>("volume");
        let socket = fields.required::<SocketPath>("socket");
        let mode = fields.word("mode", &SOCKET_MODES, SocketMode::Server);
        let queues = fields.integer("queues", 1..=64, 1);
        let queue_size = read_queue_size(fields, 256);
        let read_only = fields.or("read_only", false);
        let serial = fields.optional::<String>("serial");
        if let Some(serial) = &serial
            && !((1..=20).contains(&serial.len()) && serial.bytes().all(|c| c.is_ascii_graphic()))
        {
            fields.fault(
                "serial",
                format!("{serial:?}"),
                "1 to 20 printable ASCII characters without spaces",
            );
        }
        Some(Self {
            name: name?.0,
            volume: volume?.0,
            socket: socket?.0,
            mode,
            queues,
            queue_size,
            read_only,
            serial,
        })
    }
}
