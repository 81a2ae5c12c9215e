//! DHCPv6 as a server sees it (RFC 8415, DNS options of RFC 3646): requests of clients parsed, answers built, for one address
//! a client (IA_NA). No leases are kept here and nothing is decided; relays are not answered.
//!
//! A message may be longer than the captured header of a frame: hand over the whole UDP payload.

use core::net::Ipv6Addr;

use crate::build::{BuildError, FrameBuilder};

/// UDP port of servers.
pub const SERVER_PORT: u16 = 547;
/// UDP port of clients.
pub const CLIENT_PORT: u16 = 546;
/// Longest DUID (RFC 8415 section 11.1).
pub const DUID_MAX: usize = 130;

const ADVERTISE: u8 = 2;
const REPLY: u8 = 7;

const OPTION_CLIENT_ID: u16 = 1;
const OPTION_SERVER_ID: u16 = 2;
const OPTION_IA_NA: u16 = 3;
const OPTION_ADDRESS: u16 = 5;
const OPTION_REQUEST: u16 = 6;
const OPTION_PREFERENCE: u16 = 7;
const OPTION_STATUS: u16 = 13;
const OPTION_RAPID_COMMIT: u16 = 14;
const OPTION_DNS_SERVERS: u16 = 23;
const OPTION_DOMAINS: u16 = 24;

/// Longest message built: what goes into the smallest MTU of IPv6.
const LONGEST: usize = 1280 - 48;

/// What a client says.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Looks for servers.
    Solicit = 1,
    /// Wants the address that it was offered.
    Request = 3,
    /// Asks whether its addresses still fit the link.
    Confirm = 4,
    /// Prolongs its address, with its server.
    Renew = 5,
    /// Prolongs its address, with any server.
    Rebind = 6,
    /// Gives its address back.
    Release = 8,
    /// Found its address in use.
    Decline = 9,
    /// Wants everything but an address.
    InformationRequest = 11,
}

/// The association that a client wants an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Association {
    /// Its identifier, to be returned.
    pub iaid: u32,
    /// The address that the client has or would like.
    pub address: Option<Ipv6Addr>,
}

/// A message from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it says.
    pub kind: Kind,
    /// Transaction, to be returned; 24 bits.
    pub transaction: u32,
    /// The client's DUID; empty in an information request that has none.
    pub client_id: &'a [u8],
    /// DUID of the server that it is for. When it is there and another's, the message is not to be answered.
    pub server_id: Option<&'a [u8]>,
    /// The first association; the others get no address here.
    pub association: Option<Association>,
    /// Whether two messages may do instead of four.
    pub rapid_commit: bool,
    /// Codes of the options that the client wants, two bytes each.
    pub options: &'a [u8],
}

