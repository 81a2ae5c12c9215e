//! A data plane that moves nothing: it keeps the names it was given, refuses what any data plane
//! would refuse, and reports zeroes. `sumeru daemon --dry-run` runs on it to try a configuration
//! and the API without privileges, and so do tests. It opens no file, socket or interface.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::dataplane::*;
use crate::model::{Controller, Flow, Kind, Network, Node, Port, Volume};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct DryRun {
    lcores: Vec<u16>,
    have: BTreeMap<(Kind, String), u64>,
    captures: BTreeMap<String, Capture>,
}

impl DryRun {
    fn add(&mut self, kind: Kind, name: String, number: u64) -> Done {
        match self.have.insert((kind, name.clone()), number) {
            None => Ok(()),
            Some(_) => Err(Refusal::Field {
                field: "name",
                found: name,
                expected: "a free name".to_owned(),
            }),
        }
    }

    fn need(&self, kind: Kind, name: &str) -> Done<u64> {
        let found = self.have.get(&(kind, name.to_owned())).copied();
        found.ok_or_else(|| Refusal::Unknown {
            kind: kind.word(),
            name: name.to_owned(),
        })
    }

    fn take(&mut self, kind: Kind, name: &str) -> Done {
        self.need(kind, name)?;
        self.have.remove(&(kind, name.to_owned()));
        Ok(())
    }

    fn names(&self, kind: Kind) -> impl Iterator<Item = (&String, u64)> {
        self.have
            .iter()
            .filter(move |((k, _), _)| *k == kind)
            .map(|((_, name), number)| (name, *number))
    }
}

impl DataPlane for DryRun {
    fn start(&mut self, node: &Node) -> Done {
        self.lcores = node.spec.lcores.clone();
        Ok(())
    }

    fn update_node(&mut self, _old: &Node, _new: &Node) -> Done {
        Ok(())
    }

    fn stop(&mut self) {
        self.have.clear();
    }

    fn create_network(&mut self, network: &Network) -> Done {
        self.add(
            Kind::Network,
            network.name(),
            u64::from(network.spec.vni.get()),
        )
    }

    fn update_network(&mut self, old: &Network, _new: &Network) -> Done {
        self.need(Kind::Network, &old.spec.name).map(drop)
    }

    fn delete_network(&mut self, network: &Network) -> Done {
        self.take(Kind::Network, &network.spec.name)
    }

    fn create_port(&mut self, port: &Port) -> Done {
        if let Some(network) = &port.spec.network {
            self.need(Kind::Network, network)?;
        }
        self.add(Kind::Port, port.name(), u64::from(port.spec.index()))
    }

    fn update_port(&mut self, old: &Port, _new: &Port) -> Done {
        self.need(Kind::Port, &old.spec.name).map(drop)
    }

    fn delete_port(&mut self, port: &Port) -> Done {
        self.take(Kind::Port, &port.spec.name)
    }

    fn port_state(&self, name: &str) -> Done<PortState> {
        self.need(Kind::Port, name)?;
        Ok(PortState {
            lcores: self.lcores.clone(),
            ..PortState::default()
        })
    }

    fn validate_flow(&self, port: &Port, _flow: &Flow) -> Done {
        self.need(Kind::Port, &port.spec.name).map(drop)
    }

    fn change_flows(&mut self, change: &FlowChange<'_>) -> Result<(), FlowRefusal> {
        let mut done: Vec<(bool, String)> = Vec::new();
        let destroyed = change.destroy.iter().map(|pair| (false, pair));
        let created = change.create.iter().map(|pair| (true, pair));
        for (creating, (port, flow)) in destroyed.chain(created) {
            let name = flow.name();
            let result = if creating {
                self.validate_flow(port, flow)
                    .and_then(|()| self.add(Kind::Flow, name.clone(), 0))
            } else {
                self.take(Kind::Flow, &name)
            };
            let Err(refusal) = result else {
                done.push((creating, name));
                continue;
            };
            let at = done.iter().filter(|(c, _)| *c == creating).count();
            for (created, name) in done.into_iter().rev() {
                if created {
                    self.have.remove(&(Kind::Flow, name));
                } else {
                    self.have.insert((Kind::Flow, name), 0);
                }
            }
            return Err(FlowRefusal {
                creating,
                at,
                refusal,
            });
        }
        Ok(())
    }

