//! Segments that the switch sends of its own for protected ports, made from the headers of one that came.
//!
//! Only what was parsed is believed: every place is looked up again, and what does not fit makes no segment.

use sumeru_packet::checksum::{checksum, pseudo_ipv4, pseudo_ipv6};
use sumeru_packet::tcp::{OPTIONS_WRITTEN, Options};
use sumeru_packet::{L3Kind, Layout};

use crate::conntrack::{protocol, tcp_flag};

/// Bits of a timestamp that remember what a cookie has no room for: the window scale, and whether selective acknowledgements were offered.
const REMEMBERED: u32 = 0x1f;
const NO_SCALE: u32 = 15;
const SACK: u32 = 0x10;
/// Time to live of what the switch sends.
const TTL: u8 = 64;
/// Longest segment without a tunnel: Ethernet with two tags, IPv6, TCP with options.
pub const LONGEST_OWN: usize = 14 + 8 + 40 + 20 + OPTIONS_WRITTEN;

/// What the switch sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window.
    pub window: u16,
    /// Options.
    pub options: Options,
}

/// The TCP header of a segment that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Window as it is in the header.
    pub window: u16,
    /// Options.
    pub options: Options,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// Reads the TCP header of a layer. Nothing when not all of it is here.
pub fn read(frame: &[u8], layout: &Layout, inner: bool) -> Option<Came> {
    let layer = &layout.layers[usize::from(inner)];
    let at = usize::from(layer.l4);
    if at == 0 || layer.l4_proto != protocol::TCP {
        return None;
    }
    let len = usize::from(frame.get(at + 12)? >> 4) * 4;
    let tcp = frame.get(at..at + len)?;
    Some(Came {
        sport: half(tcp, 0)?,
        dport: half(tcp, 2)?,
        seq: word(tcp, 4)?,
        ack: word(tcp, 8)?,
        window: half(tcp, 14)?,
        options: Options::parse(tcp.get(20..)?),
    })
}

/// The timestamp value that remembers what a client offered, at a time in milliseconds.
pub fn stamp(options: &Options, now: u64) -> u32 {
    let scale = options
        .window_scale
        .map_or(NO_SCALE, |scale| scale.min(14).into());
    let sack = if options.sack_permitted { SACK } else { 0 };
    now as u32 & !REMEMBERED | scale | sack
}

/// What a client offered, by the timestamp that it echoes.
pub fn remembered(stamp: u32) -> (Option<u8>, bool) {
    let scale = stamp & NO_SCALE;
    (
        (scale != NO_SCALE).then_some(scale as u8),
        stamp & SACK != 0,
    )
}

