//! Results: `bench/results/NAME.json` for machines, and the same rows as a table in `NAME.md` for people.
//!
//! It computes medians and ratios and writes them; it judges nothing.

use crate::machine::Machine;
use crate::plot::Plot;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Median and range of some rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two middle ones.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value; none for none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Some(Self { median, min, max })
    }
}

/// One case, both sides.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the case.
    pub case: String,
    /// Unit of `ours` and `peer`.
    pub unit: String,
    /// Sumeru.
    pub ours: Spread,
    /// The peer.
    pub peer: Spread,
    /// Which peer, and how it was set up.
    pub peer_name: String,
    /// Median of ours / median of the peer's.
    pub ratio: f64,
    /// Median of the per-round ratios, where rounds are pairs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_ratio: Option<f64>,
    /// What `verdict` was decided by, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// PASS or MISS where there is a goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// Points of this row that were taken although the machine was too busy, each with its reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub noisy: Vec<String>,
    /// Points that were repeated because a thread had not run enough.
    pub repeated: u32,
    /// A figure from elsewhere, quoted for orientation, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// More about the case: latencies, Mpps and such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<String>,
}

/// A figure measured elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reference {
    /// Where it is from.
    pub source: &'static str,
    /// The figure.
    pub value: f64,
}

/// Both sides of one case, filled round by round.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    /// Sumeru, one per round.
    pub ours: Vec<f64>,
    /// The peer, one per round.
    pub peer: Vec<f64>,
}

impl Rounds {
    /// Median of the per-round ratios ours/peer.
    pub fn median_ratio(&self) -> Option<f64> {
        let ratios: Vec<f64> = self
            .ours
            .iter()
            .zip(&self.peer)
            .map(|(ours, peer)| ours / peer)
            .collect();
        Spread::of(&ratios).map(|spread| spread.median)
    }

    /// A row with nothing but the figures.
    ///
    /// # Errors
    /// If a side has no round: a case without its peer is no result.
    pub fn row(&self, case: &str, unit: &str, peer_name: &str) -> Result<Row> {
        let ours =
            Spread::of(&self.ours).with_context(|| format!("{case}: Sumeru was not measured"))?;
        let peer = Spread::of(&self.peer)
            .with_context(|| format!("{case}: {peer_name} was not measured"))?;
        Ok(Row {
            case: case.to_owned(),
            unit: unit.to_owned(),
            ours,
            peer,
            peer_name: peer_name.to_owned(),
            ratio: ours.median / peer.median,
            round_ratio: None,
            goal: None,
            verdict: None,
            noisy: Vec::new(),
            repeated: 0,
            reference: None,
            detail: Vec::new(),
        })
    }
}

/// A figure of Sumeru alone, held against a goal.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was measured.
    pub check: String,
    /// Its unit.
    pub unit: String,
    /// What came out.
    pub value: f64,
    /// What it was to be, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// PASS or MISS where there is a goal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<&'static str>,
    /// More about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<String>,
}

impl Check {
    /// A figure without a goal.
    pub fn told(check: &str, unit: &str, value: f64) -> Self {
        Self {
            check: check.to_owned(),
            unit: unit.to_owned(),
            value,
            goal: None,
            verdict: None,
            detail: Vec::new(),
        }
    }

    /// A figure that passes if it is not above `limit`.
    pub fn at_most(check: &str, unit: &str, value: f64, limit: f64) -> Self {
        Self {
            goal: Some(format!("at most {}", number(limit))),
            verdict: Some(if value <= limit { PASS } else { MISS }),
            ..Self::told(check, unit, value)
        }
    }

    /// A figure that passes if it is not below `limit`.
    pub fn at_least(check: &str, unit: &str, value: f64, limit: f64) -> Self {
        Self {
            goal: Some(format!("at least {}", number(limit))),
            verdict: Some(if value >= limit { PASS } else { MISS }),
            ..Self::told(check, unit, value)
        }
    }

