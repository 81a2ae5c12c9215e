//! Answers to echo requests (RFC 792, RFC 4443 section 4.2).

use core::net::IpAddr;

use super::answer::Question;
use crate::checksum::{Checksum, checksum, pseudo_ipv6};
use crate::layout::{L3Kind, LayerLayout};
use crate::parse::{PROTO_ICMP, PROTO_ICMPV6};

/// Time to live of an answer.
const TTL: u8 = 64;

/// Writes the answer to an echo request into `out`: `frame` is the whole frame, `layer` its outer layer, `mac` the answerer's. Returns its length;
/// `None` for what is no echo request to one host, is a fragment, has a wrong checksum, or does not fit.
pub fn echo_reply(
    out: &mut [u8],
    frame: &[u8],
    layer: &LayerLayout,
    mac: [u8; 6],
) -> Option<usize> {
    let question = Question::new(frame, layer)?;
    let (eth, l3, l4) = (
        usize::from(layer.eth),
        usize::from(layer.l3),
        usize::from(layer.l4),
    );
    let message = frame.get(l4..question.end)?;
    if l4 == 0 || layer.is_fragment() || !question.has_sender() || question.dst.is_multicast() {
        return None;
    }
    let (proto, request, reply) = match layer.l3_kind {
        L3Kind::Ipv4 => (PROTO_ICMP, 8, 0),
        _ => (PROTO_ICMPV6, 128, 129),
    };
    if layer.l4_proto != proto || message.first() != Some(&request) || message.len() < 8 {
        return None;
    }
    let mut sum = match (question.src, question.dst) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u32::try_from(message.len()).ok()?;
            pseudo_ipv6(src.to_bits(), dst.to_bits(), proto, len)
        }
        _ => Checksum::new(),
    };
    // The same for the answer, whose addresses are those of the question in another order.
    let mut asked = sum;
    asked.add(message);
    if asked.folded() != 0xffff {
        return None;
    }
    let answer = out.get_mut(..question.end)?;
    answer.copy_from_slice(frame.get(..question.end)?);
    let sender = *frame.get(eth + 6..)?.first_chunk::<6>()?;
    answer.get_mut(eth..eth + 6)?.copy_from_slice(&sender);
    answer.get_mut(eth + 6..eth + 12)?.copy_from_slice(&mac);
    match layer.l3_kind {
        L3Kind::Ipv4 => {
            answer.get_mut(l3 + 12..l3 + 20)?.rotate_left(4);
            *answer.get_mut(l3 + 8)? = TTL;
            answer.get_mut(l3 + 10..l3 + 12)?.fill(0);
            let header = checksum(answer.get(l3..l3 + usize::from(layer.l3_len))?);
            answer
                .get_mut(l3 + 10..l3 + 12)?
                .copy_from_slice(&header.to_be_bytes());
        }
        _ => {
            answer.get_mut(l3 + 8..l3 + 40)?.rotate_left(16);
            *answer.get_mut(l3 + 7)? = TTL;
        }
    }
    let message = answer.get_mut(l4..)?;
    *message.first_mut()? = reply;
    message.get_mut(2..4)?.fill(0);
    sum.add(message);
    message
        .get_mut(2..4)?
        .copy_from_slice(&(!sum.folded()).to_be_bytes());
    Some(question.end)
}
