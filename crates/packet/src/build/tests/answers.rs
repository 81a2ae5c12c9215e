//! Answers to frames against what scapy makes.

use super::*;
use crate::golden::answers as frames;
use core::net::IpAddr;

const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe));

fn error(frame: &[u8], source: IpAddr, error: IcmpError) -> Option<Vec<u8>> {
    let (_, layout) = describe(frame);
    let mut out = [0u8; 700];
    let len = icmp_error(&mut out, frame, layout.outer(), source, error).unwrap()?;
    Some(out[..len].to_vec())
}

#[test]
fn icmp_errors() {
    let too_big = IcmpError::TooBig { mtu: 1400 };
    for (frame, source, what, expected) in [
        (frames::TCP_V4, ROUTER, too_big, frames::NEEDED_V4),
        (
            frames::SYN_V4,
            ROUTER,
            IcmpError::Prohibited,
            frames::PROHIBITED_V4,
        ),
        (
            frames::SYN_V4,
            ROUTER,
            IcmpError::TimeExceeded,
            frames::EXCEEDED_V4,
        ),
        (frames::UDP_V6, ROUTER6, too_big, frames::TOO_BIG_V6),
        (
            frames::UDP_V6,
            ROUTER6,
            IcmpError::Prohibited,
            frames::PROHIBITED_V6,
        ),
        (
            frames::UDP_V6,
            ROUTER6,
            IcmpError::TimeExceeded,
            frames::EXCEEDED_V6,
        ),
    ] {
        let answer = error(&frame.bytes(), source, what).unwrap();
        assert_eq!(answer, expected.bytes(), "{what:?}");
        // No error about an error.
        assert_eq!(error(&answer, source, what), None);
    }
    // The quote of a long packet ends with what was captured, or the longest error.
    let mut long = [0u8; 1500];
    let len = FrameBuilder::new(&mut long)
        .ethernet(A, B)
        .ipv4(0x0a00_0001, 0x0a00_0002)
        .udp(1, 2)
        .payload(&[7; 1400])
        .finish()
        .unwrap();
    let answer = error(&long[..len], ROUTER, too_big).unwrap();
    assert_eq!(answer.len(), 14 + 576);
    assert_checksums(&answer);
    let (_, layout) = describe(&long[..len]);
    let mut out = [0u8; 700];
    let short = icmp_error(&mut out, &long[..128], layout.outer(), ROUTER, too_big).unwrap();
    assert_eq!(short, Some(14 + 28 + 114));
    // A source of the other family makes no packet.
    assert!(icmp_error(&mut out, &long[..128], layout.outer(), ROUTER6, too_big).is_err());
}

#[test]
fn what_must_not_be_answered() {
    let built = |dst: [u8; 6], src: [u8; 6], from: u32, to: u32| {
        let mut frame = [0u8; 100];
        let len = FrameBuilder::new(&mut frame)
            .ethernet(dst, src)
            .ipv4(from, to)
            .tcp(1, 2)
            .finish()
            .unwrap();
        frame[..len].to_vec()
    };
    let fine = built(A, B, 0x0a00_0001, 0x0a00_0002);
    assert!(error(&fine, ROUTER, IcmpError::Prohibited).is_some());
    for frame in [
        built([0xff; 6], B, 0x0a00_0001, 0x0a00_0002),
        built(A, [1; 6], 0x0a00_0001, 0x0a00_0002),
        built(A, B, 0, 0x0a00_0002),
        built(A, B, 0xe000_0001, 0x0a00_0002),
        built(A, B, 0x7f00_0001, 0x0a00_0002),
        built(A, B, 0x0a00_0001, 0xffff_ffff),
        built(A, B, 0x0a00_0001, 0xe000_0001),
        golden::FRAGMENT_LATER_V4.bytes(),
        inside(&golden::VXLAN_ARP),
    ] {
        let (mut key, mut layout) = (crate::FlowKey::ZERO, Layout::EMPTY);
        let options = crate::ParseOptions::PLAIN;
        crate::parse(&frame, 1600, &mut key, &mut layout, &options).unwrap();
        let layer = layout.outer();
        let mut out = [0u8; 300];
        let what = IcmpError::Prohibited;
        assert_eq!(icmp_error(&mut out, &frame, layer, ROUTER, what), Ok(None));
        assert_eq!(tcp_reset(&mut out, &frame, layer), Ok(None));
        assert_eq!(syn_cookie(&mut out, &frame, layer, 1, 2, 3), Ok(None));
    }
    // IPv6 groups are told of the MTU, and of nothing else.
    let mut frame = [0u8; 100];
    let len = FrameBuilder::new(&mut frame)
        .ethernet([0x33, 0x33, 0, 0, 0, 1], B)
        .ipv6(1 << 64 | 7, 0xff02 << 112 | 1)
        .udp(1, 2)
        .finish()
        .unwrap();
    assert!(error(&frame[..len], ROUTER6, IcmpError::TooBig { mtu: 1280 }).is_some());
    assert!(error(&frame[..len], ROUTER6, IcmpError::Prohibited).is_none());
}

