//! Messages of scapy parsed, answers as scapy makes them, and hostile input.

use super::*;
use crate::golden::{Golden, dhcp};
use crate::verify::{assert_checksums, describe};
use proptest::prelude::*;
use std::vec::Vec;

fn payload(golden: &Golden) -> Vec<u8> {
    let frame = golden.bytes();
    let (_, layout) = describe(&frame);
    frame[usize::from(layout.outer().payload)..].to_vec()
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

const DNS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
const NTP: [Ipv4Addr; 1] = [Ipv4Addr::new(10, 0, 0, 4)];
const ROUTES: [Route; 2] = [
    Route {
        network: Ipv4Addr::new(10, 1, 2, 3),
        len: 24,
        router: ROUTER,
    },
    Route {
        network: Ipv4Addr::UNSPECIFIED,
        len: 0,
        router: ROUTER,
    },
];

fn configured(answer: Answer) -> Reply<'static> {
    Reply {
        answer,
        server_mac: [2, 0, 0, 0, 0, 8],
        server: SERVER,
        sender_mac: [2, 0, 0, 0, 0, 7],
        address: CLIENT,
        lease: 3600,
        mask: Ipv4Addr::new(255, 255, 255, 0),
        routers: &[ROUTER],
        dns_servers: &DNS,
        ntp_servers: &NTP,
        routes: &ROUTES,
        domain: b"example.org",
        hostname: b"guest",
        mtu: Some(1450),
    }
}

#[test]
fn requests() {
    let message = payload(&dhcp::DISCOVER);
    let request = Request::parse(&message).unwrap();
    let expected = Request {
        kind: Kind::Discover,
        xid: 0x1122_3344,
        broadcast: true,
        client: Ipv4Addr::UNSPECIFIED,
        relay: Ipv4Addr::UNSPECIFIED,
        mac: MAC,
        requested: Some(CLIENT),
        server: None,
        client_id: b"\x01\x02\0\0\0\0\x01",
        hostname: b"box",
        parameters: &[1, 3, 6, 121],
        max_size: Some(1500),
    };
    assert_eq!(request, expected);
    let message = payload(&dhcp::REQUEST);
    let request = Request::parse(&message).unwrap();
    assert_eq!(
        (request.kind, request.server),
        (Kind::Request, Some(SERVER))
    );
    let message = payload(&dhcp::RELEASE);
    let request = Request::parse(&message).unwrap();
    assert_eq!((request.kind, request.client), (Kind::Release, CLIENT));
    assert_eq!(request.relay, Ipv4Addr::new(10, 9, 0, 1));
}

#[test]
fn answers() {
    for (asked, answer, expected) in [
        (dhcp::DISCOVER, Answer::Offer, dhcp::OFFER),
        (dhcp::REQUEST, Answer::Ack, dhcp::ACK),
        (dhcp::REQUEST, Answer::Nak, dhcp::NAK),
        (dhcp::INFORM, Answer::Ack, dhcp::INFORMED),
    ] {
        let message = payload(&asked);
        let request = Request::parse(&message).unwrap();
        let mut out = [0u8; 700];
        let len = reply(&mut out, &request, &configured(answer)).unwrap();
        let mut frame = expected.bytes();
        // scapy does not fill up to the 300 bytes that BOOTP has at least.
        assert!(len >= frame.len() && len >= 14 + 28 + 300);
        let padded = frame.len() < len;
        frame.resize(len, 0);
        if padded {
            // Lengths and checksums are those of the longer message.
            for (at, n) in [(16, 2), (24, 2), (38, 4)] {
                frame[at..at + n].copy_from_slice(&out[at..at + n]);
            }
        }
        assert_eq!(out[..len], frame, "{answer:?}");
        assert_checksums(&out[..len]);
    }
}

#[test]
fn relays_and_limits() {
    let message = payload(&dhcp::RELEASE);
    let mut request = Request::parse(&message).unwrap();
    request.kind = Kind::Request;
    let mut out = [0u8; 700];
    for (answer, flags) in [(Answer::Ack, 0), (Answer::Nak, 0x80)] {
        reply(&mut out, &request, &configured(answer)).unwrap();
        assert_eq!(out[..6], [2, 0, 0, 0, 0, 7]);
        assert_eq!(out[30..34], [10, 9, 0, 1]);
        assert_eq!(out[36..38], 67u16.to_be_bytes());
        assert_eq!(out[52], flags);
    }
    // More than the client takes, and more than an option can say.
    let routers = [ROUTER; 63];
    let many = Reply {
        routers: &routers,
        dns_servers: &routers,
        ..configured(Answer::Ack)
    };
    assert_eq!(reply(&mut out, &request, &many), Err(BuildError::TooLong));
    request.max_size = Some(1500);
    assert_eq!(reply(&mut out, &request, &many), Err(BuildError::NoSpace));
    assert!(reply(&mut [0; 1514], &request, &many).is_ok());
    let routers = [ROUTER; 64];
    let over = Reply {
        routers: &routers,
        ..configured(Answer::Ack)
    };
    assert_eq!(reply(&mut out, &request, &over), Err(BuildError::TooLong));
}

#[test]
fn options_in_the_other_fields() {
    let mut message = payload(&dhcp::REQUEST);
    // Overload: the host name is in the boot file's field, the type in the server's name.
    message.truncate(FIXED);
    message.extend([52, 1, 3, 255]);
    message[108..113].copy_from_slice(&[12, 2, b'h', b'i', 255]);
    message[44..48].copy_from_slice(&[53, 1, 3, 255]);
    let request = Request::parse(&message).unwrap();
    assert_eq!(
        (request.kind, request.hostname),
        (Kind::Request, &b"hi"[..])
    );
    // Without, those fields are no options.
    message[FIXED + 2] = 1;
    assert_eq!(Request::parse(&message), None);
}

proptest! {
    #[test]
    fn any_message_does_no_harm(
        discover: bool,
        changes in proptest::collection::vec((0usize..320, any::<u8>()), 0..6),
        cut in 0usize..400,
    ) {
        let golden = if discover { dhcp::DISCOVER } else { dhcp::REQUEST };
        let mut message = payload(&golden);
        for (at, byte) in changes {
            let at = at % message.len();
            message[at] = byte;
        }
        message.truncate(cut);
        if let Some(request) = Request::parse(&message) {
            let mut out = [0u8; 1600];
            for answer in [Answer::Offer, Answer::Ack, Answer::Nak] {
                if let Ok(len) = reply(&mut out, &request, &configured(answer)) {
                    assert_checksums(&out[..len]);
                }
            }
        }
    }
}
