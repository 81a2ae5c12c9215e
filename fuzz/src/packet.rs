//! Fuzz target `packet`: header bytes through the parser, and whatever parses through edits, tags, tunnels and
//! segmentation. Fails on a panic or on a broken promise, not on a refused frame.
//!
//! Input: byte 0 bits (0 inner headers, 1 VXLAN port 4789 or none, 2 partial checksum, 3 every other tunnel, 4 extra
//! fields, 5 Geneve options and raw bytes too), bytes 1..3 bytes of the frame
//! beyond those given, bytes 3..5 MSS, the rest the captured header; integers little-endian.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sumeru_packet::build::{Encapsulation, Underlay};
use sumeru_packet::segment::tunnel_checksum;
use sumeru_packet::{
    Field, FlowKey, GeneveExtract, Gso, HEADER_MAX, Headroom, L3Kind, Layer, LayerLayout, Layout,
    ParseOptions, RawBase, RawExtract, SegmentPlan, build, checksum, dhcp4, dhcp6, edit, parse,
};

/// Runs one input.
///
/// # Panics
/// When a promise of the packet crate is broken: that is the finding.
pub fn run(data: &[u8]) {
    let Some((control, header)) = data.split_first_chunk::<5>() else {
        return;
    };
    let [bits, extra_low, extra_high, mss_low, mss_high] = *control;
    let options = options(bits);
    let partial = bits & 4 != 0;
    let extra = usize::from(u16::from_le_bytes([extra_low, extra_high]));
    let mss = u16::from_le_bytes([mss_low, mss_high]);
    let frame_len = header.len() + extra;

    let mut key = FlowKey::with_metadata(7, 9);
    let mut layout = Layout::EMPTY;
    if parse(header, frame_len, &mut key, &mut layout, &options).is_err() {
        return;
    }
    assert!(options.extras || key.words()[24..].iter().all(|word| *word == 0));
    assert!(key.words()[18..24].iter().all(|word| *word == 0));
    let captured = &header[..header.len().min(HEADER_MAX)];
    assert_eq!(
        (key.get(Field::InPort), key.get(Field::Network)),
        (7, 9),
        "metadata is the caller's"
    );
    assert_eq!(key.has_inner(), layout.has_inner());
    for layer in &layout.layers {
        check_layer(layer, captured.len());
    }

    check_edits(captured, frame_len, &layout, &options, partial);
    check_modify(
        captured,
        &layout,
        [mss_low, mss_high, bits, extra_low],
        partial,
    );
    check_quote(captured, &layout, partial);
    check_answers(captured, &layout, mss);
    check_tags(captured, &layout);
    check_tunnel(captured, frame_len, &layout);
    check_segments(captured, &layout, frame_len, mss);
}

fn options(bits: u8) -> ParseOptions {
    let base = if bits & 8 != 0 {
        ParseOptions::TUNNELS
    } else {
        ParseOptions::PLAIN
    };
    let wanted = bits & 32 != 0;
    let geneve = GeneveExtract {
        class: 0x0102,
        kind: 0x80,
        len: 16,
    };
    let raw = RawExtract {
        base: RawBase::TunnelPayload,
        offset: 12,
        len: 16,
    };
    ParseOptions {
        inner: bits & 1 != 0,
        vxlan_port: if bits & 2 != 0 { 4789 } else { 0 },
        extras: bits & 16 != 0,
        geneve_options: [wanted.then_some(geneve); 2],
        raw: wanted.then_some(raw),
        ..base
    }
}

fn check_layer(layer: &LayerLayout, captured: usize) {
    let offsets = [layer.eth, layer.vlan, layer.l3, layer.l4, layer.payload];
    assert!(
        offsets.iter().filter(|o| **o != 0).is_sorted(),
        "headers out of order: {layer:?}"
    );
    assert!(
        usize::from(layer.payload) <= captured,
        "a header beyond the captured bytes: {layer:?}"
    );
    if layer.l4 != 0 {
        assert_eq!(layer.l3 + layer.l3_len, layer.l4);
    }
}

