//! Flows as addresses and ports, the frames that belong to them, and rules for them as the switch's library takes them.

use crate::generator::frame::{self, Addresses, ETHERNET_LEN, IPV4_LEN};
use crate::generator::plan::Tuple;
use crate::switch::Rule;
use std::net::Ipv4Addr;
use std::sync::Arc;
use sumeru_packet::{Field, FlowKey, FlowMask, Layer};
use sumeru_switch::rules::{ActionList, RuleAction};

const OUTER: Layer = Layer::Outer;
const ETHERTYPE_IPV4: u128 = 0x0800;
const PROTOCOL_UDP: u128 = 17;
/// Bytes of a frame.
pub const FRAME: usize = 64;

/// Flows by number.
#[derive(Debug, Clone)]
pub enum Flows {
    /// So many, each with addresses and ports far from those of its neighbours: nothing about them can be joined. At most 2 to the 24.
    Scattered(u32),
    /// To so many neighbouring addresses, so many each by source port.
    Destinations {
        /// The first address.
        first: Ipv4Addr,
        /// Addresses.
        count: u32,
        /// Ports.
        ports: u32,
    },
    /// As a table has them; at least one.
    Table(Arc<[Tuple]>),
}

impl Flows {
    /// How many.
    pub fn count(&self) -> u32 {
        match self {
            Self::Scattered(count) => *count,
            Self::Destinations { count, ports, .. } => count * ports,
            Self::Table(table) => table.len() as u32,
        }
    }

    /// Flow `number` of them; numbers beyond start over.
    #[inline]
    pub fn tuple(&self, number: u32) -> Tuple {
        match self {
            Self::Scattered(_) => scattered(number),
            Self::Destinations {
                first,
                count,
                ports,
            } => Tuple {
                ipv4: [
                    Ipv4Addr::new(10, 0, 0, 1),
                    (u32::from(*first) + number % count).into(),
                ],
                udp: [1024 + (number / count % ports) as u16, 4000],
            },
            Self::Table(table) => table[number as usize % table.len()],
        }
    }
}

/// Odd, so that multiplying by it is one to one; the source address alone tells 2 to the 24 flows apart.
const ODD: u32 = 0x9e37_79b1;

#[inline]
fn scattered(number: u32) -> Tuple {
    let source = number.wrapping_mul(ODD) & 0x00ff_ffff;
    let mixed = u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Tuple {
        ipv4: [
            (0x0a00_0000 | source).into(),
            (0xac10_0000 | (mixed >> 44) as u32).into(),
        ],
        udp: [1024 + (mixed >> 30) as u16 % 60_000, (mixed >> 14) as u16],
    }
}

/// A frame whose addresses and ports are written anew for every flow.
#[derive(Debug)]
pub struct Frame(Vec<u8>);

impl Default for Frame {
    fn default() -> Self {
        Self(frame::udp(
            &Addresses {
                mac: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
                ipv4: [Ipv4Addr::UNSPECIFIED; 2],
                udp: [0; 2],
            },
            FRAME,
        ))
    }
}

impl Frame {
    /// The frame of a flow.
    #[inline]
    pub fn of(&mut self, tuple: &Tuple) -> &[u8] {
        let ip = &mut self.0[ETHERNET_LEN..];
        ip[12..16].copy_from_slice(&tuple.ipv4[0].octets());
        ip[16..20].copy_from_slice(&tuple.ipv4[1].octets());
        ip[IPV4_LEN..IPV4_LEN + 2].copy_from_slice(&tuple.udp[0].to_be_bytes());
        ip[IPV4_LEN + 2..IPV4_LEN + 4].copy_from_slice(&tuple.udp[1].to_be_bytes());
        frame::set_ipv4_checksum(&mut self.0, ETHERNET_LEN);
        &self.0
    }
}

/// The bits that a rule for one flow looks at: where it came in, protocols, addresses, ports.
pub fn mask() -> FlowMask {
    let mut mask = base_mask();
    mask.merge_field(Field::IpProto(OUTER));
    mask.set(Field::IpSrc(OUTER), u32::MAX.into());
    mask.set(Field::IpDst(OUTER), u32::MAX.into());
    mask.merge_field(Field::L4Src(OUTER));
    mask.merge_field(Field::L4Dst(OUTER));
    mask
}

fn base_mask() -> FlowMask {
    let mut mask = FlowMask::ZERO;
    mask.merge_field(Field::InPort);
    mask.merge_field(Field::EthType(OUTER));
    mask
}

