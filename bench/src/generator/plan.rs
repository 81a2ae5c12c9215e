//! What is sent: one frame and the fields of it that vary from flow to flow, and what has to arrive of it at the other end.
//!
//! Flows come in a fixed order and start over; nothing is random at run time. Stepping to the next flow writes the fields that change and the
//! sum of the IPv4 header, nothing else, so that a million flows cost the generator no more memory traffic than one.

use super::frame::{self, ETHERNET_LEN, IPV4_LEN, OUTER_LEN, VXLAN_PORT};
use super::port::FRAME_MAX;
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A field of the innermost frame (but for the outer UDP port) that varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The last four bytes of the destination address on the link.
    MacDst,
    /// The last four bytes of the source address on the link.
    MacSrc,
    /// Source address.
    Ipv4Src,
    /// Destination address.
    Ipv4Dst,
    /// UDP source port.
    UdpSrc,
    /// UDP destination port.
    UdpDst,
    /// UDP source port of the tunnel.
    OuterUdpSrc,
}

/// Fields that run together through `count` values from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wheel {
    /// Which.
    pub fields: &'static [Field],
    /// First value.
    pub first: u32,
    /// Number of values, at least 1.
    pub count: u32,
}

/// A flow as a table has it: source and destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Addresses.
    pub ipv4: [Ipv4Addr; 2],
    /// Ports.
    pub udp: [u16; 2],
}

/// The order of flows.
#[derive(Debug, Clone)]
pub enum Sequence {
    /// As an odometer runs: the first wheel turns with every frame, each other when the one before it has gone round.
    Wheels(Vec<Wheel>),
    /// As the table says; at least one.
    Table(Arc<[Tuple]>),
}

/// What the switch does to a frame on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It arrives as it was sent.
    Unchanged,
    /// It arrives in VXLAN with this network identifier.
    Encapsulated(u32),
    /// It is sent in VXLAN and arrives without.
    Decapsulated,
}

/// Frames of one direction.
#[derive(Debug, Clone)]
pub struct Plan {
    frame: Vec<u8>,
    /// Where the innermost frame begins.
    inner: usize,
    sequence: Sequence,
    /// How far each wheel has turned, or the place in the table.
    turned: Vec<u32>,
    /// Of the innermost frame: whether a byte may differ between flows.
    varies: Vec<bool>,
    way: Way,
    started: bool,
}

impl Plan {
    /// `frame` in all flows of `sequence`. With [`Way::Decapsulated`] the frame is one in VXLAN.
    pub fn new(frame: Vec<u8>, sequence: Sequence, way: Way) -> Self {
        let inner = if way == Way::Decapsulated {
            OUTER_LEN
        } else {
            0
        };
        let mut varies = vec![false; frame.len() - inner];
        varies[ETHERNET_LEN + 10..ETHERNET_LEN + 12].fill(true);
        let fields: Vec<Field> = match &sequence {
            Sequence::Wheels(wheels) => wheels
                .iter()
                .flat_map(|wheel| wheel.fields)
                .copied()
                .collect(),
            Sequence::Table(_) => {
                vec![Field::Ipv4Src, Field::Ipv4Dst, Field::UdpSrc, Field::UdpDst]
            }
        };
        for field in fields {
            if field != Field::OuterUdpSrc {
                let (at, len) = place(field);
                varies[at..at + len].fill(true);
            }
        }
        let places = match &sequence {
            Sequence::Wheels(wheels) => wheels.len(),
            Sequence::Table(_) => 1,
        };
        let mut plan = Self {
            frame,
            inner,
            sequence,
            turned: vec![0; places],
            varies,
            way,
            started: false,
        };
        plan.rewind();
        plan
    }

    /// Number of flows.
    pub fn flows(&self) -> u64 {
        match &self.sequence {
            Sequence::Wheels(wheels) => wheels.iter().map(|wheel| u64::from(wheel.count)).product(),
            Sequence::Table(table) => table.len() as u64,
        }
    }

    /// Bytes of a frame as it is sent.
    pub fn sent_len(&self) -> usize {
        self.frame.len()
    }

    /// Bytes of a frame as it has to arrive.
    pub fn arrived_len(&self) -> usize {
        match self.way {
            Way::Unchanged => self.frame.len(),
            Way::Encapsulated(_) => self.frame.len() + OUTER_LEN,
            Way::Decapsulated => self.frame.len() - OUTER_LEN,
        }
    }

