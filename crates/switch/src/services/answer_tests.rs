//! Answers to questions that clients ask, and none to what is no question.

use super::*;
use proptest::prelude::*;
use sumeru_packet::build::FrameBuilder;
use sumeru_packet::{FlowKey, ParseOptions, parse};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SWITCH: [u8; 6] = [2, 0x73, 0x75, 0, 0, 7];

fn answered(answer: &Answer, frame: &[u8]) -> Option<Vec<u8>> {
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    parse(
        frame,
        frame.len(),
        &mut key,
        &mut layout,
        &ParseOptions::PLAIN,
    )
    .unwrap();
    let mut out = [0; 2048];
    let len = answer.write(&mut out, frame, &layout)?;
    Some(out[..len].to_vec())
}

fn lease() -> Lease4 {
    Lease4 {
        server: Ipv4Addr::new(10, 0, 0, 254),
        server_mac: SWITCH,
        client: Some(GUEST),
        address: Ipv4Addr::new(10, 0, 0, 1),
        length: 24,
        lease_s: 600,
        routers: vec![Ipv4Addr::new(10, 0, 0, 254)],
        dns_servers: Vec::new(),
        routes: Vec::new(),
        domain: "example.org".into(),
        mtu: 1450,
    }
}

/// A DHCP message of a client: its kind and the address that it asks for.
fn client(kind: u8, mac: [u8; 6], requested: Option<[u8; 4]>) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[4..8].copy_from_slice(&[1, 2, 3, 4]);
    message[28..34].copy_from_slice(&mac);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    if let Some(address) = requested {
        message.extend([50, 4]);
        message.extend(address);
    }
    message.push(255);
    let mut frame = [0; 600];
    let len = FrameBuilder::new(&mut frame)
        .ethernet([0xff; 6], mac)
        .ipv4(0, u32::MAX)
        .udp(68, 67)
        .payload(&message)
        .finish()
        .unwrap();
    frame[..len].to_vec()
}

/// The kind of a DHCP answer and the address in it.
fn said(frame: &[u8]) -> (u8, [u8; 4]) {
    let message = &frame[14 + 20 + 8..];
    assert_eq!(message[4..8], [1, 2, 3, 4]);
    (message[242], message[16..20].try_into().unwrap())
}

#[test]
fn a_client_gets_its_own_address_and_no_other() {
    let answer = Answer::Dhcp4(Arc::new(lease()));
    let offer = answered(&answer, &client(1, GUEST, None)).unwrap();
    assert_eq!(said(&offer), (2, [10, 0, 0, 1]));
    let ack = answered(&answer, &client(3, GUEST, Some([10, 0, 0, 1]))).unwrap();
    assert_eq!(said(&ack), (5, [10, 0, 0, 1]));
    let nak = answered(&answer, &client(3, GUEST, Some([10, 0, 0, 9]))).unwrap();
    assert_eq!(said(&nak), (6, [0; 4]));
    // A release is not answered, nor is somebody else, nor what was cut short.
    assert_eq!(answered(&answer, &client(7, GUEST, None)), None);
    assert_eq!(answered(&answer, &client(1, SWITCH, None)), None);
    let whole = client(1, GUEST, None);
    for len in 43..whole.len() {
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        if parse(
            &whole,
            whole.len(),
            &mut key,
            &mut layout,
            &ParseOptions::PLAIN,
        )
        .is_ok()
        {
            assert_eq!(
                answer.write(&mut [0; 2048], &whole[..len], &layout),
                None,
                "{len}"
            );
        }
    }
}

