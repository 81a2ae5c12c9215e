//! One port's LACP machines: receive (IEEE 802.1AX-2014, 6.4.12), periodic transmission (6.4.13) and the coupled mux (6.4.15).
//!
//! Which ports belong together is not decided here but in [`Lacp`](super::lacp::Lacp), which owns the ports.

use std::time::Duration;

use super::slow::{Lacpdu, Peer, state};
use super::{Mac, MemberId};

/// A PDU this often keeps a short timeout from running out (Fast_Periodic_Time).
pub const FAST_PERIOD: Duration = Duration::from_secs(1);
/// The same for a long timeout (Slow_Periodic_Time).
pub const SLOW_PERIOD: Duration = Duration::from_secs(30);
/// Short_Timeout_Time.
pub const SHORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Long_Timeout_Time.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(90);
/// How long a port waits for others that may join the same aggregator (Aggregate_Wait_Time).
pub const AGGREGATE_WAIT: Duration = Duration::from_secs(2);
/// LACPDUs that may be sent within [`FAST_PERIOD`] (6.4.16).
const BURST: usize = 3;
/// Answers to Marker PDUs that may be sent within it: slow protocols are to be slow (802.3, 57A.2), however fast somebody asks.
const MARKER_BURST: usize = 5;

/// At most `N` events within [`FAST_PERIOD`].
#[derive(Debug)]
struct Window<const N: usize> {
    /// The last ones, oldest first.
    times: [Option<Duration>; N],
}

impl<const N: usize> Window<N> {
    fn new() -> Self {
        Self { times: [None; N] }
    }

    /// When the next one may be; None for at once.
    fn opens(&self) -> Option<Duration> {
        let oldest = self.times.first().copied().flatten()?;
        Some(oldest.saturating_add(FAST_PERIOD))
    }

    /// Notes one at `now`, if it may be.
    fn pass(&mut self, now: Duration) -> bool {
        if self.opens().is_some_and(|at| now < at) {
            return false;
        }
        self.times.rotate_left(1);
        if let Some(last) = self.times.last_mut() {
            *last = Some(now);
        }
        true
    }
}

/// States of the receive machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// The link is down.
    Disabled,
    /// The partner was not heard for a while; it is asked to hurry.
    Expired,
    /// No partner: configuration stands in for it.
    Defaulted,
    /// The partner is known from a PDU that is not old.
    Current,
}

/// States of the coupled mux machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mux {
    /// With no aggregator.
    Detached,
    /// Chosen for one; waits for others.
    Waiting,
    /// With its aggregator; waits for the partner.
    Attached,
    /// In use.
    CollectingDistributing,
}

/// What selection says of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// Not looked at yet.
    Unselected,
    /// Fit, but for another aggregator than the one in use.
    Standby,
    /// Belongs to the aggregator in use.
    Selected,
}

/// What a port has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LacpStats {
    /// LACPDUs received.
    pub received: u64,
    /// LACPDUs sent.
    pub sent: u64,
    /// Marker PDUs received.
    pub markers: u64,
    /// Marker PDUs answered.
    pub marker_responses: u64,
    /// Times the partner fell silent for too long.
    pub expirations: u64,
}

/// A port's machines.
#[derive(Debug)]
pub struct LacpPort {
    pub(super) id: MemberId,
    pub(super) mac: Mac,
    pub(super) enabled: bool,
    pub(super) speed: u32,
    pub(super) selected: Selected,
    pub(super) ntt: bool,
    pub(super) stats: LacpStats,
    actor: Peer,
    partner: Peer,
    receive: Receive,
    current_while: Option<Duration>,
    /// When the next periodic PDU is due, and whether the period is the fast one.
    periodic: Option<(Duration, bool)>,
    mux: Mux,
    wait_while: Option<Duration>,
    sent: Window<BURST>,
    answered: Window<MARKER_BURST>,
}

