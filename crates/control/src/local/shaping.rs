//! Egress queues of ports: from shares by name to those by network identifier, and back for what they counted.

use sumeru_switch::lane::queue::{Class, EgressConfig, QueueReport, Tenant};

use super::{Local, unknown};
use crate::dataplane::{Done, QueueStats};
use crate::model::PortSpec;

const KBIT: u64 = 1000;

impl Local {
    /// Gives a port the queue that its specification asks for, if any.
    pub(super) fn shape(&mut self, spec: &PortSpec) -> Done {
        let config = match spec.shaping.shape_kbit {
            None => None,
            Some(kbit) => Some(self.egress_config(spec, kbit)?),
        };
        Ok(self.switch()?.set_egress(spec.index(), config)?)
    }

    fn egress_config(&self, spec: &PortSpec, kbit: u64) -> Done<EgressConfig> {
        let mut tenants = Vec::new();
        for tenant in &spec.shaping.shape_tenants {
            let network = match &tenant.network {
                None => None,
                Some(name) => {
                    let network = self.networks.get(name);
                    Some(network.ok_or_else(|| unknown("network", name))?.vni.get())
                }
            };
            tenants.push(Tenant {
                network,
                priority: tenant.share.priority,
                weight: tenant.share.weight,
                rate: tenant.rate_kbit.map(|kbit| kbit * KBIT),
            });
        }
        let classes = spec.shaping.shape_classes.iter().map(|class| Class {
            dscp: class.dscp.clone(),
            priority: class.share.priority,
            weight: class.share.weight,
        });
        Ok(EgressConfig {
            rate: kbit * KBIT,
            frames: spec.shaping.queue(),
            tenants,
            classes: classes.collect(),
        })
    }

    pub(super) fn report_queues(&self) -> Vec<QueueStats> {
        let mut stats = Vec::new();
        for port in self.ports.values() {
            let spec = &port.spec;
            if spec.shaping.shape_kbit.is_none() {
                continue;
            }
            let reports = self
                .switch
                .as_ref()
                .map(|switch| switch.queues(spec.index()));
            let reports = reports.and_then(Result::ok).unwrap_or_default();
            stats.extend(reports.iter().map(|report| self.queue_of(spec, report)));
        }
        stats
    }

    fn queue_of(&self, spec: &PortSpec, report: &QueueReport) -> QueueStats {
        let named = |vni: u32| {
            let mut networks = self.networks.values();
            let network = networks.find(|network| network.vni.get() == vni);
            network.map_or_else(|| vni.to_string(), |network| network.name.clone())
        };
        let points: Vec<String> = report.dscp.iter().map(u8::to_string).collect();
        let stats = &report.stats;
        QueueStats {
            port: spec.name.clone(),
            tenant: report.network.map_or_else(|| "*".to_owned(), named),
            class: match points.len() {
                0 => "*".to_owned(),
                _ => format!("dscp {}", points.join(" ")),
            },
            sent_packets: stats.sent_packets,
            sent_bytes: stats.sent_bytes,
            full_packets: stats.full_packets,
            delay_packets: stats.codel_dropped,
            marked_packets: stats.codel_marked,
            queued_packets: stats.queued_packets.into(),
            queued_bytes: stats.queued_bytes,
        }
    }
}