proptest! {
    /// Whatever a frame holds, it is answered or not, and never with more than there is room for.
    #[test]
    fn no_question_hurts(
        which in 0_usize..7,
        kind in 0_usize..4,
        noise in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..24),
        cut in 0_usize..400,
        room in 0_usize..2048,
    ) {
        let answers = [
            Answer::Neighbour { mac: SWITCH, router: false },
            Answer::Dhcp4(Arc::new(lease())),
            Answer::Dhcp6(Arc::new(Lease6 {
                server_mac: SWITCH,
                address: Ipv6Addr::LOCALHOST,
                lease_s: 60,
                dns_servers: vec![Ipv6Addr::LOCALHOST],
                domain: "example.org".into(),
            })),
            Answer::Advertisement(Arc::new(Advertisement {
                mac: SWITCH,
                lifetime: 0,
                managed: false,
                mtu: 68,
                prefixes: Vec::new(),
                dns_servers: Vec::new(),
            })),
            Answer::Echo,
            Answer::Error(IcmpError::NoPort, Ipv4Addr::LOCALHOST.into()),
            Answer::Error(IcmpError::NoRoute, Ipv6Addr::LOCALHOST.into()),
        ];
        let mut frame = vec![0; 400];
        let len = match kind {
            0 => {
                frame = client(1, GUEST, None);
                Ok(frame.len())
            }
            1 => build::arp_request(&mut frame, GUEST, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST),
            2 => build::neighbour_solicitation(&mut frame, GUEST, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
            _ => FrameBuilder::new(&mut frame)
                .ethernet(SWITCH, GUEST)
                .ipv4(0x0a00_0001, 0x0a00_0002)
                .echo_request(1, 2)
                .payload(&[7; 40])
                .finish(),
        };
        frame.truncate(len.unwrap());
        for (at, byte) in noise {
            let at = usize::from(at) % frame.len();
            frame[at] = byte;
        }
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        if parse(&frame, frame.len(), &mut key, &mut layout, &ParseOptions::PLAIN).is_ok() {
            let mut out = vec![0; room];
            let cut = frame.len().saturating_sub(cut);
            for frame in [&frame[..], &frame[..cut]] {
                let len = answers[which].write(&mut out, frame, &layout);
                prop_assert!(len.is_none_or(|len| len <= room));
            }
        }
    }
}

#[test]
fn neighbours_are_resolved() {
    let answer = Answer::Neighbour {
        mac: SWITCH,
        router: true,
    };
    let mut frame = [0; 128];
    let (asks, asked) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 254));
    let len = build::arp_request(&mut frame, GUEST, asks, asked).unwrap();
    let mut expected = [0; 128];
    let expected_len = build::arp_reply(&mut expected, SWITCH, asked, GUEST, asks).unwrap();
    assert_eq!(
        answered(&answer, &frame[..len]).unwrap(),
        expected[..expected_len]
    );

    let (asks, asked) = ("fe80::1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let len = build::neighbour_solicitation(&mut frame, GUEST, asks, asked).unwrap();
    let flags = NeighbourFlags {
        router: true,
        solicited: true,
        override_known: true,
    };
    let expected_len =
        neighbour_advertisement(&mut expected, SWITCH, asked, GUEST, asks, flags).unwrap();
    assert_eq!(
        answered(&answer, &frame[..len]).unwrap(),
        expected[..expected_len]
    );
    // One that came over a router.
    frame[21] = 254;
    assert_eq!(answered(&answer, &frame[..len]), None);
}

#[test]
fn solicitations_of_routers_and_dhcpv6() {
    let advertisement = Answer::Advertisement(Arc::new(Advertisement {
        mac: SWITCH,
        lifetime: 1800,
        managed: true,
        mtu: 1450,
        prefixes: Vec::new(),
        dns_servers: Vec::new(),
    }));
    let mut frame = [0; 256];
    let len = FrameBuilder::new(&mut frame)
        .ethernet([0x33, 0x33, 0, 0, 0, 2], GUEST)
        .ipv6(link_local(GUEST).to_bits(), 0xff02_u128 << 112 | 2)
        .icmp(133, 0, 0)
        .finish()
        .unwrap();
    let told = answered(&advertisement, &frame[..len]).unwrap();
    assert_eq!(told[..6], GUEST);
    assert_eq!((told[54], told[59]), (134, 0x80));

    let lease = Answer::Dhcp6(Arc::new(Lease6 {
        server_mac: SWITCH,
        address: "2001:db8::1".parse().unwrap(),
        lease_s: 600,
        dns_servers: Vec::new(),
        domain: "".into(),
    }));
    // A solicit with a DUID and an association, with rapid commit.
    let mut message = vec![1, 0, 0, 9, 0, 1, 0, 10, 0, 3, 0, 1];
    message.extend(GUEST);
    message.extend([0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0]);
    let len = FrameBuilder::new(&mut frame)
        .ethernet([0x33, 0x33, 0, 1, 0, 2], GUEST)
        .ipv6(link_local(GUEST).to_bits(), 0xff02_u128 << 112 | 0x1_0002)
        .udp(546, 547)
        .payload(&message)
        .finish()
        .unwrap();
    let reply = answered(&lease, &frame[..len]).unwrap();
    assert_eq!(reply[62], 7, "a reply at once");
    let address: Ipv6Addr = "2001:db8::1".parse().unwrap();
    assert!(reply.windows(16).any(|bytes| bytes == address.octets()));
    // Whether an address is still good on the link: with none there is nothing to say (section 18.3.3).
    frame[62] = 4;
    assert_eq!(answered(&lease, &frame[..len]), None);
}
