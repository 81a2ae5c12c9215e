//! DHCPv4 as a server sees it (RFC 2131, options of RFC 2132, RFC 3442 and RFC 6842): requests parsed, answers built. No
//! leases are kept here and nothing is decided; relays are answered, not played.
//!
//! A message is longer than the captured header of a frame: hand over the whole UDP payload.

use core::net::Ipv4Addr;

use zerocopy::big_endian::{U16, U32};

use crate::build::{BuildError, FrameBuilder};
use crate::view::Ipv4;

/// UDP port of servers and relays.
pub const SERVER_PORT: u16 = 67;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 68;

/// Bytes before the options, with the magic number.
const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// A BOOTP message is at least this long (RFC 1542 section 2.1).
const SHORTEST: usize = 300;
/// IP packet that every client takes (RFC 2131 section 2), and the IP and UDP headers in it.
const DATAGRAM: usize = 576;
const HEADERS: usize = 28;
/// Bytes of options that fit the longest message that every client takes (RFC 2131 section 2), their end included.
pub const OPTIONS_FIT: usize = DATAGRAM - HEADERS - FIXED;
/// Most bytes of one option.
pub const OPTION_MAX: usize = 255;
/// Longest message built.
const LONGEST: usize = 1472;

/// What a client says.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Looks for servers.
    Discover = 1,
    /// Wants, confirms or prolongs an address.
    Request = 3,
    /// Found the address in use.
    Decline = 4,
    /// Gives the address back.
    Release = 7,
    /// Has an address and wants the rest.
    Inform = 8,
}

/// A message from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it says.
    pub kind: Kind,
    /// Transaction, to be returned.
    pub xid: u32,
    /// Whether the client can receive broadcasts only.
    pub broadcast: bool,
    /// The address that the client has and uses; unspecified for none.
    pub client: Ipv4Addr,
    /// The relay that it came by; unspecified for none.
    pub relay: Ipv4Addr,
    /// The client's MAC address.
    pub mac: [u8; 6],
    /// The address that the client wants (option 50).
    pub requested: Option<Ipv4Addr>,
    /// The server that the client chose (option 54).
    pub server: Option<Ipv4Addr>,
    /// Client identifier (option 61); empty without.
    pub client_id: &'a [u8],
    /// Host name (option 12); empty without.
    pub hostname: &'a [u8],
    /// Numbers of the options that the client wants (option 55); empty without.
    pub parameters: &'a [u8],
    /// Longest IP packet that the client takes (option 57).
    pub max_size: Option<u16>,
}

impl<'a> Request<'a> {
    /// Parses a UDP payload. `None` when it is no DHCP message of a client on Ethernet, or is cut short.
    pub fn parse(payload: &'a [u8]) -> Option<Request<'a>> {
        let fixed = payload.first_chunk::<FIXED>()?;
        // A request (1) over Ethernet (1, 6 bytes), with DHCP's magic number.
        if fixed[..3] != [1, 1, 6] || fixed[236..] != MAGIC {
            return None;
        }
        let address = |at: usize| {
            let bytes = fixed.get(at..).and_then(|b| b.first_chunk::<4>());
            bytes.map(|b| Ipv4Addr::from(*b))
        };
        let mac = *fixed.get(28..)?.first_chunk::<6>()?;
        let mut request = Request {
            kind: Kind::Discover,
            xid: u32::from_be_bytes(*fixed.get(4..)?.first_chunk::<4>()?),
            broadcast: fixed[10] & 0x80 != 0,
            client: address(12)?,
            relay: address(24)?,
            mac,
            requested: None,
            server: None,
            client_id: &[],
            hostname: &[],
            parameters: &[],
            max_size: None,
        };
        let (mut kind, mut overload) = (None, 0);
        request.read(payload.get(FIXED..)?, &mut kind, &mut overload)?;
        // Option 52: more options in the fields for the boot file and the server's name (RFC 2131 section 4.1).
        let mut ignored = 0;
        if overload & 1 != 0 {
            request.read(payload.get(108..236)?, &mut kind, &mut ignored)?;
        }
        if overload & 2 != 0 {
            request.read(payload.get(44..108)?, &mut kind, &mut ignored)?;
        }
        request.kind = kind?;
        Some(request)
    }

    /// Takes over options up to the end mark. Of options that come twice the first counts.
    fn read(
        &mut self,
        mut options: &'a [u8],
        kind: &mut Option<Kind>,
        overload: &mut u8,
    ) -> Option<()> {
        while let Some((code, rest)) = options.split_first() {
            match code {
                0 => options = rest,
                255 => break,
                code => {
                    let (len, rest) = rest.split_first()?;
                    let (data, rest) = rest.split_at_checked((*len).into())?;
                    self.take(*code, data, kind, overload);
                    options = rest;
                }
            }
        }
        Some(())
    }

    fn take(&mut self, code: u8, data: &'a [u8], kind: &mut Option<Kind>, overload: &mut u8) {
        let address = || data.first_chunk::<4>().map(|b| Ipv4Addr::from(*b));
        let first = |old: &mut &'a [u8]| {
            if old.is_empty() {
                *old = data;
            }
        };
        match (code, data) {
            (12, _) => first(&mut self.hostname),
            (50, _) => self.requested = self.requested.or_else(address),
            (52, [value]) => *overload = *value,
            (53, [value]) => {
                *kind = kind.or(match value {
                    1 => Some(Kind::Discover),
                    3 => Some(Kind::Request),
                    4 => Some(Kind::Decline),
                    7 => Some(Kind::Release),
                    8 => Some(Kind::Inform),
                    _ => None,
                });
            }
            (54, _) => self.server = self.server.or_else(address),
            (55, _) => first(&mut self.parameters),
            (57, [high, low]) => {
                self.max_size = self.max_size.or(Some(u16::from_be_bytes([*high, *low])));
            }
            (61, _) => first(&mut self.client_id),
            _ => {}
        }
    }
}

