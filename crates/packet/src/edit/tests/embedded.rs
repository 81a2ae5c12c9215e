//! Packets quoted by ICMP errors, translated as scapy would have made them.

use super::*;
use crate::golden::translated;

const INSIDE: u128 = 0x0a00_0001;
const OUTSIDE: u128 = 0xc633_6401;

#[test]
fn quotes_are_translated() {
    for (before, after) in [
        (translated::UDP, translated::UDP_AFTER),
        (translated::TCP, translated::TCP_AFTER),
        (translated::ECHO, translated::ECHO_AFTER),
    ] {
        let mut frame = before.bytes();
        let (_, layout) = describe(&frame);
        let quote = embedded(&frame, layout.outer()).unwrap();
        assert_eq!((quote.src, quote.dst), (OUTSIDE, 0xc000_0207));
        assert_eq!(quote.src_port, 40000);
        let ends = Ends {
            src: Some(INSIDE),
            src_port: Some(1000),
            ..Ends::default()
        };
        rewrite_embedded(&mut frame, layout.outer(), &quote, &ends, false).unwrap();
        set_ipv4_dst(&mut frame, layout.outer(), INSIDE as u32, false).unwrap();
        assert_eq!(frame, after.bytes());
    }
    let mut frame = translated::UDP_V6.bytes();
    let (_, layout) = describe(&frame);
    let quote = embedded(&frame, layout.outer()).unwrap();
    let inside = 0xfd00 << 112 | 1;
    let ends = Ends {
        src: Some(inside),
        src_port: Some(1000),
        ..Ends::default()
    };
    rewrite_embedded(&mut frame, layout.outer(), &quote, &ends, false).unwrap();
    set_ipv6_dst(&mut frame, layout.outer(), inside, false).unwrap();
    assert_eq!(frame, translated::UDP_V6_AFTER.bytes());
}

#[test]
fn short_quotes_have_what_they_have() {
    // Eight bytes of TCP: no checksum to follow, the rest is right.
    let mut frame = translated::TCP.bytes();
    frame.truncate(14 + 20 + 8 + 28);
    frame[16..18].copy_from_slice(&56u16.to_be_bytes());
    let mut after = translated::TCP_AFTER.bytes();
    after.truncate(frame.len());
    let (_, layout) = describe(&frame);
    let quote = embedded(&frame, layout.outer()).unwrap();
    let ends = Ends {
        src: Some(INSIDE),
        src_port: Some(1000),
        ..Ends::default()
    };
    let sum = |frame: &[u8]| crate::checksum::checksum(&frame[34..]);
    let wrong = sum(&frame);
    rewrite_embedded(&mut frame, layout.outer(), &quote, &ends, false).unwrap();
    assert_eq!(frame[42..], after[42..]);
    assert_eq!(sum(&frame) % 0xffff, wrong % 0xffff);
    // Less is no quote, and neither is what is no error.
    assert_eq!(embedded(&frame[..69], layout.outer()), None);
    for golden in [golden::ECHO_V4, golden::ECHO_V6, golden::TCP_V4] {
        let frame = golden.bytes();
        let (_, layout) = describe(&frame);
        assert_eq!(embedded(&frame, layout.outer()), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Hostile quotes do no harm, and what they had of a right checksum stays right.
    #[test]
    fn any_quote_does_no_harm(
        v6: bool,
        changes in proptest::collection::vec((0usize..100, any::<u8>()), 0..4),
        cut in prop_oneof![3 => Just(200usize), 1 => 40usize..110],
        ends in (any::<Option<u128>>(), any::<Option<u128>>(), any::<Option<u16>>(), any::<Option<u16>>()),
    ) {
        let golden = if v6 { translated::UDP_V6 } else { translated::TCP };
        let mut frame = golden.bytes();
        let (_, layout) = describe(&frame);
        let layer = layout.outer();
        let quote_at = usize::from(layer.l4) + 8;
        for (at, byte) in changes {
            let at = quote_at + at % (frame.len() - quote_at);
            frame[at] = byte;
        }
        frame.truncate(cut.max(quote_at));
        let before = crate::checksum::checksum(&frame[usize::from(layer.l4)..]) % 0xffff;
        if let Some(quote) = embedded(&frame, layer) {
            let ends = Ends { src: ends.0, dst: ends.1, src_port: ends.2, dst_port: ends.3 };
            let copy = frame.clone();
            match rewrite_embedded(&mut frame, layer, &quote, &ends, false) {
                Ok(()) => {
                    prop_assert_eq!(crate::checksum::checksum(&frame[usize::from(layer.l4)..]) % 0xffff, before);
                    let again = embedded(&frame, layer).unwrap();
                    prop_assert_eq!(again.layer, quote.layer);
                }
                Err(_) => prop_assert_eq!(frame, copy),
            }
        }
    }
}
