//! What rules name: meters and indirect actions, and which rules have grown old.

use std::time::Instant;

use sumeru_engine::Tsc;
use sumeru_flow::PortRef;
use sumeru_flow::model::{
    Action, FieldValue, IndirectAction, MeterAlgorithm, MeterColor, MeterPolicy, MeterProfile,
};

use super::{Switch, SwitchError};
use crate::frame::PortIndex;
use crate::qos::bucket::Rate;
use crate::qos::meter::{Marker, Profile};
use crate::qos::meter_table::{ColourCount, MeterAction, MeterId, MeterStats, Policy};
use crate::rules::queue::lock;
use crate::rules::{Aged, Answer, Context, RuleError, RuleTable};

/// A profile of the model as the engine has it. `aware`: the colour that an earlier meter gave counts.
fn profile(profile: &MeterProfile, aware: bool) -> Result<Profile, SwitchError> {
    profile.validate()?;
    // The model counts bytes, the engine bits.
    let rate = |rate: u64| match profile.packet_mode {
        true => Rate::Packets(rate),
        false => Rate::Bits(rate.saturating_mul(8)),
    };
    let marker = match profile.algorithm {
        MeterAlgorithm::SrtcmRfc2697 { cir, cbs, ebs } => Marker::SingleRate {
            cir: rate(cir),
            cbs,
            ebs,
        },
        MeterAlgorithm::TrtcmRfc2698 { cir, pir, cbs, pbs } => Marker::TwoRate {
            cir: rate(cir),
            cbs,
            pir: rate(pir),
            pbs,
        },
        MeterAlgorithm::TrtcmRfc4115 { .. } => {
            return Err(RuleError::Unsupported {
                what: "meter profile trtcm_rfc4115",
                expected: "srtcm_rfc2697 or trtcm_rfc2698",
            }
            .into());
        }
    };
    Ok(Profile {
        marker,
        colour_aware: aware,
    })
}

/// A policy of the model as the engine has it.
fn policy(policy: &MeterPolicy) -> Result<Policy, SwitchError> {
    let one = |actions: &[Action]| match actions {
        [] | [Action::Void | Action::Passthru] => Ok(MeterAction::Pass),
        [Action::MeterColor { color }] if *color != MeterColor::All => Ok(MeterAction::Pass),
        [Action::Drop] => Ok(MeterAction::Drop),
        [Action::SetIpv4Dscp { dscp } | Action::SetIpv6Dscp { dscp }] => {
            Ok(MeterAction::MarkDscp(dscp.to_bits() as u8))
        }
        _ => Err(RuleError::Unsupported {
            what: "meter policy",
            expected: "for each colour nothing, drop, or set_ipv4_dscp",
        }),
    };
    Ok(Policy {
        green: one(&policy.green)?,
        yellow: one(&policy.yellow)?,
        red: one(&policy.red)?,
    })
}

impl Switch {
    /// Makes a meter that rules of `port` name by `id`. `aware`: the colour that an earlier meter of the rule gave counts. Its rates hold for each lcore by
    /// itself; all ports of a switch are on one.
    ///
    /// # Errors
    /// A number that is taken, a profile or policy that cannot be.
    pub fn create_meter(
        &mut self,
        (port, id): (PortIndex, u32),
        wanted: &MeterProfile,
        what: &MeterPolicy,
        aware: bool,
    ) -> Result<(), SwitchError> {
        let (profile, policy) = (profile(wanted, aware)?, policy(what)?);
        if lock(&self.rules).objects().meter(port, id).is_ok() {
            let what = "meter";
            return Err(RuleError::ObjectExists { what, port, id }.into());
        }
        let mut made = None;
        for worker in &self.workers {
            let meter = worker
                .call(move |worker, _| worker.meters().create(&profile, policy, Tsc::now().0))??;
            // Meters come and go on all lcores alike, so they have the same names there.
            debug_assert!(made.is_none_or(|first| first == meter));
            made = Some(meter);
        }
        let meter = made.ok_or(SwitchError::NoLcore)?;
        Ok(lock(&self.rules).objects_mut().add_meter(port, id, meter)?)
    }

    /// Gives a meter another profile and policy. Rules that name it follow at once.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], a profile or policy that cannot be.
    pub fn update_meter(
        &mut self,
        (port, id): (PortIndex, u32),
        wanted: &MeterProfile,
        what: &MeterPolicy,
        aware: bool,
    ) -> Result<(), SwitchError> {
        let (profile, policy) = (profile(wanted, aware)?, policy(what)?);
        let meter = self.meter(port, id)?;
        for worker in &self.workers {
            worker.call(move |worker, _| {
                let now = Tsc::now().0;
                worker.meters().update(meter, &profile, policy, now)
            })??;
        }
        Ok(())
    }

