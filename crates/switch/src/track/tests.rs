//! What is read from headers, and what of it is not believed.

use sumeru_packet::build::FrameBuilder;
use sumeru_packet::{ParseOptions, parse};

use super::*;

fn frame(bytes: &[u8]) -> Frame {
    let mut frame = Frame {
        len: bytes.len() as u32,
        ..Frame::new()
    };
    frame.header.load(bytes);
    let captured = &bytes[..bytes.len().min(sumeru_packet::HEADER_MAX)];
    parse(
        captured,
        bytes.len(),
        &mut frame.key,
        &mut frame.layout,
        &ParseOptions::VXLAN,
    )
    .unwrap();
    frame
}

fn tcp(flags: u8, payload: usize) -> Vec<u8> {
    let mut bytes = [0; 1500];
    let builder = FrameBuilder::new(&mut bytes)
        .ethernet([2; 6], [4; 6])
        .ipv4(0x0a00_0001, 0x0a00_0002);
    let len = builder
        .tcp(1000, 80)
        .payload(&vec![7; payload])
        .finish()
        .unwrap();
    bytes[47] = flags;
    bytes[38..42].copy_from_slice(&0x1122_3344_u32.to_be_bytes());
    bytes[42..46].copy_from_slice(&0x5566_7788_u32.to_be_bytes());
    bytes[48..50].copy_from_slice(&500_u16.to_be_bytes());
    bytes[..len].to_vec()
}

#[test]
fn a_segment_is_measured_without_its_padding() {
    let mut bytes = tcp(0x10, 3);
    let own = packet(&frame(&bytes), false, 9);
    assert_eq!(
        (own.seq, own.ack, own.window, own.flags),
        (0x1122_3344, 0x5566_7788, 500, 0x10)
    );
    assert_eq!((own.payload, own.now, own.scale), (3, 9, None));
    bytes.resize(90, 0);
    assert_eq!(packet(&frame(&bytes), false, 9).payload, 3);
}

#[test]
fn a_syn_tells_its_scale() {
    for (options, scale) in [
        (vec![1, 3, 3, 7], Some(7)),
        (vec![2, 4, 5, 180, 3, 3, 9, 0], Some(9)),
        (vec![0, 3, 3, 7], None),
        (vec![5, 1, 3, 3], None),
        (vec![5, 200, 3, 3], None),
        (vec![3], None),
        (vec![], None),
    ] {
        assert_eq!(window_scale(&options), scale, "{options:?}");
    }
}

#[test]
fn tuples_and_errors_about_them() {
    let inside = tcp(0x10, 0);
    let outer = frame(&inside);
    let own = tuple(&outer.key, Layer::Outer, 7).unwrap();
    assert_eq!(
        (own.src, own.dst, own.sport, own.dport, own.zone),
        (0x0a00_0001, 0x0a00_0002, 1000, 80, 7)
    );
    // A router says that the destination cannot be reached.
    let mut bytes = [0; 200];
    let builder = FrameBuilder::new(&mut bytes)
        .ethernet([2; 6], [4; 6])
        .ipv4(0x0a00_00fe, 0x0a00_0001);
    let len = builder
        .icmp(3, 1, 0)
        .payload(&inside[14..14 + 28])
        .finish()
        .unwrap();
    let facts = Facts::of(&frame(&bytes[..len]), false, 1);
    assert!(facts.packet.related);
    assert_eq!(facts.embedded, Some(Tuple { zone: 0, ..own }));
    assert_eq!(facts.packet.seq, 0x1122_3344);
    // Cut off in the middle of the ports it is about nothing.
    let mut short = frame(&bytes[..len]);
    short.header.load(&bytes[..len - 6]);
    assert_eq!(Facts::of(&short, false, 1).embedded, None);
}

#[test]
fn fragments_of_both_families() {
    let mut bytes = tcp(0x10, 100);
    bytes[18..20].copy_from_slice(&77_u16.to_be_bytes());
    bytes[20..22].copy_from_slice(&0x2000_u16.to_be_bytes());
    let first = Facts::of(&frame(&bytes), false, 1).fragment.unwrap();
    assert_eq!(
        (first.id, first.offset, first.more, first.length),
        (77, 0, true, 120)
    );
    bytes[20..22].copy_from_slice(&0x0005_u16.to_be_bytes());
    let last = Facts::of(&frame(&bytes), false, 1).fragment.unwrap();
    assert_eq!((last.offset, last.more), (5, false));
}

#[test]
fn chunks_end_where_the_copy_ends() {
    use crate::conntrack::sctp_chunk::{ABORT, COOKIE_ECHO, INIT};
    assert_eq!(sctp_chunks(&[1, 0, 0, 20]), INIT);
    assert_eq!(
        sctp_chunks(&[10, 0, 0, 5, 9, 0, 0, 0, 6, 0, 0, 4]),
        COOKIE_ECHO | ABORT
    );
    assert_eq!(
        sctp_chunks(&[0, 0, 0, 0, 6, 0, 0, 4]),
        ABORT,
        "a length of zero is no endless loop"
    );
    assert_eq!(sctp_chunks(&[1, 0]), 0);
}