    /// The same with a word more about it.
    #[must_use]
    pub fn with(mut self, detail: String) -> Self {
        self.detail.push(detail);
        self
    }
}

/// A bench's results.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// What is measured and how, for the reader of the table.
    pub about: Vec<String>,
    /// The cases.
    pub rows: Vec<Row>,
    /// Figures without a peer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    /// Curves; each becomes a picture `NAME-PLACE.svg`, from 1 on, and a table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plots: Vec<Plot>,
}

impl Report {
    /// Writes `NAME.json` and `NAME.md` into `bench/results` of the checkout (or `$SUMERU_BENCH_RESULTS`) and returns the table.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, name: &str) -> Result<String> {
        let folder = match std::env::var_os("SUMERU_BENCH_RESULTS") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from("bench/results"),
        };
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let json = self.json()? + "\n";
        let table = self.table(name);
        for (ending, text) in [("json", &json), ("md", &table)] {
            let path = folder.join(format!("{name}.{ending}"));
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        for (place, plot) in (1..).zip(&self.plots) {
            let path = folder.join(format!("{name}-{place}.svg"));
            fs::write(&path, plot.svg()).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(table)
    }

    /// All of it for machines.
    ///
    /// # Errors
    /// For a figure that is no number.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The table as Markdown.
    pub fn table(&self, name: &str) -> String {
        let machine = &self.machine;
        let mut text = format!("# {name}\n\n");
        let gigahertz = machine.tsc_hz as f64 / 1e9;
        let _ = writeln!(
            text,
            "{} ({} cores, TSC {gigahertz:.2} GHz), Linux {}, {} huge pages; {}.\n",
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.hugepages_2m,
            machine.versions.join("; ")
        );
        for line in &self.about {
            let _ = writeln!(text, "{line}\n");
        }
        text.push_str(&self.check_table());
        if self.rows.is_empty() {
            return text + &self.plot_tables(name);
        }
        text.push_str("| case | unit | ours (min..max) | peer (min..max) | peer | ratio | goal | verdict | reference | detail |\n");
        text.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
        for row in &self.rows {
            let spread = |s: &Spread| {
                format!(
                    "{} ({}..{})",
                    number(s.median),
                    number(s.min),
                    number(s.max)
                )
            };
            let ratio = match row.round_ratio {
                Some(rounds) => format!("{:.3} (rounds {rounds:.3})", row.ratio),
                None => format!("{:.3}", row.ratio),
            };
            let reference = row.reference.map_or(String::new(), |reference| {
                format!("{} {}", reference.source, number(reference.value))
            });
            let mut detail = row.detail.clone();
            if row.repeated > 0 {
                detail.push(format!("{} points repeated", row.repeated));
            }
            detail.extend(row.noisy.iter().map(|reason| format!("noisy: {reason}")));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {ratio} | {} | {} | {reference} | {} |",
                row.case,
                row.unit,
                spread(&row.ours),
                spread(&row.peer),
                row.peer_name,
                row.goal.as_deref().unwrap_or(""),
                row.verdict.unwrap_or(""),
                detail.join("; ")
            );
        }
        text + &self.plot_tables(name)
    }

    fn check_table(&self) -> String {
        let mut text = String::new();
        if !self.checks.is_empty() {
            text.push_str(
                "| check | value | unit | goal | verdict | detail |\n|---|---|---|---|---|---|\n",
            );
        }
        for check in &self.checks {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                check.check,
                number(check.value),
                check.unit,
                check.goal.as_deref().unwrap_or(""),
                check.verdict.unwrap_or(""),
                check.detail.join("; ")
            );
        }
        if !text.is_empty() && !self.rows.is_empty() {
            text.push('\n');
        }
        text
    }

    fn plot_tables(&self, name: &str) -> String {
        let mut text = String::new();
        for (place, plot) in (1..).zip(&self.plots) {
            let _ = write!(
                text,
                "\n## {}\n\n![{}]({name}-{place}.svg)\n\n{}, by {}:\n\n{}",
                plot.title,
                plot.title,
                plot.y,
                plot.x,
                plot.table()
            );
        }
        text
    }

    /// Cases and checks that missed their goal.
    pub fn misses(&self) -> Vec<&str> {
        let rows = self.rows.iter().map(|row| (&row.case, row.verdict));
        let checks = self
            .checks
            .iter()
            .map(|check| (&check.check, check.verdict));
        rows.chain(checks)
            .filter(|(_, verdict)| *verdict == Some(MISS))
            .map(|(name, _)| name.as_str())
            .collect()
    }
}

