//! The underlay's stack against frames as the kernel sends them.

use super::*;
use sumeru_packet::build::FrameBuilder;
use sumeru_packet::{FlowKey, ParseOptions, parse};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn underlay() -> Underlay {
    let addresses = vec![
        ("192.0.2.1".parse().unwrap(), 24),
        ("2001:db8::1".parse().unwrap(), 64),
    ];
    Underlay {
        port: 0,
        mac: MAC,
        addresses,
        vxlan_port: 4789,
    }
}

fn feed(frame: &[u8], neighbours: &mut Neighbours) -> (Reaction, Vec<u8>) {
    let (mut key, mut layout, mut reply) = (FlowKey::ZERO, Layout::EMPTY, [0; 2048]);
    parse(
        frame,
        frame.len(),
        &mut key,
        &mut layout,
        &ParseOptions::VXLAN,
    )
    .unwrap();
    let reaction = handle(frame, &layout, &underlay(), neighbours, 5, &mut reply);
    let len = reaction.reply_len;
    (reaction, reply[..len].to_vec())
}

#[test]
fn arp_is_answered_and_learned_from() {
    let mut neighbours = Neighbours::default();
    let mut frame = [0; 64];
    let len = build::arp_request(
        &mut frame,
        PEER,
        "192.0.2.2".parse().unwrap(),
        "192.0.2.1".parse().unwrap(),
    )
    .unwrap();
    let (reaction, reply) = feed(&frame[..len], &mut neighbours);
    assert!(reaction.learned.is_none(), "nobody wanted this neighbour");
    assert_eq!(&reply[..12], [PEER, MAC].concat());
    assert_eq!(reply[20..22], [0, 2], "a reply");
    neighbours.want("192.0.2.2".parse().unwrap());
    assert!(feed(&frame[..len], &mut neighbours).0.learned.is_some());
    assert_eq!(neighbours.mac("192.0.2.2".parse().unwrap()), Some(PEER));
    let len = build::arp_request(
        &mut frame,
        PEER,
        "192.0.2.2".parse().unwrap(),
        "192.0.2.9".parse().unwrap(),
    )
    .unwrap();
    assert_eq!(
        feed(&frame[..len], &mut neighbours).1,
        [],
        "not our address"
    );
}

#[test]
fn neighbour_discovery_and_echo_are_answered() {
    let mut neighbours = Neighbours::default();
    let peer: Ipv6Addr = "2001:db8::2".parse().unwrap();
    neighbours.want(peer.into());
    let mut frame = [0; 256];
    let len = build::neighbour_solicitation(&mut frame, PEER, peer, "2001:db8::1".parse().unwrap())
        .unwrap();
    let (reaction, reply) = feed(&frame[..len], &mut neighbours);
    assert!(reaction.learned.is_some());
    let mut other = Neighbours::default();
    other.want("2001:db8::1".parse().unwrap());
    assert_eq!(reply[54], 136, "an advertisement");
    for (v6, echo) in [(false, 8), (true, 128)] {
        let builder = FrameBuilder::new(&mut frame).ethernet(MAC, PEER);
        let builder = if v6 {
            builder.ipv6(peer.to_bits(), underlay_v6())
        } else {
            builder.ipv4(0xc000_0202, 0xc000_0201)
        };
        let len = builder
            .icmp(echo, 0, 0x0001_0002)
            .payload(b"abc")
            .finish()
            .unwrap();
        let (_, reply) = feed(&frame[..len], &mut neighbours);
        assert_eq!(reply.len(), len);
        // What comes back parses, is turned round, and its checksum is right: our own check accepts it as an answer to an answer.
        let l4 = if v6 { 54 } else { 34 };
        assert_eq!(reply[l4], if v6 { 129 } else { 0 });
        if !v6 {
            assert_eq!(checksum(&reply[34..]), 0);
            assert_eq!(checksum(&reply[14..34]), 0);
        }
        frame[l4 + 3] ^= 1;
        assert_eq!(
            feed(&frame[..len], &mut neighbours).1,
            [],
            "a wrong checksum is not answered"
        );
    }
}

fn underlay_v6() -> u128 {
    "2001:db8::1".parse::<Ipv6Addr>().unwrap().to_bits()
}

#[test]
fn neighbours_are_asked_and_given_up() {
    let mut neighbours = Neighbours::default();
    let remote = "192.0.2.2".parse().unwrap();
    neighbours.want(remote);
    let mut lost = Vec::new();
    let mut asked = |neighbours: &mut Neighbours, now, new_second| {
        let mut asked = 0;
        neighbours.ask(now, new_second, |_| asked += 1, |remote| lost.push(remote));
        asked
    };
    assert_eq!(asked(&mut neighbours, 1, true), 1);
    neighbours.want("192.0.2.3".parse().unwrap());
    assert_eq!(
        asked(&mut neighbours, 1, false),
        1,
        "within a second only the new one"
    );
    neighbours.entries.remove(&"192.0.2.3".parse().unwrap());
    assert!(neighbours.answer(remote, PEER, 2));
    assert_eq!(asked(&mut neighbours, 31, true), 0, "fresh");
    let questions: i32 = (32..36)
        .map(|second| asked(&mut neighbours, second, true))
        .sum();
    assert_eq!(questions, 3);
    assert_eq!(lost, [remote]);
    assert_eq!(
        neighbours.mac(remote),
        None,
        "three questions without an answer"
    );
}
