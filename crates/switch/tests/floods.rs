//! Floods of one tenant: datagrams, ARP, new addresses, fragments. Another tenant's frames all arrive, what is dropped is counted by its reason, and what is
//! kept of it all stays within its bounds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;

use driver::*;
use sumeru_switch::stats::Drop;

/// Frames of a flood, a burst at a time.
const BURSTS: u32 = 60;
const BURST: u32 = 64;
const ALLOWED: u32 = 100;

/// Guests 1 and 2 are on network 1, where somebody floods; guests 3 and 4 on network 2.
struct Site {
    node: Node,
    flooder: Guest,
    beside: Guest,
    quiet: [Guest; 2],
}

impl Site {
    fn new() -> Self {
        let mut node = Node::new();
        node.network(1, &[], ALLOWED);
        node.network(2, &[], 0);
        let on = |network| Options {
            network: Some(network),
            ..Options::default()
        };
        let [flooder, beside] = [1, 2].map(|port| node.guest(port, &on(1)));
        let mut quiet = [3, 4].map(|port| node.guest(port, &on(2)));
        // They know each other.
        for (from, to) in [(0, 1), (1, 0)] {
            quiet[from].send(&[udp(3 + from as u8, 3 + to as u8, 1)]);
            assert_eq!(quiet[to].frames().len(), 1);
        }
        Self {
            node,
            flooder,
            beside,
            quiet,
        }
    }

    /// Floods with frames by number, while the quiet tenant talks; answers how many frames reached the guest beside.
    fn run(&mut self, frame: impl Fn(u32) -> Vec<u8>) -> u64 {
        let mut reached = 0;
        for burst in 0..BURSTS {
            let frames: Vec<_> = (0..BURST).map(|n| frame(burst * BURST + n)).collect();
            self.flooder.send(&frames);
            let [one, other] = &mut self.quiet;
            let (asked, answered) = (udp(3, 4, burst as usize), udp(4, 3, burst as usize));
            one.send(&[&asked, &asked]);
            assert_eq!(other.frames(), [asked.clone(), asked]);
            other.send(&[&answered]);
            assert_eq!(one.frames(), [answered]);
            reached += self.beside.frames().len() as u64;
        }
        reached
    }

    /// What was dropped, and nothing for any other reason.
    fn dropped(&self, reason: Drop) -> u64 {
        let dropped = self.node.drops(reason);
        let all: u64 = self.node.all_drops().iter().map(|(_, count)| count).sum();
        assert_eq!(all, dropped, "{:?}", self.node.all_drops());
        dropped
    }

    /// That of a flood only what the network allows in a second reached anybody, and the rest was counted.
    fn limited(&mut self, frame: impl Fn(u32) -> Vec<u8>) {
        let reached = self.run(frame);
        let lost = self.dropped(Drop::FloodLimit);
        assert_eq!(reached + lost, u64::from(BURSTS * BURST));
        assert!(
            lost > 0 && reached >= u64::from(ALLOWED),
            "{reached}, {lost}"
        );
    }
}

#[test]
fn datagrams_to_nobody() {
    Site::new().limited(|n| udp_to(mac(1), mac(0x70 + (n % 16) as u8), n as u16, 9));
}

#[test]
fn arp() {
    Site::new().limited(|n| {
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
        body.extend(mac(1));
        body.extend([10, 0, 0, 1]);
        body.extend([0; 6]);
        body.extend((0x0a00_0000 + n).to_be_bytes());
        build(|f| f.ethernet(BROADCAST, mac(1)).ethertype(0x0806, &body))
    });
}

#[test]
fn new_addresses() {
    let mut site = Site::new();
    site.limited(|n| {
        let [_, a, b, c] = n.to_be_bytes();
        udp_to([2, 9, 9, a, b, c], BROADCAST, 1, 9)
    });
    let learned = site.node.switch.fdb().unwrap();
    let quiet = learned.iter().filter(|entry| entry.0 == 2).count();
    assert_eq!(quiet, 2, "the quiet tenant's addresses are still known");
}

#[test]
fn datagrams_to_a_guest_that_takes_none() {
    let mut site = Site::new();
    site.beside.send(&[udp(2, 1, 1)]);
    site.flooder.frames();
    let node_before = site.dropped(Drop::NoBuffers);
    let mut sent = 0;
    // Nobody looks at what comes, so that its buffers are used up.
    for burst in 0..BURSTS {
        let frames: Vec<_> = (0..BURST)
            .map(|n| udp_to(mac(1), mac(2), n as u16, 9))
            .collect();
        site.flooder.send(&frames);
        sent += frames.len() as u64;
        let [one, other] = &mut site.quiet;
        let asked = udp(3, 4, burst as usize);
        one.send(&[&asked]);
        assert_eq!(other.frames(), [asked]);
    }
    let lost = site.dropped(Drop::NoBuffers) - node_before;
    assert_eq!(lost + site.beside.frames().len() as u64, sent);
    assert!(lost > 0);
}

#[test]
fn fragments_that_are_never_whole() {
    let mut site = Site::new();
    // Both tenants' frames are tracked.
    for (id, port) in [(0, 1), (1, 3)] {
        let text = format!(
            "flow create {port} ingress pattern eth / ipv4 / end actions ct zone {port} commit group 1 / end"
        );
        site.node.rule(id, &text).unwrap();
    }
    site.beside.send(&[udp(2, 1, 1)]);
    site.flooder.frames();
    let piece = |n: u32, offset: u16| {
        let mut frame = udp_to(mac(1), mac(2), 9, 64);
        frame[18..20].copy_from_slice(&(n as u16).to_be_bytes());
        frame[20..22].copy_from_slice(&(0x2000 | offset).to_be_bytes());
        frame[24..26].fill(0);
        let sum = sumeru_packet::checksum::checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
        frame
    };
    // First pieces of datagrams, and later ones of others that have no first.
    site.run(|n| piece(n, if n % 2 == 0 { 0 } else { 100 }));
    let sums = site.node.switch.connection_sums().unwrap()[0].unwrap();
    assert_eq!(sums.fragments.unknown, u64::from(BURSTS * BURST / 2));
    assert_eq!(sums.fragments.accepted, u64::from(BURSTS * BURST / 2));
    assert!(sums.table.live <= 4, "{:?}", sums.table);
}
