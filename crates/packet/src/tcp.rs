//! TCP options (RFC 9293 section 3.1, RFC 7323, RFC 2018) read and written, and segments whose numbers are moved: what joins two connections into one.

use crate::checksum::update_bytes;
use crate::edit::EditError;
use crate::layout::LayerLayout;

/// Longest TCP header in bytes.
pub const HEADER_LONGEST: usize = 60;
/// Most bytes that [`Options::write`] writes: all four options, padded to words.
pub const OPTIONS_WRITTEN: usize = 20;

const HEADER: usize = 20;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// The options that decide how a connection works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Maximum segment size, in bytes.
    pub mss: Option<u16>,
    /// Window scale, bits; as it is in the header, 0..=255.
    pub window_scale: Option<u8>,
    /// Selective acknowledgements may be sent.
    pub sack_permitted: bool,
    /// Timestamp value and echo reply.
    pub timestamps: Option<(u32, u32)>,
}

/// The next option from `at` on: where it starts, its kind, how many bytes it has behind kind and length. Nothing at the end, and at what makes no sense.
fn next(options: &[u8], mut at: usize) -> Option<(usize, u8, usize)> {
    loop {
        match *options.get(at..)? {
            [NOP, ..] => at += 1,
            [END, ..] | [] | [_] => return None,
            [kind, length, ..] => {
                let length = usize::from(length);
                options.get(at..at + length)?;
                return Some((at, kind, length.checked_sub(2)?));
            }
        }
    }
}

fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|word| u32::from_be_bytes(*word))
}

impl Options {
    /// Reads what is behind the fixed header. Believes no length; what is not known is passed over.
    pub fn parse(bytes: &[u8]) -> Self {
        let (mut found, mut at) = (Self::default(), 0);
        while let Some((start, kind, len)) = next(bytes, at) {
            at = start + 2 + len;
            match (kind, &bytes[start + 2..at]) {
                (MSS, &[high, low]) => found.mss = Some(u16::from_be_bytes([high, low])),
                (WINDOW_SCALE, &[shift]) => found.window_scale = Some(shift),
                (SACK_PERMITTED, []) => found.sack_permitted = true,
                (TIMESTAMPS, body) if body.len() == 8 => {
                    found.timestamps = word(body).zip(word(&body[4..]));
                }
                _ => {}
            }
        }
        found
    }

    /// Writes them, padded to words; answers how many bytes that is, nothing when there is no room.
    pub fn write(&self, to: &mut [u8]) -> Option<usize> {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            let place = to.get_mut(at..at + bytes.len())?;
            place.copy_from_slice(bytes);
            at += bytes.len();
            Some(())
        };
        if let Some(mss) = self.mss {
            let [high, low] = mss.to_be_bytes();
            put(&[MSS, 4, high, low])?;
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, true) => put(&[SACK_PERMITTED, 2])?,
            (true, false) => put(&[NOP, NOP, SACK_PERMITTED, 2])?,
            (false, true) => put(&[NOP, NOP])?,
            (false, false) => {}
        }
        if let Some((value, echo)) = self.timestamps {
            put(&[TIMESTAMPS, 10])?;
            put(&value.to_be_bytes())?;
            put(&echo.to_be_bytes())?;
        }
        if let Some(shift) = self.window_scale {
            put(&[NOP, WINDOW_SCALE, 3, shift])?;
        }
        Some(at)
    }
}

/// How the numbers of one direction of a spliced connection move. All wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shift {
    /// Added to sequence numbers.
    pub seq: u32,
    /// Added to acknowledgement numbers, and to the edges of selective acknowledgements.
    pub ack: u32,
    /// Added to timestamp values.
    pub value: u32,
    /// Added to timestamp echo replies.
    pub echo: u32,
    /// Windows are shifted left by so much, or right if it is negative. Those of SYNs, which are never scaled, stay.
    pub window: i8,
}

