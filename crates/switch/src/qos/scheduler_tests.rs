//! The scheduler: shares and rates to within one in a hundred, strict order, bounded bursts, and no frame lost or invented.

use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;

use super::super::codel::CodelConfig;
use super::*;

const NS: u64 = 1_000_000_000;

fn port(shape: Option<Shape>, frames: u32) -> Scheduler {
    let config = PortConfig {
        ticks_per_s: NS,
        shape,
        frames,
        framing: 0,
    };
    Scheduler::new(config, 0).unwrap()
}

fn shape(bits_per_s: u64, burst: u64) -> Option<Shape> {
    Some(Shape { bits_per_s, burst })
}

fn tenant(priority: u8, weight: u16, shape: Option<Shape>) -> TenantConfig {
    TenantConfig {
        priority,
        weight,
        shape,
    }
}

fn class(priority: u8, weight: u16, frames: u32) -> ClassConfig {
    ClassConfig {
        priority,
        weight,
        frames,
        bytes: u64::MAX,
        codel: None,
    }
}

fn frame(handle: u32, len: u32) -> Frame {
    Frame {
        handle,
        len,
        ecn: false,
    }
}

/// Lengths as a class sends them, without end.
fn lengths(seed: u32, span: (u32, u32)) -> impl FnMut() -> u32 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        span.0 + state % (span.1 - span.0 + 1)
    }
}

/// Keeps all classes backlogged and runs the port, at its own events, for `time`; returns the bytes that each class sent.
fn saturate(scheduler: &mut Scheduler, classes: &[(ClassId, (u32, u32))], time: u64) -> Vec<u64> {
    let mut next: HashMap<ClassId, Box<dyn FnMut() -> u32>> = HashMap::new();
    for (i, (id, span)) in classes.iter().enumerate() {
        next.insert(*id, Box::new(lengths(i as u32 * 77 + 5, *span)));
        for _ in 0..4 {
            let len = next.get_mut(id).unwrap()();
            scheduler.enqueue(*id, frame(0, len), 0).unwrap();
        }
    }
    let mut now = 0;
    while now <= time {
        while let Some(out) = scheduler.dequeue(now) {
            let len = next.get_mut(&out.class).unwrap()();
            scheduler.enqueue(out.class, frame(0, len), now).unwrap();
        }
        now = scheduler.next_event(now).unwrap().max(now + 1);
    }
    let bytes = |(id, _): &(ClassId, _)| scheduler.stats(*id).unwrap().sent_bytes;
    classes.iter().map(bytes).collect()
}

fn near(got: u64, expected: f64) -> bool {
    (got as f64 / expected - 1.0).abs() < 0.01
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// The port's rate is exact, and tenants of a level and classes of a tenant share it by weight, whatever the lengths of their frames.
    #[test]
    fn rates_and_shares(
        rate in 50_000_000u64..100_000_000_000,
        weights in prop::collection::vec((1u16..20, prop::collection::vec(1u16..8, 1..4)), 1..5),
        spans in prop::collection::vec(prop_oneof![Just((64u32, 64u32)), Just((64, 1_514)), Just((1_514, 65_550))], 12..13),
    ) {
        let mut scheduler = port(shape(rate, 10_000), 1_000);
        let (mut classes, mut parts) = (Vec::new(), Vec::new());
        let all: u32 = weights.iter().map(|w| u32::from(w.0)).sum();
        for (weight, inner) in &weights {
            let owner = scheduler.add_tenant(&tenant(3, *weight, None), 0).unwrap();
            let sum: u32 = inner.iter().map(|w| u32::from(*w)).sum();
            for w in inner {
                let id = scheduler.add_class(owner, &class(2, *w, 8)).unwrap();
                parts.push(f64::from(*weight) / f64::from(all) * f64::from(*w) / f64::from(sum));
                classes.push((id, spans[classes.len()]));
            }
        }
        // Long enough for the smallest share to be 800 of the longest frames.
        let least = parts.iter().copied().fold(1.0, f64::min);
        let bytes = 800.0 * 65_550.0 / least / if spans.iter().take(classes.len()).any(|s| s.1 > 2_000) { 1.0 } else { 20.0 };
        let time = bytes * 8.0 / rate as f64 * NS as f64;
        let sent = saturate(&mut scheduler, &classes, time as u64);
        let total: u64 = sent.iter().sum();
        prop_assert!(near(total, time * rate as f64 / 8.0 / NS as f64), "{total} of {bytes}");
        for (sent, part) in sent.iter().zip(&parts) {
            prop_assert!(near(*sent, part * total as f64), "{sent} is not {part} of {total}: {sent:?} {parts:?}");
        }
    }
}