impl<'a> Request<'a> {
    /// Parses a UDP payload. `None` when it is no message of a client, is cut short, or has or lacks what RFC 8415 section
    /// 16 demands of its kind.
    pub fn parse(payload: &'a [u8]) -> Option<Request<'a>> {
        let (head, options) = payload.split_first_chunk::<4>()?;
        let kind = match head[0] {
            1 => Kind::Solicit,
            3 => Kind::Request,
            4 => Kind::Confirm,
            5 => Kind::Renew,
            6 => Kind::Rebind,
            8 => Kind::Release,
            9 => Kind::Decline,
            11 => Kind::InformationRequest,
            _ => return None,
        };
        let mut request = Request {
            kind,
            transaction: u32::from_be_bytes(*head) & 0xff_ffff,
            client_id: &[],
            server_id: None,
            association: None,
            rapid_commit: false,
            options: &[],
        };
        let whole = each_option(options, |code, data| match code {
            OPTION_CLIENT_ID if request.client_id.is_empty() => request.client_id = data,
            OPTION_SERVER_ID => request.server_id = request.server_id.or(Some(data)),
            OPTION_IA_NA => {
                request.association = request.association.or_else(|| association(data));
            }
            OPTION_REQUEST if request.options.is_empty() => request.options = data,
            OPTION_RAPID_COMMIT => request.rapid_commit = true,
            _ => {}
        });
        (whole && request.is_valid()).then_some(request)
    }

    fn is_valid(&self) -> bool {
        let own = (1..=DUID_MAX).contains(&self.client_id.len());
        let named = self.server_id.is_some();
        match self.kind {
            Kind::Solicit | Kind::Confirm | Kind::Rebind => own && !named,
            Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => own && named,
            Kind::InformationRequest => {
                self.association.is_none() && self.client_id.len() <= DUID_MAX
            }
        }
    }

    /// Whether the answer is an advertisement rather than a reply; `rapid` says that the server commits at once.
    const fn is_advertised(&self, rapid: bool) -> bool {
        matches!(self.kind, Kind::Solicit) && !(rapid && self.rapid_commit)
    }
}

/// Calls `each` with code and data of every option; false when the last one is cut short.
fn each_option<'a>(mut options: &'a [u8], mut each: impl FnMut(u16, &'a [u8])) -> bool {
    while let Some((head, rest)) = options.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let Some((data, rest)) = rest.split_at_checked(len) else {
            return false;
        };
        each(u16::from_be_bytes([head[0], head[1]]), data);
        options = rest;
    }
    options.is_empty()
}

fn association(data: &[u8]) -> Option<Association> {
    let (head, options) = data.split_first_chunk::<12>()?;
    let mut address = None;
    let whole = each_option(options, |code, data| {
        if code == OPTION_ADDRESS
            && let Some(bytes) = data.first_chunk::<16>()
        {
            address = address.or(Some(Ipv6Addr::from(*bytes)));
        }
    });
    whole.then_some(Association {
        iaid: u32::from_be_bytes(*head.first_chunk::<4>()?),
        address,
    })
}

/// Status codes (RFC 8415 section 21.13).
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All is well.
    Success = 0,
    /// There is no address to give.
    NoAddressAvailable = 2,
    /// The client has no such address here.
    NoBinding = 3,
    /// The client's address does not fit the link.
    NotOnLink = 4,
}

/// An answer and the configuration in it. Lists that are empty are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The server's MAC address.
    pub server_mac: [u8; 6],
    /// The server's link-local address.
    pub server: Ipv6Addr,
    /// The server's DUID.
    pub server_id: &'a [u8],
    /// MAC address that the request came from.
    pub client_mac: [u8; 6],
    /// Address that the request came from.
    pub client: Ipv6Addr,
    /// The address for the client's association, if it gets one.
    pub address: Option<Ipv6Addr>,
    /// Seconds that the address is preferred; renewed after half of that.
    pub preferred: u32,
    /// Seconds that the address is valid.
    pub valid: u32,
    /// What is said of an association without address, or of the message when it is a confirm, release or decline.
    pub status: Status,
    /// Preference over other servers, in an advertisement.
    pub preference: Option<u8>,
    /// Whether to commit at once if the client allows that.
    pub rapid_commit: bool,
    /// DNS servers.
    pub dns_servers: &'a [Ipv6Addr],
    /// Domains to search, as text (`example.org`).
    pub domains: &'a [&'a str],
}

