//! The LLDP agent (IEEE 802.1AB-2016, clauses 9.2.8 and 9.2.9): what is said on each port and when, and who was heard there.
//!
//! Transmission: at once when a port comes up or what it says changed, fast while a neighbour is new, then every
//! [`LldpConfig::interval`]; never more than a credit of frames that comes back one a second. Reception: a bounded table for each port,
//! aged by the neighbours' own times to live.

use std::net::IpAddr;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::tlv::{Aggregation, Capabilities, Lldpdu, TEXT_MAX, TlvError, Writer};
use super::{LinkError, Mac};

/// Most ports of an agent.
pub const PORTS_MAX: usize = 256;
/// Most management addresses that are sent.
pub const ADDRESSES_MAX: usize = 4;
/// Frames that may be sent at once (txCreditMax); one more comes every second.
const CREDIT_MAX: u8 = 5;
const CREDIT_PERIOD: Duration = Duration::from_secs(1);
/// Time between frames while a neighbour is new (msgFastTx).
const FAST_INTERVAL: Duration = Duration::from_secs(1);
/// How many such frames there are (txFastInit).
const FAST_COUNT: u8 = 4;

/// What the system says of itself on every port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LldpSystem {
    /// Its MAC address.
    pub chassis: Mac,
    /// Its name, at most [`TEXT_MAX`] bytes; empty to say nothing.
    pub name: String,
    /// Its description, likewise.
    pub description: String,
    /// What it is.
    pub capabilities: Capabilities,
    /// Where it is managed, and the number of the interface there.
    pub management: ArrayVec<(IpAddr, u32), ADDRESSES_MAX>,
}

/// What is said on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LldpPortConfig {
    /// Source of the frames.
    pub mac: Mac,
    /// Its name, 1 to [`TEXT_MAX`] bytes.
    pub name: String,
    /// Its description, at most [`TEXT_MAX`] bytes; empty to say nothing.
    pub description: String,
    /// VLAN of untagged frames; None to say nothing.
    pub pvid: Option<u16>,
    /// Link aggregation; None to say nothing.
    pub aggregation: Option<Aggregation>,
    /// Longest frame with header and check sequence (MTU + 18); None to say nothing.
    pub max_frame: Option<u16>,
}

/// How the agent works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LldpConfig {
    /// Time between frames (msgTxInterval): 5 s to an hour; the standard's default is 30 s.
    pub interval: Duration,
    /// What is said holds for so many intervals (msgTxHold): 2 to 10, 4 by default.
    pub hold: u8,
    /// Most neighbours of a port.
    pub neighbours: usize,
}

impl Default for LldpConfig {
    fn default() -> LldpConfig {
        LldpConfig {
            interval: Duration::from_secs(30),
            hold: 4,
            neighbours: 8,
        }
    }
}

/// Somebody at the other end of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// What it said last.
    pub pdu: Lldpdu,
    /// Where from.
    pub source: Mac,
    /// When it was first heard.
    pub since: Duration,
    /// When it is forgotten unless it says something again.
    pub expires: Duration,
}

/// What a received frame came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A neighbour that was not there before.
    New,
    /// It says something else than before.
    Changed,
    /// The same again.
    Same,
    /// It took back what it said.
    Gone,
    /// Not kept: there are too many, or it took back what it never said. Or the port's link is down.
    Ignored,
}

/// What a port has counted (802.1AB-2016, 9.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LldpStats {
    /// Frames received, good or bad.
    pub frames_in: u64,
    /// Of these, dropped whole.
    pub frames_discarded: u64,
    /// TLVs that made no sense.
    pub tlvs_discarded: u64,
    /// TLVs that are not known here.
    pub tlvs_unrecognized: u64,
    /// Neighbours that fell silent.
    pub aged_out: u64,
    /// Frames of neighbours for whom there was no room.
    pub too_many: u64,
    /// Frames sent.
    pub frames_out: u64,
}

#[derive(Debug)]
struct Port {
    number: u32,
    config: LldpPortConfig,
    up: bool,
    next: Duration,
    fast: u8,
    credit: u8,
    refilled: Duration,
    neighbours: Vec<Neighbour>,
    stats: LldpStats,
}

/// Takes frames to send: by which port, and the frame.
pub type Send<'a> = dyn FnMut(u32, &[u8]) + 'a;

/// LLDP on the ports of a system.
#[derive(Debug)]
pub struct Lldp {
    config: LldpConfig,
    system: LldpSystem,
    ports: Vec<Port>,
}

fn check_text(what: &'static str, text: &str) -> Result<(), LinkError> {
    if text.len() > TEXT_MAX {
        let (len, most) = (text.len(), TEXT_MAX);
        return Err(LinkError::TextTooLong { what, len, most });
    }
    Ok(())
}

fn check_time(what: &'static str, seconds: u64, least: u64, most: u64) -> Result<(), LinkError> {
    if (least..=most).contains(&seconds) {
        return Ok(());
    }
    Err(LinkError::Time {
        what,
        seconds,
        least,
        most,
    })
}

