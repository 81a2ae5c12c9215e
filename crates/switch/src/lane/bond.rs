//! A bond as a port: several wires that are one. Which of them carries what is decided by [`crate::link::bond`]; here frames and the frames
//! of the link protocols go where it says.
//!
//! The way out costs one look into the table of the [`Distribution`](crate::link::hash::Distribution) for a frame.
#![allow(unsafe_code)]

use std::time::Duration;

use arrayvec::ArrayVec;
use sumeru_virtio::GuestSlice;

use super::send_wire;
use crate::frame::{BURST, Frame};
use crate::link::bond::{Bond, BondConfig, MemberConfig, MemberStatus};
use crate::link::lacp::Send;
use crate::link::slow::SLOW_ETHERTYPE;
use crate::link::tlv::LLDP_ETHERTYPE;
use crate::link::{LinkError, Mac, MemberId};
use crate::net_header::Offload;
use crate::qos::limit::PerSecond;
use crate::ring::Sent;
use crate::stats::Drop;
use crate::wire::{LinkState, Received, Wire};

/// Frames of link protocols that are kept of a burst; more are dropped.
const HEARD_MAX: usize = 4;
/// Frames of link protocols that a member may hear in a second. The protocols have a handful; each may move the bond's flows, which is work for the
/// lcore, so a neighbour that never ceases to change its mind is not heard out.
const HEARD_PER_SECOND: u32 = 50;
/// LACP port priority of every member: that of Linux's bonding driver.
const PORT_PRIORITY: u16 = 255;
/// Longest one, in bytes.
const HEARD_LEN: usize = 1518;

/// Which protocol a frame between neighbours belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkProtocol {
    /// LACP and Marker (802.1AX).
    Slow,
    /// LLDP (802.1AB).
    Lldp,
}

impl LinkProtocol {
    /// The protocol of a frame that begins like this, if it is one.
    fn of(start: &[u8; 14]) -> Option<Self> {
        // The reserved addresses that no bridge forwards (802.1Q, table 8-1).
        if start[..5] != [0x01, 0x80, 0xc2, 0, 0] || start[5] & 0xf0 != 0 {
            return None;
        }
        match u16::from_be_bytes([start[12], start[13]]) {
            SLOW_ETHERTYPE => Some(Self::Slow),
            LLDP_ETHERTYPE => Some(Self::Lldp),
            _ => None,
        }
    }
}

/// A frame of a link protocol that came in by a member.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Which member.
    pub member: MemberId,
    /// Which protocol.
    pub protocol: LinkProtocol,
    /// The frame.
    pub frame: ArrayVec<u8, HEARD_LEN>,
}

/// What a member has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberStats {
    /// Frames that came in by it, those of link protocols not among them.
    pub rx_packets: u64,
    /// Frames that left by it, those of link protocols not among them.
    pub tx_packets: u64,
    /// Frames that came in while it was not in use, which are dropped.
    pub rx_inactive: u64,
    /// Frames of link protocols that made no sense, or came too many at once.
    pub rx_bad: u64,
    /// Times that its link went down.
    pub link_failures: u64,
}

/// A member as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Its address.
    pub mac: Mac,
    /// What the bond says of it.
    pub status: MemberStatus,
    /// What it has counted.
    pub stats: MemberStats,
}

struct Member {
    up: bool,
    stats: MemberStats,
    heard: PerSecond,
}

impl Member {
    fn new() -> Self {
        Self {
            up: false,
            stats: MemberStats::default(),
            heard: PerSecond::new(HEARD_PER_SECOND),
        }
    }
}

/// A bond on this lcore. Member `n` of the wires has the number `n + 1`.
pub struct BondPort {
    wires: Vec<Box<dyn Wire>>,
    members: Vec<Member>,
    bond: Bond,
    heard: ArrayVec<Heard, HEARD_MAX>,
}

/// The place of a member among the wires.
fn place(member: MemberId) -> usize {
    usize::from(member).wrapping_sub(1)
}

impl BondPort {
    /// A bond of these wires, all of whose links are down until [`Self::link`] says otherwise.
    ///
    /// # Errors
    /// [`LinkError::TooManyMembers`].
    pub fn new(config: BondConfig, wires: Vec<Box<dyn Wire>>) -> Result<Self, LinkError> {
        let mut bond = Bond::new(config);
        for (number, wire) in (1..).zip(&wires) {
            let member = MemberConfig {
                mac: wire.mac(),
                port_priority: PORT_PRIORITY,
            };
            bond.add_member(number, &member)?;
        }
        Ok(Self {
            members: wires.iter().map(|_| Member::new()).collect(),
            wires,
            bond,
            heard: ArrayVec::new(),
        })
    }

