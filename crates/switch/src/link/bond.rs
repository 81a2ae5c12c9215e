//! Several links as one: active-backup, balance-xor, and 802.3ad, with the semantics of Linux's bonding driver.
//!
//! The owner says what the links do ([`Bond::link`]), hands in slow-protocol frames ([`Bond::received`]) and lets time pass
//! ([`Bond::tick`]); frames to send come back through a closure. After any of these, if [`Bond::generation`] moved, the data path takes the
//! new [`Distribution`]. A link that goes down is out of it in the same call, unless a delay was configured.

use std::time::Duration;

use super::announce::{ANNOUNCEMENT_MAX, Address};
use super::debounce::Debounce;
use super::hash::{Distribution, HashPolicy, MEMBERS_MAX};
use super::lacp::{Lacp, LacpConfig, LacpStatus, Send};
use super::slow::{SlowError, SlowPdu};
use super::{LinkError, Mac, MemberId};

/// When the primary member takes over from one that works (`primary_reselect`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reselect {
    /// Whenever it is up.
    #[default]
    Always,
    /// If it is up and faster.
    Better,
    /// Only when the active one goes down.
    Failure,
}

/// What a bond does with its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One carries everything; another takes over when it fails.
    ActiveBackup {
        /// Is preferred.
        primary: Option<MemberId>,
        /// How much.
        reselect: Reselect,
    },
    /// All carry traffic; the other end has them as one by configuration.
    BalanceXor,
    /// All that the other end agreed on carry traffic.
    Lacp(LacpConfig),
}

/// A bond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BondConfig {
    /// What it does with its members.
    pub mode: Mode,
    /// Which frames go together, where there is a choice.
    pub policy: HashPolicy,
    /// How long a link must have been up to be used; it is not waited for while no other member is up.
    pub up_delay: Duration,
    /// How long a link must have been down to be given up.
    pub down_delay: Duration,
    /// With fewer members usable the bond as a whole is down. Zero counts as one.
    pub min_links: usize,
    /// How often each address is announced after a failover in active-backup.
    pub announcements: u8,
    /// Time between these.
    pub announcement_interval: Duration,
}

/// A member link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// Its own MAC address, the source of its LACPDUs.
    pub mac: Mac,
    /// Its LACP port priority.
    pub port_priority: u16,
}

/// What can be said about a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its link is up, delays considered.
    pub up: bool,
    /// Its speed in Mbit/s as last told.
    pub speed: u32,
    /// It carries traffic.
    pub in_use: bool,
    /// LACP, where that is the mode.
    pub lacp: Option<LacpStatus>,
}

#[derive(Debug)]
struct Member {
    id: MemberId,
    speed: u32,
    link: Debounce,
}

/// A bond at work.
#[derive(Debug)]
pub struct Bond {
    config: BondConfig,
    members: Vec<Member>,
    lacp: Option<Lacp>,
    distribution: Distribution,
    generation: u64,
    addresses: Vec<Address>,
    /// Announcements that are still due, and when the next is.
    announce: (u8, Duration),
}

impl Bond {
    /// A bond without members.
    pub fn new(config: BondConfig) -> Bond {
        let lacp = match config.mode {
            Mode::Lacp(lacp) => Some(Lacp::new(lacp)),
            Mode::ActiveBackup { .. } | Mode::BalanceXor => None,
        };
        Bond {
            config,
            members: Vec::new(),
            lacp,
            distribution: Distribution::new(config.policy, []),
            generation: 0,
            addresses: Vec::new(),
            announce: (0, Duration::ZERO),
        }
    }

    /// Says which addresses live behind the bond, for announcements.
    pub fn set_addresses(&mut self, addresses: Vec<Address>) {
        self.addresses = addresses;
    }

    /// Adds a member whose link is down.
    ///
    /// # Errors
    /// [`LinkError::MemberZero`], [`LinkError::MemberExists`], [`LinkError::TooManyMembers`].
    pub fn add_member(&mut self, id: MemberId, config: &MemberConfig) -> Result<(), LinkError> {
        if id == 0 {
            return Err(LinkError::MemberZero);
        }
        if self.members.iter().any(|m| m.id == id) {
            return Err(LinkError::MemberExists(id));
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(LinkError::TooManyMembers(MEMBERS_MAX));
        }
        self.members.push(Member {
            id,
            speed: 0,
            link: Debounce::new(self.config.up_delay, self.config.down_delay),
        });
        if let Some(lacp) = &mut self.lacp {
            lacp.add_port(id, config.mac, config.port_priority);
        }
        Ok(())
    }

    /// Removes a member; it carries nothing any more when this returns.
    ///
    /// # Errors
    /// [`LinkError::NoMember`].
    pub fn remove_member(
        &mut self,
        id: MemberId,
        now: Duration,
        send: &mut Send<'_>,
    ) -> Result<(), LinkError> {
        let at = self.members.iter().position(|m| m.id == id);
        self.members.remove(at.ok_or(LinkError::NoMember(id))?);
        if let Some(lacp) = &mut self.lacp {
            lacp.remove_port(id, now, send);
        }
        self.settle(now, send);
        Ok(())
    }

    /// What a member's link does now: up (in full duplex) with a speed in Mbit/s, or down.
    ///
    /// # Errors
    /// [`LinkError::NoMember`].
    pub fn link(
        &mut self,
        id: MemberId,
        up: bool,
        speed: u32,
        now: Duration,
        send: &mut Send<'_>,
    ) -> Result<(), LinkError> {
        let member = self.members.iter_mut().find(|m| m.id == id);
        let member = member.ok_or(LinkError::NoMember(id))?;
        member.link.observe(up, now);
        if up {
            member.speed = speed;
        }
        self.settle(now, send);
        Ok(())
    }

