//! Bonds: who carries what as links come and go, and what is announced.

use std::net::IpAddr;

use super::super::lacp::AggregatorSelect;
use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn bond(mode: Mode) -> BondConfig {
    BondConfig {
        mode,
        policy: HashPolicy::Layer34,
        up_delay: ms(0),
        down_delay: ms(0),
        min_links: 0,
        announcements: 1,
        announcement_interval: ms(200),
    }
}

fn with_members(config: BondConfig, count: MemberId) -> Bond {
    let mut bond = Bond::new(config);
    for id in 1..=count {
        let member = MemberConfig {
            mac: [2, 0, 0, 0, 1, id as u8],
            port_priority: 255,
        };
        bond.add_member(id, &member).unwrap();
    }
    bond
}

/// Collects what a bond sends.
#[derive(Default)]
struct Sent(Vec<(MemberId, Vec<u8>)>);

impl Sent {
    fn link(&mut self, bond: &mut Bond, id: MemberId, up: bool, now: u64) {
        let send = &mut |id, frame: &[u8]| self.0.push((id, frame.to_vec()));
        bond.link(id, up, 10_000, ms(now), send).unwrap();
    }

    fn tick(&mut self, bond: &mut Bond, now: u64) {
        bond.tick(ms(now), &mut |id, frame| self.0.push((id, frame.to_vec())));
    }
}

#[test]
fn active_backup_fails_over_and_announces() {
    let mode = Mode::ActiveBackup {
        primary: None,
        reselect: Reselect::Always,
    };
    let mut config = bond(mode);
    config.announcements = 2;
    let mut bond = with_members(config, 2);
    let v4: IpAddr = "192.0.2.1".parse().unwrap();
    let v6: IpAddr = "fd00::1".parse().unwrap();
    let mac = [2, 0, 0, 0, 0, 9];
    let addresses = [Some(v4), Some(v6), None].map(|ip| Address { mac, ip });
    bond.set_addresses(addresses.to_vec());
    let mut sent = Sent::default();
    sent.link(&mut bond, 1, true, 0);
    sent.link(&mut bond, 2, true, 0);
    assert_eq!(bond.active(), Some(1));
    sent.tick(&mut bond, 200);
    sent.tick(&mut bond, 400);
    sent.0.clear();
    let before = bond.generation();
    sent.link(&mut bond, 1, false, 1_000);
    assert_eq!(bond.distribution().members(), [2], "in the same call");
    assert_ne!(bond.generation(), before);
    assert!(bond.takes_from(2) && !bond.takes_from(1));
    assert_eq!(bond.next_event(), Some(ms(1_200)));
    sent.tick(&mut bond, 1_199);
    assert_eq!(sent.0.len(), 3);
    sent.tick(&mut bond, 1_200);
    sent.tick(&mut bond, 5_000);
    assert_eq!(sent.0.len(), 6, "twice each");
    assert_eq!(bond.next_event(), None);
    assert!(
        sent.0
            .iter()
            .all(|(id, frame)| *id == 2 && frame[6..12] == mac)
    );
    let kinds: Vec<&[u8]> = sent.0[..3].iter().map(|(_, f)| &f[12..14]).collect();
    assert_eq!(kinds, [[0x08, 0x06], [0x86, 0xdd], [0x80, 0x35]]);
    let arp = &sent.0[0].1;
    assert_eq!(
        (&arp[28..32], &arp[38..42]),
        (&[192, 0, 2, 1][..], &[192, 0, 2, 1][..])
    );
    assert_eq!(arp[..6], [0xff; 6]);
    // The other comes back: the active one stays.
    sent.link(&mut bond, 1, true, 6_000);
    assert_eq!(bond.active(), Some(2));
}

#[test]
fn the_primary_comes_back_as_configured() {
    let active = |reselect, speed| {
        let mode = Mode::ActiveBackup {
            primary: Some(2),
            reselect,
        };
        let mut bond = with_members(bond(mode), 2);
        let send = &mut |_, _: &[u8]| {};
        bond.link(1, true, 10_000, ms(0), send).unwrap();
        bond.link(2, true, speed, ms(0), send).unwrap();
        bond.active()
    };
    assert_eq!(active(Reselect::Always, 10_000), Some(2));
    assert_eq!(active(Reselect::Better, 10_000), Some(1));
    assert_eq!(active(Reselect::Better, 25_000), Some(2));
    assert_eq!(active(Reselect::Failure, 25_000), Some(1));
}

