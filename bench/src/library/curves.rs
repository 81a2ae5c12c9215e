//! Cycles per packet as flows grow behind few rules, and as rules grow with a flow each.

use super::convergence::Shapes;
use super::flows::Flows;
use super::{Bed, Cores};
use crate::cases::{FIRST_DESTINATION, destination_rules};
use anyhow::Result;
use std::time::Duration;

/// Rules of the curve against flows.
pub const RULES: u32 = 4096;

/// A point of a curve.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Flows or rules.
    pub size: u32,
    /// Entries of the flow cache.
    pub cached: usize,
    /// TSC cycles within `poll` per packet, the median of the rounds.
    pub cycles_per_packet: f64,
}

/// Flows through [`RULES`] rules by destination address, by rising `sizes`.
///
/// # Errors
/// If a frame is lost or a rule is refused.
pub fn flows(cores: Cores, sizes: &[u32], rounds: u32, time: Duration) -> Result<Vec<Point>> {
    let mut bed = Bed::start(cores)?;
    grow(&mut bed, &mut Shapes::default(), 0, RULES)?;
    sizes
        .iter()
        .map(|size| {
            let flows = Flows::Destinations {
                first: FIRST_DESTINATION,
                count: (*size).min(RULES),
                ports: size.div_ceil(RULES),
            };
            point(&bed, flows, *size, rounds, time)
        })
        .collect()
}

/// Rules by destination address with one flow each, by rising `sizes`.
///
/// # Errors
/// If a frame is lost or a rule is refused.
pub fn rules(cores: Cores, sizes: &[u32], rounds: u32, time: Duration) -> Result<Vec<Point>> {
    let mut bed = Bed::start(cores)?;
    let mut shapes = Shapes::default();
    let mut have = 0;
    sizes
        .iter()
        .map(|size| {
            grow(&mut bed, &mut shapes, have, *size)?;
            have = *size;
            let flows = Flows::Destinations {
                first: FIRST_DESTINATION,
                count: *size,
                ports: 1,
            };
            point(&bed, flows, *size, rounds, time)
        })
        .collect()
}

/// More rules, from one number to another; each counts, as those of the daemon's steps do.
fn grow(bed: &mut Bed, shapes: &mut Shapes, from: u32, to: u32) -> Result<()> {
    let rules = destination_rules(to);
    shapes.insert(
        &mut bed.control,
        &rules[from as usize..],
        true,
        &mut Vec::new(),
    )
}

fn point(bed: &Bed, flows: Flows, size: u32, rounds: u32, time: Duration) -> Result<Point> {
    bed.lcore.call(move |lcore| {
        lcore.rewind();
        lcore.rounds(&flows, 2)?;
        let mut cycles = Vec::new();
        for _ in 0..rounds {
            cycles.push(lcore.during(&flows, time)?.cycles_per_packet());
        }
        cycles.sort_by(f64::total_cmp);
        Ok(Point {
            size,
            cached: lcore.cached(),
            cycles_per_packet: cycles.get(cycles.len() / 2).copied().unwrap_or_default(),
        })
    })?
}