    /// Starts over with the first flow.
    pub fn rewind(&mut self) {
        self.started = false;
        self.turned.fill(0);
        match &self.sequence {
            Sequence::Wheels(wheels) => {
                for wheel in wheels {
                    for field in wheel.fields {
                        set(&mut self.frame, self.inner, *field, wheel.first);
                    }
                }
            }
            Sequence::Table(table) => {
                if let Some(tuple) = table.first() {
                    set_tuple(&mut self.frame, self.inner, tuple);
                }
            }
        }
        frame::set_ipv4_checksum(&mut self.frame, self.inner + ETHERNET_LEN);
    }

    /// The frame of the next flow.
    #[inline]
    pub fn step(&mut self) -> &[u8] {
        if !self.started {
            self.started = true;
            return &self.frame;
        }
        match &self.sequence {
            Sequence::Wheels(wheels) => {
                for (wheel, turned) in wheels.iter().zip(&mut self.turned) {
                    *turned += 1;
                    let round = *turned == wheel.count;
                    if round {
                        *turned = 0;
                    }
                    let value = wheel.first.wrapping_add(*turned);
                    for field in wheel.fields {
                        set(&mut self.frame, self.inner, *field, value);
                    }
                    if !round {
                        break;
                    }
                }
            }
            Sequence::Table(table) => {
                let place = &mut self.turned[0];
                *place = if *place as usize + 1 < table.len() {
                    *place + 1
                } else {
                    0
                };
                set_tuple(&mut self.frame, self.inner, &table[*place as usize]);
            }
        }
        frame::set_ipv4_checksum(&mut self.frame, self.inner + ETHERNET_LEN);
        &self.frame
    }

    /// Whether `arrived` is a frame of this plan after its way: all bytes that do not vary are those sent, the IPv4 sum is right and the
    /// tunnel is the expected one.
    pub fn accepts(&self, arrived: &[u8]) -> bool {
        if arrived.len() != self.arrived_len() {
            return false;
        }
        let inner = match self.way {
            Way::Encapsulated(vni) => {
                let port = &arrived[ETHERNET_LEN + IPV4_LEN + 2..][..2];
                let header = &arrived[OUTER_LEN - 4..OUTER_LEN];
                if port != VXLAN_PORT.to_be_bytes() || header != (vni << 8).to_be_bytes() {
                    return false;
                }
                &arrived[OUTER_LEN..]
            }
            Way::Unchanged | Way::Decapsulated => arrived,
        };
        let same = inner
            .iter()
            .zip(&self.frame[self.inner..])
            .zip(&self.varies)
            .all(|((got, sent), varies)| *varies || got == sent);
        same && frame::ipv4_checksum_is_right(inner, ETHERNET_LEN)
    }
}

/// Offset and length of a field in the innermost frame.
const fn place(field: Field) -> (usize, usize) {
    match field {
        Field::MacDst => (2, 4),
        Field::MacSrc => (8, 4),
        Field::Ipv4Src => (ETHERNET_LEN + 12, 4),
        Field::Ipv4Dst => (ETHERNET_LEN + 16, 4),
        Field::UdpSrc | Field::OuterUdpSrc => (ETHERNET_LEN + IPV4_LEN, 2),
        Field::UdpDst => (ETHERNET_LEN + IPV4_LEN + 2, 2),
    }
}

#[inline]
fn set(frame: &mut [u8], inner: usize, field: Field, value: u32) {
    let (at, len) = place(field);
    let start = if field == Field::OuterUdpSrc {
        at
    } else {
        inner + at
    };
    if len == 2 {
        frame[start..start + 2].copy_from_slice(&(value as u16).to_be_bytes());
    } else {
        frame[start..start + 4].copy_from_slice(&value.to_be_bytes());
    }
}

#[inline]
fn set_tuple(frame: &mut [u8], inner: usize, tuple: &Tuple) {
    let at = inner + ETHERNET_LEN + 12;
    frame[at..at + 4].copy_from_slice(&tuple.ipv4[0].octets());
    frame[at + 4..at + 8].copy_from_slice(&tuple.ipv4[1].octets());
    frame[at + 8..at + 10].copy_from_slice(&tuple.udp[0].to_be_bytes());
    frame[at + 10..at + 12].copy_from_slice(&tuple.udp[1].to_be_bytes());
}

