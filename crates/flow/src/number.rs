//! Unsigned numbers as testpmd reads them: `strtoull` with base 0, without signs.

/// The number, or `None` if the text is none: decimal, hexadecimal behind `0x`, octal behind `0`.
/// Wider than testpmd's, for labels of 128 bits; every caller has a limit of its own.
pub(crate) fn parse(text: &str) -> Option<u128> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    // `from_str_radix` accepts a leading `+`, which has no place in a rule.
    if digits.starts_with('+') {
        return None;
    }
    u128::from_str_radix(digits, radix).ok()
}
