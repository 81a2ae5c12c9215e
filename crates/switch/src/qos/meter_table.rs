//! Meters by index: what rules share. A meter has a profile, a policy that says what becomes of a frame of each colour, and counts.
//!
//! Several rules may use one meter: they hold the same [`MeterId`]. A rule whose meter was destroyed holds an id of an old generation
//! and gets [`None`], never somebody else's meter.

use super::QosError;
use super::meter::{Colour, Meter, Profile};

/// Most meters of a table.
pub const METERS_MAX: u32 = 1 << 20;

/// Names a meter of one table for as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MeterId {
    index: u32,
    generation: u32,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MeterAction {
    /// It goes on.
    #[default]
    Pass,
    /// It is dropped.
    Drop,
    /// It goes on with this DSCP, 0 to 63.
    MarkDscp(u8),
}

/// What becomes of a frame, by colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Of green frames.
    pub green: MeterAction,
    /// Of yellow ones.
    pub yellow: MeterAction,
    /// Of red ones.
    pub red: MeterAction,
}

impl Default for Policy {
    /// Red frames are dropped.
    fn default() -> Policy {
        Policy {
            green: MeterAction::Pass,
            yellow: MeterAction::Pass,
            red: MeterAction::Drop,
        }
    }
}

impl Policy {
    /// What becomes of a frame of `colour`.
    #[inline]
    pub fn action(&self, colour: Colour) -> MeterAction {
        match colour {
            Colour::Green => self.green,
            Colour::Yellow => self.yellow,
            Colour::Red => self.red,
        }
    }

    fn check(&self) -> Result<(), QosError> {
        for colour in Colour::ALL {
            if let MeterAction::MarkDscp(dscp @ 64..) = self.action(colour) {
                return Err(QosError::Dscp(dscp));
            }
        }
        Ok(())
    }
}

/// Frames of one colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ColourCount {
    /// How many, whatever became of them.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a meter has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MeterStats {
    /// Coloured green.
    pub green: ColourCount,
    /// Coloured yellow.
    pub yellow: ColourCount,
    /// Coloured red.
    pub red: ColourCount,
    /// Dropped by the policy, of any colour.
    pub dropped: ColourCount,
}

/// What a meter says about a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its colour from here on; the input of the next colour-aware meter.
    pub colour: Colour,
    /// What is to be done with it.
    pub action: MeterAction,
}

#[derive(Debug)]
struct Entry {
    meter: Meter,
    policy: Policy,
    stats: MeterStats,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    entry: Option<Entry>,
}

/// The meters of one lcore.
#[derive(Debug)]
pub struct MeterTable {
    ticks_per_s: u64,
    capacity: u32,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl MeterTable {
    /// A table for up to `capacity` meters (1 to [`METERS_MAX`]) on a clock of `ticks_per_s`. Room is taken as meters are made.
    ///
    /// # Errors
    /// [`QosError::Limit`].
    pub fn new(capacity: u32, ticks_per_s: u64) -> Result<MeterTable, QosError> {
        if capacity == 0 || capacity > METERS_MAX {
            return Err(QosError::Limit(capacity.into()));
        }
        Ok(MeterTable {
            ticks_per_s,
            capacity,
            slots: Vec::new(),
            free: Vec::new(),
        })
    }

    /// Makes a meter with full buckets.
    ///
    /// # Errors
    /// [`QosError::Full`], [`QosError::Dscp`], and what [`Meter::new`] refuses.
    pub fn create(
        &mut self,
        profile: &Profile,
        policy: Policy,
        now: u64,
    ) -> Result<MeterId, QosError> {
        policy.check()?;
        let entry = Entry {
            meter: Meter::new(profile, self.ticks_per_s, now)?,
            policy,
            stats: MeterStats::default(),
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() < self.capacity as usize => {
                self.slots.push(Slot::default());
                (self.slots.len() - 1) as u32
            }
            None => {
                return Err(QosError::Full {
                    what: "meter",
                    limit: self.capacity,
                });
            }
        };
        let slot = &mut self.slots[index as usize];
        slot.entry = Some(entry);
        Ok(MeterId {
            index,
            generation: slot.generation,
        })
    }

    fn entry(&mut self, id: MeterId) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.entry
            .as_mut()
            .filter(|_| slot.generation == id.generation)
    }

