//! The cases of the library, with the goals that their figures are held against.

use super::convergence;
use super::lcore::Traffic;
use super::storm::{self, Weather};
use super::{Cores, capacity, curves, switch_over};
use crate::report::{Check, Spread};
use crate::tsc;
use anyhow::{Context, Result};
use std::time::Duration;

const GIB: f64 = (1u64 << 30) as f64;
const MEMORY_GIB: f64 = 4.0;
const RULES_PER_SECOND: f64 = 1e6;
/// The tail in a storm over the quiet one.
const STORM: f64 = 2.0;
/// The part of microflows that may be left as cached entries.
const CONVERGED: f64 = 0.01;
/// Rules replaced by one transaction.
pub const REPLACED: u32 = 100_000;
/// Transactions.
const TIMES: u32 = 5;
const TAIL: f64 = 0.999;

/// A case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Memory, insertion, removal. The first, so that its memory is new.
    Capacity,
    /// Latency while rules change.
    Storm,
    /// A transaction.
    SwitchOver,
    /// What wildcards save.
    Convergence,
    /// Cycles per packet against flows and rules.
    Curves,
}

impl Case {
    /// In the order in which they are to be measured.
    pub const ALL: [Self; 5] = [
        Self::Capacity,
        Self::Storm,
        Self::SwitchOver,
        Self::Convergence,
        Self::Curves,
    ];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Capacity => "capacity",
            Self::Storm => "storm",
            Self::SwitchOver => "switch-over",
            Self::Convergence => "convergence",
            Self::Curves => "curves",
        }
    }
}

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Size {
    /// Where.
    pub cores: Cores,
    /// Rules and flows at once.
    pub rules: u32,
    /// Whether these rules count.
    pub counting: bool,
    /// Users of the base station.
    pub users: u32,
    /// Flows of the curve against flows.
    pub flows: Vec<u32>,
    /// Rules of the curve against rules.
    pub curve_rules: Vec<u32>,
    /// Rounds of what is measured in rounds.
    pub rounds: u32,
    /// Time of one part of a round.
    pub time: Duration,
}

/// What a case came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Figures.
    pub checks: Vec<Check>,
    /// Points against flows.
    pub flows: Vec<curves::Point>,
    /// Points against rules.
    pub rules: Vec<curves::Point>,
}

impl Outcome {
    /// Adds another case's.
    pub fn merge(&mut self, other: Self) {
        self.checks.extend(other.checks);
        self.flows.extend(other.flows);
        self.rules.extend(other.rules);
    }
}

/// Measures a case.
///
/// # Errors
/// Those of the case: a lost frame, a refused rule, the system's.
pub fn measure(case: Case, size: &Size) -> Result<Outcome> {
    let checks = match case {
        Case::Capacity => capacity(&capacity::measure(size.cores, size.rules, size.counting)?),
        Case::Storm => storm(&storm::measure(size.cores, size.rounds, size.time)?)?,
        Case::SwitchOver => switch_over(&switch_over::measure(size.cores, REPLACED, TIMES)?)?,
        Case::Convergence => convergence(&convergence::measure(size.cores, size.users, size.time)?),
        Case::Curves => {
            let (cores, rounds, time) = (size.cores, size.rounds, size.time / 2);
            return Ok(Outcome {
                checks: Vec::new(),
                flows: curves::flows(cores, &size.flows, rounds, time)?,
                rules: curves::rules(cores, &size.curve_rules, rounds, time)?,
            });
        }
    };
    Ok(Outcome {
        checks,
        ..Outcome::default()
    })
}

fn microseconds(cycles: u64) -> f64 {
    cycles as f64 / tsc::hz() * 1e6
}

fn tail(traffic: &Traffic) -> f64 {
    microseconds(traffic.residence.quantile(TAIL))
}

/// Bursts of all rounds; the median of the rounds where it is no count.
fn bursts<'a>(rounds: impl Iterator<Item = &'a storm::Point>) -> String {
    let rounds: Vec<&Traffic> = rounds.map(|point| &point.traffic).collect();
    let at = |part| {
        let values: Vec<f64> = rounds
            .iter()
            .map(|traffic| microseconds(traffic.residence.quantile(part)))
            .collect();
        Spread::of(&values).map_or(0.0, |spread| spread.median)
    };
    format!(
        "{} bursts, {} preempted and left out; p50 {:.1} µs, p99 {:.1} µs",
        rounds.iter().map(|t| t.residence.total()).sum::<u64>(),
        rounds.iter().map(|t| t.excluded).sum::<u64>(),
        at(0.5),
        at(0.99)
    )
}

fn capacity(outcome: &capacity::Outcome) -> Vec<Check> {
    let gib = |bytes: f64| bytes / GIB;
    let rate = |name: &str, cost: &super::control::Cost, traffic: &Traffic| {
        Check::at_least(
            name,
            "rules/s of the control thread",
            cost.rate(),
            RULES_PER_SECOND,
        )
        .with(format!(
            "{} rules in {:.2} s of processor time, {:.2} s by the clock",
            cost.operations,
            cost.processor.as_secs_f64(),
            cost.wall.as_secs_f64()
        ))
        .with(format!(
            "meanwhile {:.0} cycles/packet over {} flows, {} of {} packets decided anew",
            traffic.cycles_per_packet(),
            capacity::RUNNING,
            traffic.decided,
            traffic.frames
        ))
    };
    vec![
        Check::at_most(
            "capacity: memory",
            "GiB",
            gib(outcome.peak as f64),
            MEMORY_GIB,
        )
        .with(format!(
            "{} rules and {} cached flows at once",
            outcome.rules, outcome.cached
        ))
        .with(format!(
            "highest resident size less the bench's own; {:.2} GiB in the end",
            gib(outcome.resident as f64)
        ))
        .with(format!(
            "rules say {:.2} GiB, flow cache {:.2} GiB",
            gib(outcome.rule_bytes as f64),
            gib(outcome.cache_bytes as f64)
        )),
        Check::at_least(
            "capacity: cached flows",
            "entries",
            outcome.cached as f64,
            outcome.rules as f64,
        )
        .with(format!(
            "{:.0} cycles/packet when first seen, {:.0} from the cache",
            outcome.first.cycles_per_packet(),
            outcome.again.cycles_per_packet()
        )),
        rate(
            "capacity: insertion",
            &outcome.insertion,
            &outcome.while_inserting,
        ),
        rate(
            "capacity: removal",
            &outcome.removal,
            &outcome.while_removing,
        ),
    ]
}