/// Place of the peer where both sides stand in a list: it is measured first.
pub const PEER: usize = 0;
/// Place of Sumeru.
pub const OURS: usize = 1;
/// The goal is reached.
pub const PASS: &str = "PASS";
/// The goal is not reached.
pub const MISS: &str = "MISS";

/// Three or four significant digits, thousands as k and M.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2}M", value / 1e6),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_and_ratios() {
        assert_eq!(
            Spread::of(&[3.0, 1.0, 2.0]),
            Some(Spread {
                median: 2.0,
                min: 1.0,
                max: 3.0
            })
        );
        assert_eq!(Spread::of(&[4.0, 1.0]).map(|s| s.median), Some(2.5));
        assert_eq!(Spread::of(&[]), None);
        // The ratio of medians and the median of ratios are different things.
        let rounds = Rounds {
            ours: vec![1.0, 10.0, 100.0],
            peer: vec![10.0, 1.0, 100.0],
        };
        assert_eq!(rounds.median_ratio(), Some(1.0));
        assert_eq!(rounds.row("c", "u", "p").unwrap().ratio, 1.0);
        let rounds = Rounds {
            ours: vec![2.0, 8.0, 6.0],
            peer: vec![1.0, 2.0, 12.0],
        };
        assert_eq!(rounds.median_ratio(), Some(2.0));
        assert_eq!(rounds.row("c", "u", "p").unwrap().ratio, 3.0);
        assert!(
            Rounds {
                ours: vec![1.0],
                peer: vec![]
            }
            .row("c", "u", "p")
            .is_err(),
            "no peer, no result"
        );
    }

    #[test]
    fn json_has_the_agreed_keys() {
        let mut row = Rounds {
            ours: vec![100.0],
            peer: vec![400.0],
        }
        .row("v2v-64", "cycles/packet", "ovs")
        .unwrap();
        row.verdict = Some(MISS);
        let report = Report {
            machine: Machine::describe(vec!["x 1".into()]),
            about: vec![],
            rows: vec![row],
            checks: vec![
                Check::at_most("memory", "GiB", 4.5, 4.0),
                Check::at_least("insertion", "rules/s", 1.25e6, 1e6).with("quiet".to_owned()),
                Check::told("cached", "entries", 7.0),
            ],
            plots: Vec::new(),
        };
        let json: serde_json::Value = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][0]["ours"]["median"], 100.0);
        assert_eq!(json["rows"][0]["peer"]["max"], 400.0);
        assert_eq!(json["rows"][0]["ratio"], 0.25);
        assert_eq!(json["rows"][0]["peer_name"], "ovs");
        assert!(json["machine"]["cpu"].is_string());
        assert_eq!(report.misses(), ["v2v-64", "memory"]);
        let table = report.table("switch");
        assert!(
            table.contains("| memory | 4.50 | GiB | at most 4.00 | MISS |  |\n"),
            "{table}"
        );
        assert!(
            table.contains("| insertion | 1.25M | rules/s | at least 1.00M | PASS | quiet |\n"),
            "{table}"
        );
        assert!(
            table.contains("| cached | 7.00 | entries |  |  |  |\n"),
            "{table}"
        );
        assert!(report.table("switch").contains(
            "| v2v-64 | cycles/packet | 100 (100..100) | 400 (400..400) | ovs | 0.250 |"
        ));
    }
}
