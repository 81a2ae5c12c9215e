//! What every bench that measures in pairs is told on its command line, and what follows from it: which cases, when a pair is measured again,
//! how a run ends.

use crate::process::Interrupt;
use crate::report::Report;
use anyhow::{Result, bail};
use clap::Args;
use std::time::Duration;

/// Options that all of them share.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Rounds; each measures both sides.
    #[arg(long, default_value_t = 5)]
    pub rounds: u32,
    /// Seconds measured per point.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Only cases whose name contains this (may be given several times).
    #[arg(long)]
    pub case: Vec<String>,
    /// Core of what is measured.
    #[arg(long, default_value_t = 1)]
    pub core: usize,
    /// Core of the generator.
    #[arg(long, default_value_t = 0)]
    pub generator_core: usize,
    /// Attempts at a pair of points that does not count because the machine was busy or its cores moved.
    #[arg(long, default_value_t = 12)]
    pub attempts: u32,
    /// Measure only the peer and print its points (no results are written).
    #[arg(long)]
    pub peer_only: bool,
    /// Exit with an error if a goal is missed.
    #[arg(long)]
    pub check: bool,
    /// Print the results as JSON, and nothing else on standard output.
    #[arg(long)]
    pub json: bool,
}

/// How often one case was disturbed.
#[derive(Debug, Clone, Default)]
pub struct Noise {
    /// Pairs that were measured again.
    pub repeated: u32,
    /// Pairs that were taken all the same, each with its reason.
    pub noisy: Vec<String>,
}

impl Options {
    /// Time measured per point.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Those of `all` that were asked for.
    ///
    /// # Errors
    /// If there is none, with the names that there are.
    pub fn chosen<T>(&self, all: Vec<T>, name: impl Fn(&T) -> String) -> Result<Vec<T>> {
        let names: Vec<String> = all.iter().map(&name).collect();
        let wanted = |case: &T| {
            self.case.is_empty() || self.case.iter().any(|part| name(case).contains(part))
        };
        let chosen: Vec<T> = all.into_iter().filter(wanted).collect();
        if chosen.is_empty() {
            bail!("no such case; there are {}", names.join(", "));
        }
        Ok(chosen)
    }

    /// Measures a pair until nothing disturbed it, or the attempts are used up. `measure` answers what disturbed it, if anything did.
    ///
    /// # Errors
    /// Those of `measure`; an interrupt.
    pub fn until_quiet<T>(
        &self,
        what: &str,
        interrupt: &Interrupt,
        noise: &mut Noise,
        mut measure: impl FnMut() -> Result<(T, Option<String>)>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            interrupt.check()?;
            let (points, fault) = measure()?;
            let Some(fault) = fault else {
                return Ok(points);
            };
            if attempt >= self.attempts {
                eprintln!("{what}: taken as noisy: {fault}");
                noise.noisy.push(format!("{what}: {fault}"));
                return Ok(points);
            }
            eprintln!("{what}: repeated: {fault}");
            noise.repeated += 1;
            attempt += 1;
        }
    }

    /// Writes the results under `name` and prints the table, or JSON.
    ///
    /// # Errors
    /// The system's; with `check` also if a goal is missed.
    pub fn finish(&self, report: &Report, name: &str) -> Result<()> {
        let table = report.write(name)?;
        if self.json {
            println!("{}", report.json()?);
        } else {
            println!("\n{table}");
        }
        let misses = report.misses();
        if self.check && !misses.is_empty() {
            bail!("goal missed: {}", misses.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(attempts: u32, case: &[&str]) -> Options {
        Options {
            rounds: 1,
            seconds: 1.0,
            case: case.iter().map(|text| (*text).to_owned()).collect(),
            core: 1,
            generator_core: 0,
            attempts,
            peer_only: false,
            check: false,
            json: false,
        }
    }

    #[test]
    fn cases_are_chosen_by_a_part_of_their_name() {
        let all = || vec!["v2v-64", "v2v-1450", "ct-new"];
        let name = |case: &&str| (*case).to_owned();
        assert_eq!(options(1, &[]).chosen(all(), name).unwrap(), all());
        assert_eq!(
            options(1, &["v2v", "new"]).chosen(all(), name).unwrap(),
            all()
        );
        assert_eq!(
            options(1, &["1450"]).chosen(all(), name).unwrap(),
            ["v2v-1450"]
        );
        let error = options(1, &["x"])
            .chosen(all(), name)
            .unwrap_err()
            .to_string();
        assert!(error.contains("ct-new"), "{error}");
    }

    #[test]
    fn a_disturbed_pair_is_measured_again_but_not_for_ever() {
        let interrupt = Interrupt::install().unwrap();
        let mut faults = vec![None, Some("busy".to_owned()), Some("busy".to_owned())];
        let mut noise = Noise::default();
        let mut count = 0;
        let points = options(9, &[]).until_quiet("case", &interrupt, &mut noise, || {
            count += 1;
            Ok((count, faults.pop().unwrap()))
        });
        assert_eq!(
            (points.unwrap(), noise.repeated, noise.noisy.len()),
            (3, 2, 0)
        );
        let mut noise = Noise::default();
        options(3, &[])
            .until_quiet("case", &interrupt, &mut noise, || {
                Ok(((), Some("busy".to_owned())))
            })
            .unwrap();
        assert_eq!(
            (noise.repeated, noise.noisy),
            (2, vec!["case: busy".to_owned()])
        );
    }
}