#[test]
fn a_light_tenant_is_not_starved_by_the_heaviest() {
    let mut scheduler = port(shape(10_000_000_000, 10_000), 64);
    let mut classes = Vec::new();
    for (weight, span) in [(WEIGHT_MAX, (65_550, 65_550)), (1, (64, 1_514))] {
        let owner = scheduler.add_tenant(&tenant(0, weight, None), 0).unwrap();
        let id = scheduler.add_class(owner, &class(0, 1, 8)).unwrap();
        classes.push((id, span));
    }
    let sent = saturate(&mut scheduler, &classes, NS);
    let ratio = sent[0] as f64 / sent[1] as f64;
    assert!((ratio / 1024.0 - 1.0).abs() < 0.01, "{ratio}");
}

#[test]
fn tenant_shapers_hold_one_tenant_and_nobody_else() {
    let mut scheduler = port(shape(1_000_000_000, 10_000), 64);
    let mut classes = Vec::new();
    // The most urgent tenant may have a tenth only; the other two share the rest 1 : 2.
    let configs = [
        tenant(0, 1, shape(100_000_000, 3_000)),
        tenant(1, 1, None),
        tenant(1, 2, None),
    ];
    for config in configs {
        let owner = scheduler.add_tenant(&config, 0).unwrap();
        let id = scheduler.add_class(owner, &class(0, 1, 8)).unwrap();
        classes.push((id, (64, 1_514)));
    }
    let sent = saturate(&mut scheduler, &classes, 2 * NS);
    for (sent, bits) in sent.into_iter().zip([100e6, 300e6, 600e6]) {
        assert!(near(sent, bits * 2.0 / 8.0), "{sent} bytes of {bits} bit/s");
    }
}

#[test]
fn framing_counts_in_rates() {
    let config = PortConfig {
        ticks_per_s: NS,
        shape: shape(1_000_000_000, 2_000),
        frames: 8,
        framing: 24,
    };
    let mut scheduler = Scheduler::new(config, 0).unwrap();
    let owner = scheduler.add_tenant(&tenant(0, 1, None), 0).unwrap();
    let id = scheduler.add_class(owner, &class(0, 1, 8)).unwrap();
    let sent = saturate(&mut scheduler, &[(id, (60, 60))], NS / 10);
    assert!(
        near(sent[0], 1e9 / 10.0 / 8.0 * 60.0 / 84.0),
        "148.8 kpps: {}",
        sent[0] / 60
    );
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue(usize, u32),
    Dequeue,
    Wait(u64),
    Jump,
    Reshape(usize, Option<u64>),
    RemoveClass(usize),
    AddClass(usize, u8, u16),
    RemoveTenant(usize),
    AddTenant(u8, u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0usize..6, 1u32..70_000).prop_map(|(c, len)| Step::Enqueue(c, len)),
        20 => Just(Step::Dequeue),
        4 => (0u64..100_000).prop_map(Step::Wait),
        8 => Just(Step::Jump),
        1 => (0usize..3, prop::option::of(10_000_000u64..10_000_000_000)).prop_map(|(t, r)| Step::Reshape(t, r)),
        1 => (0usize..6).prop_map(Step::RemoveClass),
        2 => (0usize..3, 0u8..LEVELS, 1u16..9).prop_map(|(t, p, w)| Step::AddClass(t, p, w)),
        1 => (0usize..3).prop_map(Step::RemoveTenant),
        2 => (0u8..LEVELS, 1u16..9).prop_map(|(p, w)| Step::AddTenant(p, w)),
    ];
    prop::collection::vec(step, 1..400)
}

/// What the test knows of a class.
struct Known {
    tenant: TenantId,
    priority: u8,
    queue: VecDeque<Frame>,
}

/// Drives a scheduler by steps and holds it against plain queues.
struct Model {
    scheduler: Scheduler,
    now: u64,
    tenants: Vec<(TenantId, TenantConfig)>,
    classes: Vec<(ClassId, Known)>,
    handles: HashSet<u32>,
    next: u32,
    /// Credit of the port in bits * NS, by the definition of a token bucket.
    departures: Vec<(u64, u32)>,
}

const RATE: u64 = 1_000_000_000;
const BURST: u64 = 20_000;

impl Model {
    fn remove_class(&mut self, at: usize) {
        let (id, known) = self.classes.remove(at);
        let mut back = Vec::new();
        self.scheduler.remove_class(id, |h| back.push(h)).unwrap();
        let expected: Vec<u32> = known.queue.iter().map(|f| f.handle).collect();
        assert_eq!(back, expected);
        assert_eq!(self.scheduler.stats(id), None);
        let late = self.scheduler.enqueue(id, frame(0, 1), self.now);
        assert_eq!(late, Err(Refused::Gone));
    }

