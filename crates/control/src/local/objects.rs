//! Meters and indirect actions of ports, and what has grown old.

use sumeru_flow::model::IndirectAction;
use sumeru_switch::qos::meter_table::ColourCount;
use sumeru_switch::rules::Answer;
use sumeru_switch::rules::ageing::Subject;

use super::Local;
use crate::dataplane::{AgedFlow, AgedKind, Done, FlowCount, IndirectAnswer, MeterCount};
use crate::model::{MeterSpec, Port};

/// A port and a number as the switch names objects.
type Name = (u16, u32);

fn name(port: &Port, id: u32) -> Name {
    (port.spec.index(), id)
}

impl Local {
    pub(super) fn make_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        let (profile, policy) = (&meter.profile, &meter.policy);
        let switch = self.switch()?;
        Ok(switch.create_meter(name(port, id), profile, policy, meter.color_aware)?)
    }

    pub(super) fn alter_meter(&mut self, port: &Port, id: u32, meter: &MeterSpec) -> Done {
        let (profile, policy) = (&meter.profile, &meter.policy);
        let switch = self.switch()?;
        Ok(switch.update_meter(name(port, id), profile, policy, meter.color_aware)?)
    }

    pub(super) fn count_meter(&self, port: &Port, id: u32) -> Done<MeterCount> {
        let stats = self.switch_ref()?.meter_stats(port.spec.index(), id)?;
        let count = |from: ColourCount| FlowCount {
            packets: from.packets,
            bytes: from.bytes,
        };
        Ok(MeterCount {
            green: count(stats.green),
            yellow: count(stats.yellow),
            red: count(stats.red),
            dropped: count(stats.dropped),
        })
    }

    pub(super) fn make_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        Ok(self.switch()?.create_indirect(name(port, id), action)?)
    }

    pub(super) fn alter_indirect(&mut self, port: &Port, id: u32, action: &IndirectAction) -> Done {
        Ok(self.switch()?.update_indirect(name(port, id), action)?)
    }

    pub(super) fn ask_indirect(&self, port: &Port, id: u32) -> Done<IndirectAnswer> {
        let answer = self.switch_ref()?.query_indirect(port.spec.index(), id)?;
        Ok(match answer {
            Answer::Count { packets, bytes } => IndirectAnswer::Count(FlowCount { packets, bytes }),
            Answer::Age { aged, idle } => IndirectAnswer::Age { aged, idle_s: idle },
        })
    }

    pub(super) fn list_aged(&self) -> Done<Vec<AgedFlow>> {
        let aged = self.switch_ref()?.aged();
        let told = aged.into_iter().map(|aged| {
            let (kind, (port, id)) = match aged.subject {
                Subject::Rule(port, id) => (AgedKind::Rule, (port, id)),
                Subject::Indirect(port, id) => (AgedKind::Indirect, (port, id)),
            };
            AgedFlow {
                port,
                kind,
                id,
                context: aged.context,
                idle_s: aged.idle,
            }
        });
        Ok(told.collect())
    }
}
