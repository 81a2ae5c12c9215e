//! The agent: when it speaks, what it says, whom it remembers and for how long.

use proptest::prelude::*;

use super::super::tlv::tests::{LLDPD, bytes};
use super::*;

const fn s(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn system() -> LldpSystem {
    LldpSystem {
        chassis: [2, 0, 0, 0, 0, 1],
        name: "node1".into(),
        description: "Sumeru".into(),
        capabilities: Capabilities {
            available: Capabilities::BRIDGE,
            enabled: Capabilities::BRIDGE,
        },
        management: ArrayVec::from_iter([("192.0.2.1".parse().unwrap(), 3)]),
    }
}

fn port(name: &str) -> LldpPortConfig {
    LldpPortConfig {
        mac: [2, 0, 0, 0, 1, 1],
        name: name.into(),
        description: "to the rack".into(),
        pvid: Some(1),
        aggregation: None,
        max_frame: Some(9_234),
    }
}

fn agent() -> Lldp {
    let mut agent = Lldp::new(LldpConfig::default(), system()).unwrap();
    agent.add_port(7, port("uplink0")).unwrap();
    agent.link(7, true, s(100)).unwrap();
    agent
}

/// Runs the agent at its own events until `end`; when it sent what.
fn run(agent: &mut Lldp, end: Duration) -> Vec<(Duration, Vec<u8>)> {
    let mut sent = Vec::new();
    while let Some(now) = agent.next_event().filter(|at| *at < end) {
        agent.tick(now, &mut |number, frame| {
            assert_eq!(number, 7);
            sent.push((now, frame.to_vec()));
        });
    }
    sent
}

fn seconds(sent: &[(Duration, Vec<u8>)]) -> Vec<u64> {
    sent.iter().map(|(at, _)| at.as_secs()).collect()
}

#[test]
fn it_speaks_fast_at_first_and_when_somebody_is_new() {
    let mut agent = agent();
    let sent = run(&mut agent, s(200));
    assert_eq!(seconds(&sent), [100, 101, 102, 103, 133, 163, 193]);
    let pdu = Lldpdu::parse(&sent[0].1).unwrap();
    assert_eq!(pdu.ttl, 121);
    assert_eq!(pdu.port.to_string(), "uplink0");
    assert_eq!(pdu.system_name.unwrap().to_string(), "node1");
    assert_eq!(
        (pdu.pvid, pdu.max_frame, pdu.aggregation),
        (Some(1), Some(9_234), None)
    );
    assert_eq!(agent.received(7, &bytes(LLDPD), s(200)), Ok(Heard::New));
    assert_eq!(agent.received(7, &bytes(LLDPD), s(201)), Ok(Heard::Same));
    assert_eq!(seconds(&run(&mut agent, s(220))), [200, 201, 202, 203]);
}

#[test]
fn changes_are_told_at_once_but_not_too_often() {
    let mut agent = agent();
    run(&mut agent, s(110));
    let mut sent = Vec::new();
    for i in 0..100u64 {
        let now = Duration::from_millis(110_000 + i * 100);
        let description = format!("change {i}");
        let changed = LldpPortConfig {
            description,
            ..port("uplink0")
        };
        agent.update_port(7, changed, now).unwrap();
        agent.tick(now, &mut |_, frame| sent.push((now, frame.to_vec())));
    }
    assert!(
        (14..=15).contains(&sent.len()),
        "five at once and one a second: {}",
        sent.len()
    );
    let last = run(&mut agent, s(122)).pop().unwrap().1;
    let said = Lldpdu::parse(&last).unwrap().port_description.unwrap();
    assert_eq!(said.to_string(), "change 99", "the last word is said");
    let renamed = LldpSystem {
        name: "node2".into(),
        ..system()
    };
    agent.set_system(renamed.clone(), s(130)).unwrap();
    agent.set_system(renamed, s(130)).unwrap();
    assert_eq!(seconds(&run(&mut agent, s(140))), [130]);
}

#[test]
fn neighbours_age_change_and_leave() {
    let mut agent = agent();
    agent.received(7, &bytes(LLDPD), s(100)).unwrap();
    let neighbours = |agent: &Lldp| agent.neighbours().count();
    let (number, neighbour) = agent.neighbours().next().unwrap();
    assert_eq!((number, neighbour.source), (7, [2, 0, 0, 0, 0x0b, 1]));
    assert_eq!((neighbour.since, neighbour.expires), (s(100), s(220)));
    let renamed = bytes(&LLDPD.replace("766d", "7677"));
    assert_eq!(agent.received(7, &renamed, s(150)), Ok(Heard::Changed));
    run(&mut agent, s(270));
    assert_eq!(neighbours(&agent), 1);
    agent.tick(s(270), &mut |_, _| {});
    assert_eq!(
        (neighbours(&agent), agent.stats(7).unwrap().aged_out),
        (0, 1)
    );
    agent.received(7, &bytes(LLDPD), s(300)).unwrap();
    let goodbye = bytes(&LLDPD.replace("0602 0078", "0602 0000"));
    assert_eq!(agent.received(7, &goodbye, s(301)), Ok(Heard::Gone));
    assert_eq!(agent.received(7, &goodbye, s(301)), Ok(Heard::Ignored));
    agent.received(7, &bytes(LLDPD), s(302)).unwrap();
    agent.link(7, false, s(303)).unwrap();
    assert_eq!(
        neighbours(&agent),
        0,
        "who was at the end of a dead link is not known"
    );
    assert_eq!(agent.received(7, &bytes(LLDPD), s(304)), Ok(Heard::Ignored));
    assert_eq!(agent.next_event(), None);
}

#[test]
fn a_port_that_goes_says_so() {
    let mut agent = agent();
    let mut sent = Vec::new();
    agent
        .remove_port(7, &mut |_, frame| sent.push(frame.to_vec()))
        .unwrap();
    let pdu = Lldpdu::parse(&sent[0]).unwrap();
    assert_eq!((pdu.ttl, pdu.system_name), (0, None));
    assert_eq!(
        agent.remove_port(7, &mut |_, _| {}),
        Err(LinkError::NoPort(7))
    );
}

#[test]
fn a_flood_of_neighbours_is_bounded_and_counted() {
    let mut agent = agent();
    for i in 0..100u32 {
        let mut frame = bytes(LLDPD);
        frame[17..21].copy_from_slice(&i.to_be_bytes());
        let expected = if i < 8 { Heard::New } else { Heard::Ignored };
        assert_eq!(agent.received(7, &frame, s(100)), Ok(expected));
    }
    assert_eq!(agent.neighbours().count(), 8);
    assert!(agent.received(7, &[0; 64], s(100)).is_err());
    let stats = agent.stats(7).unwrap();
    assert_eq!(
        (
            stats.frames_in,
            stats.frames_discarded,
            stats.too_many,
            stats.tlvs_unrecognized
        ),
        (101, 1, 92, 100)
    );
    assert!(
        run(&mut agent, s(110)).len() <= 10,
        "they do not make it talk without end"
    );
}

#[test]
fn settings_are_checked() {
    let long = "x".repeat(256);
    let bad = LldpSystem {
        name: long.clone(),
        ..system()
    };
    assert!(matches!(
        Lldp::new(LldpConfig::default(), bad),
        Err(LinkError::TextTooLong { len: 256, .. })
    ));
    let config = LldpConfig {
        interval: s(4),
        ..LldpConfig::default()
    };
    assert!(matches!(
        Lldp::new(config, system()),
        Err(LinkError::Time { seconds: 4, .. })
    ));
    let mut agent = agent();
    assert_eq!(agent.add_port(7, port("a")), Err(LinkError::PortExists(7)));
    assert_eq!(agent.add_port(8, port("")), Err(LinkError::NoName));
    assert!(agent.add_port(8, port(&long)).is_err());
    for number in 100..100 + PORTS_MAX as u32 - 1 {
        agent.add_port(number, port("a")).unwrap();
    }
    assert_eq!(
        agent.add_port(8, port("a")),
        Err(LinkError::TooManyPorts(PORTS_MAX))
    );
}

proptest! {
    /// Whatever is received and changed, no more frames leave than the credit allows, and the last change is told within a second.
    #[test]
    fn it_never_talks_too_much(steps in prop::collection::vec((0u64..3_000, 0u8..4, any::<u8>()), 1..100)) {
        let mut agent = agent();
        let (mut now, mut sent) = (s(100), Vec::new());
        for (wait, what, byte) in steps {
            now += Duration::from_millis(wait);
            match what {
                0 => {
                    let mut frame = bytes(LLDPD);
                    frame[20] = byte % 16;
                    let _ = agent.received(7, &frame, now);
                }
                1 => agent.update_port(7, LldpPortConfig { pvid: Some(byte.into()), ..port("u") }, now).unwrap(),
                2 => agent.link(7, byte % 2 == 0, now).unwrap(),
                _ => {}
            }
            agent.tick(now, &mut |_, _| sent.push(now));
        }
        for window in sent.windows(7) {
            prop_assert!(window[6] - window[0] >= s(1), "{:?}", window);
        }
    }
}
