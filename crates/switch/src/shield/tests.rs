use std::sync::Arc;

use proptest::prelude::*;
use sumeru_packet::tcp::Options;
use sumeru_packet::{FlowKey, Layout, ParseOptions, parse};

use super::segment::{self, Own, remembered, stamp};
use super::*;

const PORT: PortIndex = 2;

fn shields(view: ShieldView) -> (Shields, Arc<PortCounters>) {
    let counters = Arc::new(PortCounters::default());
    let mut shields = Shields::default();
    shields.set([(PORT, view, 1500, counters.clone())].into_iter());
    (shields, counters)
}

#[test]
fn cookies_begin_at_the_threshold_and_end_in_peace() {
    let view = ShieldView {
        half_open: 16,
        ..ShieldView::default()
    };
    let (mut shields, counters) = shields(view);
    assert_eq!(shields.meet(PORT, 15, 0), None);
    assert!(!shields.may_be_good(0) && !shields.refuse(Some(PORT)));
    assert_eq!(shields.meet(PORT, 16, 0), Some((view, 1500)));
    assert!(shields.is_active(PORT) && shields.may_be_good(127_999));
    assert!(!shields.may_be_good(128_000));
    assert_eq!(
        shields.meet(PORT, 0, 0),
        Some((view, 1500)),
        "until it is over"
    );
    assert!(shields.refuse(Some(PORT)) && !shields.refuse(None) && !shields.refuse(Some(9)));
    for second in 0..30 {
        // Nine quiet seconds are not enough, nor is it quiet while many are half open.
        if second == 9 {
            (0..3).for_each(|_| _ = shields.meet(PORT, 0, 0));
        }
        shields.tick(|_| if second == 15 { 16 } else { 0 });
        assert_eq!(shields.is_active(PORT), second < 25, "{second}");
    }
    let counted = [
        &counters.cookies_on,
        &counters.cookies_off,
        &counters.cookies_sent,
    ];
    assert_eq!(counted.map(|c| c.get()), [1, 1, 5]);
}

#[test]
fn what_is_protected_changes_under_way() {
    let always = ShieldView {
        mode: Mode::Always,
        ..ShieldView::default()
    };
    let (mut shields, counters) = shields(always);
    assert!(shields.is_active(PORT));
    (0..30).for_each(|_| shields.tick(|_| 0));
    assert!(shields.is_active(PORT));
    let auto = ShieldView::default();
    shields.set([(PORT, auto, 1500, counters.clone())].into_iter());
    (0..30).for_each(|_| shields.tick(|_| 0));
    assert!(!shields.is_active(PORT));
    shields.set([(PORT, always, 1500, counters.clone())].into_iter());
    shields.set(std::iter::empty());
    assert!(shields.is_empty() && shields.meet(PORT, 1000, 0).is_none());
    assert_eq!(
        (counters.cookies_on.get(), counters.cookies_off.get()),
        (2, 2)
    );
}

