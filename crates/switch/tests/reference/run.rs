//! Worlds: rules and bursts from a seed, run through the reference and through two switches, one that caches and one that never may. A world that
//! fails is cut down to the steps that are needed for it.

use std::fmt::Write;

use sumeru_flow::syntax::{Command, parse};
use sumeru_switch::stats::Stage;

use super::frames::{frame, plain_frame};
use super::pipeline::{Dropped, Named, Pipeline};
use super::rules::{About, SWITCH_PORTS, rule, tracking};
use super::seed::Seed;
use super::system::{BURST, Guests, NETWORKS, System, TUNNEL_MAC};

/// Bursts of a world.
const BURSTS: usize = 64;
/// Different frames that a port has at a time.
const POOL: usize = 20;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Add(u16, u32, String),
    Remove(u16, u32),
    Burst(u16, Vec<Vec<u8>>),
}

struct World {
    about: About,
    steps: Vec<Step>,
}

/// What was done, over all worlds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub frames: u64,
    pub forwarded: u64,
    pub malformed: u64,
    /// Copies that a rule about what leaves dropped.
    pub kept_back: u64,
    /// Hits of the two levels of the cache.
    pub exact: u64,
    pub wildcard: u64,
    /// Frames decided by their bytes.
    pub known: u64,
    /// Decisions of the switch that caches.
    pub slow: u64,
    pub rules: u64,
    pub refused: u64,
    /// Rules that frames met.
    pub met: u64,
    /// Frames whose connection was answered.
    pub established: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut seed = Seed(seed);
        let about = About {
            tunnels: seed.once_in(2),
            connections: seed.once_in(3),
            leaving: seed.once_in(2),
            plain: seed.once_in(3),
        };
        let about = match about.plain {
            true => About {
                tunnels: false,
                connections: false,
                ..about
            },
            false => about,
        };
        let frame = if about.plain { plain_frame } else { frame };
        // Bursts between changes of the rules; the first only if large.
        let calm = seed.one_of(&[1, 1, 8, 1000]);
        let mut steps = Vec::new();
        let (mut live, mut next): (Vec<(u16, u32)>, u32) = (Vec::new(), 0);
        if about.connections {
            for text in tracking(&mut seed) {
                live.push((0, next));
                steps.push(Step::Add(0, next, text));
                next += 1;
            }
        }
        let mut add = |seed: &mut Seed, steps: &mut Vec<Step>, live: &mut Vec<(u16, u32)>| {
            let (port, text) = rule(seed, about);
            live.push((port, next));
            steps.push(Step::Add(port, next, text));
            next += 1;
        };
        for _ in 0..4 + seed.below(32) {
            add(&mut seed, &mut steps, &mut live);
        }
        let mut pool = |port: u16| (0..POOL).map(|_| frame(&mut seed, port as u8)).collect();
        let mut pools: Vec<Vec<_>> = (0..SWITCH_PORTS).map(&mut pool).collect();
        for number in 0..BURSTS {
            if number % calm == calm - 1 {
                for _ in 0..1 + seed.below(3) {
                    if live.is_empty() || seed.once_in(2) {
                        add(&mut seed, &mut steps, &mut live);
                    } else {
                        let (port, id) = live.swap_remove(seed.below(live.len()));
                        steps.push(Step::Remove(port, id));
                    }
                }
            }
            // The last port, which has no network, sends less.
            let port = seed.one_of(&[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]);
            let pool = &mut pools[usize::from(port)];
            for _ in 0..seed.below(3) {
                pool[seed.below(POOL)] = frame(&mut seed, port as u8);
            }
            let mut frames: Vec<_> = (0..BURST).map(|_| seed.one_of(pool)).collect();
            if about.plain {
                // Those that are known are so only as long as all before them are.
                let few: Vec<_> = frames.drain(..4).collect();
                frames = few
                    .iter()
                    .flat_map(|one| vec![one.clone(); BURST / 4])
                    .collect();
            }
            steps.push(Step::Burst(port, frames));
        }
        Self { about, steps }
    }

    /// Runs all steps; the first difference, if there is one.
    fn run(&self, guests: &mut [Guests; 2], totals: &mut Totals) -> Result<(), String> {
        let [first, second] = guests;
        let mut systems = [System::new(first, false), System::new(second, true)];
        let mut reference = Pipeline::new(&NETWORKS, TUNNEL_MAC, self.about.tunnels);
        if self.about.tunnels {
            // Whether frames in tunnels are looked at shall not change with the rules.
            let (port, id) = (0, u32::MAX);
            let text = "flow create 0 group 99 ingress pattern eth / ipv4 / udp / vxlan / eth / end actions drop / end";
            self.add(&mut systems, &mut reference, (port, id), text, totals);
        }
        let (mut malformed, mut by_rule) = (0, 0);
        for (number, step) in self.steps.iter().enumerate() {
            match step {
                Step::Add(port, id, text) => {
                    self.add(&mut systems, &mut reference, (*port, *id), text, totals);
                }
                Step::Remove(port, id) => {
                    let is_it = |named: &Named| (named.port, named.id) == (*port, *id);
                    if let Some(at) = reference.rules.iter().position(is_it) {
                        reference.rules.remove(at);
                        systems
                            .iter_mut()
                            .for_each(|system| system.remove(*port, *id));
                    }
                }
                Step::Burst(port, frames) => {
                    systems.iter_mut().for_each(System::publish);
                    let wanted = predict(
                        &mut reference,
                        *port,
                        frames,
                        totals,
                        &mut malformed,
                        &mut by_rule,
                    );
                    for (system, name) in systems.iter_mut().zip(["cached", "not cached"]) {
                        let refs: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
                        let got = system.burst(*port, &refs);
                        let place = format!("step {number}, {name}");
                        compare(&wanted, &got).map_err(|error| format!("{place}: {error}"))?;
                        compare_counts(system, &reference, (malformed, by_rule))
                            .map_err(|error| format!("{place}: {error}"))?;
                    }
                }
            }
        }
        let [cached, forgetful] = &systems;
        assert_eq!(
            forgetful.stage(Stage::ExactHit) + forgetful.stage(Stage::WildcardHit),
            0
        );
        totals.known += cached.stage(Stage::Known);
        totals.exact += cached.stage(Stage::ExactHit);
        totals.wildcard += cached.stage(Stage::WildcardHit);
        totals.slow += cached.stage(Stage::SlowPath);
        totals.malformed += malformed;
        totals.met += reference.met;
        totals.established += reference.established;
        Ok(())
    }

    fn add(
        &self,
        systems: &mut [System; 2],
        reference: &mut Pipeline,
        (port, id): (u16, u32),
        text: &str,
        totals: &mut Totals,
    ) {
        let Ok(Command::Create { rule, .. }) = parse(text) else {
            panic!("not a rule: {text}: {:?}", parse(text).err());
        };
        let [first, second] = systems;
        let inserted = first.insert(port, id, &rule);
        assert_eq!(inserted, second.insert(port, id, &rule), "{text}");
        match inserted {
            Ok(()) => {
                totals.rules += 1;
                reference.rules.push(Named {
                    port,
                    id,
                    rule,
                    counted: (0, 0),
                });
            }
            Err(_) => totals.refused += 1,
        }
    }
}

