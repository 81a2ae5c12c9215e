//! A fixed header buffer that grows and shrinks at its front, for tunnels and VLAN tags.
//!
//! It holds the captured header of one frame behind [`ROOM`] bytes of room. It never holds the payload and never
//! allocates.

use crate::HEADER_MAX;
use crate::edit::EditError;
use crate::layout::{L3Kind, LayerLayout, Layout};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// Bytes of room before a freshly loaded header: enough for an outer Ethernet, VLAN, IPv6, UDP and VXLAN header
/// (74 bytes), rounded up.
pub const ROOM: usize = 128;
/// Size of the whole buffer in bytes.
pub const CAPACITY: usize = ROOM + HEADER_MAX;

/// Header bytes with room before them.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub struct Headroom {
    bytes: [u8; CAPACITY],
    start: u16,
    len: u16,
}

impl Default for Headroom {
    fn default() -> Headroom {
        Headroom::new()
    }
}

impl Headroom {
    /// An empty header with all the room before it.
    pub const fn new() -> Headroom {
        Headroom {
            bytes: [0; CAPACITY],
            start: ROOM as u16,
            len: 0,
        }
    }

    /// Makes the header `len` bytes long with [`ROOM`] bytes before it and lends it for filling; what it holds is
    /// whatever was there. Longer than [`HEADER_MAX`] is cut to it.
    #[inline]
    pub fn reset(&mut self, len: usize) -> &mut [u8] {
        self.start = ROOM as u16;
        self.len = len.min(HEADER_MAX) as u16;
        self.header_mut()
    }

    /// Loads a copy of the first [`HEADER_MAX`] bytes of `header`.
    #[inline]
    pub fn load(&mut self, header: &[u8]) {
        let len = header.len().min(HEADER_MAX);
        self.reset(len).copy_from_slice(&header[..len]);
    }

    /// The header.
    #[inline(always)]
    pub fn header(&self) -> &[u8] {
        let start = usize::from(self.start);
        self.bytes
            .get(start..start + usize::from(self.len))
            .unwrap_or(&[])
    }

