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

const fn address(low: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, low)
}

const CLIENT_ID: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 1];
const SERVER_ID: &[u8] = &[0, 3, 0, 1, 2, 0, 0, 0, 0, 8];

const REPLY: Reply<'static> = Reply {
    server_mac: [2, 0, 0, 0, 0, 8],
    server: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 8),
    server_id: SERVER_ID,
    client_mac: [2, 0, 0, 0, 0, 1],
    client: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    address: Some(address(0x99)),
    preferred: 3600,
    valid: 7200,
    status: Status::Success,
    preference: Some(200),
    rapid_commit: false,
    dns_servers: &[address(0x53), address(0x54)],
    domains: &["example.org", "lan"],
};

#[test]
fn requests() {
    let message = payload(&dhcp::SOLICIT);
    let expected = Request {
        kind: Kind::Solicit,
        transaction: 0xab_cdef,
        client_id: CLIENT_ID,
        server_id: None,
        association: Some(Association {
            iaid: 7,
            address: Some(address(0x77)),
        }),
        rapid_commit: true,
        options: &[0, 23, 0, 24],
    };
    assert_eq!(Request::parse(&message), Some(expected));
    let message = payload(&dhcp::REQUEST6);
    let request = Request::parse(&message).unwrap();
    assert_eq!(request.server_id, Some(SERVER_ID));
    assert_eq!(request.association.unwrap().address, None);
    // What a kind must have or must not have.
    let (request, solicit) = (payload(&dhcp::REQUEST6), payload(&dhcp::SOLICIT));
    for (bytes, kind, allowed) in [
        (&request, 1, false),
        (&request, 4, false),
        (&request, 6, false),
        (&request, 5, true),
        (&request, 8, true),
        (&request, 9, true),
        (&request, 11, false),
        (&request, 2, false),
        (&request, 12, false),
        (&solicit, 3, false),
        (&solicit, 5, false),
        (&solicit, 6, true),
    ] {
        let mut bytes = bytes.clone();
        bytes[0] = kind;
        assert_eq!(Request::parse(&bytes).is_some(), allowed, "type {kind}");
    }
}

#[test]
fn answers() {
    let nothing = Reply {
        address: None,
        status: Status::NoAddressAvailable,
        dns_servers: &[],
        domains: &[],
        ..REPLY
    };
    let elsewhere = Reply {
        status: Status::NotOnLink,
        ..REPLY
    };
    let rapid = Reply {
        rapid_commit: true,
        ..REPLY
    };
    for (asked, what, expected) in [
        (dhcp::SOLICIT, REPLY, dhcp::ADVERTISE),
        (dhcp::SOLICIT, rapid, dhcp::RAPID),
        (dhcp::REQUEST6, nothing, dhcp::NO_ADDRESS),
        (dhcp::CONFIRM, elsewhere, dhcp::CONFIRMED),
        (dhcp::INFORMATION, REPLY, dhcp::INFORMED6),
    ] {
        let message = payload(&asked);
        let request = Request::parse(&message).unwrap();
        let mut out = [0u8; 400];
        let len = reply(&mut out, &request, &what).unwrap();
        assert_eq!(out[..len], expected.bytes(), "{:?}", request.kind);
    }
}

#[test]
fn limits() {
    let message = payload(&dhcp::SOLICIT);
    let request = Request::parse(&message).unwrap();
    let mut out = [0u8; 1600];
    let label = std::string::String::from_utf8(std::vec![b'a'; 64]).unwrap();
    for domain in ["", "a..b", &label] {
        let bad = Reply {
            domains: &[domain],
            ..REPLY
        };
        assert_eq!(reply(&mut out, &request, &bad), Err(BuildError::TooLong));
    }
    let servers = [address(1); 80];
    let many = Reply {
        dns_servers: &servers,
        ..REPLY
    };
    assert_eq!(reply(&mut out, &request, &many), Err(BuildError::TooLong));
    assert_eq!(
        reply(&mut out[..100], &request, &REPLY),
        Err(BuildError::NoSpace)
    );
}

proptest! {
    #[test]
    fn any_message_does_no_harm(
        solicit: bool,
        changes in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
        cut in 0usize..120,
    ) {
        let golden = if solicit { dhcp::SOLICIT } else { dhcp::REQUEST6 };
        let mut message = payload(&golden);
        for (at, byte) in changes {
            let at = at % message.len();
            message[at] = byte;
        }
        message.truncate(cut);
        if let Some(request) = Request::parse(&message) {
            let mut out = [0u8; 1600];
            let len = reply(&mut out, &request, &REPLY).unwrap();
            assert_checksums(&out[..len]);
        }
    }
}
