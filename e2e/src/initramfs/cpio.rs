//! A writer of cpio archives in the "new ASCII" format that Linux unpacks as an initramfs
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Only folders and plain files, all owned by root.

/// File type bits of `c_mode` (inode(7)).
const TYPE_FOLDER: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
/// The name of the entry that ends an archive.
const END: &str = "TRAILER!!!";

/// An archive in memory.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a folder; the folders above it must have been added before.
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        self.entry(path, TYPE_FOLDER | mode, 2, &[]);
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, TYPE_FILE | mode, 1, content);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, 1, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.inode += 1;
        // In the order of the format: ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor,
        // rdevminor, namesize (with the final NUL), check. Times are zero so that equal input gives equal archives.
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            length(content.len()),
            0,
            0,
            0,
            0,
            length(path.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Names and contents end on four-byte boundaries.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The format has 32 bits for a size; a guest's memory is smaller than that limit.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_format() {
        let mut archive = Archive::default();
        archive.folder("d", 0o755);
        archive.file("d/f", 0o644, b"hello");
        let bytes = archive.finish();
        let zeros = "00000000";
        let head = format!(
            "07070100000001000041ed{zeros}{zeros}00000002{zeros}{zeros}{zeros}{zeros}{zeros}{zeros}00000002{zeros}"
        );
        assert_eq!(&bytes[..110], head.as_bytes());
        // 110 bytes of header and "d\0" end on a boundary; the file's header follows at once.
        assert_eq!(&bytes[110..112], b"d\0");
        assert_eq!(&bytes[112..118], b"070701");
        // "d/f\0" ends at 226, the content begins at 228 and is padded to 236.
        assert_eq!(&bytes[228..236], b"hello\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.windows(END.len()).any(|w| w == END.as_bytes()));
    }
}
