//! SYN cookies (RFC 4987, section 3.6): answers to SYNs that need no memory.
//!
//! A cookie is `slot:5 mss:3 mac:24`. The MAC is SipHash-2-4 over tuple, initial number, time slot and MSS. What becomes of a connection whose opener
//! has proved a cookie: [`splice`](super::splice).

use std::hash::{BuildHasher, RandomState};

use super::tuple::{Half, Tuple};

/// Milliseconds per time slot; a cookie is good for its slot and the next.
const SLOT: u64 = 64_000;
/// Segment sizes that a cookie can tell; the first stands for any smaller one.
const SIZES: [u16; 8] = [64, 536, 1220, 1360, 1400, 1440, 1460, 8960];

/// The key of the cookies.
#[derive(Clone, Copy, Debug)]
pub struct CookieSecret([u64; 2]);

/// What a good cookie remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// A maximum segment size not above the one that the opener offered, except below 64.
    pub mss: u16,
}

impl Default for CookieSecret {
    fn default() -> Self {
        Self::new()
    }
}

impl CookieSecret {
    /// A random one.
    pub fn new() -> Self {
        let state = RandomState::new();
        Self([state.hash_one(1), state.hash_one(2)])
    }

    /// The secret for what comes in by one place: a cookie that was got in one is none in another.
    #[must_use]
    pub fn of(&self, place: u64) -> Self {
        Self([siphash(self.0, &place.to_le_bytes()), self.0[1]])
    }

    fn mac(&self, tuple: &Tuple, isn: u32, slot: u64, size: u8) -> u32 {
        let mut words = [0; 7];
        words[..5].copy_from_slice(&Half::new(tuple).0);
        words[5] = slot;
        words[6] = u64::from(isn) << 32 | u64::from(size);
        siphash(self.0, words.map(u64::to_le_bytes).as_flattened()) as u32 & 0xff_ffff
    }

    /// The initial sequence number to answer a SYN of `tuple` with. `mss`: what the opener offered, 536 when it did not (RFC 9293, section 3.7.1).
    pub fn make(&self, tuple: &Tuple, isn: u32, mss: u16, now: u64) -> u32 {
        let size = SIZES.iter().rposition(|&size| size <= mss).unwrap_or(0) as u8;
        let slot = now / SLOT;
        (slot as u32 & 31) << 27 | u32::from(size) << 24 | self.mac(tuple, isn, slot, size)
    }

    /// Looks whether an ACK of `tuple` acknowledges a cookie: `seq` and `ack` as in its header.
    pub fn check(&self, tuple: &Tuple, seq: u32, ack: u32, now: u64) -> Option<Cookie> {
        let (isn, cookie) = (seq.wrapping_sub(1), ack.wrapping_sub(1));
        let current = now / SLOT;
        let age = (current as u32).wrapping_sub(cookie >> 27) & 31;
        let slot = current.checked_sub(u64::from(age)).filter(|_| age <= 1)?;
        let size = (cookie >> 24 & 7) as u8;
        (self.mac(tuple, isn, slot, size) == cookie & 0xff_ffff).then(|| Cookie {
            mss: SIZES[usize::from(size)],
        })
    }
}

/// SipHash-2-4 (Aumasson, Bernstein 2012).
fn siphash(key: [u64; 2], data: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let chunks = data.chunks_exact(8);
    let mut last = [0; 8];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    last[7] = data.len() as u8;
    for chunk in chunks.chain([last.as_slice()]) {
        let word = chunk
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte));
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::super::tuple::Family;
    use super::*;
    use proptest::prelude::*;

    fn tuple(sport: u16) -> Tuple {
        Tuple {
            src: 0x0a00_0001,
            dst: 0x0a00_0002,
            sport,
            dport: 80,
            proto: 6,
            family: Family::V4,
            zone: 3,
        }
    }

    #[test]
    fn siphash_gives_the_paper_s_vectors() {
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        let data: Vec<u8> = (0..15).collect();
        assert_eq!(siphash(key, &data), 0xa129_ca61_49be_45e5);
        assert_eq!(siphash(key, &[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash(key, &data[..8]), 0x93f5_f579_9a93_2462);
    }

    proptest! {
        #[test]
        fn a_cookie_is_good_for_its_connection_and_time(sport: u16, isn: u32, mss in 64_u16.., now in 200_000_u64..1 << 40, wait in 0_u64..SLOT) {
            let secret = CookieSecret::new();
            let cookie = secret.make(&tuple(sport), isn, mss, now);
            let (seq, ack) = (isn.wrapping_add(1), cookie.wrapping_add(1));
            let good = secret.check(&tuple(sport), seq, ack, now + wait).unwrap();
            prop_assert!(good.mss <= mss && SIZES.iter().all(|&size| size > mss || size <= good.mss));
            prop_assert_eq!(secret.check(&tuple(sport), seq, ack, now + 2 * SLOT), None);
            prop_assert_eq!(secret.check(&tuple(sport), seq, ack, now + 32 * SLOT), None, "slots come round");
            prop_assert_eq!(secret.check(&tuple(sport ^ 1), seq, ack, now), None);
            prop_assert_eq!(secret.check(&tuple(sport), seq, ack ^ 1 << 24, now), None);
        }
    }

    #[test]
    fn guessing_does_not_work() {
        let secret = CookieSecret::new();
        let hits = (0..100_000_u32)
            .filter(|n| {
                secret
                    .check(&tuple(9), 1, n.wrapping_mul(0x9e37_79b9), 6_400_000)
                    .is_some()
            })
            .count();
        assert!(hits <= 2, "{hits}");
    }
}