/// What a rule for one flow that comes in at port 0 holds.
#[inline]
pub fn key(tuple: &Tuple) -> FlowKey {
    let mut key = FlowKey::with_metadata(0, 0);
    key.set(Field::EthType(OUTER), ETHERTYPE_IPV4);
    key.set(Field::IpProto(OUTER), PROTOCOL_UDP);
    key.set(Field::IpSrc(OUTER), u32::from(tuple.ipv4[0]).into());
    key.set(Field::IpDst(OUTER), u32::from(tuple.ipv4[1]).into());
    key.set(Field::L4Src(OUTER), tuple.udp[0].into());
    key.set(Field::L4Dst(OUTER), tuple.udp[1].into());
    key
}

/// Sends to a port.
pub fn to(port: u16) -> ActionList {
    Box::new([RuleAction::Output(port)])
}

/// Counts and sends to a port.
pub fn counted(port: u16) -> ActionList {
    Box::new([RuleAction::Count, RuleAction::Output(port)])
}

/// A rule of the benches: the bits it looks at and what they are.
pub fn bits(rule: &Rule) -> (FlowMask, FlowKey) {
    let (mut mask, mut key) = (base_mask(), FlowKey::with_metadata(u32::from(rule.from), 0));
    key.set(Field::EthType(OUTER), ETHERTYPE_IPV4);
    for (field, network) in [
        (Field::IpSrc(OUTER), rule.src),
        (Field::IpDst(OUTER), rule.dst),
    ] {
        if let Some((address, bits)) = network {
            let prefix = u32::MAX
                .checked_shl(32 - u32::from(bits))
                .unwrap_or_default();
            mask.set(field, prefix.into());
            key.set(field, (address & prefix).into());
        }
    }
    for (field, port) in [
        (Field::L4Src(OUTER), rule.udp_src),
        (Field::L4Dst(OUTER), rule.udp_dst),
    ] {
        if let Some(port) = port {
            mask.merge_field(Field::IpProto(OUTER));
            key.set(Field::IpProto(OUTER), PROTOCOL_UDP);
            mask.merge_field(field);
            key.set(field, port.into());
        }
    }
    (mask, key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use sumeru_packet::{Layout, ParseOptions, parse};

    fn parsed(tuple: &Tuple) -> FlowKey {
        let mut frame = Frame::default();
        let (mut key, mut layout) = (FlowKey::with_metadata(0, 0), Layout::default());
        let bytes = frame.of(tuple);
        parse(
            bytes,
            bytes.len(),
            &mut key,
            &mut layout,
            &ParseOptions::PLAIN,
        )
        .unwrap();
        key
    }

    #[test]
    fn a_flows_frame_meets_the_flows_rule_and_no_other() {
        let flows = Flows::Scattered(1000);
        let mask = mask();
        for number in 0..1000 {
            let frame = parsed(&flows.tuple(number)).masked(&mask);
            assert_eq!(frame, key(&flows.tuple(number)));
            assert_ne!(frame, key(&flows.tuple(number + 1)));
        }
    }

    #[test]
    fn scattered_flows_are_all_different() {
        let flows = Flows::Scattered(1 << 20);
        let sources: HashSet<Ipv4Addr> =
            (0..flows.count()).map(|n| flows.tuple(n).ipv4[0]).collect();
        assert_eq!(sources.len(), 1 << 20);
    }

    #[test]
    fn rules_of_the_benches_hold_the_bits_that_they_say() {
        let rule = Rule {
            dst: Some((u32::from(Ipv4Addr::new(100, 64, 9, 9)), 16)),
            udp_src: Some(53),
            ..Rule::default()
        };
        let (mask, value) = bits(&rule);
        let tuple = |dst, port| Tuple {
            ipv4: [Ipv4Addr::new(1, 2, 3, 4), dst],
            udp: [port, 7],
        };
        let meets = |tuple: &Tuple| parsed(tuple).masked(&mask) == value;
        assert!(meets(&tuple(Ipv4Addr::new(100, 64, 1, 2), 53)));
        assert!(!meets(&tuple(Ipv4Addr::new(100, 64, 1, 2), 54)));
        assert!(!meets(&tuple(Ipv4Addr::new(100, 65, 9, 9), 53)));
        let flows = Flows::Destinations {
            first: Ipv4Addr::new(10, 1, 0, 0),
            count: 4,
            ports: 2,
        };
        let all: HashSet<_> = (0..16)
            .map(|n| flows.tuple(n))
            .map(|t| (t.ipv4, t.udp))
            .collect();
        assert_eq!((flows.count(), all.len()), (8, 8));
    }
}