fn storm(points: &[storm::Point]) -> Result<Vec<Check>> {
    let of = |weather: Weather| points.iter().filter(move |point| point.weather == weather);
    let tails = |weather| {
        of(weather)
            .map(|point| tail(&point.traffic))
            .collect::<Vec<_>>()
    };
    let median = |values: &[f64]| {
        Spread::of(values)
            .map(|spread| spread.median)
            .context("no round")
    };
    let quiet = tails(Weather::Quiet);
    let name = "storm: p99.9 of a burst, quiet";
    let mut checks = vec![
        Check::told(name, "µs", median(&quiet)?)
            .with(format!("{} flows with a rule each", storm::FLOWS))
            .with(bursts(of(Weather::Quiet))),
    ];
    for (weather, place) in [
        (Weather::Here, "the same group"),
        (Weather::Elsewhere, "another group"),
    ] {
        let own = tails(weather);
        let pairs = own.iter().zip(&quiet);
        let ratios: Vec<f64> = pairs.map(|(own, quiet)| own / quiet).collect();
        let each: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        let rates: Vec<f64> = of(weather)
            .map(|point| point.cost.operations as f64 / point.cost.wall.as_secs_f64() / 1e6)
            .collect();
        let sum = |of_one: fn(&Traffic) -> u64| {
            of(weather).map(|point| of_one(&point.traffic)).sum::<u64>()
        };
        checks.push(
            Check::at_most(
                &format!("storm: p99.9 with changes in {place}"),
                "times quiet",
                median(&ratios)?,
                STORM,
            )
            .with(format!(
                "{:.1} µs; rounds {}",
                median(&own)?,
                each.join(" ")
            ))
            .with(format!("{:.2} M changes/s by the clock", median(&rates)?))
            .with(format!(
                "{} of {} packets decided anew",
                sum(|traffic| traffic.decided),
                sum(|traffic| traffic.frames)
            ))
            .with(bursts(of(weather))),
        );
    }
    Ok(checks)
}

fn switch_over(outcomes: &[switch_over::Outcome]) -> Result<Vec<Check>> {
    let wrong: u64 = outcomes.iter().map(|one| one.mixed + one.back).sum();
    let frames: u64 = outcomes.iter().map(|one| one.traffic.frames).sum();
    let milliseconds: Vec<f64> = outcomes
        .iter()
        .map(|one| one.push.wall.as_secs_f64() * 1e3)
        .collect();
    let spread = Spread::of(&milliseconds).context("no transaction")?;
    let of = |value: fn(&switch_over::Outcome) -> f64| {
        Spread::of(&outcomes.iter().map(value).collect::<Vec<_>>()).map_or(0.0, |s| s.median)
    };
    let longest = outcomes.iter().map(|one| one.traffic.residence.max()).max();
    Ok(vec![
        Check::at_most(
            "switch-over: bursts that met old and new rules, or old ones after new ones",
            "bursts",
            wrong as f64,
            0.0,
        )
        .with(format!(
            "{} transactions of {REPLACED} rules each; {frames} frames sent, all arrived",
            outcomes.len()
        )),
        Check::told("switch-over: time of the push", "ms", spread.median)
            .with(format!(
                "{:.1} to {:.1}; {:.1} ms before to queue it",
                spread.min,
                spread.max,
                of(|one| one.queueing.wall.as_secs_f64() * 1e3)
            ))
            .with(format!(
                "first burst by the new rules {:.1} ms after its beginning",
                of(|one| one.seen_s * 1e3)
            ))
            .with(format!(
                "longest burst {:.1} µs, p99.9 {:.1} µs",
                microseconds(longest.unwrap_or_default()),
                of(|one| tail(&one.traffic))
            )),
    ])
}

fn convergence(outcomes: &[convergence::Outcome]) -> Vec<Check> {
    let before = |one: &convergence::Outcome| {
        let way = one.way.before()?;
        outcomes.iter().find(|other| other.way == way)
    };
    let entries = outcomes.iter().map(|one| {
        let name = format!("convergence: cached entries, {}", one.way.name());
        let value = one.cached as f64;
        let limit = f64::from(one.microflows) * CONVERGED;
        let check = match one.way.before() {
            None => Check::told(&name, "entries", value),
            Some(_) => Check::at_most(&name, "entries", value, limit),
        };
        check.with(format!(
            "{} microflows, {} rules",
            one.microflows, one.rules
        ))
    });
    let cycles = outcomes.iter().map(|one| {
        let name = format!("convergence: cycles/packet, {}", one.way.name());
        let value = one.traffic.cycles_per_packet();
        let check = match before(one) {
            None => Check::told(&name, "cycles/packet", value),
            Some(before) => {
                let limit = before.traffic.cycles_per_packet();
                Check::at_most(&name, "cycles/packet", value, limit)
            }
        };
        let mpps = one.traffic.packets_per_second() / 1e6;
        check.with(format!("{mpps:.2} Mpps of the time in poll"))
    });
    entries.chain(cycles).collect()
}
