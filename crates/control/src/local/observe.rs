//! Who looks at frames: captures.

use super::capture::Recorder;
use super::{Local, unknown};
use crate::dataplane::{Capture, CaptureState, Done, Refusal};
use crate::model::{FrameSelection, Way};

use sumeru_switch::selection::Selection;
use sumeru_switch::switch::SwitchError;

/// Most captures at a time: each has a thread and room for the frames that wait for it.
const CAPTURES_MAX: usize = 32;

impl Local {
    /// What the switch calls a selection.
    fn selection(&self, wanted: &FrameSelection) -> Done<Selection> {
        let index = |name: &String| {
            let port = self.ports.get(name).ok_or_else(|| unknown("port", name))?;
            Ok(port.spec.index())
        };
        let selection = Selection {
            ports: wanted.ports.iter().map(index).collect::<Done<_>>()?,
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
}
