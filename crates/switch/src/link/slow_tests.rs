//! Slow protocol frames against those of real peers.

use proptest::prelude::*;

use super::*;

/// Hexadecimal digits, zero-filled to a whole PDU.
fn golden(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| d as u8)
        .collect();
    let mut bytes: Vec<u8> = digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect();
    bytes.resize(SLOW_FRAME_LEN, 0);
    bytes
}

/// Open vSwitch 3.1, a member of a bond with `lacp=active` and `lacp-time=fast` that has no partner.
const OVS: &str = "
    0180c2000002 3ee5c0b3a6b9 8809 0101
    0114 fffe c2b325695f4d 0001 ffff 0001 77 000000
    0214 0000 000000000000 0000 0000 0000 00 000000
    0310 0000";

/// Linux 6.1's bonding driver (`mode=802.3ad lacp_rate=fast`) in a guest, aggregated with our bond.
const LINUX: &str = "
    0180c2000002 020000007701 8809 0101
    0114 ffff 020000007701 000f 00ff 0001 3f 000000
    0214 1000 020000005101 004d 0065 0001 0f 000000
    0310 0000";

/// Made with scapy 2.8, every field of another value.
const SCAPY: &str = "
    0180c2000002 02000000000a 8809 0101
    0114 1234 020000000001 5678 9abc def0 3d 000000
    0214 2345 020000000002 6789 abcd ef01 07 000000
    0310 4321";

/// Made with scapy 2.8.
const MARKER: &str = "0180c2000002 02000000000a 8809 0201 0110 1122 020000000003 deadbeef";

#[test]
fn frames_of_real_peers() {
    let ovs = golden(OVS);
    let actor = Peer {
        system_priority: 0xfffe,
        system: [0xc2, 0xb3, 0x25, 0x69, 0x5f, 0x4d],
        key: 1,
        port_priority: 0xffff,
        port: 1,
        state: 0x77,
    };
    let pdu = SlowPdu::Lacp(Lacpdu {
        actor,
        partner: Peer::default(),
        collector_max_delay: 0,
    });
    assert_eq!(SlowPdu::parse(&ovs), Ok(pdu));
    assert_eq!(pdu.frame([0x3e, 0xe5, 0xc0, 0xb3, 0xa6, 0xb9]), *ovs);

    let SlowPdu::Lacp(pdu) = SlowPdu::parse(&golden(LINUX)).unwrap() else {
        panic!("a LACPDU");
    };
    let in_use = state::SYNCHRONIZATION | state::COLLECTING | state::DISTRIBUTING;
    assert!(pdu.actor.has(in_use) && !pdu.partner.has(in_use));
    assert_eq!(
        (pdu.actor.key, pdu.partner.key, pdu.partner.port_priority),
        (15, 77, 101)
    );
    assert_eq!(
        SlowPdu::Lacp(pdu).frame([2, 0, 0, 0, 0x77, 1]),
        *golden(LINUX)
    );

    let SlowPdu::Lacp(pdu) = SlowPdu::parse(&golden(SCAPY)).unwrap() else {
        panic!("a LACPDU");
    };
    let partner = Peer {
        system_priority: 0x2345,
        system: [2, 0, 0, 0, 0, 2],
        key: 0x6789,
        port_priority: 0xabcd,
        port: 0xef01,
        state: 7,
    };
    assert_eq!((pdu.partner, pdu.collector_max_delay), (partner, 0x4321));
    assert_eq!((pdu.actor.port, pdu.actor.state), (0xdef0, 0x3d));
    assert_eq!(
        SlowPdu::Lacp(pdu).frame([2, 0, 0, 0, 0, 10]),
        *golden(SCAPY)
    );

    let marker = Marker {
        response: false,
        port: 0x1122,
        system: [2, 0, 0, 0, 0, 3],
        transaction: 0xdead_beef,
    };
    assert_eq!(SlowPdu::parse(&golden(MARKER)), Ok(SlowPdu::Marker(marker)));
    assert_eq!(
        SlowPdu::Marker(marker).frame([2, 0, 0, 0, 0, 10]),
        *golden(MARKER)
    );
}

#[test]
fn what_is_out_of_place_is_refused() {
    let good = golden(SCAPY);
    let with = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        SlowPdu::parse(&frame)
    };
    assert_eq!(with(5, 3), Err(SlowError::NotSlow));
    assert_eq!(with(13, 0), Err(SlowError::NotSlow));
    assert_eq!(with(14, 3), Err(SlowError::Subtype(3)));
    for (at, byte, expected) in [
        (16, 2, (1, 20)),
        (17, 19, (1, 20)),
        (36, 0, (2, 20)),
        (57, 17, (3, 16)),
    ] {
        let Err(SlowError::Tlv {
            expected: kind,
            expected_len,
            ..
        }) = with(at, byte)
        else {
            panic!("TLV at {at}");
        };
        assert_eq!((kind, expected_len), expected);
    }
    assert!(with(15, 2).is_ok(), "a later version");
    for len in 0..good.len() {
        assert!(SlowPdu::parse(&good[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #[test]
    fn anything_is_parsed_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), slow: bool, subtype in 0u8..4) {
        if slow && bytes.len() > 15 {
            bytes[..6].copy_from_slice(&SLOW_MAC);
            bytes[12..15].copy_from_slice(&[0x88, 0x09, subtype]);
        }
        if let Ok(pdu) = SlowPdu::parse(&bytes) {
            prop_assert_eq!(SlowPdu::parse(&pdu.frame([2; 6])), Ok(pdu));
        }
    }

    #[test]
    fn mutated_pdus_come_back_as_read(at in 18usize..56, byte: u8) {
        let mut frame = golden(SCAPY);
        frame[at] = byte;
        if let Ok(pdu) = SlowPdu::parse(&frame) {
            prop_assert_eq!(SlowPdu::parse(&pdu.frame([2; 6])), Ok(pdu));
        }
    }
}
