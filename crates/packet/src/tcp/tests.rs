use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use zerocopy::big_endian::{U16, U32};

use super::*;
use crate::build::FrameBuilder;
use crate::checksum::pseudo_ipv4;
use crate::view::Tcp;
use crate::{FlowKey, Layout, ParseOptions, parse};

/// A frame of a segment with these bytes as options, and its layout.
fn segment(flags: u8, numbers: (u32, u32), window: u16, options: &[u8]) -> (Vec<u8>, Layout) {
    let mut padded = options.to_vec();
    padded.resize(options.len().next_multiple_of(4), 0);
    let tcp = Tcp {
        src: U16::new(1000),
        dst: U16::new(80),
        seq: U32::new(numbers.0),
        ack: U32::new(numbers.1),
        data_offset: 0x50 + ((padded.len() / 4) << 4) as u8,
        flags,
        window: U16::new(window),
        checksum: U16::new(0),
        urgent: U16::new(0),
    };
    let mut bytes = vec![0; 256];
    let len = FrameBuilder::new(&mut bytes)
        .ethernet([2; 6], [4; 6])
        .ipv4(0x0a00_0001, 0x0a00_0002)
        .tcp_header(tcp)
        .payload(&[&padded[..], b"hello"].concat())
        .finish()
        .unwrap();
    bytes.truncate(len);
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    parse(&bytes, len, &mut key, &mut layout, &ParseOptions::PLAIN).unwrap();
    (bytes, layout)
}

fn sums_up(frame: &[u8]) -> bool {
    let mut sum = pseudo_ipv4(0x0a00_0001, 0x0a00_0002, 6, frame.len() as u32 - 34);
    sum.add(&frame[34..]);
    sum.folded() == 0xffff
}

fn options_of(frame: &[u8]) -> Options {
    let len = usize::from(frame[46] >> 4) * 4;
    Options::parse(&frame[54..34 + len])
}

#[test]
fn options_are_read_as_linux_sends_them() {
    // Of a SYN of Linux 6.1: MSS 1460, SACK, timestamps, NOP, window scale 7.
    let golden = [
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    let options = Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some((0x1234_5678, 0)),
    };
    assert_eq!(Options::parse(&golden), options);
    let mut written = [0; OPTIONS_WRITTEN];
    assert_eq!(options.write(&mut written), Some(20));
    assert_eq!(written, golden);
    assert_eq!(options.write(&mut [0; 19]), None);
}

#[test]
fn numbers_move_and_undo() {
    let mut options = [0; OPTIONS_WRITTEN];
    let own = Options {
        timestamps: Some((1000, 2000)),
        ..Options::default()
    };
    let len = own.write(&mut options).unwrap();
    let sack = [1, 1, 5, 10, 0, 0, 0, 50, 0, 0, 0, 90];
    let all = [&options[..len], &sack].concat();
    let (frame, layout) = segment(ACK, (7, u32::MAX), 512, &all);
    let by = Shift {
        seq: 3,
        ack: 10,
        value: 5,
        echo: 6,
        window: 2,
    };
    let mut moved = frame.clone();
    shift(&mut moved, layout.outer(), &by, false).unwrap();
    assert!(sums_up(&moved));
    assert_eq!(word(&moved[38..]), Some(10));
    assert_eq!(word(&moved[42..]), Some(9), "wraps");
    assert_eq!(moved[48..50], 2048_u16.to_be_bytes());
    assert_eq!(options_of(&moved).timestamps, Some((1005, 2006)));
    let edges = 54 + len + 4;
    assert_eq!(word(&moved[edges..]), Some(60));
    assert_eq!(word(&moved[edges + 4..]), Some(100));
    shift(&mut moved, layout.outer(), &by.inverse(), false).unwrap();
    assert_eq!(moved, frame);
    let mut partial = frame.clone();
    shift(&mut partial, layout.outer(), &by, true).unwrap();
    assert_eq!(
        partial[50..52],
        frame[50..52],
        "the sum is of the pseudo-header"
    );
}

#[test]
fn a_window_never_closes_or_overflows_by_moving() {
    let by = |window| Shift {
        window,
        ..Shift::default()
    };
    assert_eq!(by(-7).scaled(100), 1);
    assert_eq!(by(-7).scaled(0), 0);
    assert_eq!(by(14).scaled(100), u16::MAX);
    assert_eq!(by(i8::MIN).scaled(u16::MAX), 1);
}

#[test]
fn a_server_s_answer_becomes_an_ack() {
    let mut options = [0; OPTIONS_WRITTEN];
    let own = Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some((1, 2)),
    };
    own.write(&mut options).unwrap();
    let (mut frame, layout) = segment(SYN | ACK, (99, 5), 65160, &options);
    opened(&mut frame, layout.outer(), 7, false).unwrap();
    assert!(sums_up(&frame));
    assert_eq!((word(&frame[38..]), frame[47]), (Some(100), ACK));
    assert_eq!(frame[48..50], (65160_u16 >> 7).to_be_bytes());
    let left = Options {
        timestamps: Some((1, 2)),
        ..Options::default()
    };
    assert_eq!(options_of(&frame), left);
}

#[test]
fn what_is_no_segment_is_left_alone() {
    let (frame, mut layout) = segment(ACK, (1, 2), 3, &[]);
    let mut cut = frame[..40].to_vec();
    let by = Shift::default();
    assert_eq!(
        shift(&mut cut, layout.outer(), &by, false),
        Err(EditError::OutOfRange)
    );
    layout.layers[0].l4_proto = 17;
    assert_eq!(
        shift(&mut cut, layout.outer(), &by, false),
        Err(EditError::Absent)
    );
    assert_eq!(cut, frame[..40]);
}

proptest! {
    #[test]
    fn any_bytes_are_options(bytes in proptest::collection::vec(any::<u8>(), 0..40), seq: u32, ack: u32, value: u32, echo: u32, flags: u8) {
        Options::parse(&bytes);
        let (frame, layout) = segment(flags, (1, 2), 3, &bytes);
        let by = Shift { seq, ack, value, echo, window: 0 };
        let mut moved = frame.clone();
        prop_assert!(shift(&mut moved, layout.outer(), &by, false).is_ok());
        prop_assert!(sums_up(&moved));
        shift(&mut moved, layout.outer(), &by.inverse(), false).unwrap();
        prop_assert_eq!(&moved, &frame);
        prop_assert!(opened(&mut moved, layout.outer(), 14, false).is_ok());
        prop_assert!(sums_up(&moved));
    }

    #[test]
    fn written_options_are_read_back(mss: Option<u16>, window_scale: Option<u8>, sack_permitted: bool, timestamps: Option<(u32, u32)>) {
        let options = Options { mss, window_scale, sack_permitted, timestamps };
        let mut bytes = [0; OPTIONS_WRITTEN];
        let len = options.write(&mut bytes).unwrap();
        prop_assert_eq!(len % 4, 0);
        prop_assert_eq!(Options::parse(&bytes[..len]), options);
    }
}