impl Shift {
    /// What undoes it, but for the lowest bits of windows that were shifted right.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            seq: self.seq.wrapping_neg(),
            ack: self.ack.wrapping_neg(),
            value: self.value.wrapping_neg(),
            echo: self.echo.wrapping_neg(),
            window: -self.window,
        }
    }

    /// A window as it is moved.
    pub fn scaled(&self, window: u16) -> u16 {
        let by = u32::from(self.window.unsigned_abs()).min(16);
        if self.window < 0 {
            // A window that is open stays so.
            (u32::from(window) >> by).max(u32::from(window != 0)) as u16
        } else {
            (u64::from(window) << by).min(u64::from(u16::MAX)) as u16
        }
    }

    fn header(&self, tcp: &mut [u8]) {
        let flags = tcp[13];
        add(tcp, 4, self.seq);
        if flags & ACK != 0 {
            add(tcp, 8, self.ack);
        }
        if flags & SYN == 0 && self.window != 0 {
            let window = self.scaled(u16::from_be_bytes([tcp[14], tcp[15]]));
            tcp[14..16].copy_from_slice(&window.to_be_bytes());
        }
        let (_, options) = tcp.split_at_mut(HEADER);
        let mut at = 0;
        while let Some((start, kind, len)) = next(options, at) {
            let body = start + 2;
            match kind {
                TIMESTAMPS if len == 8 => {
                    add(options, body, self.value);
                    if flags & ACK != 0 {
                        add(options, body + 4, self.echo);
                    }
                }
                SACK => {
                    for edge in (body..body + len / 4 * 4).step_by(4) {
                        add(options, edge, self.ack);
                    }
                }
                _ => {}
            }
            at = body + len;
        }
    }
}

fn add(bytes: &mut [u8], at: usize, by: u32) {
    if let Some(place) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut::<4>()) {
        *place = u32::from_be_bytes(*place).wrapping_add(by).to_be_bytes();
    }
}

/// Edits the TCP header of a layer, options included, and keeps its checksum right. `partial_csum`: it is to be completed later and covers no header.
///
/// # Errors
/// When the layer has no TCP header, or not all of it is here; nothing is changed then.
fn edit(
    header: &mut [u8],
    layer: &LayerLayout,
    partial_csum: bool,
    change: impl FnOnce(&mut [u8]),
) -> Result<(), EditError> {
    if layer.l4_proto != crate::parse::PROTO_TCP || !layer.has_l4() {
        return Err(EditError::Absent);
    }
    let at = usize::from(layer.l4);
    let offset = header.get(at + 12).ok_or(EditError::OutOfRange)? >> 4;
    let len = usize::from(offset) * 4;
    let tcp = header
        .get_mut(at..at + len)
        .filter(|tcp| tcp.len() >= HEADER);
    let tcp = tcp.ok_or(EditError::OutOfRange)?;
    let mut old = [0; HEADER_LONGEST];
    old[..len].copy_from_slice(tcp);
    change(tcp);
    if !partial_csum {
        let sum = u16::from_be_bytes([old[16], old[17]]);
        let sum = update_bytes(sum, &old[..len], tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    Ok(())
}

/// Moves the numbers of a segment.
///
/// # Errors
/// When the layer has no TCP header, or not all of it is here; nothing is changed then.
pub fn shift(
    header: &mut [u8],
    layer: &LayerLayout,
    shift: &Shift,
    partial_csum: bool,
) -> Result<(), EditError> {
    edit(header, layer, partial_csum, |tcp| shift.header(tcp))
}

/// Makes the SYN-ACK of a server, whose numbers were moved already, an ACK for a client that has had one: behind the SYN, with its window scaled down by
/// `window_scale` bits, and of the options only timestamps.
///
/// # Errors
/// When the layer has no TCP header, or not all of it is here; nothing is changed then.
pub fn opened(
    header: &mut [u8],
    layer: &LayerLayout,
    window_scale: u8,
    partial_csum: bool,
) -> Result<(), EditError> {
    edit(header, layer, partial_csum, |tcp| {
        add(tcp, 4, 1);
        tcp[13] &= !SYN;
        let window = Shift {
            window: -(window_scale.min(14) as i8),
            ..Shift::default()
        }
        .scaled(u16::from_be_bytes([tcp[14], tcp[15]]));
        tcp[14..16].copy_from_slice(&window.to_be_bytes());
        let (_, options) = tcp.split_at_mut(HEADER);
        let mut at = 0;
        while let Some((start, kind, len)) = next(options, at) {
            at = start + 2 + len;
            if kind != TIMESTAMPS {
                options[start..at].fill(NOP);
            }
        }
    })
}

#[cfg(test)]
mod tests;