/// What a server answers.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a discover: the client may have this address.
    Offer = 2,
    /// The client has it now; to an inform: the configuration.
    Ack = 5,
    /// The client must not use the address that it asked for.
    Nak = 6,
}

/// A route for option 121.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Network.
    pub network: Ipv4Addr,
    /// Its prefix length, 0..=32.
    pub len: u8,
    /// Router; unspecified for a network on the link.
    pub router: Ipv4Addr,
}

/// An answer and the configuration in it. Lists and texts that are empty are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What it says.
    pub answer: Answer,
    /// The server's MAC address.
    pub server_mac: [u8; 6],
    /// Address and identifier of the server.
    pub server: Ipv4Addr,
    /// MAC address that the request's frame came from, for answers through a relay.
    pub sender_mac: [u8; 6],
    /// The client's address. Not for an inform or a refusal.
    pub address: Ipv4Addr,
    /// Seconds that it may be used; renewed after half, rebound after seven eighths. Not for an inform or a refusal.
    pub lease: u32,
    /// The network's mask.
    pub mask: Ipv4Addr,
    /// Routers.
    pub routers: &'a [Ipv4Addr],
    /// DNS servers.
    pub dns_servers: &'a [Ipv4Addr],
    /// Time servers.
    pub ntp_servers: &'a [Ipv4Addr],
    /// Routes; clients that take them ignore `routers` (RFC 3442), so they hold a default route too.
    pub routes: &'a [Route],
    /// Domain name.
    pub domain: &'a [u8],
    /// The client's name.
    pub hostname: &'a [u8],
    /// MTU, 68 at least.
    pub mtu: Option<u16>,
}

/// Builds the frame that answers `request`, addressed as RFC 2131 section 4.1 says.
///
/// # Errors
/// [`BuildError::TooLong`] when an option would be longer than 255 bytes or all of them than the client takes (576 bytes
/// of IP packet unless it said more), [`BuildError::NoSpace`].
pub fn reply(
    out: &mut [u8],
    request: &Request<'_>,
    reply: &Reply<'_>,
) -> Result<usize, BuildError> {
    let mut message = [0u8; LONGEST];
    let most =
        usize::from(request.max_size.unwrap_or(0)).clamp(DATAGRAM, LONGEST + HEADERS) - HEADERS;
    let nak = reply.answer == Answer::Nak;
    let inform = request.kind == Kind::Inform;
    message[..3].copy_from_slice(&[2, 1, 6]);
    message[4..8].copy_from_slice(&request.xid.to_be_bytes());
    // A relay broadcasts a refusal: the client's address is not one to send to.
    let broadcast = request.broadcast || (nak && !request.relay.is_unspecified());
    message[10] = u8::from(broadcast) << 7;
    if !nak {
        message[12..16].copy_from_slice(&request.client.octets());
    }
    if !nak && !inform {
        message[16..20].copy_from_slice(&reply.address.octets());
    }
    message[24..28].copy_from_slice(&request.relay.octets());
    message[28..34].copy_from_slice(&request.mac);
    message[236..FIXED].copy_from_slice(&MAGIC);
    let mut options = Options {
        bytes: message.get_mut(FIXED..most).unwrap_or_default(),
        len: 0,
    };
    options.put(53, &[reply.answer as u8])?;
    options.put(54, &reply.server.octets())?;
    if !request.client_id.is_empty() {
        options.put(61, request.client_id)?;
    }
    if !nak {
        options.configuration(reply, !inform)?;
    }
    let len = FIXED + options.end()?;
    let message = message.get(..len.max(SHORTEST)).unwrap_or_default();
    let (mac, to, port) = addressee(request, reply);
    FrameBuilder::new(out)
        .ethernet(mac, reply.server_mac)
        .ipv4_header(Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(0),
            id: U16::new(0),
            fragment: U16::new(0),
            ttl: 64,
            proto: 0,
            checksum: U16::new(0),
            src: U32::new(reply.server.to_bits()),
            dst: U32::new(to.to_bits()),
        })
        .udp(SERVER_PORT, port)
        .payload(message)
        .finish()
}