    /// Gives a meter another profile and policy. Its buckets are full again; its counts stay.
    ///
    /// # Errors
    /// [`QosError::Gone`], [`QosError::Dscp`], and what [`Meter::new`] refuses; the meter is then as it was.
    pub fn update(
        &mut self,
        id: MeterId,
        profile: &Profile,
        policy: Policy,
        now: u64,
    ) -> Result<(), QosError> {
        policy.check()?;
        let meter = Meter::new(profile, self.ticks_per_s, now)?;
        let entry = self.entry(id).ok_or(QosError::Gone("meter"))?;
        (entry.meter, entry.policy) = (meter, policy);
        Ok(())
    }

    /// Destroys a meter and returns its last counts.
    ///
    /// # Errors
    /// [`QosError::Gone`].
    pub fn destroy(&mut self, id: MeterId) -> Result<MeterStats, QosError> {
        let slot = self.slots.get_mut(id.index as usize);
        let slot = slot.filter(|slot| slot.generation == id.generation);
        let (slot, entry) = slot
            .and_then(|slot| slot.entry.take().map(|entry| (slot, entry)))
            .ok_or(QosError::Gone("meter"))?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Ok(entry.stats)
    }

    /// Colours a frame of `len` bytes, counts it, and says what is to be done. None if the meter is gone.
    #[inline]
    pub fn apply(&mut self, id: MeterId, len: u32, input: Colour, now: u64) -> Option<Verdict> {
        let entry = self.entry(id)?;
        let colour = entry.meter.colour(len, input, now);
        let action = entry.policy.action(colour);
        let stats = &mut entry.stats;
        let count = |count: &mut ColourCount| {
            count.packets = count.packets.wrapping_add(1);
            count.bytes = count.bytes.wrapping_add(len.into());
        };
        count(match colour {
            Colour::Green => &mut stats.green,
            Colour::Yellow => &mut stats.yellow,
            Colour::Red => &mut stats.red,
        });
        if action == MeterAction::Drop {
            count(&mut stats.dropped);
        }
        Some(Verdict { colour, action })
    }

    /// What a meter has seen, or None if it is gone.
    pub fn stats(&self, id: MeterId) -> Option<MeterStats> {
        let slot = self.slots.get(id.index as usize)?;
        let entry = slot.entry.as_ref()?;
        (slot.generation == id.generation).then_some(entry.stats)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::Rate;
    use super::super::meter::Marker;
    use super::*;

    const PROFILE: Profile = Profile {
        marker: Marker::SingleRate {
            cir: Rate::Packets(1),
            cbs: 1,
            ebs: 1,
        },
        colour_aware: true,
    };

    #[test]
    fn policy_and_counts_follow_the_colour() {
        let mut table = MeterTable::new(4, 1_000).unwrap();
        let policy = Policy {
            yellow: MeterAction::MarkDscp(10),
            ..Policy::default()
        };
        let id = table.create(&PROFILE, policy, 0).unwrap();
        let actions: Vec<_> = (0..3)
            .map(|i| table.apply(id, 100 + i, Colour::Green, 0).unwrap().action)
            .collect();
        let expected = [
            MeterAction::Pass,
            MeterAction::MarkDscp(10),
            MeterAction::Drop,
        ];
        assert_eq!(actions, expected);
        let count = |bytes| ColourCount { packets: 1, bytes };
        let stats = MeterStats {
            green: count(100),
            yellow: count(101),
            red: count(102),
            dropped: count(102),
        };
        assert_eq!(table.stats(id), Some(stats));
        table.update(id, &PROFILE, policy, 0).unwrap();
        let again = table.apply(id, 100, Colour::Yellow, 0).unwrap();
        assert_eq!(again.colour, Colour::Yellow, "it came in yellow");
        let bad = Policy {
            red: MeterAction::MarkDscp(64),
            ..policy
        };
        assert_eq!(table.update(id, &PROFILE, bad, 0), Err(QosError::Dscp(64)));
    }

    #[test]
    fn an_old_id_never_names_a_new_meter() {
        let mut table = MeterTable::new(1, 1_000).unwrap();
        let old = table.create(&PROFILE, Policy::default(), 0).unwrap();
        let full = QosError::Full {
            what: "meter",
            limit: 1,
        };
        assert_eq!(table.create(&PROFILE, Policy::default(), 0), Err(full));
        table.destroy(old).unwrap();
        assert_eq!(table.destroy(old), Err(QosError::Gone("meter")));
        let new = table.create(&PROFILE, Policy::default(), 0).unwrap();
        assert_eq!(table.apply(old, 1, Colour::Green, 0), None);
        assert_eq!(table.stats(old), None);
        assert_eq!(
            table.update(old, &PROFILE, Policy::default(), 0),
            Err(QosError::Gone("meter"))
        );
        assert!(table.apply(new, 1, Colour::Green, 0).is_some());
    }
}
