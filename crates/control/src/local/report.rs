//! What the engine counts and knows, in the control plane's words.

use std::fmt::Write;

use sumeru_engine::Tsc;
use sumeru_switch::fdb::Target;
use sumeru_switch::shield::{Mode, ShieldView};
use sumeru_switch::stats::{DropReason, PairSums, RESIDENCE_BOUNDS, Stage};
use sumeru_switch::worker::Traced;

use super::{Local, disks};
use crate::dataplane::*;
use crate::model::{HALF_OPEN, PortKind, PortSpec, SynProtection};
use crate::value::MacAddr;

/// Adds what an lcore counted of a port's pairs of queues.
fn add_pairs(pairs: &mut Vec<PairStats>, sums: &[PairSums]) {
    for (number, sums) in (0_u16..).zip(sums) {
        let place = usize::from(number);
        if pairs.len() == place {
            pairs.push(PairStats {
                pair: number,
                ..PairStats::default()
            });
        }
        if let Some(pair) = pairs.get_mut(place) {
            pair.rx_packets += sums.rx_packets;
            pair.rx_bytes += sums.rx_bytes;
            pair.tx_packets += sums.tx_packets;
            pair.tx_bytes += sums.tx_bytes;
            pair.tx_drops += sums.tx_drops;
            pair.tx_full += sums.tx_full;
        }
    }
}

impl Local {
    pub(super) fn report_lcores(&self) -> Vec<LcoreStats> {
        let mut ios = self.past_ios.clone();
        for controller in self.controllers.values() {
            disks::add_ios(&mut ios, &controller.monitor, &controller.cpus);
        }
        let caches = self
            .switch
            .as_ref()
            .and_then(|switch| switch.cache_sums().ok());
        let one = |(number, lcore): (usize, &std::sync::Arc<sumeru_engine::Lcore>)| {
            let report = lcore.report().ok()?;
            let (rx_packets, tx_packets) = match &self.switch {
                Some(switch) if number == 0 => switch.lcore_packets(0),
                _ => (0, 0),
            };
            Some(LcoreStats {
                cpu: lcore.cpu() as u16,
                tid: lcore.tid(),
                tsc_hz: Tsc::hz(),
                tsc_elapsed: report.elapsed,
                busy_cycles: report.busy,
                idle_cycles: report.idle - report.asleep,
                sleep_cycles: report.asleep,
                loops: report.loops,
                busy_loops: report.busy_loops,
                rx_packets,
                tx_packets,
                blk_ios: ios.get(&(lcore.cpu() as u16)).copied().unwrap_or(0),
                wakeups: report.sleeps,
                cache: caches
                    .as_ref()
                    .and_then(|caches| caches.get(number))
                    .map(|cache| CacheStats {
                        cached_decisions: cache.entries,
                        cache_masks: cache.masks,
                        cache_bytes: cache.bytes,
                    })
                    .unwrap_or_default(),
            })
        };
        self.lcores.iter().enumerate().filter_map(one).collect()
    }

    pub(super) fn report_ports(&self) -> Vec<PortStats> {
        let ports = self.ports.values();
        ports.filter_map(|port| self.report_port(port)).collect()
    }

    fn report_port(&self, port: &super::LivePort) -> Option<PortStats> {
        let index = port.spec.index();
        let mut stats = PortStats {
            port: port.spec.name.clone(),
            index,
            ..PortStats::default()
        };
        for block in self.switch.as_ref()?.port_counters(index).ok()? {
            stats.rx_packets += block.rx_packets.get();
            stats.rx_bytes += block.rx_bytes.get();
            stats.tx_packets += block.tx_packets.get();
            stats.tx_bytes += block.tx_bytes.get();
            stats.rx_drops += block.rx_drops.get();
            stats.tx_drops += block.tx_drops.get();
            stats.tx_full += block.tx_full.get();
            stats.rx_errors += block.rx_errors.get();
            stats.calls += block.calls.get();
            if matches!(port.spec.kind, PortKind::VhostUser { .. }) {
                add_pairs(&mut stats.queue_pairs, &block.pair_sums());
            }
            stats.syn_cookies_sent += block.cookies_sent.get();
            stats.syn_cookies_valid += block.cookies_valid.get();
            stats.syn_cookies_invalid += block.cookies_invalid.get();
            stats.syn_cookies_unanswered += block.cookies_unanswered.get();
            // Read the other way round it could seem to have ended more often than it began.
            let ended = block.cookies_off.get();
            let began = block.cookies_on.get();
            stats.syn_floods += began;
            stats.syn_cookies_active += u64::from(began != ended);
        }
        Some(stats)
    }

    /// What the protection of a port from floods of SYNs does, if it has it.
    pub(super) fn syn_state(&self, port: &super::LivePort) -> Option<SynState> {
        shield_of(&port.spec)?;
        let stats = self.report_port(port)?;
        Some(SynState {
            active: stats.syn_cookies_active != 0,
            floods: stats.syn_floods,
            cookies_sent: stats.syn_cookies_sent,
            cookies_valid: stats.syn_cookies_valid,
            cookies_invalid: stats.syn_cookies_invalid,
            unanswered: stats.syn_cookies_unanswered,
        })
    }

    pub(super) fn report_stages(&self) -> Vec<StageStats> {
        let Some(switch) = &self.switch else {
            return Vec::new();
        };
        let one = |stage: &Stage| StageStats {
            stage: stage.as_str().to_owned(),
            packets: switch.stage(*stage),
        };
        Stage::ALL.iter().map(one).collect()
    }

