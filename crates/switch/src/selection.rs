//! Which frames somebody wants to see: captures, mirrors and flow export choose by the same words.

use std::net::IpAddr;

use sumeru_flow::model::Item;
use sumeru_packet::{Field, FlowKey, FlowMask, HEADER_MAX, Layer, Layout, ParseOptions, parse};

use crate::frame::{Frame, PortIndex};
use crate::rules::{RuleError, compile_pattern};

/// Which way a watched frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    In,
    /// It went out.
    Out,
}

/// Which frames are wanted. Everything that is said must hold.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Ports; all when there is none.
    pub ports: Vec<PortIndex>,
    /// Frames that come in by them.
    pub received: bool,
    /// Frames that go out by them.
    pub sent: bool,
    /// What the headers match, any of these values under their masks; see [`Self::matching`].
    pub pattern: Option<Vec<(FlowMask, FlowKey)>>,
    /// Source or destination of the packet, or of the one in its tunnel.
    pub host: Option<IpAddr>,
    /// Source or destination port of TCP, UDP or SCTP, likewise.
    pub l4_port: Option<u16>,
    /// IP protocol, likewise.
    pub protocol: Option<u8>,
    /// One frame in so many, by chance; 0 and 1: each.
    pub sample: u32,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            received: true,
            sent: true,
            pattern: None,
            host: None,
            l4_port: None,
            protocol: None,
            sample: 1,
        }
    }
}

impl Selection {
    /// The same of frames that match a pattern of the flow model, too.
    ///
    /// # Errors
    /// An item that says nothing about a frame's headers, or that a key does not have.
    pub fn matching(self, pattern: &[Item]) -> Result<Self, RuleError> {
        Ok(Self {
            pattern: Some(compile_pattern(pattern)?),
            ..self
        })
    }

    /// Whether nothing of the headers has to be known.
    fn takes_any_headers(&self) -> bool {
        self.pattern.is_none()
            && self.host.is_none()
            && self.l4_port.is_none()
            && self.protocol.is_none()
    }

    /// Whether a packet is wanted whose headers are these.
    fn takes_headers(&self, key: &FlowKey) -> bool {
        let matched = |(mask, value): &(FlowMask, FlowKey)| key.masked(mask) == *value;
        let pattern = self.pattern.as_ref();
        pattern.is_none_or(|places| places.iter().any(matched))
            && [Layer::Outer, Layer::Inner]
                .into_iter()
                .any(|layer| self.takes_layer(key, layer))
    }

    fn takes_layer(&self, key: &FlowKey, layer: Layer) -> bool {
        if layer == Layer::Inner && !key.has_inner() {
            return false;
        }
        let protocol = key.get(Field::IpProto(layer));
        let ports = [Field::L4Src(layer), Field::L4Dst(layer)];
        let has_port = |port: u16| {
            matches!(protocol, 6 | 17 | 132) && ports.iter().any(|f| key.get(*f) == port.into())
        };
        self.host.is_none_or(|host| has_host(key, layer, host))
            && self.protocol.is_none_or(|wanted| protocol == wanted.into())
            && self.l4_port.is_none_or(has_port)
    }
}

fn has_host(key: &FlowKey, layer: Layer, host: IpAddr) -> bool {
    let (kinds, bits): (&[u128], u128) = match host {
        IpAddr::V4(host) => (&[0x0800, 0x0806], host.to_bits().into()),
        IpAddr::V6(host) => (&[0x86dd], host.to_bits()),
    };
    kinds.contains(&key.get(Field::EthType(layer)))
        && [Field::IpSrc(layer), Field::IpDst(layer)]
            .iter()
            .any(|field| key.get(*field) == bits)
}

/// The key of a frame as it is now, every tunnel and every field of it that a pattern can name; `None` for one that is malformed.
pub fn key_of(frame: &Frame, vxlan_port: u16) -> Option<(FlowKey, Layout)> {
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let options = ParseOptions {
        vxlan_port,
        ..ParseOptions::ALL
    };
    let header = frame.header.header();
    let header = &header[..header.len().min(HEADER_MAX)];
    parse(header, frame.len as usize, &mut key, &mut layout, &options).ok()?;
    Some((key, layout))
}

/// A selection at work on an lcore.
#[derive(Clone, Debug)]
pub struct Selector {
    selection: Selection,
    random: u64,
}