/// Builds the frame that answers `request`.
///
/// # Errors
/// [`BuildError::TooLong`] for a message that does not go into 1280 bytes and for a name that is none (a label of 0 or
/// more than 63 bytes), [`BuildError::NoSpace`].
pub fn reply(
    out: &mut [u8],
    request: &Request<'_>,
    reply: &Reply<'_>,
) -> Result<usize, BuildError> {
    let mut message = Message {
        bytes: [0; LONGEST],
        len: 0,
    };
    let advertised = request.is_advertised(reply.rapid_commit);
    let kind = if advertised { ADVERTISE } else { REPLY };
    message.put(&(u32::from(kind) << 24 | request.transaction).to_be_bytes())?;
    if !request.client_id.is_empty() {
        message.option(OPTION_CLIENT_ID, request.client_id)?;
    }
    message.option(OPTION_SERVER_ID, reply.server_id)?;
    match request.kind {
        Kind::Confirm | Kind::Release | Kind::Decline => {
            message.option(OPTION_STATUS, &(reply.status as u16).to_be_bytes())?;
        }
        _ => {
            if let Some(association) = request.association {
                message.association(association.iaid, reply)?;
            }
            message.configuration(reply, advertised)?;
            if request.kind == Kind::Solicit && !advertised {
                message.option(OPTION_RAPID_COMMIT, &[])?;
            }
        }
    }
    FrameBuilder::new(out)
        .ethernet(reply.client_mac, reply.server_mac)
        .ipv6(reply.server.to_bits(), reply.client.to_bits())
        .udp(SERVER_PORT, CLIENT_PORT)
        .payload(message.bytes.get(..message.len).unwrap_or_default())
        .finish()
}

/// A message being written.
struct Message {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Message {
    fn put(&mut self, data: &[u8]) -> Result<(), BuildError> {
        let end = self.len + data.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(BuildError::TooLong)?
            .copy_from_slice(data);
        self.len = end;
        Ok(())
    }

    fn option(&mut self, code: u16, data: &[u8]) -> Result<(), BuildError> {
        let at = self.open(code)?;
        self.put(data)?;
        self.close(at);
        Ok(())
    }

    /// Starts an option whose length is set by [`Message::close`].
    fn open(&mut self, code: u16) -> Result<usize, BuildError> {
        self.put(&code.to_be_bytes())?;
        self.put(&[0; 2])?;
        Ok(self.len)
    }

    fn close(&mut self, at: usize) {
        // A message is shorter than 64 KiB.
        let len = (self.len - at) as u16;
        if let Some(field) = self.bytes.get_mut(at - 2..at) {
            field.copy_from_slice(&len.to_be_bytes());
        }
    }

    fn association(&mut self, iaid: u32, reply: &Reply<'_>) -> Result<(), BuildError> {
        let at = self.open(OPTION_IA_NA)?;
        let (mut renew, mut rebind) = (0, 0);
        if reply.address.is_some() {
            renew = reply.preferred / 2;
            rebind = (u64::from(reply.preferred) * 4 / 5) as u32;
        }
        for number in [iaid, renew, rebind] {
            self.put(&number.to_be_bytes())?;
        }
        match reply.address {
            Some(address) => {
                let inside = self.open(OPTION_ADDRESS)?;
                self.put(&address.octets())?;
                self.put(&reply.preferred.to_be_bytes())?;
                self.put(&reply.valid.to_be_bytes())?;
                self.close(inside);
            }
            None => self.option(OPTION_STATUS, &(reply.status as u16).to_be_bytes())?,
        }
        self.close(at);
        Ok(())
    }

    fn configuration(&mut self, reply: &Reply<'_>, advertised: bool) -> Result<(), BuildError> {
        if let Some(preference) = reply.preference.filter(|_| advertised) {
            self.option(OPTION_PREFERENCE, &[preference])?;
        }
        if !reply.dns_servers.is_empty() {
            let at = self.open(OPTION_DNS_SERVERS)?;
            for server in reply.dns_servers {
                self.put(&server.octets())?;
            }
            self.close(at);
        }
        if !reply.domains.is_empty() {
            let at = self.open(OPTION_DOMAINS)?;
            for domain in reply.domains {
                for label in domain.trim_end_matches('.').split('.') {
                    let len = u8::try_from(label.len()).map_err(|_| BuildError::TooLong)?;
                    if !(1..=63).contains(&len) {
                        return Err(BuildError::TooLong);
                    }
                    self.put(&[len])?;
                    self.put(label.as_bytes())?;
                }
                self.put(&[0])?;
            }
            self.close(at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