#[test]
fn openings_are_bounded_and_looked_after() {
    use crate::conntrack::{Commit, Config, Conntrack, CtPacket, Family, Tuple, tcp_flag};
    let (mut shields, counters) = shields(ShieldView::default());
    let mut table = Conntrack::new(Config::default(), 0).unwrap();
    let client = Client {
        from: 1,
        ack: ArrayVec::new(),
        layout: Layout::EMPTY,
        inner: false,
        back: None,
        opening: Opening {
            cookie: 1,
            stamp: None,
            scale: None,
        },
        options: Options::default(),
    };
    let conns: Vec<_> = (0..u64::from(OPENINGS_OF_ONE) + 100)
        .map(|n| {
            let tuple = Tuple {
                src: n.into(),
                dst: 9,
                sport: 1,
                dport: 80,
                proto: 6,
                family: Family::V4,
                zone: zone(PORT),
            };
            let packet = CtPacket {
                flags: tcp_flag::SYN,
                ..CtPacket::default()
            };
            let commit = Commit {
                tuple,
                packet,
                mark: 0,
                label: 0,
                owner: 1,
                policy: 0,
                nat: None,
            };
            let conn = table.commit(&commit).unwrap();
            shields.begun(conn, PORT, client.clone(), 0);
            shields.begun(conn, PORT, client.clone(), 0);
            conn
        })
        .collect();
    assert_eq!(
        counters.cookies_valid.get(),
        conns.len() as u64 + 100,
        "the last ones twice"
    );
    assert_eq!(shields.pending.len(), usize::from(OPENINGS_OF_ONE));
    // One guest answers, one connection is gone; the others' SYNs are sent again three times.
    shields.answered(conns[0]);
    shields.answered(conns[0]);
    assert!(matches!(shields.next_waiting(), Some(Waiting::Ack(_))));
    assert!(!shields.waits());
    let mut sent = 0;
    for now in 0..15 {
        assert!(shields.retry(now, |conn| conn != conns[1]).is_empty());
        let waiting: Vec<_> = std::iter::from_fn(|| shields.next_waiting()).collect();
        assert!(
            waiting
                .iter()
                .all(|waiting| matches!(waiting, Waiting::Syn(_)))
        );
        sent += waiting.len();
    }
    assert_eq!(sent, 3 * (usize::from(OPENINGS_OF_ONE) - 2));
    let told = shields.retry(15, |_| true);
    assert_eq!(told.len(), usize::from(OPENINGS_OF_ONE) - 2);
    assert_eq!(counters.cookies_unanswered.get(), told.len() as u64);
    assert!(shields.pending.is_empty());
    shields.begun(conns[0], PORT, client, 15);
    assert_eq!(shields.pending.len(), 1, "there is room again");
}

proptest! {
    #[test]
    fn a_stamp_remembers_and_grows(scale in proptest::option::of(0_u8..=14), sack_permitted: bool, now in 0_u64..1 << 40, later in 32_u64..1 << 30) {
        let options = Options { window_scale: scale, sack_permitted, ..Options::default() };
        let first = stamp(&options, now);
        prop_assert_eq!(remembered(first), (scale, sack_permitted));
        prop_assert!((stamp(&options, now + later).wrapping_sub(first) as i32) > 0);
    }

    #[test]
    fn any_frame_makes_segments_that_parse_or_none(
        mut bytes in proptest::collection::vec(any::<u8>(), 54..256), v6: bool, offset in 5_u8..16, window: u16,
    ) {
        // Enough of it is right for it to be a segment now and then.
        bytes[12..15].copy_from_slice(if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
        let (at, len) = if v6 { (54, bytes.len() - 54) } else { (34, bytes.len() - 14) };
        bytes[if v6 { 20 } else { 23 }] = 6;
        bytes[if v6 { 18..20 } else { 16..18 }].copy_from_slice(&(len as u16).to_be_bytes());
        if !v6 {
            bytes[20..22].fill(0);
        }
        if let Some(byte) = bytes.get_mut(at + 12) {
            *byte = offset << 4;
        }
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        if parse(&bytes, bytes.len(), &mut key, &mut layout, &ParseOptions::PLAIN).is_err() {
            return Ok(());
        }
        let Some(came) = segment::read(&bytes, &layout, false) else { return Ok(()) };
        let own = Own { flags: 0x12, seq: 1, ack: 2, window, options: Options { timestamps: Some((3, 4)), ..Options::default() } };
        for back in [true, false] {
            let mut to = [0; 512];
            let written = match back {
                true => segment::back(&bytes, &layout, false, &own, &mut to),
                false => segment::instead(&bytes, &layout, false, &own, &mut to),
            };
            let sent = &to[..written.unwrap()];
            let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
            prop_assert!(parse(sent, sent.len(), &mut key, &mut layout, &ParseOptions::PLAIN).is_ok());
            let read = segment::read(sent, &layout, false).unwrap();
            let ports = if back { (came.dport, came.sport) } else { (came.sport, came.dport) };
            prop_assert_eq!((read.sport, read.dport), ports);
            prop_assert_eq!((read.seq, read.ack, read.window, read.options), (1, 2, window, own.options));
        }
    }
}