impl Selector {
    /// Begins to choose by `selection`.
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Whether any frame that goes this way at a port is wanted.
    pub fn watches(&self, port: PortIndex, direction: Direction) -> bool {
        let wanted = &self.selection;
        let way = match direction {
            Direction::In => wanted.received,
            Direction::Out => wanted.sent,
        };
        way && (wanted.ports.is_empty() || wanted.ports.contains(&port))
    }

    /// Whether a frame at a port is wanted.
    pub fn takes(
        &mut self,
        port: PortIndex,
        direction: Direction,
        frame: &Frame,
        vxlan_port: u16,
    ) -> bool {
        if !self.watches(port, direction) {
            return false;
        }
        let wanted = &self.selection;
        if !wanted.takes_any_headers() {
            let key = key_of(frame, vxlan_port);
            if !key.is_some_and(|(key, _)| wanted.takes_headers(&key)) {
                return false;
            }
        }
        wanted.sample <= 1 || self.chance()
    }

    /// True once in so many times, by chance (xorshift, Marsaglia 2003), so that nothing that repeats is always or never met.
    fn chance(&mut self) -> bool {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        ((x >> 32) * u64::from(self.selection.sample)) >> 32 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sumeru_flow::syntax::parse_rule;
    use sumeru_packet::build::FrameBuilder;

    fn frame(headers: impl for<'a> FnOnce(FrameBuilder<'a>) -> FrameBuilder<'a>) -> Frame {
        let mut bytes = [0; 256];
        let len = headers(FrameBuilder::new(&mut bytes)).finish().unwrap();
        let mut frame = Frame::new();
        frame.header.load(&bytes[..len]);
        frame.len = len as u32;
        frame
    }

    fn tunnelled() -> Frame {
        frame(|f| {
            f.ethernet([2; 6], [4; 6])
                .ipv4(0xc000_0201, 0xc000_0202)
                .udp(50_000, 4789)
                .vxlan(7)
                .ethernet([6; 6], [8; 6])
                .ipv4(0x0a00_0001, 0x0a00_0002)
                .tcp(1000, 80)
        })
    }

    fn takes(selection: Selection, frame: &Frame) -> bool {
        Selector::new(selection).takes(3, Direction::In, frame, 4789)
    }

    #[test]
    fn hosts_and_ports_are_found_inside_tunnels_too() {
        let host = |text: &str| Selection {
            host: Some(text.parse().unwrap()),
            ..Selection::default()
        };
        let frame = tunnelled();
        for there in ["192.0.2.2", "10.0.0.1", "10.0.0.2"] {
            assert!(takes(host(there), &frame), "{there}");
        }
        assert!(!takes(host("10.0.0.3"), &frame));
        assert!(!takes(host("::a00:1"), &frame));
        let both = |protocol, l4_port| Selection {
            protocol: Some(protocol),
            l4_port: Some(l4_port),
            ..Selection::default()
        };
        assert!(takes(both(6, 80), &frame));
        assert!(!takes(both(17, 80), &frame), "of one packet, not of two");
        assert!(takes(both(17, 4789), &frame));
    }

    #[test]
    fn patterns_ports_and_ways_choose() {
        let pattern = |text: &str| {
            let rule = parse_rule(&format!("ingress pattern {text} / end actions drop / end"));
            Selection::default().matching(&rule.unwrap().pattern)
        };
        let inside = "eth / ipv4 / udp / vxlan vni is 7 / eth / ipv4 / tcp dst is 80";
        assert!(takes(pattern(inside).unwrap(), &tunnelled()));
        let other = "eth / ipv4 / udp / vxlan vni is 8";
        assert!(!takes(pattern(other).unwrap(), &tunnelled()));
        assert!(pattern("represented_port ethdev_port_id is 1 / eth").is_err());
        let only = Selection {
            ports: vec![4],
            ..Selection::default()
        };
        assert!(!takes(only, &tunnelled()));
        let sent = Selection {
            received: false,
            ..Selection::default()
        };
        assert!(!takes(sent, &tunnelled()));
    }

    #[test]
    fn a_sample_is_about_as_large_as_it_says() {
        let mut selector = Selector::new(Selection {
            sample: 16,
            ..Selection::default()
        });
        let frame = tunnelled();
        let taken = (0..16_000)
            .filter(|_| selector.takes(3, Direction::Out, &frame, 4789))
            .count();
        assert!((900..1100).contains(&taken), "{taken}");
    }
}
