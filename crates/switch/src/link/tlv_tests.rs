//! LLDPDUs against those of real peers.

use proptest::prelude::*;

use super::*;

pub(in crate::link) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|d| d as u8)
        .collect();
    digits.chunks(2).map(|d| d[0] << 4 | d[1]).collect()
}

/// Sent by lldpd 1.0.16 on one end of a veth pair in a network namespace.
pub(in crate::link) const LLDPD: &str = "
    0180c200000e 020000000b01 88cc
    0207 04 020000000b01  0407 03 020000000b01  0602 0078
    0a02 766d  0c10 44656269616e20746573742070656572  0e04 009c 0080
    100c 05 01 c000020b 02 0000000b 00  0803 6c7030
    fe09 00120f 03 01 00000000  fe09 00120f 01 00 8000 0036  0000";

/// Made with scapy 2.8.
const SCAPY: &str = "
    0180c200000e 02000000000a 88cc
    0207 04 020000000001  0408 05 75706c696e6b30  0602 0078
    080b 746f20746865207261636b  0a05 6e6f646531  0c0a 53756d65727520302e31  0e04 0014 0004
    100c 05 01 c0000201 02 00000007 00  0000";

#[test]
fn a_frame_of_lldpd() {
    let pdu = Lldpdu::parse(&bytes(LLDPD)).unwrap();
    assert_eq!(
        (pdu.chassis.subtype, pdu.port.subtype),
        (Id::CHASSIS_MAC, Id::PORT_MAC)
    );
    assert_eq!(pdu.chassis.to_string(), "02:00:00:00:0b:01");
    assert_eq!(pdu.port.value(), [2, 0, 0, 0, 0x0b, 1]);
    let shown = |text: &Option<Text>| text.as_ref().unwrap().to_string();
    assert_eq!(shown(&pdu.system_name), "vm");
    assert_eq!(shown(&pdu.system_description), "Debian test peer");
    assert_eq!(shown(&pdu.port_description), "lp0");
    let capabilities = Capabilities {
        available: 0x9c,
        enabled: Capabilities::STATION,
    };
    assert_eq!(pdu.capabilities, Some(capabilities));
    let management = Management {
        address: Some("192.0.2.11".parse().unwrap()),
        interface: 11,
    };
    assert_eq!(pdu.management.as_slice(), [management]);
    let aggregation = Aggregation {
        capable: true,
        aggregated: false,
        port: 0,
    };
    assert_eq!(pdu.aggregation, Some(aggregation));
    // MAC/PHY is not looked at.
    assert_eq!((pdu.ttl, pdu.unrecognized, pdu.discarded), (120, 1, 0));
}

#[test]
fn frames_are_written_as_scapy_does() {
    let mut writer = Writer::new([2, 0, 0, 0, 0, 10], [2, 0, 0, 0, 0, 1], "uplink0", 120);
    writer.port_description("to the rack");
    writer.system("node1", "Sumeru 0.1");
    writer.capabilities(Capabilities {
        available: Capabilities::BRIDGE | Capabilities::ROUTER,
        enabled: Capabilities::BRIDGE,
    });
    writer.management("192.0.2.1".parse().unwrap(), 7);
    assert_eq!(writer.finish(), bytes(SCAPY));
}

#[test]
fn organizational_tlvs_come_back() {
    let mut writer = Writer::new([2; 6], [4; 6], "p", 1);
    let address = "fd00::1".parse().unwrap();
    let aggregation = Aggregation {
        capable: true,
        aggregated: true,
        port: 0x0102_0304,
    };
    writer.management(address, 9);
    writer.pvid(17);
    writer.aggregation(aggregation);
    writer.max_frame(9_234);
    let frame = writer.finish();
    let pdu = Lldpdu::parse(&frame).unwrap();
    assert_eq!(pdu.management[0].address, Some(address));
    assert_eq!((pdu.pvid, pdu.max_frame), (Some(17), Some(9_234)));
    assert_eq!(pdu.aggregation, Some(aggregation));
}

const HEAD: &str = "0180c200000e 020000000b01 88cc 0207 04 020000000b01 0402 05 61 0602 0078";

