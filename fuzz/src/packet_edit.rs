//! Fuzz target `packet_edit`: a frame that parses, through sequences of the switch's edits (addresses, ports, tags, tunnels) and then cut into
//! segments. Fails when an edited frame no longer parses, parses otherwise than the switch believes, or breaks an IPv4 header's checksum.
//!
//! Input: bits (0 partial checksum, 1 to be cut too, 2 as IPv6), number of edits, the edits with their arguments, bytes beyond those captured (u16),
//! segment size (u16), the captured header.

use std::net::{Ipv4Addr, Ipv6Addr};

use sumeru_packet::build::{Encapsulation, Underlay};
use sumeru_packet::tcp::{Options, Shift};
use sumeru_packet::{
    FlowKey, Gso, HEADER_MAX, L3Kind, LayerLayout, Layout, ParseOptions, SegmentPlan, TunnelKind,
    checksum, parse,
};
use sumeru_switch::edit;
use sumeru_switch::frame::Frame;
use sumeru_switch::net_header::{self, Offload};
use sumeru_switch::program::{Op, Tunnel};
use sumeru_switch::shield::segment::{self, Own};

use crate::input::Input;

const OPTIONS: ParseOptions = ParseOptions::VXLAN;

/// Runs one input.
///
/// # Panics
/// When a promise of the edits is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let bits = input.u8();
    let ops: Vec<Op> = (0..input.below(8)).map(|_| op(&mut input)).collect();
    let (extra, mss) = (usize::from(input.u16()), input.u16());
    let header = input.bytes(HEADER_MAX);
    let mut frame = Frame::new();
    frame.len = (header.len() + extra) as u32;
    let parsed = parse(
        header,
        frame.len as usize,
        &mut frame.key,
        &mut frame.layout,
        &OPTIONS,
    );
    if parsed.is_err() {
        return;
    }
    own_segments(header, &frame.layout);
    frame.header.load(header);
    let inner = *frame.layout.innermost();
    let partial_csum = bits & 1 != 0 && inner.has_l4();
    frame.offload = Offload {
        partial_csum,
        csum_start: inner.l4,
        csum_offset: if inner.l4_proto == 6 { 16 } else { 6 },
        gso: match bits & 7 {
            3 if partial_csum => net_header::Gso::TcpV4,
            7 if partial_csum => net_header::Gso::TcpV6,
            _ => net_header::Gso::None,
        },
        gso_size: mss,
        ..Offload::NONE
    };
    if frame
        .offload
        .checked(&frame.layout, header.len(), frame.len)
        .is_err()
    {
        return;
    }
    for op in &ops {
        if !apply(&mut frame, op) {
            return;
        }
    }
    segments(&frame, mss);
}

/// What the switch sends of its own because of a segment parses, and is a segment.
fn own_segments(header: &[u8], layout: &Layout) {
    for inner in [false, true] {
        let Some(came) = segment::read(header, layout, inner) else {
            continue;
        };
        let own = Own {
            flags: 0x12,
            options: Options {
                timestamps: Some((1, 2)),
                ..came.options
            },
            ..Own::default()
        };
        let mut bytes = [0; 2 * HEADER_MAX];
        let Some(len) = segment::back(header, layout, inner, &own, &mut bytes) else {
            continue;
        };
        let replaced = segment::instead(header, layout, inner, &own, &mut [0; 2 * HEADER_MAX]);
        assert!(replaced.is_none_or(|len| len <= 2 * HEADER_MAX));
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        let sent = bytes.get(..len).unwrap_or_default();
        parse(sent, len, &mut key, &mut layout, &ParseOptions::PLAIN).expect("it parses");
        let sent = segment::read(sent, &layout, false).expect("it is a segment");
        assert_eq!((sent.sport, sent.dport), (came.dport, came.sport));
        assert_eq!(sent.options, own.options);
    }
}

/// Applies one edit; false when it was refused and the frame would be dropped.
fn apply(frame: &mut Frame, op: &Op) -> bool {
    let room = frame.header.room();
    let sums = sums(frame);
    let payload = frame.payload_len();
    if edit::apply(frame, op).is_err() {
        return false;
    }
    assert_eq!(frame.payload_len(), payload, "{op:?} moved the payload");
    assert!(frame.header.room() <= room + HEADER_MAX);
    for layer in &frame.layout.layers {
        let end = usize::from(layer.payload);
        assert!(end <= frame.header.len(), "{op:?}: {layer:?}");
    }
    if !matches!(op, Op::Decapsulate | Op::Unwrap | Op::Encapsulate(_)) {
        assert_eq!(self::sums(frame), sums, "{op:?} broke or mended a checksum");
    }
    check_parse(frame, op);
    true
}