#[test]
fn tcp_answers() {
    let mut out = [0u8; 100];
    let reset = |frame: &golden::Golden, out: &mut [u8]| {
        let frame = frame.bytes();
        tcp_reset(out, &frame, describe(&frame).1.outer()).unwrap()
    };
    let len = reset(&frames::TCP_V4, &mut out).unwrap();
    assert_eq!(out[..len], frames::RESET.bytes());
    let len = reset(&frames::SYN_V4, &mut out).unwrap();
    assert_eq!(out[..len], frames::RESET_SYN.bytes());
    assert_eq!(reset(&frames::RESET, &mut out), None);
    assert_eq!(reset(&frames::UDP_V6, &mut out), None);
    let syn = frames::SYN_V4.bytes();
    let (_, layout) = describe(&syn);
    let len = syn_cookie(&mut out, &syn, layout.outer(), 0xc00c_1e55, 1360, 29200).unwrap();
    assert_eq!(out[..len.unwrap()], frames::SYN_COOKIE.bytes());
    assert_eq!(offered_mss(&syn, layout.outer()), Some(1400));
    let established = frames::TCP_V4.bytes();
    let layer = *describe(&established).1.outer();
    assert_eq!(
        syn_cookie(&mut out, &established, &layer, 1, 2, 3),
        Ok(None)
    );
    assert_eq!(offered_mss(&established, &layer), Some(536));
    assert_eq!(
        syn_cookie(&mut out[..20], &syn, layout.outer(), 1, 2, 3),
        Err(BuildError::NoSpace)
    );
}

#[test]
fn router_advertisements() {
    let prefix = Prefix {
        address: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 5),
        len: 64,
        on_link: true,
        autonomous: true,
        valid: 7200,
        preferred: 3600,
    };
    let what = RouterAdvertisement {
        hop_limit: 64,
        managed: true,
        other: true,
        lifetime: 1800,
        mtu: Some(1450),
        prefixes: &[prefix],
        dns_servers: &[
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x53),
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x54),
        ],
        dns_lifetime: 600,
    };
    let advertise = |out: &mut [u8], what: &RouterAdvertisement<'_>| {
        router_advertisement(
            out,
            [2, 0, 0, 0, 0, 2],
            Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2),
            [0x33, 0x33, 0, 0, 0, 1],
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            what,
        )
    };
    let mut out = [0u8; 500];
    let len = advertise(&mut out, &what).unwrap();
    assert_eq!(out[..len], frames::ROUTER.bytes());
    let full = RouterAdvertisement {
        prefixes: &[prefix; PREFIXES_MAX],
        dns_servers: &[Ipv6Addr::LOCALHOST; DNS_SERVERS_MAX],
        ..what
    };
    let len = advertise(&mut out, &full).unwrap();
    assert_checksums(&out[..len]);
    let over = RouterAdvertisement {
        prefixes: &[prefix; PREFIXES_MAX + 1],
        ..what
    };
    assert_eq!(advertise(&mut out, &over), Err(BuildError::NoSpace));
}