/// What each port receives.
fn predict(
    reference: &mut Pipeline,
    port: u16,
    frames: &[Vec<u8>],
    totals: &mut Totals,
    malformed: &mut u64,
    by_rule: &mut u64,
) -> Vec<Vec<Vec<u8>>> {
    let mut wanted = vec![Vec::new(); usize::from(SWITCH_PORTS)];
    for frame in frames {
        totals.frames += 1;
        match reference.run(port, frame) {
            Ok(outputs) => {
                totals.forwarded += 1;
                for output in outputs {
                    match output {
                        Ok((to, bytes)) => wanted[usize::from(to)].push(bytes),
                        Err(Dropped::Rule) => {
                            totals.kept_back += 1;
                            *by_rule += 1;
                        }
                        Err(_) => {}
                    }
                }
            }
            Err(Dropped::Malformed) => *malformed += 1,
            Err(Dropped::Rule) => *by_rule += 1,
            Err(_) => {}
        }
    }
    wanted
}

fn compare(wanted: &[Vec<Vec<u8>>], got: &[Vec<Vec<u8>>]) -> Result<(), String> {
    for (port, (wanted, got)) in wanted.iter().zip(got).enumerate() {
        if wanted == got {
            continue;
        }
        let first = wanted
            .iter()
            .zip(got)
            .position(|(wanted, got)| wanted != got);
        let at = first.unwrap_or(wanted.len().min(got.len()));
        let hex = |frames: &[Vec<u8>]| frames.get(at).map(|frame| hex(frame));
        return Err(format!(
            "port {port} received {} frames, expected {}; number {at} is\n  {:?}, expected\n  {:?}",
            got.len(),
            wanted.len(),
            hex(got),
            hex(wanted),
        ));
    }
    Ok(())
}

