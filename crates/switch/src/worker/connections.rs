//! The connections of an lcore, as control makes, sets, shows and keeps them. Everything here runs between two iterations of the lcore.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::IpAddr;

use sumeru_engine::Tsc;

use super::SwitchWorker;
use crate::balance::Balancer;
use crate::conntrack::{
    Config, ConnRef, Connection, Conntrack, Family, Filter, FragmentStats, Fragments, RestoreError,
    Restored, Stats, Timeouts, Tuple, ZonePolicy,
};
use crate::frame::PortIndex;
use crate::lane::Connections;

/// Most connections to one load balancer: a quarter of what a table of the usual size holds.
const BALANCED: u32 = 1 << 20;

/// Datagrams in pieces that are followed at a time.
const DATAGRAMS: usize = 16384;

/// How connections are tracked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// Size of the table, which is made when it is first needed and keeps its size then.
    pub config: Config,
    /// Zones that are not treated as usual.
    pub zones: BTreeMap<u16, ZonePolicy>,
    /// Timeout policies other than the default.
    pub timeouts: BTreeMap<u8, Timeouts>,
    /// Most connections of ports.
    pub port_limits: BTreeMap<PortIndex, u32>,
}

/// What is known of an lcore's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionSums {
    /// Most connections.
    pub capacity: u64,
    /// Bytes of memory in use.
    pub bytes: u64,
    /// Sums of the table.
    pub table: Stats,
    /// Sums of the fragments.
    pub fragments: FragmentStats,
}

/// The address that a tuple comes from.
fn address_of(tuple: &Tuple) -> IpAddr {
    match tuple.family {
        Family::V4 => IpAddr::V4((tuple.src as u32).into()),
        Family::V6 => IpAddr::V6(tuple.src.into()),
    }
}

impl ConnectionSettings {
    /// Sets a table that had `old`.
    fn apply(&self, old: &Self, table: &mut Conntrack) {
        for zone in old
            .zones
            .keys()
            .filter(|zone| !self.zones.contains_key(zone))
        {
            table.set_zone(*zone, ZonePolicy::default());
        }
        for policy in old
            .timeouts
            .keys()
            .filter(|policy| !self.timeouts.contains_key(policy))
        {
            table.set_timeouts(*policy, Timeouts::default());
        }
        for port in old
            .port_limits
            .keys()
            .filter(|port| !self.port_limits.contains_key(port))
        {
            table.set_port_limit(*port, None);
        }
        self.zones
            .iter()
            .for_each(|(zone, policy)| table.set_zone(*zone, *policy));
        for (policy, timeouts) in &self.timeouts {
            table.set_timeouts(*policy, *timeouts);
        }
        for (port, limit) in &self.port_limits {
            table.set_port_limit(*port, Some(*limit));
        }
    }
}

impl SwitchWorker {
    /// Changes how connections are tracked; the size of a table that is there already stays.
    pub fn set_tracking(&mut self, tracking: ConnectionSettings) {
        if let Some(connections) = self.lane.connections.as_deref_mut() {
            tracking.apply(&self.tracking, &mut connections.table);
        }
        self.tracking = tracking;
    }

    /// Makes the connection table, unless it is there.
    pub(super) fn make_connections(&mut self) {
        if self.lane.connections.is_some() {
            return;
        }
        let now = self.milliseconds();
        let table = Conntrack::new(self.tracking.config, now);
        match (table, Fragments::new(DATAGRAMS)) {
            (Ok(mut table), Ok(fragments)) => {
                self.tracking
                    .apply(&ConnectionSettings::default(), &mut table);
                let made = Connections {
                    table,
                    fragments,
                    now,
                };
                self.lane.connections = Some(Box::new(made));
            }
            // Rules that track drop what they match then.
            (table, _) => {
                tracing::error!(error = ?table.err(), "no memory for the connection table")
            }
        }
    }

    /// The clock of the connections: milliseconds since the worker was made.
    fn milliseconds(&self) -> u64 {
        Tsc::now().since(self.started) / self.millisecond
    }

