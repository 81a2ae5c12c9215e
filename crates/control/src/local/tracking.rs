//! Connections of the switch in the control plane's words.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sumeru_switch::conntrack::{
    Config, Connection, Family, Filter, State, Timeouts, Tuple, ZonePolicy,
};
use sumeru_switch::worker::{ConnectionSettings, ConnectionSums};

use super::Local;
use crate::dataplane::*;
use crate::settings::SwitchSettings;

fn address(family: Family, bits: u128) -> IpAddr {
    match (family, u32::try_from(bits)) {
        (Family::V4, Ok(bits)) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn tuple(tuple: &Tuple) -> ConnectionTuple {
    ConnectionTuple {
        src: address(tuple.family, tuple.src),
        dst: address(tuple.family, tuple.dst),
        sport: tuple.sport,
        dport: tuple.dport,
    }
}

fn filter(wanted: &ConnectionFilter) -> Done<Filter> {
    let state = match &wanted.state {
        None => None,
        Some(word) => Some(State::from_word(word).ok_or_else(|| Refusal::Field {
            field: "state",
            found: format!("{word:?}"),
            expected: State::ALL.map(State::word).join(", "),
        })?),
    };
    Ok(Filter {
        zone: wanted.zone,
        proto: wanted.proto,
        src: wanted.src.map(bits),
        dst: wanted.dst.map(bits),
        sport: wanted.sport,
        dport: wanted.dport,
        state,
        owner: wanted.port,
        mark: None,
        member: None,
    })
}

fn settings(settings: &SwitchSettings, ports: &BTreeMap<String, u16>) -> ConnectionSettings {
    let mut timeouts: BTreeMap<u8, Timeouts> = BTreeMap::new();
    for timeout in &settings.timeouts {
        if let Some(state) = State::from_word(timeout.state) {
            let policy = timeouts.entry(timeout.policy).or_default();
            policy.set(state, timeout.ms);
        }
    }
    let zone = |zone: &crate::settings::ZoneSetting| {
        let policy = ZonePolicy {
            limit: zone.limit,
            pickup: zone.pickup,
            liberal: zone.liberal,
        };
        (zone.zone, policy)
    };
    let limits = settings.port_limits.iter();
    ConnectionSettings {
        config: Config {
            capacity: settings.connections as usize,
            early_drop: settings.early_drop,
        },
        zones: settings.zones.iter().map(zone).collect(),
        timeouts,
        port_limits: limits
            .filter_map(|limit| Some((*ports.get(&limit.port)?, limit.limit)))
            .collect(),
    }
}

fn stats(cpu: u16, sums: ConnectionSums) -> ConnectionStats {
    let (table, fragments) = (sums.table, sums.fragments);
    let [
        invalid,
        full,
        zone_full,
        port_full,
        clash,
        nat_exhausted,
        nat_range,
        policy,
    ] = table.refused;
    ConnectionStats {
        cpu,
        capacity: sums.capacity,
        live: table.live.into(),
        half_open: table.half_open.into(),
        memory: sums.bytes,
        created: table.created,
        reopened: table.reopened,
        expired: table.expired,
        flushed: table.flushed,
        early_dropped: table.early_dropped,
        invalid: table.invalid,
        refused: ConnectionRefusals {
            invalid,
            full,
            zone_full,
            port_full,
            clash,
            nat_exhausted,
            nat_range,
            policy,
        },
        fragments_accepted: fragments.accepted,
        fragments_unknown: fragments.unknown,
        fragments_refused: fragments.refused,
    }
}

impl Local {
    pub(super) fn apply_tracking(
        &mut self,
        wanted: &SwitchSettings,
        ports: &BTreeMap<String, u16>,
    ) -> Done {
        Ok(self.switch()?.set_tracking(&settings(wanted, ports))?)
    }

    pub(super) fn list_connections(
        &self,
        wanted: &ConnectionFilter,
        cursor: u64,
        limit: usize,
    ) -> Done<ConnectionPage> {
        let (found, cursor) = self
            .switch_ref()?
            .connections(cursor, limit, &filter(wanted)?)?;
        let names: BTreeMap<u16, &String> = self
            .ports
            .iter()
            .map(|(name, port)| (port.spec.index(), name))
            .collect();
        let entry = |connection: Connection| ConnectionEntry {
            zone: connection.original.zone,
            proto: connection.original.proto,
            original: tuple(&connection.original),
            reply: tuple(&connection.reply),
            state: connection.state.word(),
            replied: connection.replied,
            snat: connection.snat,
            dnat: connection.dnat,
            mark: connection.mark,
            label: format!("{:#x}", connection.label),
            port: names
                .get(&connection.owner)
                .map_or_else(|| connection.owner.to_string(), |name| (*name).clone()),
            policy: connection.policy,
            remaining_ms: connection.remaining,
            packets: connection.traffic.map(|traffic| traffic.packets),
            bytes: connection.traffic.map(|traffic| traffic.bytes),
        };
        Ok(ConnectionPage {
            connections: found.into_iter().map(entry).collect(),
            cursor,
        })
    }

    pub(super) fn end_connections(&mut self, wanted: &ConnectionFilter) -> Done<u64> {
        let filter = filter(wanted)?;
        Ok(self.switch()?.flush_connections(&filter)?)
    }

    pub(super) fn report_connections(&self) -> Done<Vec<ConnectionStats>> {
        let sums = self.switch_ref()?.connection_sums()?;
        let cpus = self.lcores.iter().map(|lcore| lcore.cpu() as u16);
        Ok(cpus
            .zip(sums)
            .map(|(cpu, sums)| stats(cpu, sums.unwrap_or_default()))
            .collect())
    }

    pub(super) fn keep_connections(&mut self, file: File) -> Done<u64> {
        let saved = self.switch()?.save_connections(file)?;
        saved.map_err(|source| Refusal::System {
            action: "write",
            target: "the connections".to_owned(),
            source,
        })
    }

    pub(super) fn revive_connections(
        &mut self,
        file: File,
        ports: BTreeMap<u16, u16>,
    ) -> Done<KeptConnections> {
        let owner = Arc::new(move |port| ports.get(&port).copied());
        let restored = self.switch()?.restore_connections(file, owner)?;
        let restored = restored.map_err(|error| Refusal::Inner(Box::new(error)))?;
        Ok(KeptConnections {
            restored: restored.connections,
            skipped: restored.skipped,
        })
    }
}
