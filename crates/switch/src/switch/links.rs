//! Wires of ports, seen from control: bonds, links that come and go, LLDP.

use crate::frame::PortIndex;
use crate::lane::bond::BondPort;
use crate::lane::queue::{EgressConfig, EgressQueue, QueueReport};
use crate::link::MemberId;
use crate::link::bond::BondConfig;
use crate::snapshot::PortView;
use crate::wire::monitor::LinkMonitor;
use crate::wire::{LinkState, Wire};
use crate::worker::{BondReport, LldpReport, LldpSetup};

use super::{Switch, SwitchError, put_port};

impl Switch {
    /// Adds a port that is a bond of wires. Member `n` of them has the number `n + 1`.
    ///
    /// # Errors
    /// As [`Self::add_wire`]; too many members.
    pub fn add_bond(
        &mut self,
        view: PortView,
        config: BondConfig,
        wires: Vec<Box<dyn Wire + Send>>,
    ) -> Result<(), SwitchError> {
        let index = view.index;
        let names = wires
            .iter()
            .map(|wire| Some(wire.interface()?.name().to_owned()));
        let members: Vec<(MemberId, String)> = (1..)
            .zip(names)
            .filter_map(|(member, name)| Some((member, name?)))
            .collect();
        let counters = self.blocks(index, 1)?;
        let added = self.owner().call(move |worker, watch| {
            let wires = wires.into_iter().map(|wire| wire as Box<dyn Wire>);
            let bond = BondPort::new(config, wires.collect())?;
            worker
                .add_bond(index, bond, counters, watch)
                .map_err(|error| SwitchError::Watch(index, error))
        });
        if let Err(error) = added.map_err(SwitchError::from).and_then(|added| added) {
            self.ports.remove(&index);
            return Err(error);
        }
        self.open(view, &members)
    }

    /// Shows a port that was added to forwarding, and watches its wires from now on.
    pub(super) fn open(
        &mut self,
        view: PortView,
        members: &[(MemberId, String)],
    ) -> Result<(), SwitchError> {
        let index = view.index;
        self.change(|snapshot| put_port(snapshot, view))?;
        if members.is_empty() {
            return Ok(());
        }
        let watched = self.monitor().and_then(|monitor| {
            let mut members = members.iter();
            members.try_for_each(|(member, name)| Ok(monitor.watch((index, *member), name)?))
        });
        watched.or_else(|error| self.remove_port(index).and(Err(error)))
    }

    fn monitor(&mut self) -> Result<&LinkMonitor, SwitchError> {
        let worker = self.owner().clone();
        match &mut self.links {
            Some(links) => Ok(links),
            none => {
                let tell = Box::new(move |wire, state| {
                    // An lcore that is gone has no links.
                    let _ = worker.send(move |worker| worker.link_changed(wire, state));
                });
                let monitor = LinkMonitor::start(tell).map_err(SwitchError::Monitor)?;
                Ok(none.insert(monitor))
            }
        }
    }

    /// What the link of a wire does: of a port's only one (0), or of a bond's member.
    pub fn link(&self, port: PortIndex, member: MemberId) -> Option<LinkState> {
        self.links.as_ref()?.state((port, member))
    }

    /// A bond as it is; nothing for another port.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn bond(&self, port: PortIndex) -> Result<Option<BondReport>, SwitchError> {
        Ok(self
            .owner()
            .call(move |worker, _| worker.bond_report(port))?)
    }

    /// Puts a queue in front of a port, or takes it away; what waits in the one of before leaves at once.
    ///
    /// # Errors
    /// [`SwitchError::Meter`]: a rate, weight, priority or limit that cannot be.
    pub fn set_egress(
        &mut self,
        port: PortIndex,
        config: Option<EgressConfig>,
    ) -> Result<(), SwitchError> {
        let queue = config.map(EgressQueue::new).transpose()?.map(Box::new);
        // The old one's memory is given back here, on this thread.
        self.owner()
            .call(move |worker, _| worker.set_queue(port, queue))
            .map(drop)?;
        Ok(())
    }

    /// What the queue in front of a port has seen; nothing without one.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn queues(&self, port: PortIndex) -> Result<Vec<QueueReport>, SwitchError> {
        Ok(self
            .owner()
            .call(move |worker, _| worker.queue_report(port))?)
    }

    /// Says from now on by LLDP what `setup` has, and by no other wire.
    ///
    /// # Errors
    /// [`SwitchError::Link`]: a text that is too long, too many wires.
    pub fn set_lldp(&mut self, setup: LldpSetup) -> Result<(), SwitchError> {
        self.owner()
            .call(move |worker, _| worker.set_lldp(&setup))??;
        Ok(())
    }

    /// What LLDP heard and counted, by wire.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn lldp(&self) -> Result<Vec<LldpReport>, SwitchError> {
        Ok(self.owner().call(|worker, _| worker.lldp_report())?)
    }
}
