//! The fast path against a naive reference pipeline: random rules and frames, the same verdict, bytes and counts from a switch that caches its
//! decisions, from one that may not, and from the reference, also while rules change.
//!
//! `SUMERU_REFERENCE_FRAMES` sets how many frames, `SUMERU_REFERENCE_SEED` the first world; `make long-reference` runs ten million.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod driver;
#[path = "reference/mod.rs"]
mod naive;

use std::time::Instant;

use naive::run::{Totals, run};
use naive::system::Guests;

/// Frames of an ordinary run.
const FRAMES: u64 = 60_000;
/// Frames between two lines of progress.
const PROGRESS: u64 = 500_000;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        let number = match text.strip_prefix("0x") {
            Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
            None => text.replace('_', "").parse(),
        };
        number.unwrap_or_else(|error| panic!("{name}={text}: {error}"))
    })
}

#[test]
fn the_switch_does_what_the_reference_does() {
    let frames = setting("SUMERU_REFERENCE_FRAMES", FRAMES);
    let mut seed = setting("SUMERU_REFERENCE_SEED", 1);
    let mut guests = [Guests::new(), Guests::new()];
    let (mut totals, mut told, started) = (Totals::default(), 0, Instant::now());
    while totals.frames < frames {
        run(seed, &mut guests, &mut totals);
        seed += 1;
        if totals.frames - told >= PROGRESS {
            told = totals.frames;
            let rate = told as f64 / started.elapsed().as_secs_f64();
            eprintln!("{told} frames, {rate:.0} a second, next seed {seed}: {totals:?}");
        }
    }
    let rate = totals.frames as f64 / started.elapsed().as_secs_f64();
    eprintln!("{} frames, {rate:.0} a second: {totals:?}", totals.frames);
    // A run that never meets these proves nothing.
    assert!(totals.forwarded > frames / 4 && totals.malformed > frames / 100);
    assert!(totals.exact > frames / 100 && totals.wildcard > frames / 100 && totals.slow > 0);
    assert!(totals.known > frames / 1000);
    assert!(
        totals.rules > 4 * totals.refused
            && totals.met > frames / 4
            && totals.established > frames / 1000
            && totals.kept_back > frames / 10_000
    );
}
