//! What the classifier costs: rules added and removed per second of one thread, memory, and cycles per search.
//!
//! `cargo run --release -p sumeru-switch --example classifier_cost [RULES]`

use std::time::{Duration, Instant};

use sumeru_engine::Tsc;
use sumeru_packet::{Field, FlowKey, FlowMask, Layer};
use sumeru_switch::classifier::{Classes, NewRule, Writer};

const BATCH: u32 = 1024;

fn value(number: u32) -> FlowKey {
    let mut key = FlowKey::with_metadata(1, 0);
    key.set(Field::EthType(Layer::Outer), 0x0800);
    key.set(Field::IpProto(Layer::Outer), 17);
    key.set(
        Field::IpDst(Layer::Outer),
        (0x0a00_0000 + number / 4).into(),
    );
    key.set(Field::L4Dst(Layer::Outer), (number % 4 * 1000).into());
    key
}

fn main() {
    let rules: u32 = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(4 << 20);
    let mut mask = FlowMask::ZERO;
    for field in [
        Field::InPort,
        Field::EthType(Layer::Outer),
        Field::IpProto(Layer::Outer),
        Field::L4Dst(Layer::Outer),
    ] {
        mask.merge_field(field);
    }
    mask.set(Field::IpDst(Layer::Outer), u32::MAX.into());
    let mut writer = Writer::default();
    let mut refs = Vec::with_capacity(rules as usize);
    let start = Instant::now();
    let mut view = writer.publish();
    for first in (0..rules).step_by(BATCH as usize) {
        let tuple = writer.tuple(0, &mask).expect("memory");
        let batch: Vec<_> = (first..rules.min(first + BATCH))
            .map(|n| NewRule {
                tuple,
                priority: 1,
                value: value(n),
                program: n % 7,
                name: n.into(),
                counter: Some(n),
            })
            .collect();
        writer.insert_all(&batch, |_, rule| refs.push(rule.expect("room")));
        view = writer.publish();
        writer.reclaim(view.version(), |_| ());
    }
    report("added", rules, start.elapsed());
    println!(
        "{:.0} bytes a rule",
        writer.bytes() as f64 / f64::from(rules)
    );
    let (start, mut found) = (Tsc::now(), 0);
    let probes = 1_000_000;
    for n in 0..probes {
        let key = value(n * 2_654_435_769_u32.wrapping_add(n) % rules);
        found += usize::from(view.lookup(0, &key, &mut Classes::new(), |_| ()).is_some());
    }
    println!(
        "{} cycles a search, {found} of {probes} found",
        Tsc::now().since(start) / u64::from(probes)
    );
    let start = Instant::now();
    for batch in refs.chunks(BATCH as usize) {
        batch.iter().for_each(|rule| assert!(writer.remove(*rule)));
        view = writer.publish();
        writer.reclaim(view.version(), |_| ());
    }
    report("removed", rules, start.elapsed());
}

fn report(what: &str, rules: u32, took: Duration) {
    println!(
        "{rules} rules {what} in {took:.2?}: {:.2} million a second",
        f64::from(rules) / took.as_secs_f64() / 1e6
    );
}
