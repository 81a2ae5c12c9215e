//! Explicit congestion notification across tunnels (RFC 6040): what the outer header says when a packet goes in, and what
//! the packet says when it comes out. Pure tables over the two ECN bits (the low ones of type of service and traffic
//! class); the other bits pass through.

/// The sender does not take part.
pub const NOT_ECT: u8 = 0;
/// ECN-capable transport, codepoint 1.
pub const ECT1: u8 = 1;
/// ECN-capable transport, codepoint 0.
pub const ECT0: u8 = 2;
/// Congestion experienced.
pub const CE: u8 = 3;

/// The outer ECN bits for a packet with `inner` type of service: normal mode (RFC 6040 section 4.1), a copy.
pub const fn encapsulated(inner: u8) -> u8 {
    inner & 3
}

/// The packet's type of service after decapsulation (RFC 6040 section 4.2, figure 4); `None` when it must be dropped:
/// it met congestion and its sender would not be told. Only the ECN bits of `outer` count; DSCP is `inner`'s.
pub const fn decapsulated(outer: u8, inner: u8) -> Option<u8> {
    let ecn = match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT0, ECT1) => ECT1,
        (own, _) => own,
    };
    Some(inner & !3 | ecn)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 4 of RFC 6040, row by row.
    #[test]
    fn decapsulation_is_the_table_of_the_standard() {
        let columns = [NOT_ECT, ECT0, ECT1, CE];
        let rows = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT0, [Some(ECT0), Some(ECT0), Some(ECT1), Some(CE)]),
            (ECT1, [Some(ECT1), Some(ECT1), Some(ECT1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ];
        for (inner, row) in rows {
            for (outer, expected) in columns.into_iter().zip(row) {
                let tos = decapsulated(0xa4 | outer, 0x58 | inner);
                assert_eq!(tos, expected.map(|ecn| 0x58 | ecn), "{inner} in {outer}");
            }
        }
        assert_eq!(columns.map(|e| encapsulated(0xfc | e)), columns);
    }
}