    fn dequeue(&mut self) {
        let Some(out) = self.scheduler.dequeue(self.now) else {
            return;
        };
        let known = self.classes.iter().position(|(id, _)| *id == out.class);
        let known = known.expect("a class that exists");
        assert_eq!(
            self.classes[known].1.queue.pop_front(),
            Some(out.frame),
            "in order"
        );
        assert!(self.handles.remove(&out.frame.handle), "once");
        self.departures.push((self.now, out.frame.len));
        let chosen = &self.classes[known].1;
        let level = |id: TenantId| self.tenants.iter().find(|t| t.0 == id).unwrap().1;
        for (_, other) in self.classes.iter().filter(|(_, k)| !k.queue.is_empty()) {
            if other.tenant == chosen.tenant {
                assert!(chosen.priority <= other.priority, "strict within a tenant");
            } else if level(other.tenant).shape.is_none() {
                assert!(
                    level(chosen.tenant).priority <= level(other.tenant).priority,
                    "strict between tenants that no shaper holds"
                );
            }
        }
    }

    fn jump(&mut self) {
        let Some(at) = self.scheduler.next_event(self.now) else {
            assert!(self.handles.is_empty());
            return;
        };
        assert!(at >= self.now);
        if at > self.now {
            assert_eq!(self.scheduler.dequeue(at - 1), None, "not before");
        }
        self.now = at;
        let before = self.departures.len();
        self.dequeue();
        assert_eq!(self.departures.len(), before + 1, "but then");
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enqueue(at, len) if at < self.classes.len() => {
                let (id, known) = &mut self.classes[at];
                let frame = frame(self.next, len);
                self.next += 1;
                let room = known.queue.len() < 8;
                let result = self.scheduler.enqueue(*id, frame, self.now);
                assert_eq!(result.is_ok(), room);
                if room {
                    known.queue.push_back(frame);
                    self.handles.insert(frame.handle);
                }
            }
            Step::Dequeue => self.dequeue(),
            Step::Wait(ticks) => self.now += ticks,
            Step::Jump => self.jump(),
            Step::Reshape(at, rate) if at < self.tenants.len() => {
                let (id, config) = &mut self.tenants[at];
                config.shape = rate.and_then(|rate| shape(rate, 5_000));
                let now = self.now;
                self.scheduler.update_tenant(*id, config, now).unwrap();
            }
            Step::RemoveClass(at) if at < self.classes.len() => {
                for frame in &self.classes[at].1.queue {
                    self.handles.remove(&frame.handle);
                }
                self.remove_class(at);
            }
            Step::AddClass(at, priority, weight) if at < self.tenants.len() => {
                let tenant = self.tenants[at].0;
                let config = class(priority, weight, 8);
                match self.scheduler.add_class(tenant, &config) {
                    Ok(id) => self.classes.push((
                        id,
                        Known {
                            tenant,
                            priority,
                            queue: VecDeque::new(),
                        },
                    )),
                    Err(error) => {
                        assert!(matches!(error, QosError::Full { .. }));
                        assert_eq!(self.classes.len(), 6, "room for six was reserved");
                    }
                }
            }
            Step::RemoveTenant(at) if at < self.tenants.len() => {
                let (id, _) = self.tenants.remove(at);
                let mut back = HashSet::new();
                self.scheduler
                    .remove_tenant(id, |h| assert!(back.insert(h)))
                    .unwrap();
                self.classes.retain(|(_, known)| known.tenant != id);
                let left: HashSet<u32> = self
                    .classes
                    .iter()
                    .flat_map(|(_, k)| k.queue.iter().map(|f| f.handle))
                    .collect();
                assert_eq!(&self.handles - &left, back);
                self.handles = left;
            }
            Step::AddTenant(priority, weight) if self.tenants.len() < 3 => {
                let config = tenant(priority, weight, None);
                let id = self.scheduler.add_tenant(&config, self.now).unwrap();
                self.tenants.push((id, config));
            }
            _ => {}
        }
        assert_eq!(self.scheduler.backlog() as usize, self.handles.len());
    }
}

proptest! {
    /// Whatever happens: every frame leaves once, in the order of its class, strict levels hold, `next_event` is exact, and what left is
    /// never more than the port's shaper allows.
    #[test]
    fn nothing_is_lost_and_bounds_hold(steps in steps()) {
        let mut model = Model {
            scheduler: port(shape(RATE, BURST), 6 * 8),
            now: 0,
            tenants: Vec::new(),
            classes: Vec::new(),
            handles: HashSet::new(),
            next: 0,
            departures: Vec::new(),
        };
        for step in steps {
            model.step(step);
        }
        // Of all windows that begin with a departure, in bits * NS: the one before may have left the bucket in debt, so each window
        // holds at most the burst, the rate times its length, and its last frame.
        for (i, (start, _)) in model.departures.iter().enumerate() {
            let mut bytes = 0u64;
            for (end, len) in &model.departures[i..] {
                let most = BURST + RATE * (end - start) / 8 / NS + 1;
                prop_assert!(bytes <= most, "{bytes} before the last frame of a window, at most {most}");
                bytes += u64::from(*len);
            }
        }
    }
}