#[test]
fn delays_hold_links_back_unless_nothing_else_is_up() {
    let mut config = bond(Mode::BalanceXor);
    (config.up_delay, config.down_delay) = (ms(500), ms(100));
    let mut bond = with_members(config, 2);
    let mut sent = Sent::default();
    sent.link(&mut bond, 1, true, 0);
    assert_eq!(
        bond.distribution().members(),
        [1],
        "the only one is not waited for"
    );
    sent.link(&mut bond, 2, true, 10);
    assert_eq!(bond.next_event(), Some(ms(510)));
    sent.tick(&mut bond, 509);
    assert_eq!(bond.distribution().members(), [1]);
    sent.tick(&mut bond, 510);
    assert_eq!(bond.distribution().members(), [1, 2]);
    sent.link(&mut bond, 2, false, 600);
    sent.link(&mut bond, 2, true, 650);
    sent.tick(&mut bond, 2_000);
    assert_eq!(bond.distribution().members(), [1, 2], "a short fall");
    assert_eq!(bond.generation(), 2);
    sent.link(&mut bond, 2, false, 3_000);
    sent.tick(&mut bond, 3_100);
    assert_eq!(bond.distribution().members(), [1]);
}

#[test]
fn too_few_links_are_none() {
    let mut config = bond(Mode::BalanceXor);
    config.min_links = 2;
    let mut bond = with_members(config, 3);
    let mut sent = Sent::default();
    sent.link(&mut bond, 1, true, 0);
    assert!(!bond.is_up());
    sent.link(&mut bond, 3, true, 0);
    assert_eq!(bond.distribution().members(), [1, 3]);
    bond.remove_member(3, ms(1), &mut |_, _| {}).unwrap();
    assert!(!bond.is_up());
    assert_eq!(
        bond.remove_member(3, ms(1), &mut |_, _| {}),
        Err(LinkError::NoMember(3))
    );
}

#[test]
fn members_are_checked() {
    let mut bond = with_members(bond(Mode::BalanceXor), MEMBERS_MAX as MemberId);
    let member = MemberConfig {
        mac: [2; 6],
        port_priority: 1,
    };
    assert_eq!(bond.add_member(0, &member), Err(LinkError::MemberZero));
    assert_eq!(bond.add_member(1, &member), Err(LinkError::MemberExists(1)));
    assert_eq!(
        bond.add_member(99, &member),
        Err(LinkError::TooManyMembers(MEMBERS_MAX))
    );
}

/// Two bonds with LACP over two cables, frames delivered at once.
#[test]
fn lacp_bonds_carry_traffic_and_react_at_once() {
    let bonds = [1, 2].map(|system| {
        let lacp = LacpConfig {
            system: [2, 0, 0, 0, 0, system],
            system_priority: 1,
            key: 1,
            active: true,
            short_timeout: true,
            select: AggregatorSelect::Stable,
            fallback: false,
        };
        with_members(bond(Mode::Lacp(lacp)), 2)
    });
    let [mut a, mut b] = bonds;
    let mut wire: Vec<(bool, MemberId, Vec<u8>)> = Vec::new();
    for id in [1, 2] {
        a.link(id, true, 10_000, ms(0), &mut |i, f| {
            wire.push((false, i, f.to_vec()))
        })
        .unwrap();
        b.link(id, true, 10_000, ms(0), &mut |i, f| {
            wire.push((true, i, f.to_vec()))
        })
        .unwrap();
    }
    for now in (0..6_000).step_by(50).map(ms) {
        for (to_a, id, frame) in std::mem::take(&mut wire) {
            let bond = if to_a { &mut a } else { &mut b };
            bond.received(id, &frame, now, &mut |i, f| {
                wire.push((!to_a, i, f.to_vec()))
            })
            .unwrap();
        }
        a.tick(now, &mut |i, f| wire.push((false, i, f.to_vec())));
        b.tick(now, &mut |i, f| wire.push((true, i, f.to_vec())));
    }
    assert_eq!(a.distribution().members(), [1, 2]);
    assert_eq!(b.distribution().members(), [1, 2]);
    assert_eq!(a.active(), None);
    let status = a.status(1).unwrap();
    assert!(status.up && status.in_use && status.lacp.is_some());
    a.link(1, false, 0, ms(6_000), &mut |_, _| {}).unwrap();
    assert_eq!(a.distribution().members(), [2]);
    assert!(a.received(1, &[0; 60], ms(6_000), &mut |_, _| {}).is_err());
}