impl LldpSystem {
    fn check(&self) -> Result<(), LinkError> {
        check_text("a system name", &self.name)?;
        check_text("a system description", &self.description)
    }
}

impl LldpPortConfig {
    fn check(&self) -> Result<(), LinkError> {
        if self.name.is_empty() {
            return Err(LinkError::NoName);
        }
        check_text("a port name", &self.name)?;
        check_text("a port description", &self.description)
    }
}

impl Port {
    /// Something is to be said soon.
    fn hurry(&mut self, fast: u8, now: Duration) {
        self.fast = self.fast.max(fast);
        self.next = self.next.min(now);
    }

    fn refill(&mut self, now: Duration) {
        while self.credit < CREDIT_MAX && now >= self.refilled.saturating_add(CREDIT_PERIOD) {
            self.credit += 1;
            self.refilled = self.refilled.saturating_add(CREDIT_PERIOD);
        }
        if self.credit == CREDIT_MAX {
            self.refilled = now;
        }
    }

    fn frame(&self, system: &LldpSystem, ttl: u16) -> Vec<u8> {
        let config = &self.config;
        let mut writer = Writer::new(config.mac, system.chassis, &config.name, ttl);
        if ttl == 0 {
            return writer.finish();
        }
        writer.port_description(&config.description);
        writer.system(&system.name, &system.description);
        writer.capabilities(system.capabilities);
        for (address, interface) in &system.management {
            writer.management(*address, *interface);
        }
        if let Some(pvid) = config.pvid {
            writer.pvid(pvid);
        }
        if let Some(aggregation) = config.aggregation {
            writer.aggregation(aggregation);
        }
        if let Some(len) = config.max_frame {
            writer.max_frame(len);
        }
        writer.finish()
    }

    fn hear(&mut self, pdu: Lldpdu, source: Mac, most: usize, now: Duration) -> Heard {
        let same = |n: &Neighbour| n.pdu.chassis == pdu.chassis && n.pdu.port == pdu.port;
        let known = self.neighbours.iter().position(same);
        if pdu.ttl == 0 {
            return known.map_or(Heard::Ignored, |at| {
                self.neighbours.remove(at);
                Heard::Gone
            });
        }
        let expires = now.saturating_add(Duration::from_secs(pdu.ttl.into()));
        if let Some(neighbour) = known.and_then(|at| self.neighbours.get_mut(at)) {
            let changed = neighbour.pdu != pdu || neighbour.source != source;
            (neighbour.pdu, neighbour.source, neighbour.expires) = (pdu, source, expires);
            return if changed { Heard::Changed } else { Heard::Same };
        }
        if self.neighbours.len() >= most {
            self.stats.too_many += 1;
            return Heard::Ignored;
        }
        self.neighbours.push(Neighbour {
            pdu,
            source,
            since: now,
            expires,
        });
        self.hurry(FAST_COUNT, now);
        Heard::New
    }

    fn age(&mut self, now: Duration) {
        let before = self.neighbours.len();
        self.neighbours.retain(|neighbour| now < neighbour.expires);
        self.stats.aged_out += (before - self.neighbours.len()) as u64;
    }
}

impl Lldp {
    /// An agent without ports.
    ///
    /// # Errors
    /// [`LinkError::TextTooLong`], [`LinkError::Time`].
    pub fn new(config: LldpConfig, system: LldpSystem) -> Result<Lldp, LinkError> {
        system.check()?;
        check_time("an LLDP interval", config.interval.as_secs(), 5, 3_600)?;
        check_time("an LLDP hold (in intervals)", config.hold.into(), 2, 10)?;
        Ok(Lldp {
            config,
            system,
            ports: Vec::new(),
        })
    }

    fn port(&mut self, number: u32) -> Result<&mut Port, LinkError> {
        let found = self.ports.iter_mut().find(|port| port.number == number);
        found.ok_or(LinkError::NoPort(number))
    }

    /// What is said of the system.
    pub fn system(&self) -> &LldpSystem {
        &self.system
    }

    /// Says something else of the system from now on.
    ///
    /// # Errors
    /// [`LinkError::TextTooLong`]; what is said is then as it was.
    pub fn set_system(&mut self, system: LldpSystem, now: Duration) -> Result<(), LinkError> {
        system.check()?;
        if self.system != system {
            self.system = system;
            self.ports.iter_mut().for_each(|port| port.hurry(0, now));
        }
        Ok(())
    }

    /// Adds a port whose link is down.
    ///
    /// # Errors
    /// [`LinkError::TextTooLong`], [`LinkError::NoName`], [`LinkError::PortExists`], [`LinkError::TooManyPorts`].
    pub fn add_port(&mut self, number: u32, config: LldpPortConfig) -> Result<(), LinkError> {
        config.check()?;
        if self.ports.iter().any(|port| port.number == number) {
            return Err(LinkError::PortExists(number));
        }
        if self.ports.len() >= PORTS_MAX {
            return Err(LinkError::TooManyPorts(PORTS_MAX));
        }
        self.ports.push(Port {
            number,
            config,
            up: false,
            next: Duration::ZERO,
            fast: 0,
            credit: CREDIT_MAX,
            refilled: Duration::ZERO,
            neighbours: Vec::new(),
            stats: LldpStats::default(),
        });
        Ok(())
    }

