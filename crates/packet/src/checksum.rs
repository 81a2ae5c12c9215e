//! The Internet checksum: RFC 1071 sums over any number of segments, pseudo-headers (RFC 9293 section 3.1, RFC 8200
//! section 8.1) and incremental updates (RFC 1624).
//!
//! Sums are kept in the machine's own byte order, which the ones-complement sum allows (RFC 1071 section 2 B), and
//! turned into network order only at the end. Nothing is copied.

/// A ones-complement sum that segments are added to in their order in the packet. A segment of odd length is
/// continued correctly by the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// Sum of native-order 16-bit words, as a 64-bit number congruent modulo 0xffff.
    sum: u64,
    /// Whether an odd number of bytes was added so far.
    odd: bool,
}

/// Adds with the carry brought back in at the bottom, which keeps the value modulo 0xffff.
#[inline(always)]
const fn add_carry(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// Folds to 16 bits.
#[inline(always)]
const fn fold16(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Sum of native-order words of `bytes`; an odd last byte counts as if followed by a zero byte.
#[inline]
fn raw_sum(bytes: &[u8]) -> u64 {
    // 32-bit values in 64-bit lanes cannot carry out before 2^32 additions, so the compiler is free to use vectors.
    let mut lanes = [0u64; 16];
    let (blocks, rest) = bytes.as_chunks::<64>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0u8; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}

impl Checksum {
    /// The empty sum.
    pub const fn new() -> Checksum {
        Checksum { sum: 0, odd: false }
    }

    /// Continues from a folded, not complemented, network-order sum such as a pseudo-header's or the seed in a
    /// checksum field (virtio `NEEDS_CSUM`).
    pub const fn with_seed(seed: u16) -> Checksum {
        Checksum {
            sum: seed.to_be() as u64,
            odd: false,
        }
    }

    /// Adds the bytes that follow those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.add_partial(raw_sum(bytes), bytes.len());
    }

    /// Adds a segment summed elsewhere (as while copying it): `sum` is congruent modulo 0xffff to the sum of its
    /// native-order 16-bit words, an odd last byte followed by zero; `len` is its length in bytes.
    #[inline]
    pub const fn add_partial(&mut self, sum: u64, len: usize) {
        // A segment that starts at an odd offset has its bytes in the other half of each word: swap them back.
        let sum = if self.odd {
            (fold16(sum).swap_bytes()) as u64
        } else {
            sum
        };
        self.sum = add_carry(self.sum, sum);
        self.odd ^= len % 2 == 1;
    }

    /// Adds a 16-bit number in host order, as in a pseudo-header. Only at an even offset.
    #[inline]
    pub const fn add_u16(&mut self, value: u16) {
        self.sum = add_carry(self.sum, value.to_be() as u64);
    }

    /// Adds a 32-bit number in host order. Only at an even offset.
    #[inline]
    pub const fn add_u32(&mut self, value: u32) {
        self.sum = add_carry(self.sum, value.to_be() as u64);
    }

    /// The folded sum in host order, not complemented: a seed.
    #[inline]
    pub const fn folded(&self) -> u16 {
        u16::from_be(fold16(self.sum))
    }

    /// The checksum in host order: the complement of the sum.
    #[inline]
    pub const fn value(&self) -> u16 {
        !self.folded()
    }

    /// The checksum as UDP sends it: never zero, which would mean "none" (RFC 768).
    #[inline]
    pub const fn udp_value(&self) -> u16 {
        match self.value() {
            0 => 0xffff,
            value => value,
        }
    }
}

/// The checksum over one slice, host order. Zero for a slice that holds its own valid checksum.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = Checksum::new();
    sum.add(bytes);
    sum.value()
}

/// The sum of an IPv4 pseudo-header, to which the L4 header and payload are added. `len` is the length of both.
#[inline]
pub const fn pseudo_ipv4(source: u32, destination: u32, proto: u8, len: u32) -> Checksum {
    let mut sum = Checksum::new();
    sum.add_u32(source);
    sum.add_u32(destination);
    sum.add_u16(proto as u16);
    sum.add_u32(len);
    sum
}

/// The sum of an IPv6 pseudo-header. `len` is the length of L4 header and payload.
#[inline]
pub const fn pseudo_ipv6(source: u128, destination: u128, proto: u8, len: u32) -> Checksum {
    let mut sum = Checksum::new();
    let mut shift = 0;
    while shift < 128 {
        sum.add_u32((source >> shift) as u32);
        sum.add_u32((destination >> shift) as u32);
        shift += 32;
    }
    sum.add_u16(proto as u16);
    sum.add_u32(len);
    sum
}

/// The checksum after a 16-bit field changed, RFC 1624 equation 3; all values host order.
#[inline]
pub const fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    let sum = !checksum as u64 + !old as u64 + new as u64;
    !fold16(sum)
}

/// The checksum after a 32-bit field at an even offset changed; all values host order.
#[inline]
pub const fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    let sum = !checksum as u64 + !old as u64 + new as u64;
    !fold16(sum)
}

/// The checksum after a 128-bit field (an IPv6 address) changed; all values host order.
#[inline]
pub const fn update128(checksum: u16, old: u128, new: u128) -> u16 {
    let mut sum = !checksum as u64;
    let mut shift = 0;
    while shift < 128 {
        sum += !((old >> shift) as u32) as u64 + (new >> shift) as u32 as u64;
        shift += 32;
    }
    !fold16(sum)
}

/// The checksum after bytes at an even offset changed from `old` to `new`, which are equally long; an odd last byte
/// counts as if followed by a zero byte. Host order.
#[inline]
pub fn update_bytes(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let (old, new) = (fold16(raw_sum(old)), fold16(raw_sum(new)));
    update16(checksum, u16::from_be(old), u16::from_be(new))
}

/// Why a partial checksum could not be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl core::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("checksum start or field lies outside the packet")
    }
}

impl core::error::Error for OutOfRange {}

/// Completes a partial checksum (virtio 1.3 section 5.1.6.2): the field at `start + offset` holds the pseudo-header
/// sum; the checksum over everything from `start` replaces it. `head` holds the first bytes of the packet, with the
/// field; `tail` yields the rest in order. A zero result is written as 0xffff, which is right for UDP and equal for
/// TCP.
///
/// # Errors
/// [`OutOfRange`] when the start or the field is not inside `head`; nothing is changed then.
pub fn complete_partial<'a>(
    head: &mut [u8],
    tail: impl IntoIterator<Item = &'a [u8]>,
    start: usize,
    offset: usize,
) -> Result<(), OutOfRange> {
    let covered = head.get_mut(start..).ok_or(OutOfRange)?;
    let mut sum = Checksum::new();
    sum.add(covered);
    let field = covered
        .get_mut(offset..)
        .and_then(|b| b.first_chunk_mut::<2>())
        .ok_or(OutOfRange)?;
    for segment in tail {
        sum.add(segment);
    }
    *field = sum.udp_value().to_be_bytes();
    Ok(())
}

#[cfg(test)]
mod tests;
