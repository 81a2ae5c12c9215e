//! Reads a frame's headers as their standards draw them: Ethernet II and 802.3, 802.1Q tags, ARP (RFC 826), IPv4 (RFC 791), IPv6 with extension
//! headers (RFC 8200 section 4, RFC 4302), TCP (RFC 9293), UDP (RFC 768), ICMP (RFC 792), ICMPv6 (RFC 4443), VXLAN (RFC 7348 section 5).
//!
//! Byte by byte, and anew after every change of the frame. It knows the two limits of the engine (256 bytes of headers, eight extension headers) and
//! nothing else of it.

/// Bytes from the front that headers may take.
pub const HEADERS_MAX: usize = 256;
/// IPv6 extension headers that are followed.
const EXTENSIONS_MAX: usize = 8;
/// UDP port of VXLAN.
pub const VXLAN: u16 = 4789;

/// Why a frame is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header is cut short or contradicts the headers around it.
    Malformed,
    /// Sound, but of a protocol that this reference does not know and the engine does.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    None,
    Ipv4,
    Ipv6,
}

/// What is looked for in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How many tags are there; unknown when the frame comes in, and then two are looked for at most.
    pub tags: Option<usize>,
    /// Whether there is a tunnel; unknown: by the port.
    pub tunnel: Option<bool>,
}

/// The headers of a frame, or of the frame in a tunnel. Places are offsets from the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    pub eth: usize,
    /// Where the control information of each tag is.
    pub tags: Vec<usize>,
    pub ether_type: u16,
    pub network: Network,
    pub l3: usize,
    /// The protocol behind all IP headers.
    pub proto: u8,
    /// A later fragment: what follows is no header.
    pub later: bool,
    pub fragment: bool,
    /// A routing header has segments left, so the destination is not the last one.
    pub routed: bool,
    /// Where the transport header would be.
    pub l4: usize,
    /// Whether it is there, and known.
    pub has_l4: bool,
    /// Where the IP packet ends.
    pub end: usize,
}

/// A frame taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub outer: Headers,
    /// Network identifier, and what is inside.
    pub tunnel: Option<(u32, Headers)>,
}

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// `len` bytes at `at` lie before `end` and among those that may be looked at.
fn need(bytes: &[u8], at: usize, len: usize, end: usize) -> Result<(), Fault> {
    match at + len <= end.min(bytes.len()) {
        true => Ok(()),
        false => Err(Fault::Malformed),
    }
}

/// Takes a frame apart.
pub fn read(bytes: &[u8], known: Known) -> Result<Frame, Fault> {
    let end = bytes.len();
    // The limit is for frames that come in.
    let looked_at = if known.tags.is_none() {
        end.min(HEADERS_MAX)
    } else {
        end
    };
    let bytes = &bytes[..looked_at];
    let outer = read_frame(bytes, 0, end, known.tags)?;
    let tunnel = match known.tunnel {
        Some(false) => None,
        sure => read_tunnel(bytes, &outer, sure == Some(true))?,
    };
    Ok(Frame { outer, tunnel })
}

fn read_tunnel(bytes: &[u8], outer: &Headers, sure: bool) -> Result<Option<(u32, Headers)>, Fault> {
    if outer.proto != 17 || !outer.has_l4 || outer.fragment {
        return Ok(None);
    }
    let port = u16_at(bytes, outer.l4 + 2);
    if [4790, 6081, 2152].contains(&port) {
        return Err(Fault::Unknown);
    }
    let (vxlan, end) = (
        outer.l4 + 8,
        outer.l4 + usize::from(u16_at(bytes, outer.l4 + 4)),
    );
    if !sure && port != VXLAN || end < vxlan + 8 {
        return Ok(None);
    }
    need(bytes, vxlan, 8, end)?;
    if bytes[vxlan] & 0x08 == 0 {
        return Ok(None);
    }
    let vni = u32::from_be_bytes([0, bytes[vxlan + 4], bytes[vxlan + 5], bytes[vxlan + 6]]);
    Ok(Some((vni, read_frame(bytes, vxlan + 8, end, None)?)))
}

