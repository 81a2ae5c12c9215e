//! Between frames and the connection table: the tuple of a frame, what the table wants to know of its headers, and what a cached
//! decision remembers of a connection.

use arrayvec::ArrayVec;
use sumeru_packet::plain;
use sumeru_packet::{Field, FlowKey, L3Kind, Layer, LayerLayout};

use crate::conntrack::{
    ConnRef, Conntrack, CtPacket, Direction, Family, Fragment, Fragments, NatBinding, Opening,
    Ports, Tags, Tuple, Verdict, protocol,
};
use crate::egress::PlainFrame;
use crate::frame::Frame;

/// Connections that one decision may be about: one for each zone a frame passes, those of the receivers of a flooded one included.
pub const MAX_TRACKS: usize = 16;

/// What a cached decision takes for granted about a connection; checked for each frame before anything is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Track {
    /// The frame belongs to this connection, and what decides about it has not changed.
    Connection {
        /// The connection.
        conn: ConnRef,
        /// Which way the frame goes.
        direction: Direction,
        /// Whether the headers inside the tunnel are meant.
        inner: bool,
        /// [`Verdict::decision`].
        decision: u32,
    },
    /// The frame belongs to no connection of a zone. Whatever its addresses and ports are: they need not be part of the decision.
    None {
        /// The zone.
        zone: u16,
        /// Whether the headers inside the tunnel are meant.
        inner: bool,
        /// [`Verdict::decision`] of what the table calls it.
        decision: u32,
    },
}

/// A frame that belongs to no connection of a zone yet: what one is made of.
pub type Fresh = (Tuple, Tags, CtPacket);

/// The connections that a decision is about, in the order in which they were looked up.
pub type Tracks = ArrayVec<Track, MAX_TRACKS>;

/// What the table said of a frame before the slow path was asked, so that the frame is not tracked twice.
pub type Known = Option<(ConnRef, Direction, Verdict)>;

/// The table as the slow path has it.
#[derive(Debug)]
pub enum Table<'a> {
    /// There is none.
    Off,
    /// For frames.
    Live(&'a mut Conntrack, &'a mut Fragments),
    /// For traces: nothing changes.
    Dry(&'a Conntrack),
}

impl Table<'_> {
    /// The connections, to be looked at.
    pub fn connections(&self) -> Option<&Conntrack> {
        match self {
            Table::Off => None,
            Table::Live(table, _) => Some(table),
            Table::Dry(table) => Some(table),
        }
    }
}

/// How frames of the connection that was looked up as number so many are translated, and which way they go.
pub fn translation(
    tracks: &[Track],
    number: u8,
    table: Option<&Conntrack>,
) -> Option<(NatBinding, Direction)> {
    match *tracks.get(usize::from(number))? {
        Track::Connection {
            conn, direction, ..
        } => Some((table?.binding(conn)?, direction)),
        Track::None { .. } => None,
    }
}

/// What the slow path knows of a frame beside its key.
#[derive(Debug)]
pub struct Tracking<'a> {
    /// Connections.
    pub table: Table<'a>,
    /// By layer: outer, inner.
    pub facts: [Facts; 2],
    /// What the table has said already.
    pub known: Known,
    /// Of the SYN of a client that has proved a cookie: what it was told.
    pub redeemed: Option<Opening>,
    /// The frame, for what actions may uncover in it.
    pub frame: Option<&'a Frame>,
}

impl Tracking<'_> {
    /// Without connections.
    pub const OFF: Tracking<'static> = Tracking {
        table: Table::Off,
        facts: [Facts::NONE; 2],
        known: None,
        redeemed: None,
        frame: None,
    };

    /// With the facts of a frame.
    pub fn of<'a>(table: Table<'a>, frame: &'a Frame, now: u64, known: Known) -> Tracking<'a> {
        let facts = match table {
            Table::Off => [Facts::NONE; 2],
            _ => [Facts::of(frame, false, now), Facts::of(frame, true, now)],
        };
        Tracking {
            table,
            facts,
            known,
            redeemed: None,
            frame: Some(frame),
        }
    }
}

/// What the headers of a layer say.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// For the table.
    pub packet: CtPacket,
    /// The identifier of an ICMP query.
    pub ident: u16,
    /// The packet that an ICMP error is about, in zone 0.
    pub embedded: Option<Tuple>,
    /// The fragment that it is, in zone 0 and without addresses and ports.
    pub fragment: Option<Fragment>,
}