/// An edit of a layer's addresses is seen by the parser, leaves the frame valid and keeps the IPv4 header's sum.
fn check_edits(
    captured: &[u8],
    frame_len: usize,
    layout: &Layout,
    options: &ParseOptions,
    partial: bool,
) {
    for (layer, which) in layout.layers.iter().zip([Layer::Outer, Layer::Inner]) {
        let mut header = captured.to_vec();
        let before = ipv4_sum(&header, layer);
        let value = match layer.l3_kind {
            L3Kind::Ipv4 => {
                let done = edit::set_ipv4_src(&mut header, layer, 0x0102_0304, partial);
                assert_eq!(done, Ok(()));
                0x0102_0304
            }
            L3Kind::Ipv6 => {
                let done = edit::set_ipv6_src(&mut header, layer, 5 << 100, partial);
                assert_eq!(done, Ok(()));
                5 << 100
            }
            _ => continue,
        };
        // Refusals (no ports, expired) are fine here; what follows checks that nothing else broke.
        let _ = edit::set_l4_src(&mut header, layer, 1, partial);
        let _ = edit::dec_ttl(&mut header, layer);
        let _ = edit::set_dscp(&mut header, layer, 46);
        assert_eq!(
            ipv4_sum(&header, layer),
            before,
            "an edit broke or mended the IPv4 header checksum"
        );
        let (mut key, mut again) = (FlowKey::with_metadata(7, 9), Layout::EMPTY);
        let result = parse(&header, frame_len, &mut key, &mut again, options);
        assert_eq!(result, Ok(()), "an edited frame no longer parses");
        assert_eq!(again, *layout);
        assert_eq!(key.get(Field::IpSrc(which)), value);
    }
}

