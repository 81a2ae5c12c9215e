//! The few system calls that wire ports need and rustix does not offer: interface requests, socket options, anonymous memory.
//!
//! Sources: netdevice(7), packet(7), mmap(2). Nothing here knows what a frame is, and nothing keeps a pointer into kernel memory
//! longer than the [`Mapping`] that owns it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use libc::{c_int, c_void};

/// Kernel structures for which every bit pattern is a value, and which have no pointer and no destructor.
///
/// # Safety
/// Implement it only for such types.
pub(super) unsafe trait KernelData: Copy {}
// SAFETY: an integer.
unsafe impl KernelData for c_int {}
// SAFETY: four integers.
unsafe impl KernelData for libc::packet_mreq {}
// SAFETY: two integers.
unsafe impl KernelData for libc::tpacket_stats {}
// SAFETY: four integers.
unsafe impl KernelData for libc::tpacket_req {}
// SAFETY: integers.
unsafe impl KernelData for libc::sockaddr_ll {}
// SAFETY: integers.
unsafe impl KernelData for libc::sockaddr_xdp {}
// SAFETY: integers.
unsafe impl KernelData for libc::xdp_umem_reg {}
// SAFETY: integers.
unsafe impl KernelData for libc::xdp_mmap_offsets {}
// SAFETY: integers.
unsafe impl KernelData for libc::xdp_statistics {}
// SAFETY: an integer.
unsafe impl KernelData for libc::xdp_options {}

/// setsockopt(2).
///
/// # Errors
/// What the kernel says.
pub(super) fn set_option<T: KernelData>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast::<c_void>(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    answered(result).map(drop)
}

/// getsockopt(2). What an older kernel does not write stays zero.
///
/// # Errors
/// What the kernel says.
pub(super) fn option<T: KernelData>(
    socket: BorrowedFd<'_>,
    level: c_int,
    name: c_int,
) -> io::Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: zero is a value of every `KernelData`, and the kernel writes at most `len` bytes of one.
    unsafe {
        let mut value: T = std::mem::zeroed();
        let result = libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast::<c_void>(),
            &raw mut len,
        );
        answered(result).map(|_| value)
    }
}

/// bind(2) to an address of one of the kinds that rustix does not know.
///
/// # Errors
/// What the kernel says.
pub(super) fn bind<T: KernelData>(socket: BorrowedFd<'_>, address: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `address`, which the kernel only reads.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    answered(result).map(drop)
}

/// An ioctl(2) that takes a `struct ifreq`: the `SIOC[GS]IF*` family, `SIOCETHTOOL` and `TUNSETIFF`.
///
/// # Errors
/// What the kernel says.
pub(super) fn interface_request(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    ifreq: &mut libc::ifreq,
) -> io::Result<()> {
    // SAFETY: `ifreq` is as long as these requests expect; where one follows a pointer in it, the caller set it to a live value.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(ifreq)) };
    answered(result).map(drop)
}

/// An ioctl(2) that takes a number in the place of its pointer (`TUNSETOFFLOAD`).
///
/// # Errors
/// What the kernel says.
pub(super) fn request_by_value(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: the request takes a number; there is no memory in it.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, libc::c_ulong::from(value)) };
    answered(result).map(drop)
}

/// An ioctl(2) that reads one int through its pointer (`TUNSETVNETHDRSZ`).
///
/// # Errors
/// What the kernel says.
pub(super) fn request_by_int(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the kernel reads one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw const value) };
    answered(result).map(drop)
}

/// A C return value as a result.
pub(super) fn answered(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Mapped memory, unmapped when dropped. Reached by raw pointer only: the kernel or the switch may write it at any time.
#[derive(Debug)]
pub(super) struct Mapping {
    address: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns the memory, which is tied to no thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// `len` zero bytes of our own, page-aligned, that take memory only when touched.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        Self::new(address, len)
    }

    /// `len` bytes at `offset` of what `fd` shares with us (a socket's ring).
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn shared(fd: BorrowedFd<'_>, len: usize, offset: libc::off_t) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                offset,
            )
        };
        Self::new(address, len)
    }

    fn new(address: *mut c_void, len: usize) -> io::Result<Self> {
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { address, len })
    }

    /// Bytes mapped.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The address of byte `offset`, which must lie inside or at the end; beyond, the address of the end.
    #[inline(always)]
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        self.address
            .as_ptr()
            .wrapping_add(if offset < self.len { offset } else { self.len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and nobody is left who may use it.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.len) };
    }
}