fn u16_at(header: &[u8], at: usize) -> Option<u16> {
    let bytes = header.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn u32_at(header: &[u8], at: usize) -> Option<u32> {
    let bytes = header.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn u128_at(header: &[u8], at: usize) -> Option<u128> {
    let bytes = header.get(at..at.checked_add(16)?)?;
    Some(u128::from_be_bytes(bytes.try_into().ok()?))
}

impl Facts {
    const NONE: Facts = Facts {
        packet: CtPacket {
            now: 0,
            bytes: 0,
            seq: 0,
            ack: 0,
            window: 0,
            payload: 0,
            flags: 0,
            scale: None,
            related: false,
        },
        ident: 0,
        embedded: None,
        fragment: None,
    };

    /// The facts of a layer of a frame; nothing but time and length if the frame does not have it.
    pub fn of(frame: &Frame, inner: bool, now: u64) -> Facts {
        let layer = frame.layout.layers[usize::from(inner)];
        let header = frame.header.header();
        let mut facts = Facts {
            packet: packet(frame, inner, now),
            ..Facts::NONE
        };
        let l4 = usize::from(layer.l4);
        if layer.is_fragment() {
            facts.fragment = fragment(header, &layer);
        }
        if l4 == 0 {
            return facts;
        }
        match layer.l4_proto {
            protocol::ICMP | protocol::ICMPV6 => {
                facts.ident = u16_at(header, l4 + 4).unwrap_or(0);
                let error = match (layer.l4_proto, header.get(l4)) {
                    (protocol::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
                    (_, Some(kind)) => matches!(kind, 1..=4),
                    _ => false,
                };
                if error {
                    facts.embedded = embedded(header, l4 + 8);
                    facts.packet.related = facts.embedded.is_some();
                    facts.packet.seq = embedded_sequence(header, l4 + 8).unwrap_or(0);
                }
            }
            _ => {}
        }
        facts
    }
}

/// What the table wants to know of each packet of a connection.
#[inline(always)]
pub fn packet(frame: &Frame, inner: bool, now: u64) -> CtPacket {
    let layer = &frame.layout.layers[usize::from(inner)];
    let mut packet = CtPacket {
        now,
        bytes: frame.len,
        ..CtPacket::default()
    };
    match layer.l4_proto {
        protocol::TCP if layer.l4 != 0 => tcp(frame, layer, &mut packet),
        protocol::SCTP if layer.l4 != 0 => sctp(frame, layer, &mut packet),
        _ => {}
    }
    packet
}

/// [`packet`] of a plain frame; of what is behind its first bytes the window of a TCP segment is looked at.
#[inline(always)]
pub fn plain_packet(frame: &PlainFrame, window: [u8; 2], now: u64) -> CtPacket {
    let mut packet = CtPacket {
        now,
        bytes: frame.frame_len(),
        ..CtPacket::default()
    };
    if let Some(tcp) = plain::tcp(&frame.bytes) {
        (packet.seq, packet.ack) = (tcp.seq, tcp.ack);
        (packet.flags, packet.payload) = (tcp.flags, tcp.payload);
        packet.window = u16::from_be_bytes(window);
    }
    packet
}

#[cold]
fn sctp(frame: &Frame, layer: &LayerLayout, packet: &mut CtPacket) {
    let (header, l4) = (frame.header.header(), usize::from(layer.l4));
    packet.seq = u32_at(header, l4 + 4).unwrap_or(0);
    packet.flags = sctp_chunks(header.get(l4 + 12..).unwrap_or_default());
    packet.ack = u32_at(header, l4 + 16).unwrap_or(0);
}

#[inline]
fn tcp(frame: &Frame, layer: &LayerLayout, packet: &mut CtPacket) {
    let (header, l4) = (frame.header.header(), usize::from(layer.l4));
    let Some(tcp) = header.get(l4..l4 + 20) else {
        return;
    };
    packet.seq = u32_at(tcp, 4).unwrap_or(0);
    packet.ack = u32_at(tcp, 8).unwrap_or(0);
    packet.window = u16_at(tcp, 14).unwrap_or(0);
    packet.flags = tcp[13];
    let offset = usize::from(tcp[12] >> 4) * 4;
    // A short frame is padded, so the IP header knows better; one that will be cut is longer than that can say.
    let l3 = usize::from(layer.l3);
    let whole = match layer.l3_kind {
        L3Kind::Ipv4 => u16_at(header, l3 + 2).map_or(0, usize::from),
        _ => u16_at(header, l3 + 4).map_or(0, usize::from) + 40,
    };
    let end = if frame.offload.gso == crate::net_header::Gso::None && whole > 0 {
        l3 + whole
    } else {
        frame.len as usize
    };
    packet.payload = end.saturating_sub(l4 + offset).min(usize::from(u16::MAX)) as u16;
    const SYN: u8 = 2;
    if packet.flags & SYN != 0 {
        packet.scale = window_scale(header.get(l4 + 20..l4 + offset.max(20)).unwrap_or_default());
    }
}

/// The window scale option (RFC 7323, section 2.2).
fn window_scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [0, ..] | [] => return None,
            [1, ref rest @ ..] => options = rest,
            [3, 3, shift, ..] => return Some(shift),
            [_, length, ..] if length >= 2 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

/// The chunks of an SCTP packet that matter, as the table's bits; as far as they are in the header that was copied.
fn sctp_chunks(mut chunks: &[u8]) -> u8 {
    use crate::conntrack::sctp_chunk::{
        ABORT, COOKIE_ACK, COOKIE_ECHO, INIT, INIT_ACK, SHUTDOWN, SHUTDOWN_COMPLETE,
    };
    let mut bits = 0;
    for _ in 0..8 {
        let (Some(kind), Some(length)) = (chunks.first(), u16_at(chunks, 2)) else {
            break;
        };
        bits |= match kind {
            1 => INIT,
            2 => INIT_ACK,
            6 => ABORT,
            7 | 8 => SHUTDOWN,
            10 => COOKIE_ECHO,
            11 => COOKIE_ACK,
            14 => SHUTDOWN_COMPLETE,
            _ => 0,
        };
        let next = usize::from(length).max(4).next_multiple_of(4);
        let Some(rest) = chunks.get(next..) else {
            break;
        };
        chunks = rest;
    }
    bits
}

/// The tuple of the packet inside an ICMP error (RFC 792; RFC 4443, section 3), in zone 0.
fn embedded(header: &[u8], at: usize) -> Option<Tuple> {
    let first = *header.get(at)?;
    let (family, src, dst, proto, l4) = match first >> 4 {
        4 => {
            // Only the first fragment has ports.
            if u16_at(header, at + 6)? & 0x1fff != 0 {
                return None;
            }
            let (src, dst) = (u32_at(header, at + 12)?, u32_at(header, at + 16)?);
            let l4 = at + usize::from(first & 15) * 4;
            (Family::V4, src.into(), dst.into(), *header.get(at + 9)?, l4)
        }
        6 => (
            Family::V6,
            u128_at(header, at + 8)?,
            u128_at(header, at + 24)?,
            *header.get(at + 6)?,
            at + 40,
        ),
        _ => return None,
    };
    if let protocol::ICMP | protocol::ICMPV6 = proto {
        let (kind, code) = (*header.get(l4)?, *header.get(l4 + 1)?);
        return Tuple::query(family, (src, dst), kind, code, u16_at(header, l4 + 4)?, 0);
    }
    let (sport, dport) = if protocol::has_ports(proto) {
        (u16_at(header, l4)?, u16_at(header, l4 + 2)?)
    } else {
        (0, 0)
    };
    Some(Tuple {
        src,
        dst,
        sport,
        dport,
        proto,
        family,
        zone: 0,
    })
}

/// The TCP sequence number of the packet inside an ICMP error.
fn embedded_sequence(header: &[u8], at: usize) -> Option<u32> {
    let first = *header.get(at)?;
    let (proto, l4) = match first >> 4 {
        4 => (*header.get(at + 9)?, at + usize::from(first & 15) * 4),
        _ => (*header.get(at + 6)?, at + 40),
    };
    if proto == protocol::TCP {
        u32_at(header, l4 + 4)
    } else {
        None
    }
}

/// What the IP headers say of a fragment.
fn fragment(header: &[u8], layer: &LayerLayout) -> Option<Fragment> {
    let l3 = usize::from(layer.l3);
    let blank = Fragment {
        src: 0,
        dst: 0,
        id: 0,
        proto: layer.l4_proto,
        family: Family::V4,
        zone: 0,
        offset: 0,
        length: 0,
        more: false,
        ports: None,
    };
    if layer.l3_kind == L3Kind::Ipv4 {
        let word = u16_at(header, l3 + 6)?;
        return Some(Fragment {
            id: u16_at(header, l3 + 4)?.into(),
            offset: word & 0x1fff,
            more: word & 0x2000 != 0,
            length: u16_at(header, l3 + 2)?.checked_sub(layer.l3_len)?,
            ..blank
        });
    }
    // The fragment header is behind the hop-by-hop, destination and routing headers (RFC 8200, section 4.1).
    let end = l3 + 40 + usize::from(u16_at(header, l3 + 4)?);
    let (mut next, mut at) = (*header.get(l3 + 6)?, l3 + 40);
    for _ in 0..8 {
        match next {
            44 => {
                let word = u16_at(header, at + 2)?;
                return Some(Fragment {
                    id: u32_at(header, at + 4)?,
                    proto: *header.get(at)?,
                    family: Family::V6,
                    offset: word >> 3,
                    more: word & 1 != 0,
                    length: u16::try_from(end.checked_sub(at + 8)?).ok()?,
                    ..blank
                });
            }
            0 | 43 | 60 => {
                next = *header.get(at)?;
                at += (usize::from(*header.get(at + 1)?) + 1) * 8;
            }
            _ => return None,
        }
    }
    None
}

/// The tuple of a frame's outer headers as its key has them, but for the ports of ICMP queries and of later fragments.
#[inline(always)]
pub fn tuple(key: &FlowKey, layer: Layer, zone: u16) -> Option<Tuple> {
    match layer {
        Layer::Outer => tuple_in(key, Layer::Outer, zone),
        Layer::Inner => inner_tuple(key, zone),
    }
}

#[inline(never)]
fn inner_tuple(key: &FlowKey, zone: u16) -> Option<Tuple> {
    tuple_in(key, Layer::Inner, zone)
}

/// Where the layer is known as the code is compiled, so are the fields' places.
#[inline(always)]
fn tuple_in(key: &FlowKey, layer: Layer, zone: u16) -> Option<Tuple> {
    let family = match key.get(Field::EthType(layer)) {
        0x0800 => Family::V4,
        0x86dd => Family::V6,
        _ => return None,
    };
    let proto = key.get(Field::IpProto(layer)) as u8;
    let ports = if protocol::has_ports(proto) {
        (
            key.get(Field::L4Src(layer)) as u16,
            key.get(Field::L4Dst(layer)) as u16,
        )
    } else {
        (0, 0)
    };
    Some(Tuple {
        src: key.get(Field::IpSrc(layer)),
        dst: key.get(Field::IpDst(layer)),
        sport: ports.0,
        dport: ports.1,
        proto,
        family,
        zone,
    })
}

/// Completes a tuple with what a key does not have. `None`: the packet cannot be made out as part of any connection.
pub fn complete(
    mut tuple: Tuple,
    kind_and_code: (u8, u8),
    facts: &Facts,
    table: &mut Table,
) -> Option<Tuple> {
    let first = facts.fragment.is_none_or(|fragment| fragment.offset == 0);
    if first && matches!(tuple.proto, protocol::ICMP | protocol::ICMPV6) {
        let (kind, code) = kind_and_code;
        let addresses = (tuple.src, tuple.dst);
        tuple = Tuple::query(tuple.family, addresses, kind, code, facts.ident, tuple.zone)?;
    }
    let Some(fragment) = facts.fragment else {
        return Some(tuple);
    };
    let own = Ports {
        sport: tuple.sport,
        dport: tuple.dport,
    };
    let own = first.then_some(own);
    let whole = Fragment {
        src: tuple.src,
        dst: tuple.dst,
        family: tuple.family,
        zone: tuple.zone,
        ports: own,
        ..fragment
    };
    // Of a later fragment only the first tells what it is.
    let ports = match table {
        Table::Live(_, fragments) => fragments.accept(&whole, facts.packet.now).ok()?,
        Table::Dry(_) | Table::Off => own?,
    };
    (tuple.sport, tuple.dport) = (ports.sport, ports.dport);
    Some(tuple)
}

#[cfg(test)]
mod tests;