    /// The header, to edit.
    #[inline(always)]
    pub fn header_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.start);
        self.bytes
            .get_mut(start..start + usize::from(self.len))
            .unwrap_or(&mut [])
    }

    /// Length of the header in bytes.
    #[inline(always)]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the header is empty.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room left before the header in bytes.
    #[inline(always)]
    pub const fn room(&self) -> usize {
        self.start as usize
    }

    /// Grows the header by `n` bytes at the front and lends the whole of it; the new bytes hold old contents.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] without that much room; nothing changes.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Result<&mut [u8], EditError> {
        if n > self.room() {
            return Err(EditError::OutOfRange);
        }
        self.start -= n as u16;
        self.len += n as u16;
        Ok(self.header_mut())
    }

    /// Drops `n` bytes at the front.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] if the header is shorter; nothing changes.
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> Result<(), EditError> {
        if n > self.len() {
            return Err(EditError::OutOfRange);
        }
        self.start += n as u16;
        self.len -= n as u16;
        Ok(())
    }

    /// Grows the header by `n` bytes at the end and lends them; they hold old contents.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] without that much room; nothing changes.
    pub fn push_back(&mut self, n: usize) -> Result<&mut [u8], EditError> {
        let len = self.len();
        if usize::from(self.start) + len + n > CAPACITY {
            return Err(EditError::OutOfRange);
        }
        self.len += n as u16;
        self.header_mut()
            .get_mut(len..)
            .ok_or(EditError::OutOfRange)
    }

    /// Cuts the header to its first `len` bytes; no effect when it is shorter.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.min(CAPACITY) as u16);
    }

    /// Inserts a VLAN tag with `tpid` (0x8100 or 0x88a8) and `tci` as the outermost one of the outer layer and
    /// updates `layout`. The frame grows by four bytes.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] without room, or for a header without Ethernet; nothing changes.
    #[inline]
    pub fn push_vlan(&mut self, layout: &mut Layout, tpid: u16, tci: u16) -> Result<(), EditError> {
        if self.len() < 14 || layout.outer().payload < 14 {
            return Err(EditError::OutOfRange);
        }
        let header = self.push_front(4)?;
        header.copy_within(4..16, 0);
        header[12..14].copy_from_slice(&tpid.to_be_bytes());
        header[14..16].copy_from_slice(&tci.to_be_bytes());
        layout.shift(4);
        let outer = &mut layout.layers[0];
        outer.eth = 0;
        outer.vlan = 12;
        outer.vlan_tags = outer.vlan_tags.saturating_add(1);
        Ok(())
    }

    /// Removes the outermost VLAN tag of the outer layer and updates `layout`. Returns its control information. The
    /// frame shrinks by four bytes.
    ///
    /// # Errors
    /// [`EditError::Absent`] when untagged, [`EditError::OutOfRange`] when the header is shorter than the layout says.
    #[inline]
    pub fn pop_vlan(&mut self, layout: &mut Layout) -> Result<u16, EditError> {
        if layout.outer().vlan_tags == 0 || layout.outer().vlan != 12 {
            return Err(EditError::Absent);
        }
        let header = self.header_mut();
        let Some(&[high, low]) = header.get(14..16).and_then(|b| b.first_chunk::<2>()) else {
            return Err(EditError::OutOfRange);
        };
        header.copy_within(0..12, 4);
        self.pull_front(4)?;
        layout.shift(-4);
        let outer = &mut layout.layers[0];
        outer.eth = 0;
        outer.vlan_tags -= 1;
        outer.vlan = if outer.vlan_tags == 0 { 0 } else { 12 };
        Ok(u16::from_be_bytes([high, low]))
    }

    /// Removes the tunnel headers before the inner layer, which becomes the outer layer of `layout`. Returns the
    /// number of bytes removed.
    ///
    /// # Errors
    /// [`EditError::Absent`] without an inner layer that starts with Ethernet, [`EditError::OutOfRange`].
    #[inline]
    pub fn decapsulate(&mut self, layout: &mut Layout) -> Result<usize, EditError> {
        let Some(inner) = layout.inner().copied() else {
            return Err(EditError::Absent);
        };
        if !inner.has_ethernet() {
            return Err(EditError::Absent);
        }
        self.pull_front(inner.eth.into())?;
        layout.layers = [inner, LayerLayout::EMPTY];
        layout.shift(-(inner.eth as i16));
        Ok(inner.eth.into())
    }

    /// Removes the tunnel headers before an inner layer that starts with IP and puts an Ethernet header before it; the
    /// inner layer becomes the outer layer of `layout`. Returns the number of bytes that the frame lost.
    ///
    /// # Errors
    /// [`EditError::Absent`] without an inner layer that starts with IP, [`EditError::OutOfRange`].
    pub fn decapsulate_ip(
        &mut self,
        layout: &mut Layout,
        eth_dst: [u8; 6],
        eth_src: [u8; 6],
    ) -> Result<usize, EditError> {
        let Some(mut inner) = layout.inner().copied() else {
            return Err(EditError::Absent);
        };
        let ethertype = match inner.l3_kind {
            _ if inner.has_ethernet() => return Err(EditError::Absent),
            L3Kind::Ipv4 => ETHERTYPE_IPV4,
            L3Kind::Ipv6 => ETHERTYPE_IPV6,
            _ => return Err(EditError::Absent),
        };
        let start = usize::from(inner.eth);
        // The headers removed hold at least an Ethernet header, whose place the new one takes.
        let removed = start.checked_sub(14).ok_or(EditError::OutOfRange)?;
        self.pull_front(removed)?;
        let ethernet = self
            .header_mut()
            .first_chunk_mut::<14>()
            .ok_or(EditError::OutOfRange)?;
        ethernet[..6].copy_from_slice(&eth_dst);
        ethernet[6..12].copy_from_slice(&eth_src);
        ethernet[12..].copy_from_slice(&ethertype.to_be_bytes());
        inner.flags &= !LayerLayout::NO_ETHERNET;
        layout.layers = [inner, LayerLayout::EMPTY];
        layout.shift(-(removed as i16));
        layout.layers[0].eth = 0;
        Ok(removed)
    }

    /// Replaces the first `remove` bytes of the frame by `header` (rte_flow's raw_decap and raw_encap). The layout of
    /// before no longer holds: parse again.
    ///
    /// # Errors
    /// [`EditError::OutOfRange`] when the header is shorter than `remove` or there is no room; nothing changes.
    pub fn replace_front(&mut self, remove: usize, header: &[u8]) -> Result<(), EditError> {
        if remove > self.len() || header.len() > self.room() + remove {
            return Err(EditError::OutOfRange);
        }
        self.pull_front(remove)?;
        self.push_front(header.len())?
            .get_mut(..header.len())
            .ok_or(EditError::OutOfRange)?
            .copy_from_slice(header);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FlowKey, ParseOptions, parse};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn describe(frame: &[u8]) -> (FlowKey, Layout) {
        let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
        parse(
            frame,
            frame.len(),
            &mut key,
            &mut layout,
            &ParseOptions::VXLAN,
        )
        .unwrap();
        (key, layout)
    }

    fn udp_frame() -> Vec<u8> {
        let mut f = std::vec![
            2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0
        ];
        f.extend([10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2, 0, 8, 0, 0]);
        f
    }

    #[test]
    fn pushed_tags_parse_and_pop_again() {
        let frame = udp_frame();
        let (_, before) = describe(&frame);
        let mut room = Headroom::new();
        room.load(&frame);
        let mut layout = before;
        room.push_vlan(&mut layout, 0x8100, 0x2005).unwrap();
        assert_eq!(describe(room.header()).1, layout);
        room.push_vlan(&mut layout, 0x88a8, 7).unwrap();
        let (key, parsed) = describe(room.header());
        assert_eq!(parsed, layout);
        assert_eq!(key.get(crate::Field::VlanTci(crate::Layer::Outer)), 0x1007);
        assert_eq!(
            key.get(crate::Field::InnerVlanTci(crate::Layer::Outer)),
            0x3005
        );
        assert_eq!(room.pop_vlan(&mut layout), Ok(7));
        assert_eq!(describe(room.header()).1, layout);
        assert_eq!(room.pop_vlan(&mut layout), Ok(0x2005));
        assert_eq!((room.header(), layout), (&frame[..], before));
        assert_eq!(room.pop_vlan(&mut layout), Err(EditError::Absent));
    }

    #[test]
    fn room_ends() {
        let mut room = Headroom::new();
        room.load(&udp_frame());
        assert_eq!(
            room.push_front(ROOM + 1).map(|h| h.len()),
            Err(EditError::OutOfRange)
        );
        assert_eq!(room.push_front(ROOM).map(|h| h.len()), Ok(ROOM + 42));
        assert_eq!(room.room(), 0);
        let mut layout = describe(&udp_frame()).1;
        assert_eq!(
            room.push_vlan(&mut layout, 0x8100, 1),
            Err(EditError::OutOfRange)
        );
        assert_eq!(room.pull_front(ROOM + 43), Err(EditError::OutOfRange));
        assert_eq!(room.pull_front(ROOM), Ok(()));
        assert_eq!(room.header(), udp_frame());
    }

    proptest! {
        #[test]
        fn any_sequence_keeps_the_tail(steps in proptest::collection::vec((any::<bool>(), 0usize..200), 0..20), fill: u8) {
            let mut room = Headroom::new();
            room.load(&[fill; 300]);
            prop_assert_eq!(room.len(), HEADER_MAX);
            let mut expected = HEADER_MAX;
            for (push, n) in steps {
                let ok = if push { room.push_front(n).is_ok() } else { room.pull_front(n).is_ok() };
                if ok {
                    expected = if push { expected + n } else { expected - n };
                }
                prop_assert_eq!(room.header().len(), expected);
                prop_assert_eq!(room.room() + room.len(), CAPACITY);
            }
        }
    }
}
