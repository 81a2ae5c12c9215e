//! What wildcards and joined siblings save: a base station's users behind few rules ([`base_station`]), one flow each.
//!
//! *Exact* is the state before: the same rules, and in front of them [`DECOYS`] that no frame meets, but that make every decision rest on all bits of both
//! addresses and both ports. The cache then holds an entry for each flow, as a cache of exact flows does. *Wildcards* keeps the bits that a
//! decision used. Neighbouring cells send to different ports, so their rules cannot be joined; what joining does shows where the same policy is written out with a
//! rule for each user: *apart* they count, and rules that count are not joined; *joined* they do not.

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

/// What rules there are, and what a cached decision holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// 200 rules; all bits of addresses and ports.
    Exact,
    /// 200 rules; the bits that were used.
    Wildcards,
    /// A rule for each user; the bits that were used.
    Apart,
    /// A rule for each user; the bits that were used and that tell siblings apart that do different things.
    Joined,
}

impl Way {
    /// Each after the one that it is compared with.
    pub const ALL: [Self; 4] = [Self::Exact, Self::Wildcards, Self::Apart, Self::Joined];

    /// What it improves on.
    pub fn before(self) -> Option<Self> {
        match self {
            Self::Exact | Self::Apart => None,
            Self::Wildcards => Some(Self::Exact),
            Self::Joined => Some(Self::Apart),
        }
    }

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Wildcards => "wildcards",
            Self::Apart => "rule per user, apart",
            Self::Joined => "rule per user, joined",
        }
    }
}

/// What one way came to.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub way: Way,
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
    fn of(
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

/// Rules added in one version.
const AT_ONCE: usize = 1 << 16;

impl Shapes {
    /// Adds rules.
    ///
    /// # Errors
    /// If there is no memory.
    pub fn insert(
        &mut self,
        control: &mut Control,
        rules: &[Rule],
        counting: bool,
        placed: &mut Vec<Placed>,
    ) -> Result<()> {
        for chunk in rules.chunks(AT_ONCE) {
            let bits = chunk
                .iter()
                .map(|rule| self.of(control, rule, counting))
                .collect::<Result<Vec<_>>>()?;
            control.insert_bits(bits.into_iter(), placed)?;
        }
        Ok(())
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
    Way::ALL
        .into_iter()
        .map(|way| one(cores, &users, way, time))
        .collect()
}

fn one(cores: Cores, users: &Flows, way: Way, time: Duration) -> Result<Outcome> {
    let mut bed = Bed::start(cores)?;
    let mut placed: Vec<Placed> = Vec::new();
    if way == Way::Exact {
        let decoys = decoys(&bed.control)?;
        bed.control.insert_bits(decoys.into_iter(), &mut placed)?;
    }
    let mut shapes = Shapes::default();
    let rules = match way {
        Way::Exact | Way::Wildcards => base_station::rules(),
        Way::Apart | Way::Joined => base_station::rules_for_users(),
    };
    let counting = way == Way::Apart;
    shapes.insert(&mut bed.control, &rules, counting, &mut placed)?;
    let sent = users.clone();
    let (traffic, cached) = bed.lcore.call(move |lcore| -> Result<_> {
        lcore.rewind();
        lcore.rounds(&sent, 2)?;
        Ok((lcore.during(&sent, time)?, lcore.cached()))
    })??;
    Ok(Outcome {
        way,
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
    fn exact_decisions_are_as_many_as_flows_and_others_few() {
        let cores = Cores {
            lcore: 0,
            control: 0,
        };
        let outcomes = measure(cores, 4000, Duration::ZERO).unwrap();
        let [exact, wildcards, apart, joined] = &outcomes[..] else {
            panic!("four ways: {outcomes:?}");
        };
        assert_eq!(exact.cached, 4000);
        assert!(wildcards.cached < 1000, "{}", wildcards.cached);
        // 4,000 users of 4,096 blocks of 256 addresses: hardly two in one.
        assert_eq!(apart.cached, 4000);
        assert!(joined.cached < 4000, "{}", joined.cached);
    }
}