const _: () = assert!(
    FRAME_MAX >= 1518 + OUTER_LEN,
    "a full frame in its tunnel fits a buffer"
);

#[cfg(test)]
mod tests {
    use super::super::frame::{Addresses, udp, vxlan};
    use super::*;
    use std::collections::HashSet;

    fn addresses() -> Addresses {
        Addresses {
            mac: [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]],
            ipv4: [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 1, 0, 0)],
            udp: [1000, 53],
        }
    }

    fn wheel(fields: &'static [Field], first: u32, count: u32) -> Wheel {
        Wheel {
            fields,
            first,
            count,
        }
    }

    #[test]
    fn wheels_give_every_flow_once_and_start_over() {
        let wheels = vec![
            wheel(
                &[Field::Ipv4Dst],
                u32::from(Ipv4Addr::new(10, 1, 0, 250)),
                16,
            ),
            wheel(&[Field::UdpSrc], 1000, 3),
            wheel(&[Field::MacSrc], 7, 2),
        ];
        let mut plan = Plan::new(
            udp(&addresses(), 64),
            Sequence::Wheels(wheels),
            Way::Unchanged,
        );
        assert_eq!(plan.flows(), 96);
        let first = plan.step().to_vec();
        assert_eq!(
            (first[30..34].to_vec(), first[34..36].to_vec()),
            (vec![10, 1, 0, 250], vec![3, 232])
        );
        let mut seen = HashSet::from([first.clone()]);
        for _ in 1..96 {
            let frame = plan.step().to_vec();
            assert!(plan.accepts(&frame));
            assert!(seen.insert(frame));
        }
        assert_eq!(plan.step(), first, "the 97th is the first again");
        assert!(
            seen.iter().any(|frame| frame[30..34] == [10, 1, 1, 9]),
            "addresses carry over into the third byte"
        );
        plan.step();
        plan.rewind();
        assert_eq!(plan.step(), first);
    }

    #[test]
    fn a_table_is_sent_in_its_order() {
        let tuples: Vec<Tuple> = (0..3)
            .map(|n| Tuple {
                ipv4: [Ipv4Addr::new(1, 2, 3, n), Ipv4Addr::new(4, 5, 6, n)],
                udp: [n.into(), 100 + u16::from(n)],
            })
            .collect();
        let mut plan = Plan::new(
            udp(&addresses(), 64),
            Sequence::Table(tuples.into()),
            Way::Unchanged,
        );
        for n in [0, 1, 2, 0] {
            let frame = plan.step();
            assert_eq!(frame[26..38], [1, 2, 3, n, 4, 5, 6, n, 0, n, 0, 100 + n]);
        }
    }

    #[test]
    fn what_the_switch_changed_is_not_accepted() {
        let inner = udp(&addresses(), 64);
        let wheels = || Sequence::Wheels(vec![wheel(&[Field::UdpSrc], 1, 9)]);
        let plain = Plan::new(inner.clone(), wheels(), Way::Unchanged);
        assert!(plain.accepts(&inner));
        for at in [0, 30, 36, 63] {
            let mut changed = inner.clone();
            changed[at] ^= 1;
            assert!(!plain.accepts(&changed), "byte {at}");
        }
        assert!(!plain.accepts(&inner[..63]));
        let mut changed = inner.clone();
        changed[24] ^= 1;
        assert!(!plain.accepts(&changed), "IPv4 sum");

        let outer = Addresses {
            udp: [50000, VXLAN_PORT],
            ..addresses()
        };
        let encapsulated = Plan::new(inner.clone(), wheels(), Way::Encapsulated(100));
        assert!(encapsulated.accepts(&vxlan(&outer, 100, &inner)));
        assert!(!encapsulated.accepts(&vxlan(&outer, 101, &inner)));
        assert!(!encapsulated.accepts(&inner));
        let mut decapsulated = Plan::new(
            vxlan(&outer, 100, &inner),
            Sequence::Wheels(vec![wheel(&[Field::OuterUdpSrc, Field::UdpSrc], 49152, 2)]),
            Way::Decapsulated,
        );
        assert!(decapsulated.accepts(&inner));
        decapsulated.step();
        let second = decapsulated.step();
        assert_eq!(second[34..36], [0xc0, 1]);
        assert_eq!(second[84..86], [0xc0, 1], "both turn together");
    }
}