impl LacpPort {
    /// A port whose link is down. `actor` is what it says of itself; of its state only activity, timeout and aggregation count.
    pub(super) fn new(id: MemberId, mac: Mac, actor: Peer) -> LacpPort {
        let own = state::ACTIVITY | state::SHORT_TIMEOUT | state::AGGREGATION;
        let mut port = LacpPort {
            id,
            mac,
            enabled: false,
            speed: 0,
            selected: Selected::Unselected,
            ntt: false,
            stats: LacpStats::default(),
            actor: Peer {
                state: actor.state & own,
                ..actor
            },
            partner: Peer::default(),
            receive: Receive::Disabled,
            current_while: None,
            periodic: None,
            mux: Mux::Detached,
            wait_while: None,
            sent: Window::new(),
            answered: Window::new(),
        };
        port.record_default();
        port
    }

    /// What the port says of itself.
    pub fn actor(&self) -> &Peer {
        &self.actor
    }

    /// What is known of the other end.
    pub fn partner(&self) -> &Peer {
        &self.partner
    }

    /// State of the receive machine.
    pub fn receive_state(&self) -> Receive {
        self.receive
    }

    /// State of the mux machine.
    pub fn mux_state(&self) -> Mux {
        self.mux
    }

    /// What selection says.
    pub fn selected(&self) -> Selected {
        self.selected
    }

    /// The port may carry traffic.
    pub fn in_use(&self) -> bool {
        self.mux == Mux::CollectingDistributing
    }

    fn set(&mut self, bits: u8, on: bool) {
        if on {
            self.actor.state |= bits;
        } else {
            self.actor.state &= !bits;
        }
    }

    /// recordDefault: the configured partner is nobody in particular, an individual link that is in sync. It wants to hear often, so that
    /// a passive partner that appears later is found within a second.
    fn record_default(&mut self) {
        self.partner = Peer {
            state: state::SYNCHRONIZATION | state::SHORT_TIMEOUT,
            ..Peer::default()
        };
        self.set(state::DEFAULTED, true);
    }

    fn unselect(&mut self) {
        self.selected = Selected::Unselected;
    }

    /// The link came up or went down.
    pub(super) fn enable(&mut self, enabled: bool, now: Duration) {
        if self.enabled == enabled {
            return;
        }
        self.enabled = enabled;
        self.current_while = None;
        if enabled {
            self.expire(now);
        } else {
            self.receive = Receive::Disabled;
            self.partner.state &= !state::SYNCHRONIZATION;
            self.set(state::EXPIRED, false);
            self.unselect();
        }
    }

    fn expire(&mut self, now: Duration) {
        self.receive = Receive::Expired;
        self.partner.state &= !state::SYNCHRONIZATION;
        self.partner.state |= state::SHORT_TIMEOUT;
        self.current_while = Some(now.saturating_add(SHORT_TIMEOUT));
        self.set(state::EXPIRED, true);
    }

    /// A PDU arrived (state CURRENT): update_Selected, update_NTT, recordPDU.
    pub(super) fn receive(&mut self, pdu: &Lacpdu, now: Duration) {
        self.stats.received = self.stats.received.wrapping_add(1);
        if !self.enabled {
            return;
        }
        if !pdu.actor.same(&self.partner, state::AGGREGATION) {
            self.unselect();
        }
        let told =
            state::ACTIVITY | state::SHORT_TIMEOUT | state::SYNCHRONIZATION | state::AGGREGATION;
        if !pdu.partner.same(&self.actor, told) {
            self.ntt = true;
        }
        self.partner = pdu.actor;
        self.set(state::DEFAULTED, false);
        let about_us = pdu.partner.same(&self.actor, state::AGGREGATION);
        let individual = !pdu.actor.has(state::AGGREGATION);
        let maintained = pdu.actor.has(state::ACTIVITY)
            || (self.actor.has(state::ACTIVITY) && pdu.partner.has(state::ACTIVITY));
        if !((about_us || individual) && maintained) {
            self.partner.state &= !state::SYNCHRONIZATION;
        }
        let timeout = if self.actor.has(state::SHORT_TIMEOUT) {
            SHORT_TIMEOUT
        } else {
            LONG_TIMEOUT
        };
        self.current_while = Some(now.saturating_add(timeout));
        self.set(state::EXPIRED, false);
        self.receive = Receive::Current;
    }