/// Bits of any header that are changed read back, and the IPv4 header's sum stays.
fn check_modify(captured: &[u8], layout: &Layout, choice: [u8; 4], partial: bool) {
    let headers = [
        edit::Header::Ethernet,
        edit::Header::Vlan,
        edit::Header::SecondVlan,
        edit::Header::Ipv4,
        edit::Header::Ipv6,
        edit::Header::Tcp,
        edit::Header::Udp,
        edit::Header::Sctp,
        edit::Header::Icmp,
        edit::Header::Tunnel(layout.outer().tunnel_kind()),
    ];
    let [offset, width, low, high] = choice;
    for layer in &layout.layers {
        for header in headers {
            let bits = edit::Bits {
                header,
                offset: offset.into(),
                width,
            };
            let mut changed = captured.to_vec();
            let sum = ipv4_sum(&changed, layer);
            let value =
                u128::from_le_bytes([low, high, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
            let set = edit::modify(&mut changed, layer, bits, edit::Change::Set, value, partial);
            if set.is_err() {
                assert_eq!(
                    changed, captured,
                    "{bits:?} was refused and changed the frame"
                );
                continue;
            }
            let mask = u128::MAX >> (128 - u32::from(width));
            assert_eq!(edit::read_bits(&changed, layer, bits), Ok(value & mask));
            assert_eq!(ipv4_sum(&changed, layer), sum, "{bits:?}");
        }
    }
}

/// A packet quoted by an ICMP error is rewritten, or the frame stays as it is.
fn check_quote(captured: &[u8], layout: &Layout, partial: bool) {
    let layer = layout.innermost();
    let Some(quote) = edit::embedded(captured, layer) else {
        return;
    };
    let ends = edit::Ends {
        src: Some(1 << 100 | 7),
        dst: None,
        src_port: Some(9),
        dst_port: Some(10),
    };
    let mut changed = captured.to_vec();
    match edit::rewrite_embedded(&mut changed, layer, &quote, &ends, partial) {
        Ok(()) => assert_eq!(
            edit::embedded(&changed, layer).map(|again| again.layer),
            Some(quote.layer)
        ),
        Err(_) => assert_eq!(changed, captured),
    }
}

/// Whatever is answered is a frame that parses; messages of DHCP do no harm.
fn check_answers(captured: &[u8], layout: &Layout, mss: u16) {
    let layer = layout.outer();
    let mut out = [0u8; 1500];
    let source = match layer.l3_kind {
        L3Kind::Ipv6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let too_big = build::IcmpError::TooBig { mtu: mss };
    for answer in 0..3 {
        let built = match answer {
            0 => build::icmp_error(&mut out, captured, layer, source, too_big),
            1 => build::tcp_reset(&mut out, captured, layer),
            _ => build::syn_cookie(&mut out, captured, layer, 1, mss, 2),
        };
        match built {
            Ok(None) => continue,
            Ok(Some(len)) => {
                let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
                let parsed = parse(
                    &out[..len],
                    len,
                    &mut key,
                    &mut layout,
                    &ParseOptions::PLAIN,
                );
                assert_eq!(parsed, Ok(()), "answer {answer}");
            }
            Err(error) => panic!("answer {answer}: {error}"),
        }
    }
    let _ = build::offered_mss(captured, layer);
    let payload = captured.get(layer.payload.into()..).unwrap_or_default();
    let _ = dhcp4::Request::parse(payload);
    let _ = dhcp6::Request::parse(payload);
}

/// The checksum over the layer's IPv4 header, 0 and 0xffff taken for the same.
fn ipv4_sum(header: &[u8], layer: &LayerLayout) -> u16 {
    let from = usize::from(layer.l3);
    if layer.l3_kind != L3Kind::Ipv4 {
        return 0;
    }
    header
        .get(from..from + usize::from(layer.l3_len))
        .map_or(0, |h| checksum::checksum(h) % 0xffff)
}

/// A tag pushed and popped leaves everything as it was.
fn check_tags(captured: &[u8], layout: &Layout) {
    let mut room = Headroom::new();
    room.load(captured);
    let mut tagged = *layout;
    assert_eq!(room.push_vlan(&mut tagged, 0x8100, 0x0123), Ok(()));
    assert_eq!(room.len(), captured.len() + 4);
    assert_eq!(room.pop_vlan(&mut tagged), Ok(0x0123));
    assert_eq!(room.header(), captured);
    assert_eq!(tagged, *layout);
    if layout.outer().vlan_tags > 0 {
        assert!(room.pop_vlan(&mut tagged).is_ok());
        assert_eq!(
            usize::from(tagged.outer().payload) + 4,
            usize::from(layout.outer().payload)
        );
    }
}

/// A frame put into a tunnel and taken out again is the same, and the tunnel parses.
fn check_tunnel(captured: &[u8], frame_len: usize, layout: &Layout) {
    let underlay = Underlay::Ipv4(Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let tunnel = Encapsulation::new([2; 6], [4; 6], None, underlay, 64, 4789, 0xabcdef);
    let mut room = Headroom::new();
    room.load(captured);
    let mut whole = *layout;
    assert_eq!(tunnel.push(&mut room, &mut whole, frame_len, 77), Ok(()));
    let outer_only = ParseOptions {
        inner: false,
        ..ParseOptions::VXLAN
    };
    let (mut key, mut again) = (FlowKey::ZERO, Layout::EMPTY);
    if tunnel.len() + frame_len - 14 <= usize::from(u16::MAX) {
        let result = parse(
            room.header(),
            room.len() + frame_len - captured.len(),
            &mut key,
            &mut again,
            &outer_only,
        );
        assert_eq!(result, Ok(()));
        assert_eq!(key.get(Field::TunnelId(Layer::Outer)), 0xabcdef);
        assert_eq!(again.outer(), whole.outer());
    }
    let _ = tunnel_checksum(room.header(), &whole, tunnel.len() + frame_len);
    assert_eq!(room.decapsulate(&mut whole), Ok(tunnel.len()));
    assert_eq!(room.header(), captured);
    assert_eq!(whole.layers[0], layout.layers[0]);
}

/// The segments of a plan carry every payload byte once.
fn check_segments(captured: &[u8], layout: &Layout, frame_len: usize, mss: u16) {
    let payload_len = frame_len - usize::from(layout.innermost().payload);
    for gso in [Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
        let Ok(plan) = SegmentPlan::new(captured, layout, payload_len, gso, mss) else {
            continue;
        };
        let mut next = 0;
        for index in 0..plan.count() {
            let mut out = [0u8; HEADER_MAX];
            match plan.write(index, captured, &mut out) {
                Ok(segment) => {
                    assert_eq!(segment.payload_offset, next);
                    assert!(segment.payload_len <= usize::from(mss));
                    next += segment.payload_len;
                }
                Err(error) => panic!("segment {index} of a valid plan: {error}"),
            }
        }
        assert_eq!(next, payload_len);
    }
}

#[cfg(test)]
mod tests {
    use super::run;
    use std::{fs, path::Path};

    /// Every seed, and every seed with each byte replaced by telling values, in both option settings.
    #[test]
    fn seeds_and_their_neighbours_hold() -> std::io::Result<()> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/packet");
        let mut seeds = 0;
        for entry in fs::read_dir(corpus)? {
            let seed = fs::read(entry?.path())?;
            run(&seed);
            for at in 0..seed.len() {
                for value in [0x00, 0x01, 0x06, 0x11, 0x2c, 0x45, 0x4f, 0x7f, 0x80, 0xff] {
                    let mut changed = seed.clone();
                    changed[at] = value;
                    run(&changed);
                    run(&changed[..at]);
                }
            }
            seeds += 1;
        }
        assert!(seeds >= 17, "the checked-in seeds are gone: {seeds} left");
        Ok(())
    }
}