    /// Says something else of a port from now on, such as that it was aggregated.
    ///
    /// # Errors
    /// [`LinkError::TextTooLong`], [`LinkError::NoName`], [`LinkError::NoPort`]; what is said is then as it was.
    pub fn update_port(
        &mut self,
        number: u32,
        config: LldpPortConfig,
        now: Duration,
    ) -> Result<(), LinkError> {
        config.check()?;
        let port = self.port(number)?;
        if port.config != config {
            port.config = config;
            port.hurry(0, now);
        }
        Ok(())
    }

    /// Removes a port and takes back what was said there.
    ///
    /// # Errors
    /// [`LinkError::NoPort`].
    pub fn remove_port(&mut self, number: u32, send: &mut Send<'_>) -> Result<(), LinkError> {
        let at = self.ports.iter().position(|port| port.number == number);
        let port = self.ports.remove(at.ok_or(LinkError::NoPort(number))?);
        if port.up {
            send(number, &port.frame(&self.system, 0));
        }
        Ok(())
    }

    /// A port's link came up or went down. Neighbours of a link that is down are forgotten.
    ///
    /// # Errors
    /// [`LinkError::NoPort`].
    pub fn link(&mut self, number: u32, up: bool, now: Duration) -> Result<(), LinkError> {
        let port = self.port(number)?;
        if up && !port.up {
            port.next = now;
            port.fast = FAST_COUNT;
        }
        if !up {
            port.neighbours.clear();
        }
        port.up = up;
        Ok(())
    }

    /// An LLDP frame arrived by a port. Frames of ports that do not run LLDP are ignored.
    ///
    /// # Errors
    /// [`TlvError`]: the frame makes no sense; it was counted.
    pub fn received(
        &mut self,
        number: u32,
        frame: &[u8],
        now: Duration,
    ) -> Result<Heard, TlvError> {
        let most = self.config.neighbours;
        let Ok(port) = self.port(number) else {
            return Ok(Heard::Ignored);
        };
        port.stats.frames_in += 1;
        let pdu = Lldpdu::parse(frame).inspect_err(|_| port.stats.frames_discarded += 1)?;
        port.stats.tlvs_discarded += u64::from(pdu.discarded);
        port.stats.tlvs_unrecognized += u64::from(pdu.unrecognized);
        let source = frame.get(6..).and_then(<[u8]>::first_chunk);
        match source.filter(|_| port.up) {
            Some(source) => {
                port.age(now);
                Ok(port.hear(pdu, *source, most, now))
            }
            None => Ok(Heard::Ignored),
        }
    }

    /// Lets time pass. To be called at [`Lldp::next_event`], or at least every second.
    pub fn tick(&mut self, now: Duration, send: &mut Send<'_>) {
        let seconds = self.config.interval.as_secs() * u64::from(self.config.hold) + 1;
        let ttl = u16::try_from(seconds).unwrap_or(u16::MAX);
        for port in &mut self.ports {
            port.age(now);
            port.refill(now);
            if !port.up || now < port.next || port.credit == 0 {
                continue;
            }
            send(port.number, &port.frame(&self.system, ttl));
            port.stats.frames_out += 1;
            port.credit -= 1;
            port.fast = port.fast.saturating_sub(1);
            let interval = if port.fast > 0 {
                FAST_INTERVAL
            } else {
                self.config.interval
            };
            port.next = now.saturating_add(interval);
        }
    }

    /// When something happens by itself.
    pub fn next_event(&self) -> Option<Duration> {
        let of = |port: &Port| {
            let credit = match port.credit {
                0 => port.refilled.saturating_add(CREDIT_PERIOD),
                _ => Duration::ZERO,
            };
            let send = port.up.then(|| port.next.max(credit));
            let ages = port.neighbours.iter().map(|neighbour| neighbour.expires);
            ages.chain(send).min()
        };
        self.ports.iter().filter_map(of).min()
    }

    /// The numbers of the ports.
    pub fn ports(&self) -> impl Iterator<Item = u32> {
        self.ports.iter().map(|port| port.number)
    }

    /// Everybody who was heard, with the number of the port.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, &Neighbour)> {
        let of = |port: &'_ Port| port.number;
        self.ports
            .iter()
            .flat_map(move |port| port.neighbours.iter().map(move |n| (of(port), n)))
    }

    /// What a port has counted.
    pub fn stats(&self, number: u32) -> Option<LldpStats> {
        let found = self.ports.iter().find(|port| port.number == number);
        found.map(|port| port.stats)
    }
}

#[cfg(test)]
#[path = "lldp_tests.rs"]
mod tests;