#[test]
fn codel_marks_what_can_be_marked_and_drops_the_rest() {
    let mut scheduler = port(shape(10_000_000, 1_500), 400);
    let owner = scheduler.add_tenant(&tenant(0, 1, None), 0).unwrap();
    let mut config = class(0, 1, 200);
    config.codel = Some(CodelConfig {
        target: 5_000_000,
        interval: 100_000_000,
    });
    let ids = [(); 2].map(|()| scheduler.add_class(owner, &config).unwrap());
    let (mut now, mut fates) = (0, [(0, 0); 2]);
    while now < 3 * NS {
        for (i, id) in ids.into_iter().enumerate() {
            let ecn = i == 0;
            while scheduler.stats(id).unwrap().queued_packets < 100 {
                let frame = Frame {
                    handle: i as u32,
                    len: 1_500,
                    ecn,
                };
                scheduler.enqueue(id, frame, now).unwrap();
            }
        }
        while let Some(out) = scheduler.dequeue(now) {
            match out.fate {
                Fate::Send => {}
                Fate::MarkAndSend => fates[out.frame.handle as usize].0 += 1,
                Fate::Drop => fates[out.frame.handle as usize].1 += 1,
            }
        }
        now = scheduler.next_event(now).unwrap().max(now + 1);
    }
    let [(marked, none), (zero, dropped)] = fates;
    assert!(
        marked > 10 && dropped > 10 && none == 0 && zero == 0,
        "{fates:?}"
    );
    let stats = ids.map(|id| scheduler.stats(id).unwrap());
    assert_eq!(stats[0].codel_marked, marked);
    assert_eq!(stats[1].codel_dropped, dropped);
    let sent: u64 = stats.iter().map(|s| s.sent_bytes).sum();
    assert!(near(sent, 10e6 * 3.0 / 8.0), "drops cost no rate: {sent}");
}

#[test]
fn limits_are_held_and_counted() {
    let mut scheduler = port(None, 10);
    let owner = scheduler.add_tenant(&tenant(0, 1, None), 0).unwrap();
    let mut config = class(0, 1, 4);
    config.bytes = 3_000;
    let id = scheduler.add_class(owner, &config).unwrap();
    scheduler.enqueue(id, frame(1, 65_000), 0).unwrap();
    assert_eq!(scheduler.enqueue(id, frame(2, 64), 0), Err(Refused::Full));
    assert_eq!(scheduler.dequeue(0).unwrap().frame.handle, 1);
    assert_eq!(scheduler.dequeue(0), None);
    assert_eq!(scheduler.next_event(0), None);
    for handle in 0..4 {
        scheduler.enqueue(id, frame(handle, 100), 0).unwrap();
    }
    assert_eq!(scheduler.enqueue(id, frame(9, 100), 0), Err(Refused::Full));
    let stats = scheduler.stats(id).unwrap();
    assert_eq!((stats.full_packets, stats.full_bytes), (2, 164));
    let other = class(0, 1, 7);
    let full = QosError::Full {
        what: "queued frame",
        limit: 10,
    };
    assert_eq!(scheduler.add_class(owner, &other), Err(full));
    let refused = [
        (tenant(8, 1, None), QosError::Priority(8)),
        (tenant(0, 0, None), QosError::Weight(0)),
    ];
    for (config, error) in refused {
        assert_eq!(scheduler.add_tenant(&config, 0), Err(error));
    }
}

#[test]
fn tenants_that_change_while_held_wait_once() {
    let mut scheduler = port(None, 64);
    let config = tenant(0, 1, shape(1_000_000, 1));
    let owner = scheduler.add_tenant(&config, 0).unwrap();
    let id = scheduler.add_class(owner, &class(0, 1, 64)).unwrap();
    for handle in 0..64 {
        scheduler.enqueue(id, frame(handle, 1_500), 0).unwrap();
    }
    for _ in 0..20 {
        assert!(scheduler.dequeue(0).is_some(), "its bucket is full again");
        assert_eq!(scheduler.dequeue(0), None);
        assert_eq!(scheduler.waiting.len(), 1);
        scheduler.update_tenant(owner, &config, 0).unwrap();
    }
    assert!(scheduler.dequeue(0).is_some());
    assert_eq!(scheduler.dequeue(0), None);
    scheduler.remove_tenant(owner, |_| {}).unwrap();
    assert_eq!((scheduler.waiting.len(), scheduler.backlog()), (0, 0));
    assert_eq!(scheduler.next_event(0), None);
}