/// Where the answer goes: MAC address, IP address, port.
fn addressee(request: &Request<'_>, reply: &Reply<'_>) -> ([u8; 6], Ipv4Addr, u16) {
    const ALL: [u8; 6] = [0xff; 6];
    if !request.relay.is_unspecified() {
        (reply.sender_mac, request.relay, SERVER_PORT)
    } else if reply.answer == Answer::Nak {
        (ALL, Ipv4Addr::BROADCAST, CLIENT_PORT)
    } else if !request.client.is_unspecified() {
        (request.mac, request.client, CLIENT_PORT)
    } else if request.broadcast {
        (ALL, Ipv4Addr::BROADCAST, CLIENT_PORT)
    } else {
        (request.mac, reply.address, CLIENT_PORT)
    }
}

/// Options being written; the last byte is kept for the end mark.
struct Options<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Options<'_> {
    fn put(&mut self, code: u8, data: &[u8]) -> Result<(), BuildError> {
        self.open(code, data.len())?.copy_from_slice(data);
        Ok(())
    }

    /// Room for an option's data.
    fn open(&mut self, code: u8, len: usize) -> Result<&mut [u8], BuildError> {
        let short = u8::try_from(len).map_err(|_| BuildError::TooLong)?;
        let end = self.len + 2 + len;
        if end >= self.bytes.len() {
            return Err(BuildError::TooLong);
        }
        let option = self
            .bytes
            .get_mut(self.len..end)
            .ok_or(BuildError::TooLong)?;
        self.len = end;
        let (head, data) = option.split_at_mut(2);
        head.copy_from_slice(&[code, short]);
        Ok(data)
    }

    fn addresses(&mut self, code: u8, list: &[Ipv4Addr]) -> Result<(), BuildError> {
        if list.is_empty() {
            return Ok(());
        }
        let data = self.open(code, list.len() * 4)?;
        for (place, address) in data.chunks_mut(4).zip(list) {
            place.copy_from_slice(&address.octets());
        }
        Ok(())
    }

    fn text(&mut self, code: u8, text: &[u8]) -> Result<(), BuildError> {
        if text.is_empty() {
            return Ok(());
        }
        self.put(code, text)
    }

    fn configuration(&mut self, reply: &Reply<'_>, leased: bool) -> Result<(), BuildError> {
        if leased {
            let lease = reply.lease;
            self.put(51, &lease.to_be_bytes())?;
            self.put(58, &(lease / 2).to_be_bytes())?;
            let rebind = (u64::from(lease) * 7 / 8) as u32;
            self.put(59, &rebind.to_be_bytes())?;
        }
        self.put(1, &reply.mask.octets())?;
        self.routes(reply.routes)?;
        self.addresses(3, reply.routers)?;
        self.addresses(6, reply.dns_servers)?;
        self.text(12, reply.hostname)?;
        self.text(15, reply.domain)?;
        if let Some(mtu) = reply.mtu {
            self.put(26, &mtu.max(68).to_be_bytes())?;
        }
        self.addresses(42, reply.ntp_servers)
    }

    /// Option 121: prefix length, the bytes of the network that it covers, router (RFC 3442).
    fn routes(&mut self, routes: &[Route]) -> Result<(), BuildError> {
        if routes.is_empty() {
            return Ok(());
        }
        let significant = |route: &Route| usize::from(route.len.min(32)).div_ceil(8);
        let len = routes.iter().map(|route| 5 + significant(route)).sum();
        let mut data = self.open(121, len)?;
        for route in routes {
            let n = significant(route);
            let (place, rest) = data.split_at_mut(5 + n);
            let prefix = route.len.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            let network = (route.network.to_bits() & mask).to_be_bytes();
            place[0] = prefix;
            place[1..=n].copy_from_slice(&network[..n]);
            place[n + 1..].copy_from_slice(&route.router.octets());
            data = rest;
        }
        Ok(())
    }

    /// Puts the end mark; the length with it.
    fn end(self) -> Result<usize, BuildError> {
        *self.bytes.get_mut(self.len).ok_or(BuildError::TooLong)? = 255;
        Ok(self.len + 1)
    }
}

#[cfg(test)]
mod tests;
