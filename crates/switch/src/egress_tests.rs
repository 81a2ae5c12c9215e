//! Frames in any pieces to buffers in any pieces: what arrives is what was sent, and every sum is right.

use super::*;
use proptest::prelude::*;
use sumeru_packet::build::FrameBuilder;
use sumeru_packet::{FlowKey, L3Kind, ParseOptions, parse};

use crate::frame::MAX_FRAME;

const LEAD: [u8; 12] = [9; 12];

/// Bytes cut into pieces of these lengths, used again from the first; each piece is memory of its own.
fn pieces(bytes: &[u8], lens: &[usize]) -> Vec<Vec<u8>> {
    let (mut rest, mut all) = (bytes, Vec::new());
    for len in lens.iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(*len));
        all.push(now.to_vec());
        rest = later;
        if rest.is_empty() {
            return all;
        }
    }
    all
}

fn slices(pieces: &mut [Vec<u8>]) -> Vec<GuestSlice> {
    pieces
        .iter_mut()
        .map(|piece| GuestSlice::from_own(piece))
        .collect()
}

/// Which headers a frame has.
#[derive(Clone, Copy, Debug)]
enum Headers {
    Udp4,
    Tcp4,
    Tcp6,
    /// Longer than what is captured at first.
    Options6,
}

fn build(headers: Headers, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; payload.len() + 400];
    let f = FrameBuilder::new(&mut frame).ethernet([2; 6], [4; 6]);
    let f = match headers {
        Headers::Udp4 => f.ipv4(1, 2).udp(3, 4),
        Headers::Tcp4 => f.ipv4(1, 2).tcp(3, 4),
        Headers::Tcp6 => f.vlan(7).ipv6(1, 2).tcp(3, 4),
        Headers::Options6 => f.ipv6(1, 2),
    };
    let f = if let Headers::Options6 = headers {
        // Destination options of 104 bytes, then TCP written by hand.
        let mut rest = vec![0; 104 + 20];
        (rest[0], rest[1], rest[2], rest[3]) = (6, 12, 1, 100);
        (rest[104 + 12], rest[104 + 13]) = (0x50, 0x10);
        f.payload(&[&rest, payload].concat())
    } else {
        f.payload(payload)
    };
    let len = f.finish().unwrap();
    frame.truncate(len);
    if let Headers::Options6 = headers {
        frame[20] = 60;
        let mut sum = sumeru_packet::checksum::pseudo_ipv6(1, 2, 6, (20 + payload.len()) as u32);
        sum.add(&frame[158..]);
        let sum = sum.value();
        frame[174..176].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// A frame as the worker has it once its headers are parsed.
fn received(list: &[GuestSlice], net_header_len: u16) -> Frame {
    let total: u32 = list.iter().map(GuestSlice::len).sum();
    let mut frame = Frame::new();
    frame.len = total - u32::from(net_header_len);
    frame.segments = list.len() as u16;
    let mut net_header = [0; SHORT_NET_HEADER_LEN];
    // SAFETY: the slices lie over the test's own vectors, which outlive the frame.
    assert!(unsafe { load(&mut frame, list, net_header_len, &mut net_header) });
    let (mut key, len) = (FlowKey::ZERO, frame.len as usize);
    let mut parse = |frame: &mut Frame| {
        parse(
            frame.header.header(),
            len,
            &mut key,
            &mut frame.layout,
            &ParseOptions::PLAIN,
        )
    };
    if parse(&mut frame).is_err() {
        // SAFETY: as above.
        assert!(unsafe { load_more(&mut frame, list, sumeru_packet::HEADER_MAX) });
        parse(&mut frame).unwrap();
    }
    frame
}

/// Writes every piece of an outgoing frame to buffers of these lengths.
fn write(outgoing: &mut Outgoing, lens: &[usize]) -> Vec<(Vec<u8>, Offload)> {
    let mut all = Vec::new();
    while let Some(piece) = outgoing.next() {
        let mut buffers = pieces(&vec![0xee; piece.len as usize + LEAD.len()], lens);
        let to = slices(&mut buffers);
        // SAFETY: all slices lie over the test's own vectors.
        unsafe { outgoing.write(&piece, &LEAD, &to) };
        let mut bytes = buffers.concat();
        assert_eq!(bytes[..LEAD.len()], LEAD);
        all.push((bytes.split_off(LEAD.len()), piece.offload));
    }
    all
}

fn folded(bytes: &[u8]) -> u32 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

/// The sum over pseudo-header and segment, which is all ones when the checksum is right.
fn tcp_sum(frame: &[u8], layout: &sumeru_packet::Layout) -> u32 {
    let layer = layout.innermost();
    let (l3, l4) = (usize::from(layer.l3), usize::from(layer.l4));
    let addresses = match layer.l3_kind {
        L3Kind::Ipv4 => &frame[l3 + 12..l3 + 20],
        _ => &frame[l3 + 8..l3 + 40],
    };
    let len = (frame.len() - l4) as u16;
    folded(
        &[
            addresses,
            &[0, layer.l4_proto],
            &len.to_be_bytes(),
            &frame[l4..],
        ]
        .concat(),
    )
}

fn lens() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1_usize..20, 1_usize..3000], 1..12)
}

