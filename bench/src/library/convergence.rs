//! What wildcards and joined siblings save: a base station's users behind few rules ([`base_station`]), one flow each.
//!
//! *Exact* is the state before: the same rules, and in front of them [`DECOYS`] that no frame meets, but that make every decision rest on all bits of both
//! addresses and both ports. The cache then holds an entry for each flow, as a cache of exact flows does. *Wildcards* keeps the bits that a
//! decision used; its rules count, and rules that count are not joined. *Joined* joins rules that do the same.

use super::control::Control;
use super::flows::{self, Flows};
use super::lcore::Traffic;
use super::{Bed, Cores};
use crate::base_station;
use crate::switch::Rule;
use anyhow::Result;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use sumeru_packet::{Field, FlowKey, FlowMask, Layer};
use sumeru_switch::rules::{ActionList, Placed, Shape};

/// Rules in front of the others that make decisions exact: for each byte of both addresses one for every value of it, with ports that no frame has.
pub const DECOYS: u32 = 8 * 256;

/// What a cached decision holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// All bits of addresses and ports.
    Exact,
    /// The bits that were used.
    Wildcards,
    /// The bits that were used, without those that do not matter among siblings.
    Joined,
}

impl Keeping {
    /// From the most entries to the fewest.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Wildcards, Self::Joined];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcards => "wildcards",
            Self::Joined => "joined",
        }
    }
}

/// What one way came to.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub keeping: Keeping,
    /// Rules, without decoys.
    pub rules: usize,
    /// Different flows that were sent.
    pub microflows: u32,
    /// Entries of the flow cache, all flows having been sent.
    pub cached: usize,
    /// Rounds over all flows, once everything was cached.
    pub traffic: Traffic,
}

/// Shapes of rules, each made once.
#[derive(Default)]
pub struct Shapes(HashMap<(u32, u16, bool, Vec<u64>), Arc<Shape>>);

impl Shapes {
    /// The shape of a rule of group 0 and its bits. `counting` rules count.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn of(
        &mut self,
        control: &Control,
        rule: &Rule,
        counting: bool,
    ) -> Result<(Arc<Shape>, FlowKey)> {
        let (mask, value) = flows::bits(rule);
        let (priority, port) = (1 + u32::from(rule.priority), rule.to.unwrap_or_default());
        let known = (priority, port, counting, mask.words().to_vec());
        if let Some(shape) = self.0.get(&known) {
            return Ok((shape.clone(), value));
        }
        let actions: ActionList = match counting {
            true => flows::counted(port),
            false => flows::to(port),
        };
        let shape = control.shape(0, priority, &mask, &actions)?;
        self.0.insert(known, shape.clone());
        Ok((shape, value))
    }
}

/// See [`DECOYS`].
fn decoys(control: &Control) -> Result<Vec<(Arc<Shape>, FlowKey)>> {
    let outer = Layer::Outer;
    let mut decoys = Vec::new();
    for field in [Field::IpSrc(outer), Field::IpDst(outer)] {
        for byte in 0..4 {
            let shift = 8 * byte;
            let mut mask = FlowMask::ZERO;
            for whole in [
                Field::InPort,
                Field::EthType(outer),
                Field::L4Src(outer),
                Field::L4Dst(outer),
            ] {
                mask.merge_field(whole);
            }
            mask.set(field, 0xff << shift);
            let shape = control.shape(0, 0, &mask, &flows::to(1))?;
            for value in 0..256 {
                let mut key = FlowKey::with_metadata(0, 0);
                key.set(Field::EthType(outer), 0x0800);
                key.set(Field::L4Src(outer), 1);
                key.set(Field::L4Dst(outer), 1);
                key.set(field, value << shift);
                decoys.push((shape.clone(), key));
            }
        }
    }
    Ok(decoys)
}

/// Measures every way with `users` users, each for about `time`.
///
/// # Errors
/// If a frame is lost or a rule is refused.
pub fn measure(cores: Cores, users: u32, time: Duration) -> Result<Vec<Outcome>> {
    let users = Flows::Table(base_station::flows(users).into());
    Keeping::ALL
        .into_iter()
        .map(|keeping| one(cores, &users, keeping, time))
        .collect()
}

fn one(cores: Cores, users: &Flows, keeping: Keeping, time: Duration) -> Result<Outcome> {
    let mut bed = Bed::start(cores)?;
    let mut placed: Vec<Placed> = Vec::new();
    if keeping == Keeping::Exact {
        let decoys = decoys(&bed.control)?;
        bed.control.insert_bits(decoys.into_iter(), &mut placed)?;
    }
    let mut shapes = Shapes::default();
    let rules = base_station::rules();
    let counting = keeping == Keeping::Wildcards;
    let bits = rules
        .iter()
        .map(|rule| shapes.of(&bed.control, rule, counting))
        .collect::<Result<Vec<_>>>()?;
    bed.control.insert_bits(bits.into_iter(), &mut placed)?;
    let sent = users.clone();
    let (traffic, cached) = bed.lcore.call(move |lcore| -> Result<_> {
        lcore.rewind();
        lcore.rounds(&sent, 2)?;
        Ok((lcore.during(&sent, time)?, lcore.cached()))
    })??;
    Ok(Outcome {
        keeping,
        rules: rules.len(),
        microflows: users.count(),
        cached,
        traffic,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_decisions_are_as_many_as_flows_and_others_as_few_as_rules() {
        let cores = Cores {
            lcore: 0,
            control: 0,
        };
        let outcomes = measure(cores, 4000, Duration::ZERO).unwrap();
        let [exact, wildcards, joined] = &outcomes[..] else {
            panic!("three ways: {outcomes:?}");
        };
        assert_eq!(exact.cached, 4000);
        assert!(wildcards.cached < 1000, "{}", wildcards.cached);
        assert!(joined.cached <= wildcards.cached);
    }
}
