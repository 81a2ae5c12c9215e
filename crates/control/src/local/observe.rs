//! Who looks at frames: captures, mirrors, exporters.

use std::sync::Arc;

use sumeru_packet::build::{Erspan, ErspanKind};
use sumeru_switch::flow_export::{MeterCounters, Timeouts};
use sumeru_switch::mirror::{MirrorCounters, MirrorView, Target};
use sumeru_switch::selection::Selection;
use sumeru_switch::switch::SwitchError;

use super::capture::Recorder;
use super::ipfix::Sender;
use super::{Local, unknown};
use crate::dataplane::{Capture, CaptureState, Done, ExporterState, MirrorState, Refusal};
use crate::model::{ExporterSpec, FrameSelection, MirrorSpec, MirrorTarget, Way};

/// An exporter that runs.
pub struct LiveExporter {
    /// Under which the switch knows its meter.
    number: u64,
    counters: Arc<MeterCounters>,
    sender: Sender,
}

/// Most captures at a time: each has a thread and room for the frames that wait for it.
const CAPTURES_MAX: usize = 32;

impl Local {
    fn port_index(&self, name: &String) -> Done<u16> {
        let port = self.ports.get(name).ok_or_else(|| unknown("port", name))?;
        Ok(port.spec.index())
    }

    /// What the switch calls a selection.
    fn selection(&self, wanted: &FrameSelection) -> Done<Selection> {
        let ports = wanted.ports.iter().map(|name| self.port_index(name));
        let selection = Selection {
            ports: ports.collect::<Done<_>>()?,
            received: wanted.direction != Way::Egress,
            sent: wanted.direction != Way::Ingress,
            host: wanted.host,
            l4_port: wanted.l4_port,
            protocol: wanted.protocol,
            sample: wanted.sample,
            ..Selection::default()
        };
        match &wanted.pattern {
            None => Ok(selection),
            Some(pattern) => Ok(selection
                .matching(pattern.items())
                .map_err(SwitchError::from)?),
        }
    }

    pub(super) fn begin_capture(&mut self, capture: &Capture) -> Done {
        if self.captures.len() >= CAPTURES_MAX {
            return Err(Refusal::Full {
                what: "capture",
                limit: CAPTURES_MAX as u64,
            });
        }
        let selection = self.selection(&capture.selection)?;
        let names = self
            .ports
            .values()
            .map(|port| (port.spec.index(), port.spec.name.clone()))
            .collect();
        let system = |action| {
            move |source| Refusal::System {
                action,
                target: capture.path.clone(),
                source,
            }
        };
        let file = std::fs::File::create_new(&capture.path).map_err(system("create"))?;
        let (number, seen) = self.switch()?.start_tap(selection, capture.snaplen)?;
        match Recorder::start(capture.clone(), file, (number, seen), names) {
            Ok(recorder) => {
                self.captures.insert(capture.name.clone(), recorder);
                Ok(())
            }
            Err(error) => {
                self.switch()?.stop_tap(number)?;
                Err(system("write")(error))
            }
        }
    }

    pub(super) fn end_capture(&mut self, name: &str) -> Done<CaptureState> {
        let recorder = self
            .captures
            .remove(name)
            .ok_or_else(|| unknown("capture", name))?;
        self.switch()?.stop_tap(recorder.number())?;
        Ok(recorder.finish())
    }

    pub(super) fn begin_mirror(&mut self, spec: &MirrorSpec) -> Done {
        let target = match &spec.target {
            MirrorTarget::Port { to_port } => Target::Port(self.port_index(to_port)?),
            MirrorTarget::Collector {
                collector,
                erspan_type,
                session,
                index,
                snaplen,
            } => Target::Collector {
                address: *collector,
                header: Erspan {
                    session: *session,
                    kind: match erspan_type {
                        2 => ErspanKind::Two { index: *index },
                        _ => ErspanKind::Three {
                            hardware: *index as u8,
                        },
                    },
                },
                snaplen: *snaplen,
            },
        };
        let view = MirrorView {
            name: spec.name.as_str().into(),
            selection: self.selection(&spec.selection)?,
            target,
            counters: Arc::new(MirrorCounters::default()),
        };
        let mut mirrors = self.switch_ref()?.snapshot().mirrors.clone();
        mirrors.push(view);
        Ok(self.switch()?.set_mirrors(mirrors)?)
    }

    pub(super) fn end_mirror(&mut self, name: &str) -> Done {
        let mut mirrors = self.switch_ref()?.snapshot().mirrors.clone();
        mirrors.retain(|mirror| &*mirror.name != name);
        Ok(self.switch()?.set_mirrors(mirrors)?)
    }

    pub(super) fn report_mirror(&self, name: &str) -> Done<MirrorState> {
        let mirrors = &self.switch_ref()?.snapshot().mirrors;
        let mirror = mirrors.iter().find(|mirror| &*mirror.name == name);
        let counters = &mirror.ok_or_else(|| unknown("mirror", name))?.counters;
        Ok(MirrorState {
            packets: counters.packets.get(),
            bytes: counters.bytes.get(),
            lost: counters.lost.get(),
        })
    }

    pub(super) fn begin_exporter(&mut self, spec: &ExporterSpec) -> Done {
        let selection = self.selection(&spec.selection)?;
        let system = |action| {
            move |source| Refusal::System {
                action,
                target: spec.collector.to_string(),
                source,
            }
        };
        let socket = Sender::socket(spec.collector).map_err(system("send to"))?;
        let timeouts = Timeouts {
            active_ms: u64::from(spec.active_timeout_s) * 1000,
            idle_ms: u64::from(spec.idle_timeout_s) * 1000,
        };
        let counters = Arc::new(MeterCounters::default());
        let (theirs, flows) = (counters.clone(), spec.flows as usize);
        let (number, records) = self
            .switch()?
            .start_meter(selection, timeouts, flows, theirs)?;
        match Sender::start(socket, spec, records) {
            Ok(sender) => {
                let live = LiveExporter {
                    number,
                    counters,
                    sender,
                };
                self.exporters.insert(spec.name.clone(), live);
                Ok(())
            }
            Err(error) => {
                self.switch()?.stop_meter(number)?;
                Err(system("start a thread for")(error))
            }
        }
    }

    pub(super) fn end_exporter(&mut self, name: &str) -> Done {
        let live = self.exporters.get(name);
        let number = live.ok_or_else(|| unknown("exporter", name))?.number;
        // It tells of all flows, and then the thread sends what it was told.
        self.switch()?.stop_meter(number)?;
        self.exporters.remove(name);
        Ok(())
    }

    pub(super) fn report_exporter(&self, name: &str) -> Done<ExporterState> {
        let live = self.exporters.get(name);
        let live = live.ok_or_else(|| unknown("exporter", name))?;
        let (records, unsent) = live.sender.counts();
        Ok(ExporterState {
            flows: live.counters.flows.get(),
            packets: live.counters.packets.get(),
            unmetered: live.counters.unmetered.get(),
            records,
            lost: live.counters.lost.get() + unsent,
        })
    }
}
