//! Both switches of a comparison, set up alike, and one point of each in turn.

use crate::lane::{Conditions, Lane, Point, Traffic};
use crate::options::Options;
use crate::peers::ovs::OvsDpdk;
use crate::probe;
use crate::process;
use crate::sumeru::{Poll, SumeruSwitch};
use crate::switch::{Setup, Switch};
use anyhow::Result;
use std::path::Path;

/// Which sides are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    /// The peer; it comes first.
    pub peer: bool,
    /// Sumeru.
    pub ours: bool,
}

/// Starts the sides that are measured. They live until they are dropped; the one that is not measured is stopped, since both would spin on one
/// core.
///
/// # Errors
/// If one is not installed, refuses its configuration or does not come up.
pub fn start(core: usize, ports: u16, setup: &Setup, sides: Sides) -> Result<Vec<Box<dyn Switch>>> {
    let mut switches: Vec<Box<dyn Switch>> = Vec::new();
    if sides.peer {
        switches.push(Box::new(OvsDpdk::start(core, ports.into(), setup)?));
    }
    if let Some(peer) = switches.first() {
        process::pause(peer.pid(), true)?;
    }
    if sides.ours {
        let switch = SumeruSwitch::start(core, ports, Poll::AlwaysSpin, setup)?;
        process::pause(switch.pid(), true)?;
        switches.push(Box::new(switch));
    }
    Ok(switches)
}

/// The generators of all `switches`, primed and stopped.
///
/// # Errors
/// If a generator or a switch fails.
pub fn lanes<'a>(
    switches: &'a mut [Box<dyn Switch>],
    traffic: &Traffic,
    conditions: &Conditions,
    logs: &Path,
) -> Result<Vec<Lane<'a>>> {
    switches
        .iter_mut()
        .map(|switch| {
            let log = logs.join(format!("testpmd-{}.log", switch.name()));
            Lane::start(switch.as_mut(), traffic, conditions, &log)
        })
        .collect()
}

/// One point of each lane in turn; and why they do not count, if they do not.
///
/// # Errors
/// If a generator or a switch fails.
pub fn measure(
    lanes: &mut [Lane<'_>],
    conditions: &Conditions,
    core: usize,
) -> Result<(Vec<Point>, Option<String>)> {
    let mut trips = vec![probe::round_trip(conditions.generator_core, core)?];
    let mut points = Vec::new();
    let mut fault = None;
    for lane in lanes {
        let point = lane.measure(conditions)?;
        trips.push(probe::round_trip(conditions.generator_core, core)?);
        fault = fault.or(point
            .fault()
            .map(|fault| format!("{}: {fault}", lane.name())));
        points.push(point);
    }
    Ok((points, fault.or(probe::fault(&trips))))
}

/// Prints one line for each point.
pub fn print(what: &str, lanes: &[Lane<'_>], points: &[Point]) {
    for (lane, point) in lanes.iter().zip(points) {
        let generator = point.generator_busy.map_or(String::new(), |busy| {
            format!(", generator busy {:5.1} %", busy * 100.0)
        });
        eprintln!(
            "{what:<28} {:<8} {:6.1} cycles/packet {:6.3} Mpps, busy {:5.1} %, accounted {:.4}, ran {:.3}/{:.3}{generator}",
            lane.name(),
            point.cycles_per_packet,
            point.mpps,
            point.busy * 100.0,
            point.accounted,
            point.switch_running,
            point.generator_running
        );
    }
}

/// Ends all lanes and prints how their counts agree.
///
/// # Errors
/// If they do not.
pub fn finish(what: &str, lanes: Vec<Lane<'_>>) -> Result<()> {
    for lane in lanes {
        let name = lane.name();
        let ratio = lane.finish()?;
        eprintln!("{what:<28} {name:<8} received / sent by the generator: {ratio:.7}");
    }
    Ok(())
}

/// Both sides, or only the peer if nothing else was asked for.
pub fn asked(options: &Options) -> Sides {
    Sides {
        peer: true,
        ours: !options.peer_only,
    }
}