    /// Lets current_while run out.
    pub(super) fn run_receive(&mut self, now: Duration) {
        if self.current_while.is_none_or(|at| now < at) {
            return;
        }
        self.current_while = None;
        match self.receive {
            Receive::Current => {
                self.stats.expirations = self.stats.expirations.wrapping_add(1);
                self.expire(now);
            }
            Receive::Expired => {
                // update_Default_Selected: whoever it was is no longer there.
                if !self.partner.same(&Peer::default(), state::AGGREGATION) {
                    self.unselect();
                }
                self.record_default();
                self.set(state::EXPIRED, false);
                self.receive = Receive::Defaulted;
            }
            Receive::Disabled | Receive::Defaulted => {}
        }
    }

    /// The periodic transmission machine.
    pub(super) fn run_periodic(&mut self, now: Duration) {
        let wanted = self.actor.has(state::ACTIVITY) || self.partner.has(state::ACTIVITY);
        if !self.enabled || !wanted {
            self.periodic = None;
            return;
        }
        let fast = self.partner.has(state::SHORT_TIMEOUT);
        let period = if fast { FAST_PERIOD } else { SLOW_PERIOD };
        let due = match self.periodic {
            None => true,
            Some((at, was_fast)) => now >= at || (fast && !was_fast),
        };
        if due {
            self.ntt = true;
        }
        if due || self.periodic.is_some_and(|(_, was_fast)| was_fast != fast) {
            self.periodic = Some((now.saturating_add(period), fast));
        }
    }

    /// Lets wait_while run out.
    pub(super) fn run_wait(&mut self, now: Duration) {
        self.wait_while = self.wait_while.filter(|at| now < *at);
    }

    /// Whether the mux machine waits for its aggregator and has waited long enough (Ready_N); None if it does not wait.
    pub(super) fn ready(&self) -> Option<bool> {
        let waits = self.mux == Mux::Waiting && self.selected == Selected::Selected;
        waits.then_some(self.wait_while.is_none())
    }

    /// One step of the mux machine; true if it changed. `ready` says that all that wait for the aggregator have waited long enough.
    pub(super) fn run_mux(&mut self, ready: bool, now: Duration) -> bool {
        let selected = self.selected == Selected::Selected;
        let synchronized = self.partner.has(state::SYNCHRONIZATION) && self.enabled;
        let next = match self.mux {
            Mux::Detached if self.selected != Selected::Unselected => Mux::Waiting,
            Mux::Waiting if self.selected == Selected::Unselected => Mux::Detached,
            Mux::Waiting if selected && ready => Mux::Attached,
            Mux::Attached if !selected => Mux::Detached,
            Mux::Attached if synchronized => Mux::CollectingDistributing,
            Mux::CollectingDistributing if !selected || !synchronized => Mux::Attached,
            same => same,
        };
        if next == self.mux {
            return false;
        }
        self.mux = next;
        let carrying = state::COLLECTING | state::DISTRIBUTING;
        match next {
            Mux::Detached => {
                self.set(state::SYNCHRONIZATION | carrying, false);
                self.wait_while = None;
            }
            Mux::Waiting => {
                self.wait_while = Some(now.saturating_add(AGGREGATE_WAIT));
                return true;
            }
            Mux::Attached => {
                self.set(carrying, false);
                self.set(state::SYNCHRONIZATION, true);
            }
            Mux::CollectingDistributing => self.set(carrying, true),
        }
        self.ntt = true;
        true
    }

    /// Whether a PDU is to be sent now; if so it counts as sent.
    pub(super) fn transmits(&mut self, now: Duration) -> bool {
        if self.periodic.is_none() {
            // Nobody wants to hear of us (6.4.16).
            self.ntt = false;
        }
        if !self.ntt || !self.sent.pass(now) {
            return false;
        }
        self.ntt = false;
        self.stats.sent = self.stats.sent.wrapping_add(1);
        true
    }

    /// A question of the marker protocol arrived: whether it is answered.
    pub(super) fn answers(&mut self, now: Duration) -> bool {
        let answers = self.enabled && self.answered.pass(now);
        self.stats.marker_responses += u64::from(answers);
        answers
    }

    /// The next time at which something happens by itself.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let send = self
            .ntt
            .then(|| self.sent.opens().unwrap_or(Duration::ZERO));
        let periodic = self.periodic.map(|(at, _)| at);
        [self.current_while, periodic, self.wait_while, send]
            .into_iter()
            .flatten()
            .min()
    }
}