    pub(super) fn report_drops(&self) -> Vec<DropStats> {
        let Some(switch) = &self.switch else {
            return Vec::new();
        };
        let one = |reason: DropReason| DropStats {
            reason: reason.as_str().to_owned(),
            packets: switch.drops(reason),
        };
        DropReason::all().map(one).collect()
    }

    pub(super) fn report_volumes(&self) -> Vec<VolumeStats> {
        let one = |(name, volume): (&String, &super::LiveVolume)| {
            let mut stats = VolumeStats {
                volume: name.clone(),
                ..volume.past.clone()
            };
            for controller in self
                .controllers
                .values()
                .filter(|controller| controller.volume == *name)
            {
                controller
                    .monitor
                    .queues()
                    .for_each(|queue| disks::add(&mut stats, &queue));
            }
            stats
        };
        self.volumes.iter().map(one).collect()
    }

    fn port_name(&self, index: u16) -> String {
        let found = self.ports.values().find(|port| port.spec.index() == index);
        found.map_or_else(|| index.to_string(), |port| port.spec.name.clone())
    }

    pub(super) fn report_fdb(&self, network: Option<&str>) -> Vec<FdbEntry> {
        let Some(entries) = self.switch.as_ref().and_then(|switch| switch.fdb().ok()) else {
            return Vec::new();
        };
        let name_of = |vni: u32| {
            self.networks
                .values()
                .find(|n| n.vni.get() == vni)
                .map(|n| n.name.clone())
        };
        let mut list: Vec<FdbEntry> = entries
            .into_iter()
            .filter_map(|(vni, mac, entry, age)| {
                let name = name_of(vni)?;
                let target = match entry.target {
                    Target::Port(index) => FdbTarget::Port(self.port_name(index)),
                    Target::Remote(remote) => FdbTarget::Remote(remote),
                };
                let age_s = if entry.fixed { 0 } else { age.into() };
                Some(FdbEntry {
                    network: name,
                    mac: MacAddr(mac),
                    target,
                    age_s,
                    is_static: entry.fixed,
                })
            })
            .filter(|entry| network.is_none_or(|wanted| wanted == entry.network))
            .collect();
        list.sort_by(|a, b| (&a.network, a.mac.0).cmp(&(&b.network, b.mac.0)));
        list
    }

    pub(super) fn report_residence(&self) -> Vec<ResidenceStats> {
        let Some(switch) = &self.switch else {
            return Vec::new();
        };
        let one = |(cpu, classes, sum): (usize, Vec<u64>, std::time::Duration)| {
            let bounds = RESIDENCE_BOUNDS.into_iter().map(Some).chain([None]);
            let classes = bounds.zip(classes);
            ResidenceStats {
                cpu: cpu as u16,
                classes: classes
                    .map(|(up_to_ns, frames)| ResidenceClass { up_to_ns, frames })
                    .collect(),
                sum_ns: sum.as_nanos() as u64,
            }
        };
        switch.residence().into_iter().map(one).collect()
    }

    pub(super) fn report_neighbours(&self) -> Vec<Neighbour> {
        let Some(neighbours) = self
            .switch
            .as_ref()
            .and_then(|switch| switch.neighbours().ok())
        else {
            return Vec::new();
        };
        let one =
            |(address, neighbour, age): (_, sumeru_switch::underlay::Neighbour, u32)| Neighbour {
                address,
                mac: neighbour.mac.map(MacAddr),
                state: match (neighbour.mac, neighbour.probes) {
                    (Some(_), 0) => NeighbourState::Reachable,
                    (Some(_), _) => NeighbourState::Stale,
                    (None, 0..=3) => NeighbourState::Incomplete,
                    (None, _) => NeighbourState::Failed,
                },
                age_s: age.into(),
                path_mtu: neighbour.path_mtu.map(|(mtu, _)| mtu),
            };
        let mut list: Vec<_> = neighbours.into_iter().map(one).collect();
        list.sort_by_key(|neighbour| neighbour.address);
        list
    }

    pub(super) fn report_trace(&self, traced: Traced) -> Trace {
        let hex = |bytes: Vec<u8>| {
            bytes
                .iter()
                .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{byte:02x}");
                    text
                })
        };
        let steps = traced.notes.into_iter().map(|note| TraceStep {
            stage: note.stage.to_owned(),
            decision: note.text,
        });
        let outputs = traced.outputs.into_iter();
        Trace {
            steps: steps.collect(),
            outputs: outputs
                .map(|(port, frame)| TraceOutput {
                    port: self.port_name(port),
                    frame: hex(frame),
                })
                .collect(),
            drop_reason: traced.dropped.map(|reason| reason.as_str().to_owned()),
        }
    }
}

/// How a port is protected, as the switch wants to know it.
pub(super) fn shield_of(spec: &PortSpec) -> Option<ShieldView> {
    let said = &spec.protection;
    let usual = ShieldView::default();
    let mode = match said.syn_protection? {
        SynProtection::Off => return None,
        SynProtection::Auto => Mode::Auto,
        SynProtection::Always => Mode::Always,
    };
    Some(ShieldView {
        mode,
        half_open: said.syn_half_open.unwrap_or(HALF_OPEN),
        rate: said.syn_rate,
        mss: said.syn_mss.unwrap_or(usual.mss),
        window_scale: said.syn_window_scale.unwrap_or(usual.window_scale),
        sack: said.syn_sack.unwrap_or(usual.sack),
        timestamps: said.syn_timestamps.unwrap_or(usual.timestamps),
    })
}