/// Writes a segment back to who sent the one that came, without the tunnel that it came by; answers its length.
pub fn back(frame: &[u8], layout: &Layout, inner: bool, own: &Own, to: &mut [u8]) -> Option<usize> {
    let layer = &layout.layers[usize::from(inner)];
    let (eth, l3) = (usize::from(layer.eth), usize::from(layer.l3));
    let link = frame.get(eth..l3)?;
    if !layer.has_ethernet() || link.len() < 14 {
        return None;
    }
    let (front, rest) = to.split_at_mut_checked(link.len())?;
    front.copy_from_slice(link);
    front[..6].copy_from_slice(link.get(6..12)?);
    front[6..12].copy_from_slice(link.get(..6)?);
    let ip = frame.get(l3..)?;
    let (ip_len, sum_at) = match layer.l3_kind {
        L3Kind::Ipv4 => {
            let header = rest.get_mut(..20)?;
            header.copy_from_slice(&[
                0x45,
                0,
                0,
                0,
                0,
                0,
                0x40,
                0,
                TTL,
                protocol::TCP,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            header[12..16].copy_from_slice(ip.get(16..20)?);
            header[16..20].copy_from_slice(ip.get(12..16)?);
            (20, Some(10))
        }
        L3Kind::Ipv6 => {
            let header = rest.get_mut(..40)?;
            header.fill(0);
            (header[0], header[6], header[7]) = (0x60, protocol::TCP, TTL);
            header[8..24].copy_from_slice(ip.get(24..40)?);
            header[24..40].copy_from_slice(ip.get(8..24)?);
            (40, None)
        }
        _ => return None,
    };
    let at = usize::from(layer.l4);
    let ports = (half(frame, at + 2)?, half(frame, at)?);
    let tcp_len = tcp(rest.get_mut(ip_len..)?, ports, own)?;
    finish(rest, ip_len, sum_at.is_some(), ip_len, tcp_len)?;
    Some(link.len() + ip_len + tcp_len)
}

/// Writes a segment in place of the one that came, headers in front of it included; answers its length. A tunnel's UDP checksum is left out.
pub fn instead(
    frame: &[u8],
    layout: &Layout,
    inner: bool,
    own: &Own,
    to: &mut [u8],
) -> Option<usize> {
    let layer = &layout.layers[usize::from(inner)];
    let at = usize::from(layer.l4);
    to.get_mut(..at)?.copy_from_slice(frame.get(..at)?);
    let ports = (half(frame, at)?, half(frame, at + 2)?);
    let tcp_len = tcp(to.get_mut(at..)?, ports, own)?;
    let (l3, v4) = (usize::from(layer.l3), layer.l3_kind == L3Kind::Ipv4);
    finish(to.get_mut(l3..)?, at - l3, v4, layer.l3_len.into(), tcp_len)?;
    let len = at + tcp_len;
    if inner {
        let outer = &layout.layers[0];
        let l3 = usize::from(outer.l3);
        lengths(
            to.get_mut(l3..len)?,
            outer.l3_kind == L3Kind::Ipv4,
            outer.l3_len.into(),
        )?;
        if outer.tunnel_kind().is_udp() {
            let l4 = usize::from(outer.l4);
            let udp = to.get_mut(l4..l4 + 8)?;
            udp[4..6].copy_from_slice(&u16::try_from(len - l4).ok()?.to_be_bytes());
            udp[6..8].fill(0);
        }
    }
    Some(len)
}

fn tcp(to: &mut [u8], (sport, dport): (u16, u16), own: &Own) -> Option<usize> {
    let options = own.options.write(to.get_mut(20..)?)?;
    let header = to.get_mut(..20)?;
    header[..2].copy_from_slice(&sport.to_be_bytes());
    header[2..4].copy_from_slice(&dport.to_be_bytes());
    header[4..8].copy_from_slice(&own.seq.to_be_bytes());
    let ack = if own.flags & tcp_flag::ACK != 0 {
        own.ack
    } else {
        0
    };
    header[8..12].copy_from_slice(&ack.to_be_bytes());
    (header[12], header[13]) = (((20 + options) as u8 / 4) << 4, own.flags);
    header[14..16].copy_from_slice(&own.window.to_be_bytes());
    header[16..20].fill(0);
    Some(20 + options)
}

/// Sets the length of an IP packet, and the checksum of its header.
fn lengths(packet: &mut [u8], v4: bool, header_len: usize) -> Option<()> {
    let len = u16::try_from(packet.len()).ok()?;
    if v4 {
        let header = packet.get_mut(..header_len)?;
        header.get_mut(2..4)?.copy_from_slice(&len.to_be_bytes());
        header.get_mut(10..12)?.fill(0);
        let sum = checksum(header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    } else {
        let payload = len.checked_sub(40)?;
        packet
            .get_mut(4..6)?
            .copy_from_slice(&payload.to_be_bytes());
    }
    Some(())
}

/// Sets lengths and checksums of a packet with a segment at `at`.
fn finish(packet: &mut [u8], at: usize, v4: bool, header_len: usize, tcp_len: usize) -> Option<()> {
    let packet = packet.get_mut(..at + tcp_len)?;
    lengths(packet, v4, header_len)?;
    let wide = |from: usize| Some(u128::from_be_bytes(*packet.get(from..)?.first_chunk()?));
    let mut sum = if v4 {
        pseudo_ipv4(
            word(packet, 12)?,
            word(packet, 16)?,
            protocol::TCP,
            tcp_len as u32,
        )
    } else {
        pseudo_ipv6(wide(8)?, wide(24)?, protocol::TCP, tcp_len as u32)
    };
    sum.add(packet.get(at..)?);
    let sum = sum.value().to_be_bytes();
    packet.get_mut(at + 16..at + 18)?.copy_from_slice(&sum);
    Some(())
}
