//! Steady state forwarding allocates nothing on the lcore: counted by the allocator itself, for each way a frame can take.
#![allow(clippy::unwrap_used, clippy::expect_used, unsafe_code)]

mod driver;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use driver::*;
use sumeru_packet::build;
use sumeru_switch::lane::queue::EgressConfig;
use sumeru_switch::stats::Stage;

/// Counts what marked threads allocate.
struct Counting;

thread_local! {
    static MARKED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

fn count() {
    if MARKED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's contract is passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work` once to warm up, then many times with the lcore's thread marked; answers what that allocated.
fn allocations(node: &Node, mut work: impl FnMut()) -> u64 {
    (0..3).for_each(|_| work());
    node.lcore.call(|_| MARKED.set(true)).unwrap();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    (0..100).for_each(|_| work());
    let counted = ALLOCATIONS.load(Ordering::SeqCst) - before;
    node.lcore
        .call(|_| drop(std::hint::black_box(Box::new(1))))
        .unwrap();
    assert!(
        ALLOCATIONS.load(Ordering::SeqCst) > before + counted,
        "the counter counts"
    );
    node.lcore.call(|_| MARKED.set(false)).unwrap();
    counted
}

/// The far end of the tunnel, and guests 1 and 2 on the network that it serves; flooding is limited, as the limits are kept too.
fn node() -> (Node, Guest, Guest, Guest) {
    let mut node = Node::new();
    node.network(7, &["192.0.2.2"], 1_000_000);
    let mut wire = node.uplink(0, &[("192.0.2.1", 24)], SENDS);
    let mut answer = [0; 64];
    let len = build::arp_reply(
        &mut answer,
        mac(0xfa),
        [192, 0, 2, 2].into(),
        mac(0xee),
        [192, 0, 2, 1].into(),
    )
    .unwrap();
    let options = Options {
        network: Some(7),
        ..Options::default()
    };
    let (mut a, mut b) = (node.guest(1, &options), node.guest(2, &options));
    wire.send(&[&answer[..len]]);
    a.send(&[udp(1, 99, 1)]);
    b.send(&[udp(2, 1, 1)]);
    for guest in [&mut a, &mut b, &mut wire] {
        guest.receive();
    }
    (node, wire, a, b)
}

#[test]
fn hits_allocate_nothing() {
    let (node, _wire, mut a, mut b) = node();
    let frames: Vec<_> = (0..40_u16)
        .map(|i| udp_to(mac(1), mac(2), i, 30 * usize::from(i)))
        .collect();
    let counted = allocations(&node, || {
        a.send(&frames);
        assert_eq!(b.receive().len(), 40);
    });
    assert_eq!(counted, 0);
    assert!(node.stage(Stage::Known) + node.stage(Stage::ExactHit) > 4000 - 100);
}

#[test]
fn rules_and_their_edits_allocate_nothing() {
    let (mut node, _wire, mut a, mut b) = node();
    node.rule(0, "flow create 1 ingress pattern eth / ipv4 / end actions count / set_ipv4_src ipv4_addr 192.0.2.77 / dec_ttl / of_push_vlan ethertype 0x8100 / represented_port ethdev_port_id 2 / end").unwrap();
    node.rule(
        1,
        "flow create 1 ingress pattern eth / ipv6 / end actions count / drop / end",
    )
    .unwrap();
    let counted = allocations(&node, || {
        a.send(&[udp(1, 2, 900), tcp(1, 2, true, 5)]);
        assert_eq!(b.receive().len(), 1);
    });
    assert_eq!(counted, 0);
}

#[test]
fn frames_that_wait_allocate_nothing() {
    let (mut node, _wire, mut a, mut b) = node();
    let config = EgressConfig {
        rate: 1 << 38,
        frames: 64,
        tenants: Vec::new(),
        classes: Vec::new(),
    };
    node.switch.set_egress(2, Some(config)).unwrap();
    let frames: Vec<_> = (0..40).map(|i| udp(1, 2, 30 * i)).collect();
    let counted = allocations(&node, || {
        a.send(&frames);
        let mut received = 0;
        while received < frames.len() {
            received += b.receive().len();
        }
    });
    assert_eq!(counted, 0);
}

#[test]
fn flooding_to_ports_and_remotes_allocates_nothing() {
    let (node, mut wire, mut a, mut b) = node();
    let all = vec![udp_to(mac(1), BROADCAST, 1, 800); 20];
    let unknown = vec![udp_to(mac(1), mac(0x55), 1, 800); 20];
    let counted = allocations(&node, || {
        a.send(&all);
        a.send(&unknown);
        assert_eq!((b.receive().len(), wire.receive().len()), (40, 40));
    });
    assert_eq!(counted, 0);
    assert_eq!(node.drops(sumeru_switch::stats::Drop::FloodLimit), 0);
}

#[test]
fn tunnels_both_ways_allocate_nothing() {
    let (node, mut wire, mut a, _b) = node();
    let inner = udp(9, 1, 700);
    let outer = build(|f| {
        f.ethernet(mac(0xee), mac(0xfa))
            .ipv4(0xc000_0202, 0xc000_0201)
            .udp(50_000, 4789)
            .vxlan(7)
            .payload(&inner)
    });
    let back = vec![udp(1, 9, 500); 30];
    let counted = allocations(&node, || {
        wire.send(&vec![&outer; 30]);
        assert_eq!(a.receive().len(), 30);
        a.send(&back);
        assert_eq!(wire.receive().len(), 30);
    });
    assert_eq!(counted, 0);
    assert!(node.stage(Stage::Encapsulate) > 3000 && node.stage(Stage::Decapsulate) > 3000);
}

#[test]
fn checksums_and_segmentation_allocate_nothing() {
    let (node, mut wire, mut a, mut b) = node();
    wire.send(&[build(|f| {
        f.ethernet(mac(0xee), mac(0xfa))
            .ipv4(0xc000_0202, 0xc000_0201)
            .udp(50_000, 4789)
            .vxlan(7)
            .payload(&udp(9, 1, 1))
    })]);
    a.receive();
    let (sum, left) = partial(&udp(1, 2, 1001));
    let (cut, large4) = large(&tcp(1, 2, false, 20_000), 1448);
    let (cut6, large6) = large(&tcp(1, 9, true, 20_000), 1400);
    let counted = allocations(&node, || {
        a.send_with(sum, &left);
        a.send_cut(cut, &large4, &[12, 1000, 4096], true);
        assert_eq!(b.receive().len(), 15);
        a.send_with(cut6, &large6);
        assert_eq!(wire.receive().len(), 15);
    });
    assert_eq!(counted, 0);
    assert!(node.stage(Stage::Segment) >= 200 && node.stage(Stage::Checksum) > 100);
}

#[test]
fn small_buffers_allocate_nothing() {
    let (mut node, _wire, mut a, _b) = node();
    let mut c = node.guest(
        3,
        &Options {
            network: Some(7),
            buffers: (120, vec![12, 188]),
            ..Options::default()
        },
    );
    c.send(&[udp(3, 1, 1)]);
    let frames = vec![udp(1, 3, 1400); 12];
    let counted = allocations(&node, || {
        a.send(&frames);
        assert_eq!(c.receive().len(), 12);
    });
    assert_eq!(counted, 0);
}

#[test]
fn actions_on_cached_decisions_allocate_nothing() {
    let (mut node, mut wire, mut a, mut b) = node();
    let mirror = Options {
        network: None,
        mtu: 2000,
        ..Options::default()
    };
    let mut mirror = node.guest(3, &mirror);
    for (id, text) in [
        "flow create 1 ingress pattern eth / ipv4 / udp / end actions set_tag data 1 index 0 mask 255 / mac_swap / modify_field op add dst_type ipv4_dst src_type value src_value 00000001 width 32 / modify_field op set dst_type udp_port_src src_type udp_port_dst width 16 / sample ratio 1 actions raw_encap data 02000000000f02000000000e88be / represented_port ethdev_port_id 3 / end / represented_port ethdev_port_id 2 / end",
        "flow create 1 ingress pattern eth / ipv6 / tcp / end actions inc_tcp_seq value 5 / raw_decap data 0000000000000000000000000000 / raw_encap data 02000000000f02000000000e86dd / represented_port ethdev_port_id 2 / end",
        "flow create 1 ingress pattern eth / ipv4 / tcp / end actions nvgre_encap tni 5 ip_src 192.0.2.1 ip_dst 192.0.2.2 / represented_port ethdev_port_id 0 / end",
    ]
    .iter()
    .enumerate()
    {
        node.rule(id as u32, text).unwrap();
    }
    let counted = allocations(&node, || {
        a.send(&[udp(1, 2, 900), tcp(1, 2, true, 500), tcp(1, 2, false, 500)]);
        assert_eq!(
            (
                b.receive().len(),
                mirror.receive().len(),
                wire.receive().len()
            ),
            (2, 1, 1)
        );
    });
    assert_eq!(counted, 0);
}
