//! Frames for tests: built, taken apart, and verified with a checksum of the plainest kind (RFC 1071, section 4.1).

use sumeru_packet::build::{BuildError, FrameBuilder};
use sumeru_packet::view::Tcp;
use sumeru_packet::{FlowKey, L3Kind, LayerLayout, Layout, ParseOptions, parse};

pub const F_NEEDS_CSUM: u8 = 1;
pub const F_DATA_VALID: u8 = 2;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_ECN: u8 = 0x80;

/// The virtio-net header (Virtio 1.2, 5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
    pub num_buffers: u16,
}

impl NetHeader {
    pub fn bytes(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        (bytes[0], bytes[1]) = (self.flags, self.gso_type);
        let words = [
            self.hdr_len,
            self.gso_size,
            self.csum_start,
            self.csum_offset,
            self.num_buffers,
        ];
        for (i, word) in words.into_iter().enumerate() {
            bytes[2 + 2 * i..4 + 2 * i].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads 12 bytes, or 10 of a legacy device (then `num_buffers` is 0).
    pub fn read(bytes: &[u8]) -> Self {
        let word = |i: usize| {
            bytes
                .get(i..i + 2)
                .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
        };
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }
}

pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];

/// A unicast address, one for each `n`.
pub fn mac(n: u8) -> Mac {
    [2, 0, 0, 0, 0, n]
}

pub fn build(headers: impl for<'a> FnOnce(FrameBuilder<'a>) -> FrameBuilder<'a>) -> Vec<u8> {
    let mut frame = vec![0; 66_000];
    let len: Result<usize, BuildError> = headers(FrameBuilder::new(&mut frame)).finish();
    frame.truncate(len.unwrap());
    frame
}

/// Bytes that are the same nowhere nearby.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect()
}

/// A UDP datagram over IPv4 from station `src` to station `dst`: MAC addresses `mac(n)`, IP addresses 10.0.0.n.
pub fn udp(src: u8, dst: u8, len: usize) -> Vec<u8> {
    udp_to(mac(src), mac(dst), 1000, len)
}

pub fn udp_to(src: Mac, dst: Mac, port: u16, len: usize) -> Vec<u8> {
    let ip = |mac: Mac| 0x0a00_0000 + u32::from(mac[5]);
    build(|f| {
        f.ethernet(dst, src)
            .ipv4(ip(src), ip(dst))
            .udp(port, 2000)
            .payload(&pattern(len))
    })
}

/// An IPv4 address and a port.
pub type End = (u32, u16);

/// The header of a TCP segment without options.
pub fn tcp_header(ports: (u16, u16), flags: u8, seq: u32, ack: u32) -> Tcp {
    Tcp {
        src: ports.0.into(),
        dst: ports.1.into(),
        seq: seq.into(),
        ack: ack.into(),
        data_offset: 0x50,
        flags,
        window: 8000.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    }
}

/// A TCP segment over IPv4; `macs`: from and to.
pub fn segment(
    macs: (Mac, Mac),
    from: End,
    to: End,
    flags: u8,
    (seq, ack): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    build(|f| {
        f.ethernet(macs.1, macs.0)
            .ipv4(from.0, to.0)
            .tcp_header(tcp_header((from.1, to.1), flags, seq, ack))
            .payload(payload)
    })
}

/// A datagram over IPv4; `macs`: from and to.
pub fn datagram(macs: (Mac, Mac), from: End, to: End) -> Vec<u8> {
    build(|f| {
        f.ethernet(macs.1, macs.0)
            .ipv4(from.0, to.0)
            .udp(from.1, to.1)
            .payload(b"hello")
    })
}

/// A TCP segment of `len` payload bytes, over IPv4 or IPv6.
pub fn tcp(src: u8, dst: u8, v6: bool, len: usize) -> Vec<u8> {
    let wide = |n: u8| (0xfd00_u128 << 112) + u128::from(n);
    build(|f| {
        let f = f.ethernet(mac(dst), mac(src));
        let f = if v6 {
            f.ipv6(wide(src), wide(dst))
        } else {
            f.ipv4(0x0a00_0000 + u32::from(src), 0x0a00_0000 + u32::from(dst))
        };
        let header = Tcp {
            window: 512.into(),
            ..tcp_header((40_000, 5001), 0x18, 0xffff_ff00, 7)
        };
        f.tcp_header(header).payload(&pattern(len))
    })
}

pub fn layout(frame: &[u8]) -> Layout {
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let header = &frame[..frame.len().min(sumeru_packet::HEADER_MAX)];
    parse(
        header,
        frame.len(),
        &mut key,
        &mut layout,
        &ParseOptions::VXLAN,
    )
    .unwrap();
    layout
}

