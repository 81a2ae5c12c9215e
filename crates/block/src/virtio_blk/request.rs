//! What a driver asks for: the header and the sizes of a request, checked once (Virtio 1.2, section 5.2.6).
//!
//! Pure: touches no memory but its arguments. Whether the range is inside the device is the bdev's business.

/// Bytes of a sector, the unit of the protocol whatever the block size.
pub const SECTOR: u64 = 512;
/// Bytes of one discard or write-zeroes segment.
pub const RANGE_LEN: u32 = 16;
/// Bytes that a GET_ID answers.
pub const ID_LEN: usize = 20;

/// Status values (5.2.6).
pub mod status {
    /// VIRTIO_BLK_S_OK.
    pub const OK: u8 = 0;
    /// VIRTIO_BLK_S_IOERR.
    pub const IOERR: u8 = 1;
    /// VIRTIO_BLK_S_UNSUPP.
    pub const UNSUPP: u8 = 2;
}

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_GET_ID: u32 = 8;
const T_DISCARD: u32 = 11;
const T_WRITE_ZEROES: u32 = 13;
/// `unmap` in a segment's flags; all other bits are reserved.
const FLAG_UNMAP: u32 = 1;

/// A request that makes sense. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Device to guest.
    Read {
        /// First byte.
        offset: u64,
    },
    /// Guest to device.
    Write {
        /// First byte.
        offset: u64,
    },
    /// Earlier writes to stable storage.
    Flush,
    /// The serial number.
    GetId,
    /// The content is no longer needed.
    Discard {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// Zeroes, please.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// The space may be given back.
        unmap: bool,
    },
}

/// Why a request is refused before it reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Fewer than 16 readable bytes.
    #[error("the header is cut short")]
    ShortHeader,
    /// A type that does not exist or was not negotiated, or unknown flags.
    #[error("the request type or its flags are not supported")]
    Unsupported,
    /// Data of no bytes, or not whole sectors.
    #[error("the data is not a positive number of whole sectors")]
    DataLength,
    /// The sector times 512 passes 2^64.
    #[error("the sector is out of range")]
    Sector,
    /// More pieces than the device takes.
    #[error("the data has too many segments")]
    Segments,
    /// Discard or write zeroes: no segment, too many, broken, or too long.
    #[error("the discard or write-zeroes segments are not acceptable")]
    Ranges,
}

impl Refusal {
    /// The status that the driver sees.
    pub fn status(self) -> u8 {
        match self {
            Self::Unsupported => status::UNSUPP,
            _ => status::IOERR,
        }
    }
}

/// What the queue may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most pieces of a request's data.
    pub segments: u32,
    /// Largest discard in bytes; 0: not negotiated.
    pub discard: u64,
    /// Largest write-zeroes in bytes; 0: not negotiated.
    pub write_zeroes: u64,
}

/// The readable and writable parts of a request without header and status.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payload {
    /// Readable bytes.
    pub readable_len: u32,
    /// Pieces of the readable part.
    pub readable_segments: u32,
    /// Writable bytes.
    pub writable_len: u32,
    /// Pieces of the writable part.
    pub writable_segments: u32,
}

