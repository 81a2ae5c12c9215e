//! Properties: no input does harm, both ways through the parser agree, built frames come back.

use super::*;
use Layer::Inner;
use proptest::prelude::*;

fn options() -> impl Strategy<Value = ParseOptions> {
    let extract = GeneveExtract {
        class: 0x0102,
        kind: 0x80,
        len: 8,
    };
    let raw = (0u8..4, 0u8..60, 0u8..20).prop_map(|(base, offset, len)| RawExtract {
        base: [
            RawBase::L2,
            RawBase::L3,
            RawBase::L4,
            RawBase::TunnelPayload,
        ][usize::from(base)],
        offset,
        len,
    });
    let port = prop_oneof![Just(0u16), Just(4789), Just(9)];
    (port, any::<[bool; 4]>(), proptest::option::of(raw)).prop_map(
        move |(vxlan_port, [inner, tunnels, extras, geneve], raw)| {
            let base = if tunnels {
                ParseOptions::TUNNELS
            } else {
                ParseOptions::PLAIN
            };
            ParseOptions {
                vxlan_port,
                inner,
                extras,
                geneve_options: [geneve.then_some(extract), None],
                raw,
                ..base
            }
        },
    )
}

/// What a layout promises: headers in order, all inside the captured bytes.
fn check_layout(layout: &Layout, captured: usize) {
    for l in layout.layers.iter().filter(|l| l.payload != 0) {
        let present: Vec<u16> = [l.eth, l.vlan, l.l3, l.l4, l.payload]
            .into_iter()
            .filter(|o| *o != 0)
            .collect();
        assert!(present.is_sorted(), "{l:?}");
        assert!(
            usize::from(l.payload) <= captured,
            "{l:?} beyond {captured}"
        );
        if l.l4 != 0 {
            assert_eq!(l.l3 + l.l3_len, l.l4);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), extra in 0usize..2000, options in options()) {
        for frame_len in [bytes.len(), bytes.len() + extra, bytes.len() / 2] {
            let fast = parsed(&bytes, frame_len, &options);
            prop_assert_eq!(fast, general(&bytes, frame_len, &options));
            if let Ok((_, layout)) = fast {
                check_layout(&layout, bytes.len().min(frame_len).min(crate::HEADER_MAX));
            }
        }
    }

    #[test]
    fn mutated_frames_do_no_harm(
        which in 0..golden::ALL.len() + golden::scapy::ALL.len(),
        changes in proptest::collection::vec((0usize..150, any::<u8>()), 0..4),
        cut in prop_oneof![3 => Just(400usize), 1 => 0usize..160],
        options in options(),
    ) {
        let (name, golden) = *golden::ALL.iter().chain(&golden::scapy::ALL).nth(which).unwrap();
        let mut bytes = golden.bytes();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        for frame_len in [golden.frame_len, bytes.len()] {
            let fast = parsed(&bytes, frame_len, &options);
            prop_assert_eq!(fast, general(&bytes, frame_len, &options), "{}", name);
            if let Ok((_, layout)) = fast {
                check_layout(&layout, bytes.len().min(frame_len));
            }
        }
    }

    /// Build, then parse: every field comes back.
    #[test]
    fn built_frames_come_back(
        macs: ([u8; 6], [u8; 6]), tci in proptest::option::of(any::<u16>()), v6: bool,
        addresses: (u128, u128), kind in 0u8..3, l4: (u16, u16), payload in proptest::collection::vec(any::<u8>(), 0..100),
        vni in proptest::option::of(0u32..1 << 24),
    ) {
        let stack = |mut f: FrameBuilder<'_>| -> usize {
            if let Some(vni) = vni {
                f = f.ethernet(M, M).ipv4(5, 6).udp(50000, 4789).vxlan(vni);
            }
            f = f.ethernet(macs.0, macs.1);
            if let Some(tci) = tci {
                f = f.vlan(tci);
            }
            f = if v6 { f.ipv6(addresses.0, addresses.1) } else { f.ipv4(addresses.0 as u32, addresses.1 as u32) };
            f = match kind {
                0 => f.udp(l4.0, l4.1),
                1 => f.tcp(l4.0, l4.1),
                _ => f.icmp(l4.0 as u8, l4.1 as u8, 0),
            };
            f.payload(&payload).finish().unwrap()
        };
        let mut buffer = [0u8; 400];
        let len = stack(FrameBuilder::new(&mut buffer));
        prop_assume!(!(vni.is_none() && kind == 0 && l4.1 == 4789));
        let (key, layout) = parsed(&buffer[..len], len, &ParseOptions::VXLAN).unwrap();
        let l = if vni.is_some() { Inner } else { Outer };
        let mac = |m: [u8; 6]| m.iter().fold(0u128, |a, b| a << 8 | u128::from(*b));
        prop_assert_eq!(key.get(Field::EthDst(l)), mac(macs.0));
        prop_assert_eq!(key.get(Field::EthSrc(l)), mac(macs.1));
        prop_assert_eq!(key.get(Field::VlanTci(l)), tci.map_or(0, |t| u128::from(t | 0x1000)));
        let low = if v6 { u128::MAX } else { u128::from(u32::MAX) };
        prop_assert_eq!(key.get(Field::IpSrc(l)), addresses.0 & low);
        prop_assert_eq!(key.get(Field::IpDst(l)), addresses.1 & low);
        let port_mask = if kind == 2 { 0xff } else { 0xffff };
        prop_assert_eq!(key.get(Field::L4Src(l)), u128::from(l4.0 & port_mask));
        prop_assert_eq!(key.get(Field::L4Dst(l)), u128::from(l4.1 & port_mask));
        prop_assert_eq!(key.get(Field::TunnelId(Outer)), vni.map_or(0, u128::from));
        let short_of_icmpv6 = if v6 && kind == 2 { 4 } else { 0 };
        prop_assert_eq!(usize::from(layout.innermost().payload) + short_of_icmpv6 + payload.len(), len);
        prop_assert_eq!(layout.has_inner(), vni.is_some());
    }
}
