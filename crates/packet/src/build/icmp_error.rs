//! ICMP errors about a frame: fragmentation needed (RFC 792, RFC 1191), unreachable and administratively prohibited, time exceeded, and the
//! same of ICMPv6 (RFC 4443). The quote is as long as captured bytes and the standards allow.
//!
//! Nothing is answered that must not be (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e). Rates are the caller's to limit.

use core::net::IpAddr;

use super::answer::Question;
use super::{BuildError, FrameBuilder};
use crate::layout::{L3Kind, LayerLayout};
use crate::parse::{PROTO_ICMP, PROTO_ICMPV6};

/// Longest ICMP error over IPv4 (RFC 1812 section 4.3.2.3) from its IP header on.
const IPV4_MAX: usize = 576;
/// Longest ICMPv6 error (RFC 4443 section 2.4 c) from its IP header on.
const IPV6_MAX: usize = 1280;
/// Internetwork control, as routers send (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

/// What was wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// Too long for the way it was to go.
    TooBig {
        /// Longest IP packet that goes there, in bytes.
        mtu: u16,
    },
    /// A rule forbids it.
    Prohibited,
    /// Its time to live is used up.
    TimeExceeded,
    /// There is no way to its network.
    NoRoute,
    /// Its receiver does not answer on its link.
    NoHost,
    /// Nobody at its receiver takes the port.
    NoPort,
}

/// Builds the error into `out`, from `source` to the sender of the frame that `header` and `layer` (its outer layer)
/// describe, with the frame's MAC addresses turned round and its VLAN tags. `None` when none may be sent.
///
/// # Errors
/// [`BuildError::NoSpace`]; [`BuildError::Order`] when `source` is of another family.
pub fn icmp_error(
    out: &mut [u8],
    header: &[u8],
    layer: &LayerLayout,
    source: IpAddr,
    error: IcmpError,
) -> Result<Option<usize>, BuildError> {
    let Some(question) = Question::new(header, layer) else {
        return Ok(None);
    };
    let l4_kind = header.get(usize::from(layer.l4)).copied().unwrap_or(0);
    let v6 = layer.l3_kind == L3Kind::Ipv6;
    let later_fragment = layer.is_fragment() && layer.l4 == 0;
    let about_error = layer.l4 != 0
        && match layer.l4_proto {
            // Errors, and what is not known to be harmless.
            PROTO_ICMP => !matches!(l4_kind, 0 | 8 | 9 | 10 | 13..=18),
            PROTO_ICMPV6 => l4_kind < 128 || l4_kind == 137,
            _ => false,
        };
    // Path MTU discovery goes on for IPv6 groups.
    let may_be_group = v6 && matches!(error, IcmpError::TooBig { .. });
    if later_fragment
        || about_error
        || !(question.is_unicast() || may_be_group)
        || !question.has_sender()
    {
        return Ok(None);
    }
    let (kind, code, rest) = match (error, v6) {
        (IcmpError::TooBig { mtu }, false) => (3, 4, u32::from(mtu)),
        (IcmpError::Prohibited, false) => (3, 13, 0),
        (IcmpError::TimeExceeded, false) => (11, 0, 0),
        (IcmpError::NoRoute, false) => (3, 0, 0),
        (IcmpError::NoHost, false) => (3, 1, 0),
        (IcmpError::NoPort, false) => (3, 3, 0),
        (IcmpError::TooBig { mtu }, true) => (2, 0, u32::from(mtu)),
        (IcmpError::Prohibited, true) => (1, 1, 0),
        (IcmpError::TimeExceeded, true) => (3, 0, 0),
        (IcmpError::NoRoute, true) => (1, 0, 0),
        (IcmpError::NoHost, true) => (1, 3, 0),
        (IcmpError::NoPort, true) => (1, 4, 0),
    };
    let most = if v6 { IPV6_MAX - 48 } else { IPV4_MAX - 28 };
    let from = usize::from(layer.l3);
    let to = question.end.min(from + most).min(header.len());
    let quote = header.get(from..to).unwrap_or_default();
    let frame: FrameBuilder<'_> = question.answer(out, source, TOS);
    frame
        .icmp(kind, code, rest)
        .payload(quote)
        .finish()
        .map(Some)
}