fn sum16(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn word(frame: &[u8], at: u16) -> u16 {
    let at = usize::from(at);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Sum of the pseudo-header and the end of the packet (RFC 9293, 3.1; RFC 8200, 8.1).
fn pseudo(frame: &[u8], layer: &LayerLayout) -> (u64, usize) {
    let l3 = usize::from(layer.l3);
    let (addresses, end) = match layer.l3_kind {
        L3Kind::Ipv4 => (
            &frame[l3 + 12..l3 + 20],
            l3 + usize::from(word(frame, layer.l3 + 2)),
        ),
        L3Kind::Ipv6 => (
            &frame[l3 + 8..l3 + 40],
            l3 + 40 + usize::from(word(frame, layer.l3 + 4)),
        ),
        other => panic!("no pseudo-header for {other:?}"),
    };
    let len = end - usize::from(layer.l4);
    (
        sum16(addresses) + u64::from(layer.l4_proto) + len as u64,
        end,
    )
}

/// Fails unless every checksum of every layer is right and every length agrees with the frame's.
pub fn verify(frame: &[u8]) {
    let layout = layout(frame);
    let mut tunnel_udp = false;
    for layer in layout.layers.iter().filter(|layer| layer.payload != 0) {
        if !matches!(layer.l3_kind, L3Kind::Ipv4 | L3Kind::Ipv6) {
            continue;
        }
        if layer.l3_kind == L3Kind::Ipv4 {
            let header =
                &frame[usize::from(layer.l3)..usize::from(layer.l3) + usize::from(layer.l3_len)];
            assert_eq!(folded(sum16(header)), 0xffff, "IPv4 header checksum");
        }
        if layer.l4 == 0 {
            continue;
        }
        let (seed, end) = pseudo(frame, layer);
        assert_eq!(end, frame.len(), "the IP length is the frame's");
        let l4 = usize::from(layer.l4);
        let seed = match layer.l4_proto {
            1 => 0,
            17 => {
                assert_eq!(
                    usize::from(word(frame, layer.l4 + 4)),
                    end - l4,
                    "UDP length"
                );
                // Only a tunnel goes without (RFC 7348 section 5, RFC 6935).
                if word(frame, layer.l4 + 6) == 0 {
                    assert!(layout.has_inner() && !tunnel_udp, "UDP without checksum");
                    tunnel_udp = true;
                    continue;
                }
                seed
            }
            6 | 58 => seed,
            _ => continue,
        };
        assert_eq!(
            folded(seed + sum16(&frame[l4..end])),
            0xffff,
            "checksum of protocol {}",
            layer.l4_proto
        );
    }
}

/// Takes a frame's innermost TCP or UDP checksum back to what a driver with offload leaves: the sum of the pseudo-header.
pub fn partial(frame: &[u8]) -> (NetHeader, Vec<u8>) {
    let layout = layout(frame);
    let layer = layout.innermost();
    let csum_offset = if layer.l4_proto == 6 { 16 } else { 6 };
    let mut frame = frame.to_vec();
    let sum = folded(pseudo(&frame, layer).0);
    let at = usize::from(layer.l4 + csum_offset);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let header = NetHeader {
        flags: F_NEEDS_CSUM,
        csum_start: layer.l4,
        csum_offset,
        ..NetHeader::default()
    };
    (header, frame)
}

/// The same with a segmentation left to do.
pub fn large(frame: &[u8], mss: u16) -> (NetHeader, Vec<u8>) {
    let (mut header, frame) = partial(frame);
    let layout = layout(&frame);
    header.gso_type = if layout.innermost().l3_kind == L3Kind::Ipv4 {
        GSO_TCPV4
    } else {
        GSO_TCPV6
    };
    header.gso_size = mss;
    header.hdr_len = layout.innermost().payload;
    (header, frame)
}

/// The payload behind the innermost headers, and the TCP sequence number there.
pub fn payload(frame: &[u8]) -> (u32, Vec<u8>) {
    let layout = layout(frame);
    let layer = layout.innermost();
    let l4 = usize::from(layer.l4);
    let seq = u32::from_be_bytes(frame[l4 + 4..l4 + 8].try_into().unwrap());
    (seq, frame[usize::from(layer.payload)..].to_vec())
}

/// Puts TCP segments together again; fails on a hole, an overlap or a wrong checksum.
pub fn reassemble<'a>(frames: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next: Option<u32> = None;
    for frame in frames {
        verify(frame);
        let (seq, payload) = payload(frame);
        assert_eq!(next.unwrap_or(seq), seq, "segments are in order and whole");
        next = Some(seq.wrapping_add(payload.len() as u32));
        bytes.extend(payload);
    }
    bytes
}