fn compare_counts(
    system: &System,
    reference: &Pipeline,
    (malformed, by_rule): (u64, u64),
) -> Result<(), String> {
    for named in &reference.rules {
        let got = system.counts(named.port, named.id);
        if got != named.counted {
            return Err(format!(
                "rule {} of port {} counted {got:?}, expected {:?}: {}",
                named.id, named.port, named.counted, named.rule
            ));
        }
    }
    let got = (system.malformed(), system.dropped_by_rule());
    match got == (malformed, by_rule) {
        true => Ok(()),
        false => Err(format!(
            "dropped {got:?} as malformed and by rules, expected {:?}",
            (malformed, by_rule)
        )),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs the world of a seed.
///
/// # Panics
/// On a difference, with the fewest steps that show it.
pub fn run(seed: u64, guests: &mut [Guests; 2], totals: &mut Totals) {
    let world = World::new(seed);
    if let Err(error) = world.run(guests, totals) {
        let (world, error) = shrink(world, error, guests);
        panic!("seed {seed:#x}: {error}\n{}", describe(&world));
    }
}

/// Leaves steps and frames out as long as there is a difference.
fn shrink(mut world: World, mut error: String, guests: &mut [Guests; 2]) -> (World, String) {
    let mut fails = |world: &World| world.run(guests, &mut Totals::default()).err();
    let mut part = world.steps.len().next_power_of_two() / 2;
    while part > 0 {
        let mut at = 0;
        while at < world.steps.len() {
            let mut steps = world.steps.clone();
            steps.drain(at..steps.len().min(at + part));
            let smaller = World { steps, ..world };
            match fails(&smaller) {
                Some(now) => (world, error) = (smaller, now),
                None => at += part,
            }
        }
        part /= 2;
    }
    for at in 0..world.steps.len() {
        let mut number = 0;
        while let Step::Burst(port, frames) = &world.steps[at]
            && number < frames.len()
        {
            let mut frames = frames.clone();
            frames.remove(number);
            let mut steps = world.steps.clone();
            steps[at] = Step::Burst(*port, frames);
            let smaller = World { steps, ..world };
            match fails(&smaller) {
                Some(now) => (world, error) = (smaller, now),
                None => number += 1,
            }
        }
    }
    (world, error)
}

fn describe(world: &World) -> String {
    let mut text = format!("{:?}\n", world.about);
    for (number, step) in world.steps.iter().enumerate() {
        let _ = match step {
            Step::Add(_, id, rule) => writeln!(text, "{number}: rule {id}: {rule}"),
            Step::Remove(port, id) => writeln!(text, "{number}: remove rule {id} of port {port}"),
            Step::Burst(port, frames) => {
                let frames: Vec<_> = frames.iter().map(|frame| hex(frame)).collect();
                writeln!(
                    text,
                    "{number}: from port {port}: {}",
                    frames.join("\n      ")
                )
            }
        };
    }
    text
}