    /// Its wires.
    pub fn wires(&self) -> &[Box<dyn Wire>] {
        &self.wires
    }

    /// Its wires, for what is done to all.
    pub fn wires_mut(&mut self) -> &mut [Box<dyn Wire>] {
        &mut self.wires
    }

    /// The state machine.
    pub fn bond(&mut self) -> &mut Bond {
        &mut self.bond
    }

    /// Whether it carries traffic.
    pub fn is_up(&self) -> bool {
        self.bond.is_up()
    }

    /// What can be said of each member, in order.
    pub fn report(&self) -> Vec<MemberReport> {
        let members = self.wires.iter().zip(&self.members);
        let report = (1..).zip(members).filter_map(|(number, (wire, member))| {
            Some(MemberReport {
                mac: wire.mac(),
                status: self.bond.status(number)?,
                stats: member.stats,
            })
        });
        report.collect()
    }

    /// Has the state machine do something, and sends what it says.
    fn with<R>(&mut self, act: impl FnOnce(&mut Bond, &mut Send<'_>) -> R) -> R {
        let (bond, wires) = (&mut self.bond, &mut self.wires);
        act(bond, &mut |member, bytes| {
            if let Some(wire) = wires.get_mut(place(member)) {
                transmit(&mut **wire, bytes);
            }
        })
    }

    /// What a member's link does now.
    pub fn link(&mut self, member: MemberId, state: LinkState, now: Duration) {
        let Some(known) = self.members.get_mut(place(member)) else {
            return;
        };
        known.stats.link_failures += u64::from(known.up && !state.up);
        known.up = state.up;
        // There is such a member.
        let _ = self.with(|bond, send| bond.link(member, state.up, state.speed, now, send));
    }

    /// A second begins: every member is heard again.
    pub(super) fn begin_second(&mut self) {
        self.members
            .iter_mut()
            .for_each(|member| member.heard.refill());
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Duration) {
        self.with(|bond, send| bond.tick(now, send));
    }

    /// A slow-protocol frame arrived by a member; false if it made no sense.
    pub fn slow(&mut self, member: MemberId, frame: &[u8], now: Duration) -> bool {
        let good = self.with(|bond, send| bond.received(member, frame, now, send).is_ok());
        if !good {
            self.bad(member);
        }
        good
    }

    /// Counts a frame of a link protocol that made no sense.
    pub fn bad(&mut self, member: MemberId) {
        if let Some(member) = self.members.get_mut(place(member)) {
            member.stats.rx_bad += 1;
        }
    }

    /// Sends a frame of a link protocol by a member.
    pub fn transmit(&mut self, member: MemberId, bytes: &[u8]) {
        if let Some(wire) = self.wires.get_mut(place(member)) {
            transmit(&mut **wire, bytes);
        }
    }

    /// What the last [`Self::receive`] found for the link protocols.
    pub fn take_heard(&mut self) -> ArrayVec<Heard, HEARD_MAX> {
        std::mem::take(&mut self.heard)
    }

    /// Appends what one member received, but for frames of link protocols, which are kept apart, and those of a member that is not in use.
    /// Answers how many were dropped: of members not in use, and of link protocols.
    pub fn receive(&mut self, at: usize, frames: &mut Vec<Received>) -> (u64, u64) {
        let Some((wire, member)) = self.wires.get_mut(at).zip(self.members.get_mut(at)) else {
            return (0, 0);
        };
        if wire.receive(BURST, frames) == 0 {
            return (0, 0);
        }
        let (number, before) = ((at + 1) as MemberId, member.stats);
        let in_use = self.bond.takes_from(number);
        let heard = &mut self.heard;
        let (stats, may_hear) = (&mut member.stats, &mut member.heard);
        frames.retain(|frame| {
            let mut start = [0; 14];
            // SAFETY: the wire lends the frame until it is asked again.
            unsafe { frame.data.read(&mut start) };
            let Some(protocol) = LinkProtocol::of(&start) else {
                stats.rx_packets += u64::from(in_use);
                stats.rx_inactive += u64::from(!in_use);
                return in_use;
            };
            if heard.is_full() || !may_hear.take() {
                stats.rx_bad += 1;
                return false;
            }
            let mut bytes = [0; HEARD_LEN];
            // SAFETY: as above.
            let len = unsafe { frame.data.read(&mut bytes) };
            let kept = Heard {
                member: number,
                protocol,
                frame: bytes.iter().take(len).copied().collect(),
            };
            heard.push(kept);
            false
        });
        (
            stats.rx_inactive - before.rx_inactive,
            stats.rx_bad - before.rx_bad,
        )
    }

    /// Sends the frames `order` of `frames`, each by the member that carries its flow.
    pub(super) fn send(
        &mut self,
        frames: &[Frame],
        order: &[u8],
        list: &[GuestSlice],
        max_frame: u32,
        sent: &mut Sent,
        mut lost: impl FnMut(Drop),
    ) {
        let distribution = self.bond.distribution();
        let carrier = |index: &u8| {
            let frame = frames.get(usize::from(*index))?;
            distribution.member_of(&frame.key)
        };
        let carriers: ArrayVec<MemberId, BURST> = order
            .iter()
            .map(|index| carrier(index).unwrap_or(0))
            .collect();
        for _ in carriers.iter().filter(|member| **member == 0) {
            lost(Drop::PortDown);
        }
        for member in distribution.members() {
            let of_this = order
                .iter()
                .zip(&carriers)
                .filter(|(_, carrier)| *carrier == member);
            let share: ArrayVec<u8, BURST> = of_this.map(|(index, _)| *index).collect();
            let at = place(*member);
            let (Some(wire), Some(member)) = (self.wires.get_mut(at), self.members.get_mut(at))
            else {
                continue;
            };
            if !share.is_empty() {
                let mut by_this = Sent::default();
                send_wire(
                    &mut **wire,
                    frames,
                    &share,
                    list,
                    max_frame,
                    &mut by_this,
                    &mut lost,
                );
                member.stats.tx_packets += by_this.packets;
                sent.add(&by_this);
            }
        }
    }
}

/// Sends a frame of our own by a wire, past the port. If the wire has no room now, it is lost, which every link protocol makes up for.
pub fn transmit(wire: &mut dyn Wire, bytes: &[u8]) {
    let Some(buffer) = wire.send_buffer() else {
        return;
    };
    // SAFETY: the wire lends the buffer until `send`.
    let written = unsafe { buffer.write(bytes) };
    if written == bytes.len() {
        wire.send(written as u32, &Offload::NONE, 0);
    }
    wire.flush();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use super::*;
    use crate::link::bond::Mode;
    use crate::link::hash::HashPolicy;
    use crate::link::slow::SLOW_MAC;
    use crate::net_header::Accepts;
    use crate::wire::{Interface, Lost};

    /// Frames that come in without end.
    struct Flood(Vec<u8>);

    impl Wire for Flood {
        fn receive(&mut self, max: usize, frames: &mut Vec<Received>) -> usize {
            frames.extend((0..max).map(|_| Received {
                data: GuestSlice::from_own(&mut self.0),
                offload: Offload::NONE,
            }));
            max
        }

        fn send_buffer(&mut self) -> Option<GuestSlice> {
            None
        }

        fn send(&mut self, _: u32, _: &Offload, _: u16) {}

        fn flush(&mut self) -> usize {
            0
        }

        fn accepts(&self) -> Accepts {
            Accepts::default()
        }

        fn fd(&self) -> BorrowedFd<'_> {
            unreachable!("nobody waits for it")
        }

        fn pending(&mut self) -> bool {
            true
        }

        fn interface(&self) -> Option<&Interface> {
            None
        }

        fn mac(&self) -> Mac {
            [2, 0, 0, 0, 0, 1]
        }

        fn take_lost(&mut self) -> Lost {
            Lost::default()
        }
    }

    #[test]
    fn a_neighbour_that_never_ceases_is_not_heard_out() {
        let config = BondConfig {
            mode: Mode::BalanceXor,
            policy: HashPolicy::Layer34,
            up_delay: Duration::ZERO,
            down_delay: Duration::ZERO,
            min_links: 1,
            announcements: 0,
            announcement_interval: Duration::ZERO,
        };
        let pdu = [&SLOW_MAC[..], &[2, 0, 0, 0, 0, 9, 0x88, 0x09], &[1; 110]].concat();
        let mut bond = BondPort::new(config, vec![Box::new(Flood(pdu))]).unwrap();
        for _ in 0..2 {
            let (mut heard, mut bad) = (0, 0);
            for _ in 0..100 {
                let mut frames = Vec::new();
                bad += bond.receive(0, &mut frames).1;
                heard += bond.take_heard().len() as u64;
                assert!(frames.is_empty(), "none of them is anybody else's");
            }
            assert_eq!(heard, HEARD_PER_SECOND.into());
            assert_eq!(heard + bad, 100 * BURST as u64);
            bond.begin_second();
        }
        assert_eq!(bond.members[0].stats.rx_packets, 0);
    }
}