    /// Connections that pass `filter` among `places` places from `cursor` on, at most `limit`; and where to go on.
    pub fn connections(
        &self,
        cursor: u32,
        places: usize,
        limit: usize,
        filter: &Filter,
    ) -> (Vec<Connection>, Option<u32>) {
        let Some(connections) = self.lane.connections.as_deref() else {
            return (Vec::new(), None);
        };
        let (mut found, mut full) = (Vec::new(), None::<ConnRef>);
        let now = self.milliseconds();
        let next = connections
            .table
            .list(cursor, places, filter, now, |conn, connection| {
                if found.len() < limit {
                    found.push(connection);
                } else {
                    full.get_or_insert(conn);
                }
            });
        (found, full.map_or(next, |conn| Some(conn.place())))
    }

    /// Ends the connections that pass `filter` among `places` places from `cursor` on. Answers how many, and where to go on.
    pub fn flush_connections(
        &mut self,
        cursor: u32,
        places: usize,
        filter: &Filter,
    ) -> (usize, Option<u32>) {
        match self.lane.connections.as_deref_mut() {
            Some(connections) => connections.table.flush(cursor, places, filter),
            None => (0, None),
        }
    }

    /// Sums of the connections; nothing before there is a table.
    pub fn connection_sums(&self) -> Option<ConnectionSums> {
        let connections = self.lane.connections.as_deref()?;
        Some(ConnectionSums {
            capacity: self.capacity(),
            bytes: connections.table.bytes() as u64,
            table: *connections.table.stats(),
            fragments: *connections.fragments.stats(),
        })
    }

    fn capacity(&self) -> u64 {
        self.tracking.config.capacity as u64
    }

    /// Writes the connections that outlive a restart; answers how many.
    ///
    /// # Errors
    /// When writing fails.
    pub fn save_connections(&self, out: &mut impl Write) -> io::Result<u64> {
        match self.lane.connections.as_deref() {
            Some(connections) => connections.table.save(self.milliseconds(), out),
            None => Ok(0),
        }
    }

    /// Reads connections of an earlier process into the table, which must have none yet. `owner` says what a port's number is now.
    ///
    /// # Errors
    /// What is wrong with the bytes; there are no connections then.
    pub fn restore_connections(
        &mut self,
        input: &mut impl Read,
        owner: impl FnMut(PortIndex) -> Option<PortIndex>,
    ) -> Result<Restored, RestoreError> {
        self.make_connections();
        let now = self.milliseconds();
        let restored = match self.lane.connections.as_deref_mut() {
            Some(connections) => connections.table.restore(now, input, owner),
            None => Ok(Restored::default()),
        };
        self.unclaimed = true;
        self.adopt_balancers();
        restored
    }

    /// Load balancers need connections; and those of an earlier process go to the members that they had.
    pub(super) fn adopt_balancers(&mut self) {
        let snapshot = self.snapshot.clone();
        let services = || snapshot.services.values();
        if services().all(|services| services.virtual_addresses.is_empty()) {
            return;
        }
        self.make_connections();
        let Some(connections) = self.lane.connections.as_deref_mut() else {
            return;
        };
        // What comes to one virtual address leaves room for the others' connections.
        let policy = ZonePolicy {
            limit: Some(BALANCED),
            ..ZonePolicy::default()
        };
        let addresses = || services().flat_map(|services| services.virtual_addresses.values());
        for balancer in addresses().flat_map(|address| &address.balancers) {
            connections.table.set_zone(balancer.zone, policy);
        }
        if !std::mem::take(&mut self.unclaimed) {
            return;
        }
        let balancers: HashMap<u16, &Balancer> = addresses()
            .flat_map(|address| &address.balancers)
            .map(|balancer| (balancer.zone, &**balancer))
            .collect();
        connections.table.claim(|original, reply| {
            let balancer = balancers.get(&original.zone)?;
            let member = balancer.member(address_of(reply), reply.sport)?;
            Some(member.slot)
        });
    }

    /// Live connections of members of load balancers, by slot.
    pub fn member_connections(&self, slots: &[u16]) -> Vec<u32> {
        let connections = self.lane.connections.as_deref();
        let count = |slot: &u16| connections.map_or(0, |c| c.table.member_count(*slot));
        slots.iter().map(count).collect()
    }
}