#[test]
fn what_breaks_the_order_condemns_the_frame() {
    let parse = |hex: &str| Lldpdu::parse(&bytes(hex));
    assert!(parse(HEAD).is_ok(), "the end may be left out");
    assert!(parse(&HEAD.replace("000e", "0003")).is_ok());
    assert_eq!(parse(&HEAD.replace("000e", "000d")), Err(TlvError::NotLldp));
    assert_eq!(parse(&HEAD.replace("88cc", "8100")), Err(TlvError::NotLldp));
    let ether = "0180c200000e 020000000b01 88cc";
    assert_eq!(
        parse(&format!("{ether} 0402 05 61")),
        Err(TlvError::Order(2))
    );
    assert_eq!(
        parse(&format!("{ether} 0207 04 020000000b01 0602 0078")),
        Err(TlvError::Order(3))
    );
    for again in ["0207 04 020000000b01", "0402 05 61", "0602 0078"] {
        assert!(matches!(
            parse(&format!("{HEAD} {again}")),
            Err(TlvError::Order(1..=3))
        ));
    }
    let length = |kind, len| Err(TlvError::Length { kind, len });
    assert_eq!(parse(&format!("{ether} 0201 04")), length(1, 1));
    assert_eq!(parse(&HEAD.replace("0602 0078", "0601 00")), length(3, 1));
    assert_eq!(parse(&format!("{HEAD} 0001 00")), length(0, 1));
    let cut = TlvError::Truncated { kind: 5, len: 4 };
    assert_eq!(parse(&format!("{HEAD} 0a04 616263")), Err(cut));
    assert!(matches!(
        parse(&format!("{HEAD} 0a")),
        Err(TlvError::Truncated { .. })
    ));
}

#[test]
fn what_breaks_an_option_costs_that_option() {
    let counts = |tail: &str| {
        let pdu = Lldpdu::parse(&bytes(&format!("{HEAD} {tail}"))).unwrap();
        (pdu.discarded, pdu.unrecognized)
    };
    assert_eq!(counts("0a01 61 0a01 62"), (1, 0), "a second name");
    assert_eq!(counts("0e03 000000"), (1, 0));
    assert_eq!(counts("fe03 0080c2"), (1, 0));
    assert_eq!(counts("fe05 0080c2 01 00"), (1, 0), "a PVID of one byte");
    assert_eq!(counts("fe06 0080c2 ff 0000"), (0, 1));
    assert_eq!(counts("1201 00"), (0, 1), "a reserved type");
    // Management: the address too long for the TLV, too short, the identifier too long.
    assert_eq!(counts("1004 20 01 c000"), (1, 0));
    assert_eq!(counts("1008 01 01 02 0000000b 00"), (1, 0));
    assert_eq!(counts("100c 05 01 c000020b 02 0000000b 01"), (1, 0));
    let many = "100c 05 01 c000020b 02 0000000b 00 ".repeat(MANAGEMENT_MAX + 3);
    assert_eq!(counts(&many), (3, 0));
}

#[test]
fn texts_cannot_act_on_a_terminal() {
    let text = Text(Box::from(&b"a\x1b[2Jb\xff\n"[..]));
    assert_eq!(text.to_string(), "a\\u{1b}[2Jb\u{fffd}\\n");
}

proptest! {
    #[test]
    fn anything_is_parsed_or_refused(head: bool, tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut frame = if head { bytes(HEAD) } else { bytes(HEAD)[..14].to_vec() };
        frame.extend(tail);
        if let Ok(pdu) = Lldpdu::parse(&frame) {
            prop_assert!(!pdu.to_owned().chassis.value().is_empty());
            prop_assert!(pdu.discarded + pdu.unrecognized <= 150);
        }
    }

    #[test]
    fn one_byte_changed(at in 0usize..105, byte: u8) {
        let mut frame = bytes(LLDPD);
        frame[at] = byte;
        let _ = Lldpdu::parse(&frame);
        let _ = Lldpdu::parse(&frame[..at]);
    }
}