fn le32(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn sectors(sector: u64) -> Result<u64, Refusal> {
    sector.checked_mul(SECTOR).ok_or(Refusal::Sector)
}

impl Request {
    /// Reads a header. `range` fetches the first discard or write-zeroes segment from the readable part.
    ///
    /// # Errors
    /// [`Refusal`]; its status goes to the driver, and the queue goes on.
    #[inline]
    pub fn parse(
        header: &[u8; 16],
        payload: &Payload,
        limits: &Limits,
        range: impl FnOnce() -> [u8; 16],
    ) -> Result<Self, Refusal> {
        let kind = le32(header, 0);
        let sector = u64::from(le32(header, 8)) | u64::from(le32(header, 12)) << 32;
        let data = |len: u32, pieces: u32| {
            if len == 0 || !u64::from(len).is_multiple_of(SECTOR) {
                return Err(Refusal::DataLength);
            }
            if pieces > limits.segments {
                return Err(Refusal::Segments);
            }
            sectors(sector)
        };
        match kind {
            T_IN => data(payload.writable_len, payload.writable_segments)
                .map(|offset| Self::Read { offset }),
            T_OUT => data(payload.readable_len, payload.readable_segments)
                .map(|offset| Self::Write { offset }),
            T_FLUSH => Ok(Self::Flush),
            T_GET_ID if payload.writable_len == 0 => Err(Refusal::DataLength),
            T_GET_ID => Ok(Self::GetId),
            T_DISCARD if limits.discard > 0 => {
                let (offset, len, flags) = parse_range(payload, limits.discard, range)?;
                if flags != 0 {
                    return Err(Refusal::Unsupported);
                }
                Ok(Self::Discard { offset, len })
            }
            T_WRITE_ZEROES if limits.write_zeroes > 0 => {
                let (offset, len, flags) = parse_range(payload, limits.write_zeroes, range)?;
                if flags & !FLAG_UNMAP != 0 {
                    return Err(Refusal::Unsupported);
                }
                let unmap = flags & FLAG_UNMAP != 0;
                Ok(Self::WriteZeroes { offset, len, unmap })
            }
            _ => Err(Refusal::Unsupported),
        }
    }
}

/// The one segment that `max_discard_seg` and `max_write_zeroes_seg` allow: sector, number of sectors, flags.
fn parse_range(
    payload: &Payload,
    max_bytes: u64,
    range: impl FnOnce() -> [u8; 16],
) -> Result<(u64, u64, u32), Refusal> {
    if payload.readable_len != RANGE_LEN {
        return Err(Refusal::Ranges);
    }
    let range = range();
    let sector = u64::from(le32(&range, 0)) | u64::from(le32(&range, 4)) << 32;
    let (count, flags) = (le32(&range, 8), le32(&range, 12));
    let len = u64::from(count) * SECTOR;
    if len == 0 || len > max_bytes {
        return Err(Refusal::Ranges);
    }
    Ok((sectors(sector)?, len, flags))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        segments: 4,
        discard: 1 << 20,
        write_zeroes: 1 << 20,
    };

    fn header(kind: u32, sector: u64) -> [u8; 16] {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        header
    }

    fn range(sector: u64, count: u32, flags: u32) -> [u8; 16] {
        let mut range = [0; 16];
        range[..8].copy_from_slice(&sector.to_le_bytes());
        range[8..12].copy_from_slice(&count.to_le_bytes());
        range[12..].copy_from_slice(&flags.to_le_bytes());
        range
    }

    fn parse(kind: u32, sector: u64, payload: Payload) -> Result<Request, Refusal> {
        Request::parse(&header(kind, sector), &payload, &LIMITS, || [0; 16])
    }

    fn readable(len: u32) -> Payload {
        Payload {
            readable_len: len,
            readable_segments: 1,
            ..Payload::default()
        }
    }

    fn writable(len: u32) -> Payload {
        Payload {
            writable_len: len,
            writable_segments: 1,
            ..Payload::default()
        }
    }

    #[test]
    fn data_is_whole_sectors_in_the_right_direction() {
        assert_eq!(
            parse(T_IN, 3, writable(512)),
            Ok(Request::Read { offset: 1536 })
        );
        assert_eq!(
            parse(T_OUT, 3, readable(1024)),
            Ok(Request::Write { offset: 1536 })
        );
        for len in [0, 1, 511, 513, u32::MAX] {
            assert_eq!(parse(T_IN, 0, writable(len)), Err(Refusal::DataLength));
            assert_eq!(parse(T_OUT, 0, readable(len)), Err(Refusal::DataLength));
        }
        assert_eq!(parse(T_IN, 0, readable(512)), Err(Refusal::DataLength));
        assert_eq!(parse(T_OUT, 0, writable(512)), Err(Refusal::DataLength));
        assert_eq!(parse(T_IN, 1 << 55, writable(512)), Err(Refusal::Sector));
        let many = Payload {
            writable_segments: 5,
            ..writable(512)
        };
        assert_eq!(parse(T_IN, 0, many), Err(Refusal::Segments));
    }

    #[test]
    fn unknown_types_are_unsupported() {
        for kind in [2, 3, 5, 9, 10, 12, 14, 1 << 31, u32::MAX] {
            let refusal = parse(kind, 0, writable(512)).unwrap_err();
            assert_eq!(refusal.status(), status::UNSUPP);
        }
        let none = Limits {
            discard: 0,
            write_zeroes: 0,
            ..LIMITS
        };
        for kind in [T_DISCARD, T_WRITE_ZEROES] {
            let asked = Request::parse(&header(kind, 0), &readable(16), &none, || range(0, 8, 0));
            assert_eq!(asked, Err(Refusal::Unsupported), "not negotiated");
        }
    }

    #[test]
    fn ranges_are_one_segment_within_the_limit() {
        let ask = |kind, len, sector, count, flags| {
            Request::parse(&header(kind, 0), &readable(len), &LIMITS, || {
                range(sector, count, flags)
            })
        };
        let zeroes = Request::WriteZeroes {
            offset: 1024,
            len: 4096,
            unmap: true,
        };
        assert_eq!(ask(T_WRITE_ZEROES, 16, 2, 8, 1), Ok(zeroes));
        let discard = Request::Discard {
            offset: 1024,
            len: 4096,
        };
        assert_eq!(ask(T_DISCARD, 16, 2, 8, 0), Ok(discard));
        assert_eq!(ask(T_DISCARD, 16, 2, 8, 1), Err(Refusal::Unsupported));
        assert_eq!(ask(T_WRITE_ZEROES, 16, 2, 8, 2), Err(Refusal::Unsupported));
        assert_eq!(ask(T_DISCARD, 32, 2, 8, 0), Err(Refusal::Ranges));
        assert_eq!(ask(T_DISCARD, 15, 2, 8, 0), Err(Refusal::Ranges));
        assert_eq!(ask(T_DISCARD, 0, 2, 8, 0), Err(Refusal::Ranges));
        assert_eq!(ask(T_DISCARD, 16, 2, 0, 0), Err(Refusal::Ranges));
        assert_eq!(ask(T_DISCARD, 16, 2, 2049, 0), Err(Refusal::Ranges));
        assert_eq!(ask(T_DISCARD, 16, u64::MAX, 8, 0), Err(Refusal::Sector));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_has_the_asked_shape(
            bytes: [u8; 16], kind in 0..16_u32, raw: bool, segment: [u8; 16],
            readable_len: u32, writable_len in prop_oneof![any::<u32>(), (0..64_u32).prop_map(|n| n * 512)],
            pieces in 0..8_u32,
        ) {
            let mut bytes = bytes;
            if !raw {
                bytes[..4].copy_from_slice(&kind.to_le_bytes());
            }
            let payload = Payload {
                readable_len,
                readable_segments: pieces,
                writable_len,
                writable_segments: pieces,
            };
            match Request::parse(&bytes, &payload, &LIMITS, || segment) {
                Ok(Request::Read { offset }) => {
                    prop_assert!(offset % 512 == 0 && writable_len > 0 && writable_len % 512 == 0 && pieces <= 4);
                }
                Ok(Request::Write { offset }) => {
                    prop_assert!(offset % 512 == 0 && readable_len > 0 && readable_len % 512 == 0 && pieces <= 4);
                }
                Ok(Request::Discard { offset, len } | Request::WriteZeroes { offset, len, .. }) => {
                    prop_assert!(offset % 512 == 0 && len % 512 == 0 && len > 0 && len <= 1 << 20);
                    prop_assert_eq!(readable_len, RANGE_LEN);
                }
                Ok(Request::Flush) => {}
                Ok(Request::GetId) => prop_assert!(writable_len > 0),
                Err(refusal) => prop_assert!(refusal.status() != status::OK),
            }
        }
    }
}