fn headers() -> impl Strategy<Value = Headers> {
    prop_oneof![
        Just(Headers::Udp4),
        Just(Headers::Tcp4),
        Just(Headers::Tcp6),
        Just(Headers::Options6)
    ]
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Nothing to do: the same bytes, whatever the pieces; also read back in one run.
    #[test]
    fn a_whole_frame_arrives_unchanged(
        headers in headers(), len in 0_usize..4000, seed: u8, sent in lens(), room in lens(), net_header in prop_oneof![Just(0_u16), Just(10), Just(12)],
    ) {
        let bytes = build(headers, &pattern(len, seed));
        let mut memory = pieces(&[&vec![0; net_header.into()], &bytes[..]].concat(), &sent);
        let list = slices(&mut memory);
        let frame = received(&list, net_header);
        let mut outgoing = Outgoing::new(&frame, &list, Accepts::default()).unwrap();
        prop_assert!(!outgoing.is_segmented());
        prop_assert_eq!(write(&mut outgoing, &room), vec![(bytes.clone(), Offload::NONE)]);
        let lead = NetHeader { first: u64::from_ne_bytes([9; 8]), last: u32::from_ne_bytes([9; 4]) };
        let mut one = vec![0xee; bytes.len() + LEAD.len() + 7];
        let mut back = vec![0; bytes.len()];
        // SAFETY: all slices lie over the test's own vectors.
        unsafe {
            write_whole(&frame, &list, lead, LEAD.len() as u32, GuestSlice::from_own(&mut one));
            prop_assert_eq!(linear(&frame, &list, &mut back), bytes.len());
        }
        prop_assert_eq!(&one[LEAD.len()..LEAD.len() + bytes.len()], &bytes[..]);
        prop_assert_eq!(&one[LEAD.len() + bytes.len()..], &[0xee; 7]);
        prop_assert_eq!(&back, &bytes);
    }

    /// A checksum left to do comes out as the one that the frame had before.
    #[test]
    fn a_partial_checksum_is_completed(
        headers in headers(), len in 0_usize..4000, seed: u8, sent in lens(), room in lens(),
    ) {
        let bytes = build(headers, &pattern(len, seed));
        let layout = received(&slices(&mut [bytes.clone()]), 0).layout;
        let layer = layout.innermost();
        let csum_offset = if layer.l4_proto == 6 { 16 } else { 6 };
        let field = usize::from(layer.l4 + csum_offset);
        let mut left = bytes.clone();
        left[field..field + 2].fill(0);
        // The sum of the pseudo-header is what the whole sum lacks without the checksum itself.
        let pseudo = folded(&[&(tcp_sum(&left, &layout) as u16).to_be_bytes()[..], &(!(folded(&left[usize::from(layer.l4)..]) as u16)).to_be_bytes()].concat());
        left[field..field + 2].copy_from_slice(&(pseudo as u16).to_be_bytes());
        let mut memory = pieces(&left, &sent);
        let list = slices(&mut memory);
        let mut frame = received(&list, 0);
        frame.offload = Offload { partial_csum: true, csum_start: layer.l4, csum_offset, ..Offload::NONE };
        prop_assert_eq!(frame.offload.checked(&frame.layout, frame.header.len(), frame.len), Ok(()));
        let whole = write(&mut Outgoing::new(&frame, &list, Accepts::default()).unwrap(), &room);
        prop_assert_eq!(whole, vec![(bytes, Offload::NONE)]);
        let takes = Accepts { partial_csum: true, ..Accepts::default() };
        let as_it_is = write(&mut Outgoing::new(&frame, &list, takes).unwrap(), &room);
        prop_assert_eq!(as_it_is, vec![(left, frame.offload)]);
    }

    /// Segments, put together again, are what was sent; each has the right sums.
    #[test]
    fn segments_hold_the_same_bytes(
        v6: bool, len in 0_usize..20_000, mss in 200_u16..9000, seed: u8, sent in lens(), room in lens(), takes_sums: bool,
    ) {
        let headers = if v6 { Headers::Tcp6 } else { Headers::Tcp4 };
        let payload = pattern(len, seed);
        let mut memory = pieces(&build(headers, &payload), &sent);
        let list = slices(&mut memory);
        let mut frame = received(&list, 0);
        let layer = *frame.layout.innermost();
        frame.offload = Offload {
            partial_csum: true,
            csum_start: layer.l4,
            csum_offset: 16,
            gso: if v6 { Gso::TcpV6 } else { Gso::TcpV4 },
            gso_size: mss,
            ..Offload::NONE
        };
        let accepts = Accepts { partial_csum: takes_sums, ..Accepts::default() };
        let mut outgoing = Outgoing::new(&frame, &list, accepts).unwrap();
        prop_assert!(outgoing.is_segmented());
        let mut together = Vec::new();
        for (mut segment, offload) in write(&mut outgoing, &room) {
            prop_assert_eq!(offload.partial_csum, takes_sums);
            prop_assert_eq!(offload.gso, Gso::None);
            let l4 = usize::from(layer.l4);
            let seq = u32::from_be_bytes([segment[l4 + 4], segment[l4 + 5], segment[l4 + 6], segment[l4 + 7]]);
            prop_assert_eq!(seq as usize, together.len());
            if takes_sums {
                let sum = !(folded(&segment[l4..]) as u16);
                segment[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
            }
            prop_assert_eq!(tcp_sum(&segment, &frame.layout), 0xffff);
            if !v6 {
                prop_assert_eq!(folded(&segment[14..34]), 0xffff);
            }
            let data = &segment[usize::from(layer.payload)..];
            prop_assert!(data.len() <= usize::from(mss));
            together.extend_from_slice(data);
        }
        prop_assert_eq!(together, payload);
    }
}

/// A sender whose segments are shorter than its frame claims is found out, and nothing beyond them is read.
#[test]
fn segments_that_end_early_are_refused() {
    let mut memory = [vec![1_u8; 30], vec![2; 20]];
    let list = slices(&mut memory);
    let mut frame = Frame::new();
    (frame.len, frame.segments) = (60, 2);
    // SAFETY: the slices lie over the test's own vectors.
    unsafe {
        assert!(!load(&mut frame, &list, 12, &mut [0; SHORT_NET_HEADER_LEN]));
        frame.len = 38;
        assert!(load(&mut frame, &list, 12, &mut [0; SHORT_NET_HEADER_LEN]));
        assert!(!load_more(&mut frame, &list, 256), "there is no more");
    }
    frame.len = MAX_FRAME;
    let mut whole = vec![0; 1000];
    // SAFETY: as above.
    assert_eq!(unsafe { linear(&frame, &list, &mut whole) }, 38);
}
