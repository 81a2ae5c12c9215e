//! CRC32c, SCTP's checksum (RFC 9260 section 6.8 and appendix A), and its update after a change near the front of a packet.
//!
//! CRC is linear: the CRC of a packet with a change is the old one, xor that of the change followed by as many zeros as
//! there are bytes after it. Zeros are not walked: a step over `n` of them is a multiplication by x^8n modulo the
//! polynomial, so an update needs the header only, whatever the length of the packet.

/// The Castagnoli polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `value` times x, in reversed bits: the highest bit of the register is the lowest power.
const fn times_x(value: u32) -> u32 {
    value >> 1 ^ (POLYNOMIAL & (value & 1).wrapping_neg())
}

/// The product modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & (a >> bit & 1).wrapping_neg();
        b = times_x(b);
    }
    product
}

/// x to the power of 8 times 2 to the power of the index.
const POWERS: [u32; 32] = {
    let mut out = [0; 32];
    // x^0 is the highest bit.
    let mut power = 1 << 31;
    let mut i = 0;
    while i < 8 {
        power = times_x(power);
        i += 1;
    }
    let mut i = 0;
    while i < 32 {
        out[i] = power;
        power = multiply(power, power);
        i += 1;
    }
    out
};

/// The register after `zeros` bytes of zero.
const fn skip(mut register: u32, mut zeros: u32) -> u32 {
    let mut i = 0;
    while zeros != 0 {
        if zeros & 1 != 0 {
            register = multiply(register, POWERS[i]);
        }
        zeros >>= 1;
        i += 1;
    }
    register
}

const fn step(register: u32, byte: u8) -> u32 {
    let mut value = register ^ byte as u32;
    let mut bit = 0;
    while bit < 8 {
        value = times_x(value);
        bit += 1;
    }
    value
}

const TABLE: [u32; 256] = {
    let mut out = [0; 256];
    let mut i = 0;
    while i < 256 {
        out[i] = step(0, i as u8);
        i += 1;
    }
    out
};

fn feed(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |register, byte| {
        register >> 8 ^ TABLE[usize::from(register as u8 ^ byte)]
    })
}

/// The CRC32c of `bytes`. SCTP sends it with the lowest byte first.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !feed(u32::MAX, bytes)
}

/// The CRC32c after four bytes changed from `old` to `new`, with `after` bytes behind them.
pub fn update(crc: u32, old: [u8; 4], new: [u8; 4], after: u32) -> u32 {
    let change = (u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new)).to_ne_bytes();
    crc ^ skip(feed(0, &change), after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_standards_own_values() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn an_update_is_the_sum_anew(mut bytes in proptest::collection::vec(any::<u8>(), 4..2000), at in 0usize..2000, new: [u8; 4]) {
            let at = at % (bytes.len() - 3);
            let before = crc32c(&bytes);
            let old: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            bytes[at..at + 4].copy_from_slice(&new);
            let after = (bytes.len() - at - 4) as u32;
            prop_assert_eq!(update(before, old, new, after), crc32c(&bytes));
        }
    }
}