    fn query_flow(&self, _port: &Port, flow: &Flow) -> Done<FlowCount> {
        self.need(Kind::Flow, &flow.name())?;
        Ok(FlowCount::default())
    }

    fn create_volume(&mut self, volume: &Volume) -> Done {
        self.add(
            Kind::Volume,
            volume.name(),
            volume.spec.kind.size().map_or(0, |s| s.bytes()),
        )
    }

    fn resize_volume(&mut self, old: &Volume, new: &Volume) -> Done {
        self.take(Kind::Volume, &old.spec.name)?;
        self.create_volume(new)
    }

    fn delete_volume(&mut self, volume: &Volume) -> Done {
        self.take(Kind::Volume, &volume.spec.name)
    }

    fn volume_state(&self, name: &str) -> Done<VolumeState> {
        Ok(VolumeState {
            size: self.need(Kind::Volume, name)?,
        })
    }

    fn create_controller(&mut self, controller: &Controller, volume: &Volume) -> Done {
        self.need(Kind::Volume, &volume.spec.name)?;
        self.add(Kind::Controller, controller.name(), 0)
    }

    fn delete_controller(&mut self, controller: &Controller) -> Done {
        self.take(Kind::Controller, &controller.spec.name)
    }

    fn controller_state(&self, name: &str) -> Done<ControllerState> {
        self.need(Kind::Controller, name)?;
        Ok(ControllerState {
            lcores: self.lcores.clone(),
            ..ControllerState::default()
        })
    }

    fn lcore_stats(&self) -> Vec<LcoreStats> {
        self.lcores
            .iter()
            .map(|cpu| LcoreStats {
                cpu: *cpu,
                ..LcoreStats::default()
            })
            .collect()
    }

    fn port_stats(&self) -> Vec<PortStats> {
        let stats = |(name, index): (&String, u64)| PortStats {
            port: name.clone(),
            index: u16::try_from(index).unwrap_or(u16::MAX),
            ..PortStats::default()
        };
        self.names(Kind::Port).map(stats).collect()
    }

    fn stage_stats(&self) -> Vec<StageStats> {
        Vec::new()
    }

    fn drop_stats(&self) -> Vec<DropStats> {
        Vec::new()
    }

    fn volume_stats(&self) -> Vec<VolumeStats> {
        let stats = |(name, _): (&String, u64)| VolumeStats {
            volume: name.clone(),
            ..VolumeStats::default()
        };
        self.names(Kind::Volume).map(stats).collect()
    }

    fn fdb(&self, _network: Option<&str>) -> Vec<FdbEntry> {
        Vec::new()
    }

    fn neighbours(&self) -> Vec<Neighbour> {
        Vec::new()
    }

    fn trace(&mut self, port: &Port, frame: &[u8]) -> Done<Trace> {
        self.need(Kind::Port, &port.spec.name)?;
        let hex = frame.iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let step = TraceStep {
            stage: "rx".to_owned(),
            decision: format!("{} bytes: {hex}", frame.len()),
        };
        Ok(Trace {
            steps: vec![step],
            outputs: Vec::new(),
            drop_reason: Some("dry-run".to_owned()),
        })
    }

    fn capture_start(&mut self, capture: &Capture) -> Done {
        self.captures.insert(capture.name.clone(), capture.clone());
        Ok(())
    }

    fn capture_stop(&mut self, name: &str) -> Done<CaptureState> {
        let capture = self.captures.remove(name);
        let capture = capture.ok_or_else(|| Refusal::Unknown {
            kind: "capture",
            name: name.to_owned(),
        })?;
        Ok(CaptureState {
            capture,
            packets: 0,
            lost: 0,
            running: false,
        })
    }

    fn captures(&self) -> Vec<CaptureState> {
        let state = |c: &Capture| CaptureState {
            capture: c.clone(),
            packets: 0,
            lost: 0,
            running: true,
        };
        self.captures.values().map(state).collect()
    }
}
