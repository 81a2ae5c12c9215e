//! The XDP program that hands an interface's frames to AF_XDP sockets, loaded and attached by bpf(2) alone.
//!
//! It redirects each frame to the socket of its receive queue, and passes it to the host's own stack where there is none. The attachment is a
//! BPF link: the kernel takes it away with the last descriptor, however the process ends. Source: kernel documentation "AF_XDP", "BPF instruction set".
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::WireError;
use super::interface::{Interface, refused};
use super::syscall::answered;

/// Receive queues that one program serves.
pub const QUEUES_MAX: u32 = 256;

// Commands and constants of linux/bpf.h and linux/if_link.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
const XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_PASS: i32 = 2;
const HELPER_REDIRECT_MAP: i32 = 51;
/// `offsetof(struct xdp_md, rx_queue_index)`.
const RX_QUEUE_INDEX: i16 = 16;

/// The leading part of `union bpf_attr` for one command. No padding between fields: the kernel reads every byte.
///
/// # Safety
/// Implement it only for such types; pointers in them must be valid for the call.
unsafe trait Attributes {}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}
// SAFETY: four integers of one size.
unsafe impl Attributes for MapCreate {}

#[repr(C)]
struct MapUpdate {
    map: u32,
    zero: u32,
    key: *const u32,
    value: *const u32,
    flags: u64,
}
// SAFETY: the `zero` field fills the gap; the one place that makes it points at live values of the map's sizes.
unsafe impl Attributes for MapUpdate {}

#[repr(C)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: *const u64,
    license: *const u8,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}
// SAFETY: no gaps; the one place that makes it points at live instructions and a terminated string.
unsafe impl Attributes for ProgramLoad {}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}
// SAFETY: four integers of one size.
unsafe impl Attributes for LinkCreate {}

fn bpf<T: Attributes>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes and what they point at, by the contract of `Attributes`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    answered(result as libc::c_int)
}

fn bpf_fd<T: Attributes>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: these commands return a new descriptor (close-on-exec), owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One instruction: operation, registers, offset, immediate value.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [o0, o1] = offset.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    let registers = if cfg!(target_endian = "little") {
        to | from << 4
    } else {
        to << 4 | from
    };
    u64::from_ne_bytes([code, registers, o0, o1, v0, v1, v2, v3])
}

/// `return redirect_map(&sockets, context->rx_queue_index, PASS)`.
fn redirect_to_sockets(sockets: i32) -> [u64; 6] {
    const LOAD_WORD: u8 = 0x61;
    const LOAD_IMMEDIATE_64: u8 = 0x18;
    const MOVE_IMMEDIATE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const PSEUDO_MAP_FD: u8 = 1;
    [
        instruction(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        instruction(LOAD_IMMEDIATE_64, 1, PSEUDO_MAP_FD, 0, sockets),
        0,
        instruction(MOVE_IMMEDIATE, 3, 0, 0, XDP_PASS),
        instruction(CALL, 0, 0, 0, HELPER_REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

/// Where the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before a socket buffer is made.
    Native,
    /// In the stack's receive path, on any interface.
    Generic,
}

/// The program on one interface, shared by the sockets of its queues.
#[derive(Debug)]
pub struct XdpProgram {
    interface: Interface,
    sockets: OwnedFd,
    mode: XdpMode,
    large: bool,
    // Held for what the kernel ends when they are closed: the attachment and promiscuous mode.
    _link: OwnedFd,
    _promiscuous: OwnedFd,
}

impl XdpProgram {
    /// Loads the program and attaches it to `interface`: in the driver where it can, else in the stack. The interface is set promiscuous
    /// for as long as the program is attached.
    ///
    /// # Errors
    /// [`WireError`]: no such interface, not allowed (`CAP_NET_ADMIN` and `CAP_BPF`), or another XDP program there already.
    pub fn attach(interface: &str) -> Result<Arc<Self>, WireError> {
        Self::attach_in(interface, &[XdpMode::Native, XdpMode::Generic])
    }

    /// The same in the first mode that the interface takes.
    pub(super) fn attach_in(interface: &str, modes: &[XdpMode]) -> Result<Arc<Self>, WireError> {
        let interface = Interface::open(interface)?;
        let name = interface.name();
        // A program that takes frames in several pieces is refused nowhere, but a veth peer then goes on sending large segments without
        // saying so; it stops when the program takes only whole frames.
        let large = interface.mtu()? > super::xdp::WHOLE_MTU_MAX;
        let map = MapCreate {
            map_type: MAP_TYPE_XSKMAP,
            key_size: 4,
            value_size: 4,
            max_entries: QUEUES_MAX,
        };
        let sockets = bpf_fd(MAP_CREATE, &map)
            .map_err(|source| refused("make a socket map for", name, source))?;
        let program = load(&sockets, large)
            .map_err(|source| refused("load an XDP program for", name, source))?;
        let mut last = io::Error::from(io::ErrorKind::Unsupported);
        for &mode in modes {
            let link = LinkCreate {
                program: program.as_raw_fd() as u32,
                interface: interface.index(),
                attach_type: ATTACH_TYPE_XDP,
                flags: match mode {
                    XdpMode::Native => XDP_FLAGS_DRV_MODE,
                    XdpMode::Generic => XDP_FLAGS_SKB_MODE,
                },
            };
            match bpf_fd(LINK_CREATE, &link) {
                Ok(link) => {
                    let promiscuous = membership_socket(&interface)?;
                    return Ok(Arc::new(Self {
                        interface,
                        sockets,
                        mode,
                        large,
                        _link: link,
                        _promiscuous: promiscuous,
                    }));
                }
                // Somebody else's program is not pushed aside by choosing another mode.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    last = error;
                    break;
                }
                Err(error) => last = error,
            }
        }
        Err(refused("attach an XDP program", name, last))
    }

    /// The interface it is on.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Where it runs.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Whether it takes frames in several pieces.
    pub(super) fn large(&self) -> bool {
        self.large
    }

    /// From now on frames of `queue` go to `socket`, until it is closed.
    pub(super) fn direct(&self, queue: u32, socket: &OwnedFd) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        let update = MapUpdate {
            map: self.sockets.as_raw_fd() as u32,
            zero: 0,
            key: &raw const queue,
            value: &raw const value,
            flags: 0,
        };
        bpf(MAP_UPDATE_ELEM, &update).map(drop)
    }
}

fn load(sockets: &OwnedFd, large: bool) -> io::Result<OwnedFd> {
    let instructions = redirect_to_sockets(sockets.as_raw_fd());
    let program = ProgramLoad {
        program_type: PROG_TYPE_XDP,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr(),
        license: c"Apache-2.0".as_ptr().cast(),
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: if large { XDP_HAS_FRAGS } else { 0 },
        name: *b"sumeru_xdp\0\0\0\0\0\0",
        interface: 0,
        expected_attach_type: ATTACH_TYPE_XDP,
    };
    bpf_fd(PROG_LOAD, &program)
}

/// A packet socket that receives nothing and keeps the interface promiscuous.
fn membership_socket(interface: &Interface) -> Result<OwnedFd, WireError> {
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| refused("open a packet socket", interface.name(), errno.into()))?;
    interface.add_promiscuous(&socket)?;
    Ok(socket)
}