    /// Destroys a meter.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::InUse`].
    pub fn destroy_meter(&mut self, port: PortIndex, id: u32) -> Result<(), SwitchError> {
        let meter = lock(&self.rules).objects_mut().remove_meter(port, id)?;
        for worker in &self.workers {
            worker.call(move |worker, _| worker.meters().destroy(meter))??;
        }
        Ok(())
    }

    /// What a meter has seen, over all lcores.
    ///
    /// # Errors
    /// [`RuleError::NoObject`].
    pub fn meter_stats(&self, port: PortIndex, id: u32) -> Result<MeterStats, SwitchError> {
        let meter = self.meter(port, id)?;
        let mut all = MeterStats::default();
        for worker in &self.workers {
            let Some(stats) = worker.call(move |worker, _| worker.meters().stats(meter))? else {
                continue;
            };
            let add = |to: &mut ColourCount, from: ColourCount| {
                to.packets += from.packets;
                to.bytes += from.bytes;
            };
            add(&mut all.green, stats.green);
            add(&mut all.yellow, stats.yellow);
            add(&mut all.red, stats.red);
            add(&mut all.dropped, stats.dropped);
        }
        Ok(all)
    }

    /// Whether there is a meter of this name.
    pub fn has_meter(&self, (port, id): (PortIndex, u32)) -> bool {
        self.meter(port, id).is_ok()
    }

    fn meter(&self, port: PortIndex, id: u32) -> Result<MeterId, SwitchError> {
        Ok(lock(&self.rules).objects().meter(port, id)?)
    }

    /// Makes an indirect action that rules of `port` name by `id`.
    ///
    /// # Errors
    /// [`RuleError::ObjectExists`], and whatever a rule with the action would be refused for.
    pub fn create_indirect(
        &mut self,
        name: (PortIndex, u32),
        action: &IndirectAction,
    ) -> Result<(), SwitchError> {
        self.change_indirect(name, |rules, context| {
            rules.create_indirect(action, context)
        })
    }

    /// Gives an indirect action other arguments: the rules that name it do the new thing from the next frame on.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::ObjectKind`], and whatever a rule with the action would be refused for.
    pub fn update_indirect(
        &mut self,
        name: (PortIndex, u32),
        action: &IndirectAction,
    ) -> Result<(), SwitchError> {
        self.change_indirect(name, |rules, context| {
            rules.update_indirect(action, context)
        })
    }

    fn change_indirect(
        &mut self,
        (port, id): (PortIndex, u32),
        change: impl FnOnce(&mut RuleTable, &Context<'_>) -> Result<(), RuleError>,
    ) -> Result<(), SwitchError> {
        let resolve = |wanted: &PortRef| self.resolve(wanted);
        let resolve = &resolve;
        change(&mut lock(&self.rules), &Context { port, id, resolve })?;
        self.publish_rules()
    }

    /// Destroys an indirect action.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::InUse`].
    pub fn destroy_indirect(&mut self, port: PortIndex, id: u32) -> Result<(), SwitchError> {
        lock(&self.rules).destroy_indirect(port, id)?;
        self.publish_rules()
    }

    /// What an indirect `count` has counted, or how old an indirect `age` is.
    ///
    /// # Errors
    /// [`RuleError::NoObject`], [`RuleError::Unsupported`] for other actions.
    pub fn query_indirect(&self, port: PortIndex, id: u32) -> Result<Answer, SwitchError> {
        Ok(lock(&self.rules).query_indirect(port, id, Instant::now())?)
    }

    /// Rules and indirect actions that have grown old, of all ports, in no order; see [`RuleTable::aged`](crate::rules::RuleTable::aged). To be called once a
    /// second where ages matter.
    pub fn aged(&self) -> Vec<Aged> {
        lock(&self.rules).aged(Instant::now())
    }

    /// Isolates a port: its frames go where rules send them and nowhere else (`rte_flow_isolate`).
    ///
    /// # Errors
    /// [`SwitchError::UnknownPort`].
    pub fn set_isolated(&mut self, port: PortIndex, isolated: bool) -> Result<(), SwitchError> {
        if !self.ports.contains_key(&port) {
            return Err(SwitchError::UnknownPort(port));
        }
        self.change(|snapshot| {
            if isolated {
                snapshot.isolated.insert(port);
            } else {
                snapshot.isolated.remove(&port);
            }
        })
    }

    /// Removes all named rules of a port.
    ///
    /// # Errors
    /// An lcore that is gone.
    pub fn flush_rules(&mut self, port: PortIndex) -> Result<(), SwitchError> {
        lock(&self.rules).flush(port);
        self.publish_rules()
    }
}
