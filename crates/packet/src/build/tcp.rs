//! Answers to TCP segments without a connection: resets (RFC 9293 section 3.10.7.1) and the SYN, ACK of a SYN cookie
//! (RFC 4987 section 3.6). Segments are answered from the address they were sent to.

use zerocopy::FromBytes;
use zerocopy::big_endian::{U16, U32};

use super::BuildError;
use super::answer::Question;
use crate::layout::LayerLayout;
use crate::parse::PROTO_TCP;
use crate::view::Tcp;

/// A segment that is whole as far as its headers go, with its payload's length.
fn segment<'a>(header: &'a [u8], layer: &'a LayerLayout) -> Option<(Question<'a>, &'a Tcp, u32)> {
    if layer.l4 == 0 || layer.l4_proto != PROTO_TCP || layer.is_fragment() {
        return None;
    }
    let question = Question::new(header, layer)?;
    if !question.is_unicast() || !question.has_sender() {
        return None;
    }
    let (tcp, _) = Tcp::ref_from_prefix(header.get(usize::from(layer.l4)..)?).ok()?;
    let payload = question.end.checked_sub(layer.payload.into())?;
    Some((question, tcp, payload as u32))
}

/// Builds the reset that answers a segment; `None` for a reset, and for what is no whole TCP segment between two hosts.
///
/// # Errors
/// [`BuildError::NoSpace`].
pub fn tcp_reset(
    out: &mut [u8],
    header: &[u8],
    layer: &LayerLayout,
) -> Result<Option<usize>, BuildError> {
    let Some((question, tcp, payload)) = segment(header, layer) else {
        return Ok(None);
    };
    if tcp.flags & Tcp::RST != 0 {
        return Ok(None);
    }
    let (seq, ack, flags) = if tcp.flags & Tcp::ACK != 0 {
        (tcp.ack.get(), 0, Tcp::RST)
    } else {
        let controls = u32::from(tcp.flags & Tcp::SYN != 0) + u32::from(tcp.flags & Tcp::FIN != 0);
        let next = tcp.seq.get().wrapping_add(payload).wrapping_add(controls);
        (0, next, Tcp::RST | Tcp::ACK)
    };
    question
        .answer(out, question.dst, 0)
        .tcp_header(Tcp {
            src: tcp.dst,
            dst: tcp.src,
            seq: U32::new(seq),
            ack: U32::new(ack),
            data_offset: 0x50,
            flags,
            window: U16::new(0),
            checksum: U16::new(0),
            urgent: U16::new(0),
        })
        .finish()
        .map(Some)
}

/// Builds the SYN, ACK that answers a SYN with `cookie` as its sequence number, offering `mss` and `window` and nothing else
/// (no scaling, timestamps or selective acknowledgement, which a cookie could not remember). `None` for anything but a SYN.
///
/// # Errors
/// [`BuildError::NoSpace`].
pub fn syn_cookie(
    out: &mut [u8],
    header: &[u8],
    layer: &LayerLayout,
    cookie: u32,
    mss: u16,
    window: u16,
) -> Result<Option<usize>, BuildError> {
    let Some((question, tcp, _)) = segment(header, layer) else {
        return Ok(None);
    };
    if tcp.flags & (Tcp::SYN | Tcp::ACK | Tcp::RST | Tcp::FIN) != Tcp::SYN {
        return Ok(None);
    }
    let [high, low] = mss.to_be_bytes();
    question
        .answer(out, question.dst, 0)
        .tcp_header(Tcp {
            src: tcp.dst,
            dst: tcp.src,
            seq: U32::new(cookie),
            ack: U32::new(tcp.seq.get().wrapping_add(1)),
            data_offset: 0x60,
            flags: Tcp::SYN | Tcp::ACK,
            window: U16::new(window),
            checksum: U16::new(0),
            urgent: U16::new(0),
        })
        .payload(&[2, 4, high, low])
        .finish()
        .map(Some)
}

/// The maximum segment size that a SYN offers; 536 without the option (RFC 9293 section 3.7.1), `None` for what is
/// no TCP and for options that are cut short.
pub fn offered_mss(header: &[u8], layer: &LayerLayout) -> Option<u16> {
    if layer.l4 == 0 || layer.l4_proto != PROTO_TCP {
        return None;
    }
    let mut options = header.get(usize::from(layer.l4) + Tcp::LEN..layer.payload.into())?;
    while let Some((kind, rest)) = options.split_first() {
        match kind {
            0 => break,
            1 => options = rest,
            kind => {
                let len = usize::from(*rest.first()?);
                if (*kind, len) == (2, 4) {
                    let value = rest.get(1..3)?.first_chunk::<2>()?;
                    return Some(u16::from_be_bytes(*value));
                }
                options = options.get(len.max(2)..)?;
            }
        }
    }
    Some(536)
}