    /// A slow-protocol frame arrived by a member. Frames to a bond without LACP are taken and do nothing.
    ///
    /// # Errors
    /// [`SlowError`]: the frame makes no sense and is to be counted.
    pub fn received(
        &mut self,
        id: MemberId,
        frame: &[u8],
        now: Duration,
        send: &mut Send<'_>,
    ) -> Result<(), SlowError> {
        let pdu = SlowPdu::parse(frame)?;
        if let Some(lacp) = &mut self.lacp {
            lacp.received(id, &pdu, now, send);
            self.settle(now, send);
        }
        Ok(())
    }

    /// Lets time pass. To be called at [`Bond::next_event`], or at least every 100 ms.
    pub fn tick(&mut self, now: Duration, send: &mut Send<'_>) {
        self.settle(now, send);
    }

    fn settle(&mut self, now: Duration, send: &mut Send<'_>) {
        for member in &mut self.members {
            member.link.tick(now);
        }
        if !self.members.iter().any(|m| m.link.is_up()) {
            // Better a link that may flap than none.
            for member in self.members.iter_mut().filter(|m| m.link.rising()) {
                member.link.hasten();
            }
        }
        if let Some(lacp) = &mut self.lacp {
            for member in &self.members {
                lacp.link(member.id, member.link.is_up(), member.speed, now, send);
            }
            lacp.tick(now, send);
        }
        self.distribute(now);
        self.announce(now, send);
    }

    /// The member that carries everything in active-backup.
    fn elect(&self, primary: Option<MemberId>, reselect: Reselect) -> Option<MemberId> {
        let up = |id: MemberId| self.members.iter().find(|m| m.id == id && m.link.is_up());
        let primary = primary.and_then(up);
        let active = self.active().and_then(up);
        let better = match (primary, active) {
            (Some(primary), Some(active)) => match reselect {
                Reselect::Always => primary,
                Reselect::Better if primary.speed > active.speed => primary,
                Reselect::Better | Reselect::Failure => active,
            },
            (Some(primary), None) => primary,
            (None, Some(active)) => active,
            (None, None) => self.members.iter().find(|m| m.link.is_up())?,
        };
        Some(better.id)
    }

    fn distribute(&mut self, now: Duration) {
        let up = self.members.iter().filter(|m| m.link.is_up());
        let up: Vec<MemberId> = up.map(|m| m.id).collect();
        let mut usable = match (self.config.mode, &self.lacp) {
            (Mode::ActiveBackup { primary, reselect }, _) => {
                self.elect(primary, reselect).into_iter().collect()
            }
            (_, Some(lacp)) => lacp.in_use().collect(),
            (_, None) => up.clone(),
        };
        let count = if matches!(self.config.mode, Mode::ActiveBackup { .. }) {
            up.len()
        } else {
            usable.len()
        };
        if count < self.config.min_links {
            usable.clear();
        }
        usable.sort_unstable();
        if usable == self.distribution.members() {
            return;
        }
        self.distribution = Distribution::new(self.config.policy, usable);
        self.generation = self.generation.wrapping_add(1);
        if matches!(self.config.mode, Mode::ActiveBackup { .. }) {
            self.announce = (self.config.announcements, now);
        }
    }

    fn announce(&mut self, now: Duration, send: &mut Send<'_>) {
        let (left, at) = self.announce;
        let Some(active) = self.active().filter(|_| left > 0 && now >= at) else {
            return;
        };
        for address in &self.addresses {
            let mut frame = [0; ANNOUNCEMENT_MAX];
            let len = address.announcement(&mut frame);
            send(active, frame.get(..len).unwrap_or_default());
        }
        let next = now.saturating_add(self.config.announcement_interval);
        self.announce = (left - 1, next);
    }

    /// Which member carries which flows.
    pub fn distribution(&self) -> &Distribution {
        &self.distribution
    }

    /// Moves whenever [`Bond::distribution`] changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The bond as a whole is up.
    pub fn is_up(&self) -> bool {
        !self.distribution.members().is_empty()
    }

    /// The member that carries everything, in active-backup.
    pub fn active(&self) -> Option<MemberId> {
        let active_backup = matches!(self.config.mode, Mode::ActiveBackup { .. });
        let first = self.distribution.members().first();
        first.copied().filter(|_| active_backup)
    }

    /// Whether frames that arrive by a member are taken. Those of slow protocols and LLDP always are.
    pub fn takes_from(&self, id: MemberId) -> bool {
        self.distribution.members().contains(&id)
    }

    /// What can be said about a member.
    pub fn status(&self, id: MemberId) -> Option<MemberStatus> {
        let member = self.members.iter().find(|m| m.id == id)?;
        Some(MemberStatus {
            up: member.link.is_up(),
            speed: member.speed,
            in_use: self.takes_from(id),
            lacp: self.lacp.as_ref().and_then(|lacp| lacp.status(id)),
        })
    }

    /// When something happens by itself.
    pub fn next_event(&self) -> Option<Duration> {
        let links = self.members.iter().filter_map(|m| m.link.next_event());
        let lacp = self.lacp.as_ref().and_then(Lacp::next_event);
        let (left, at) = self.announce;
        let announce = Some(at).filter(|_| left > 0 && self.is_up());
        links.chain(lacp).chain(announce).min()
    }
}

#[cfg(test)]
#[path = "bond_tests.rs"]
mod tests;