fn read_frame(bytes: &[u8], eth: usize, end: usize, tags: Option<usize>) -> Result<Headers, Fault> {
    need(bytes, eth, 14, end)?;
    let mut headers = Headers {
        eth,
        tags: Vec::new(),
        ether_type: u16_at(bytes, eth + 12),
        network: Network::None,
        l3: 0,
        proto: 0,
        later: false,
        fragment: false,
        routed: false,
        l4: 0,
        has_l4: false,
        end,
    };
    let mut at = eth + 14;
    loop {
        let more = match tags {
            Some(tags) => headers.tags.len() < tags,
            None => headers.tags.len() < 2 && matches!(headers.ether_type, 0x8100 | 0x88a8),
        };
        if !more {
            break;
        }
        need(bytes, at, 4, end)?;
        headers.tags.push(at);
        headers.ether_type = u16_at(bytes, at + 2);
        at += 4;
    }
    match headers.ether_type {
        0x0800 => read_ipv4(bytes, at, end, &mut headers)?,
        0x86dd => read_ipv6(bytes, at, end, &mut headers)?,
        0x0806 => {
            need(bytes, at, 8, end)?;
            if bytes[at..at + 6] == [0, 1, 8, 0, 6, 4] {
                need(bytes, at, 28, end)?;
            }
        }
        0x8847 | 0x8848 => return Err(Fault::Unknown),
        _ => {}
    }
    Ok(headers)
}

fn read_ipv4(bytes: &[u8], at: usize, end: usize, headers: &mut Headers) -> Result<(), Fault> {
    need(bytes, at, 20, end)?;
    let header_len = usize::from(bytes[at] & 15) * 4;
    let total = usize::from(u16_at(bytes, at + 2));
    if bytes[at] >> 4 != 4 || header_len < 20 || total < header_len || at + total > end {
        return Err(Fault::Malformed);
    }
    need(bytes, at, header_len, at + total)?;
    let word = u16_at(bytes, at + 6);
    headers.network = Network::Ipv4;
    headers.l3 = at;
    headers.proto = bytes[at + 9];
    headers.fragment = word & 0x3fff != 0;
    headers.later = word & 0x1fff != 0;
    headers.l4 = at + header_len;
    headers.end = at + total;
    read_transport(bytes, headers)
}

fn read_ipv6(bytes: &[u8], at: usize, end: usize, headers: &mut Headers) -> Result<(), Fault> {
    need(bytes, at, 40, end)?;
    let end_of_packet = at + 40 + usize::from(u16_at(bytes, at + 4));
    if bytes[at] >> 4 != 6 || end_of_packet > end {
        return Err(Fault::Malformed);
    }
    headers.network = Network::Ipv6;
    headers.l3 = at;
    headers.end = end_of_packet;
    let (mut next, mut place, mut followed) = (bytes[at + 6], at + 40, 0);
    while matches!(next, 0 | 43 | 44 | 51 | 60) && !headers.later {
        if followed == EXTENSIONS_MAX {
            return Err(Fault::Malformed);
        }
        followed += 1;
        need(bytes, place, 8, headers.end)?;
        let field = usize::from(bytes[place + 1]);
        let len = match next {
            44 => 8,
            51 => (field + 2) * 4,
            _ => (field + 1) * 8,
        };
        need(bytes, place, len, headers.end)?;
        if next == 44 {
            // An offset of zero with nothing to follow is a whole packet (RFC 6946).
            let word = u16_at(bytes, place + 2);
            headers.fragment |= word & 0xfff9 != 0;
            headers.later = word & 0xfff8 != 0;
        }
        headers.routed |= next == 43 && bytes[place + 3] != 0;
        next = bytes[place];
        place += len;
    }
    headers.proto = next;
    headers.l4 = place;
    read_transport(bytes, headers)
}

fn read_transport(bytes: &[u8], headers: &mut Headers) -> Result<(), Fault> {
    if headers.later {
        return Ok(());
    }
    let (at, end) = (headers.l4, headers.end);
    headers.has_l4 = true;
    match (headers.proto, headers.network) {
        (6, _) => {
            need(bytes, at, 20, end)?;
            let len = usize::from(bytes[at + 12] >> 4) * 4;
            if len < 20 {
                return Err(Fault::Malformed);
            }
            need(bytes, at, len, end)
        }
        (17, _) => {
            need(bytes, at, 8, end)?;
            let len = usize::from(u16_at(bytes, at + 4));
            // The first fragment has the length of the whole datagram.
            match len < 8 || at + len > end && !headers.fragment {
                true => Err(Fault::Malformed),
                false => Ok(()),
            }
        }
        (1, Network::Ipv4) => need(bytes, at, 8, end),
        (58, Network::Ipv6) => need(bytes, at, 4, end),
        // GRE, ESP, SCTP.
        (47 | 50 | 132, _) => Err(Fault::Unknown),
        _ => {
            headers.has_l4 = false;
            Ok(())
        }
    }
}