/// The parser sees what the switch believes.
fn check_parse(frame: &Frame, op: &Op) {
    let tags = frame
        .layout
        .layers
        .iter()
        .map(|layer| layer.vlan_tags)
        .max();
    // The parser takes two tags; a third one is for whoever receives the frame. So is one that is in none of its places.
    if tags.is_some_and(|tags| tags > 2)
        || matches!(op, Op::PushVlan(tpid) if !matches!(tpid, 0x8100 | 0x88a8))
    {
        return;
    }
    // Lengths in the tunnels of a frame that will be cut are set on the segments.
    let tunnelled = frame.layout.has_inner() || frame.layout.outer().l4_proto == 17;
    if frame.offload.gso != net_header::Gso::None && tunnelled {
        return;
    }
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let len = frame.len as usize;
    let parsed = parse(frame.header.header(), len, &mut key, &mut layout, &OPTIONS);
    // A port or a tunnel in front may have made the rest look like a tunnel, with anything in it.
    let outer = *frame.layout.outer();
    if parsed.is_ok() {
        assert_eq!(
            LayerLayout {
                payload: 0,
                ..layout.outer().with_tunnel(TunnelKind::None)
            },
            LayerLayout {
                payload: 0,
                ..outer.with_tunnel(TunnelKind::None)
            },
            "{op:?}"
        );
    } else {
        let plain = ParseOptions {
            inner: false,
            ..OPTIONS
        };
        let parsed = parse(frame.header.header(), len, &mut key, &mut layout, &plain);
        assert_eq!(parsed, Ok(()), "{op:?}: {frame:?}");
    }
}

/// The sums over the IPv4 headers of both layers; 0 and 0xffff are the same.
fn sums(frame: &Frame) -> [u16; 2] {
    frame.layout.layers.map(|layer| {
        let from = usize::from(layer.l3);
        let header = frame.header.header();
        match header.get(from..from + usize::from(layer.l3_len)) {
            Some(header) if layer.l3_kind == L3Kind::Ipv4 => checksum::checksum(header) % 0xffff,
            _ => 0,
        }
    })
}

/// The segments carry every byte once and end where they say.
fn segments(frame: &Frame, mss: u16) {
    let header = frame.header.header();
    let payload = usize::from(frame.layout.innermost().payload);
    let payload_len = (frame.len as usize).saturating_sub(payload);
    for gso in [Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
        let Ok(plan) = SegmentPlan::new(header, &frame.layout, payload_len, gso, mss) else {
            continue;
        };
        let mut next = 0;
        for index in 0..plan.count() {
            let mut out = [0; sumeru_packet::headroom::CAPACITY];
            let segment = match plan.write(index, header, &mut out) {
                Ok(segment) => segment,
                Err(error) => panic!("segment {index} of a valid plan: {error}"),
            };
            assert_eq!(
                (segment.payload_offset, segment.header_len),
                (next, plan.header_len())
            );
            assert_eq!(segment.payload_len, plan.payload_len(index));
            assert!(segment.payload_len <= usize::from(mss));
            next += segment.payload_len;
        }
        assert_eq!(next, payload_len);
    }
}

fn op(input: &mut Input) -> Op {
    match input.below(16) {
        0 => Op::SetEthSrc(input.array()),
        1 => Op::SetEthDst(input.array()),
        2 => Op::SetIpv4Src(input.u32()),
        3 => Op::SetIpv4Dst(input.u32()),
        4 => Op::SetIpv6Src(Box::new(u128::from_le_bytes(input.array()))),
        5 => Op::SetIpv6Dst(Box::new(u128::from_le_bytes(input.array()))),
        6 => Op::SetL4Src(input.u16()),
        7 => Op::SetL4Dst(input.u16()),
        8 => Op::DecTtl,
        9 => Op::SetTtl(input.u8()),
        10 => Op::PushVlan(if input.bit() { 0x8100 } else { 0x88a8 }),
        11 => Op::PopVlan,
        12 if input.bit() => Op::SetVlanVid(input.u16() & 0xfff),
        12 => Op::SetVlanPcp(input.u8() & 7),
        13 => Op::Decapsulate,
        14 => {
            let shift = Shift {
                seq: input.u32(),
                ack: input.u32(),
                value: input.u32(),
                echo: input.u32(),
                window: input.u8() as i8,
            };
            Op::Splice(Box::new(shift), false)
        }
        _ => {
            let underlay = if input.bit() {
                Underlay::Ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2))
            } else {
                Underlay::Ipv6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST)
            };
            let headers = Encapsulation::new(
                [2; 6],
                [4; 6],
                None,
                underlay,
                64,
                4789,
                input.u32() & 0xff_ffff,
            );
            let tos = input.bit().then(|| input.u8());
            Op::Encapsulate(Box::new(Tunnel {
                headers,
                tos,
                mtu: u16::MAX,
                own_mtu: u16::MAX,
            }))
        }
    }
}
