//! Fuzz target `translate`: arbitrary keys, rules and learned addresses through the slow path and the flow cache. Fails when a cached decision is
//! not the one that the slow path takes now, or when bits that a decision did not look at change it.
//!
//! Input: bits (0 an underlay, 1 known neighbours, 2 a second network), then operations: a frame, a rule more, a rule less, and a sweep.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use sumeru_engine::publish::Subscriber;
use sumeru_packet::field::LAYER_INNER_PRESENT;
use sumeru_packet::key::WORDS;
use sumeru_packet::{Field, FlowKey, FlowMask, Layer, Layout, ParseOptions, build, parse};
use sumeru_switch::cache::{Cache, Decision, Hit};
use sumeru_switch::fdb::{Fdb, Learned, change_of};
use sumeru_switch::program::Op;
use sumeru_switch::rules::{CompiledRule, Extracts, RuleAction, RuleTable, RuleView};
use sumeru_switch::services::neighbours::Neighbours as Residents;
use sumeru_switch::snapshot::{NetworkView, PortView, Snapshot, Underlay};
use sumeru_switch::track::Tracking;
use sumeru_switch::translate::{Tables, Translation, translate};
use sumeru_switch::underlay::{Neighbours, handle};

use crate::input::Input;

/// Ports of guests are 0 to 4, the uplink is 5.
const UPLINK: u16 = 5;
/// Most operations of an input, so that it is quick.
const STEPS: usize = 64;

/// Runs one input.
///
/// # Panics
/// When a promise of the slow path or of the cache is broken: that is the finding.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut switch = Switch::new(input.u8());
    for _ in 0..STEPS {
        if input.is_empty() {
            return;
        }
        match input.below(8) {
            0 => switch.add_rule(&mut input),
            1 => switch.remove_rule(&mut input),
            2 => {
                let touched = &mut switch.fdb;
                switch.cache.begin_sweep();
                while switch.cache.sweeping() {
                    switch
                        .cache
                        .sweep(|(network, mac)| touched.touch(network, mac, 1));
                }
            }
            _ => switch.frame(&mut input),
        }
    }
}

/// What an lcore has, as `SwitchWorker` uses it.
struct Switch {
    snapshot: Snapshot,
    fdb: Fdb,
    neighbours: Neighbours,
    residents: Residents,
    cache: Cache,
    table: RuleTable,
    view: Subscriber<RuleView>,
    rules: u32,
}

impl Switch {
    fn new(bits: u8) -> Self {
        let remotes: Vec<IpAddr> = [2, 3].map(|n| Ipv4Addr::new(192, 0, 2, n).into()).into();
        let port = |index: u16| PortView {
            index,
            name: "port".into(),
            network: (index < 4).then_some(7 + u32::from(index / 2)),
            mtu: 1500,
            uplink: index == UPLINK,
            lldp: false,
            shield: None,
        };
        let network = |id: u32, ports: Vec<u16>| NetworkView {
            id,
            name: "network".into(),
            overlay: sumeru_switch::snapshot::Overlay::Vxlan,
            remotes: remotes.clone(),
            ports,
            flood_limit: 0,
            ageing_s: 0,
            static_macs: Vec::new(),
            outer: Default::default(),
        };
        let mut networks = HashMap::from([(7, network(7, vec![0, 1]))]);
        if bits & 4 != 0 {
            networks.insert(8, network(8, vec![2, 3]));
        }
        let underlay = Underlay {
            port: UPLINK,
            mac: [2, 0, 0, 0, 0, 1],
            addresses: vec![(Ipv4Addr::new(192, 0, 2, 1).into(), 24)],
            vxlan_port: 4789,
        };
        let snapshot = Snapshot {
            ports: (0..=UPLINK).map(|index| Some(port(index))).collect(),
            networks,
            underlay: (bits & 1 != 0).then_some(underlay),
            ..Snapshot::default()
        };
        let mut table = RuleTable::default();
        let (view, _) = table.subscribe();
        let mut neighbours = Neighbours::default();
        neighbours.reconcile(&snapshot);
        if bits & 2 != 0
            && let Some(underlay) = &snapshot.underlay
        {
            learn_neighbour(underlay, &mut neighbours);
        }
        Self {
            snapshot,
            fdb: Fdb::default(),
            neighbours,
            residents: Residents::default(),
            cache: Cache::new(),
            table,
            view,
            rules: 0,
        }
    }

    fn tables(&self) -> Tables<'_> {
        Tables {
            snapshot: &self.snapshot,
            rules: &self.view,
            fdb: &self.fdb,
            neighbours: &self.neighbours,
            residents: &self.residents,
        }
    }

    /// One frame's key: from the cache if it is there, by the slow path else, both compared.
    fn frame(&mut self, input: &mut Input) {
        let key = key(input);
        let fresh = translate(self.tables(), &key, Tracking::OFF, None);
        self.check_mask(&key, &fresh);
        let hash = self.cache.hash(&key);
        if let Some((index, level)) = self.cache.find(&key, hash, self.view.rules.stamps()) {
            let cached: Vec<Op> = match self.cache.hit(index) {
                Hit::Output(quick) => {
                    let counted = quick.counter().map(Op::Count);
                    counted
                        .into_iter()
                        .chain([Op::Output(quick.port)])
                        .collect()
                }
                Hit::Run(ops, counter) => {
                    let count = counter.map(Op::Count);
                    count.into_iter().chain(ops.iter().cloned()).collect()
                }
                Hit::Tracked(..) => unreachable!("no rule tracks"),
            };
            assert_eq!(cached, fresh.ops, "{key:?} from {level:?}");
            return;
        }
        if let Some(remote) = fresh.resolve {
            self.neighbours.want(remote);
        }
        let mut outdated = false;
        if let Some((network, mac, target)) = fresh.learn
            && let Learned::New | Learned::Moved = self.fdb.learn(network, mac, target, 1)
        {
            outdated = true;
            self.cache.learned(change_of(network, mac));
        }
        // What was decided before the addresses changed is good for this frame only.
        if fresh.once || outdated {
            return;
        }
        let kept = Decision {
            mask: fresh.mask,
            rests: fresh.rests,
            ops: fresh.ops,
            sender: fresh.learn.map(|(network, mac, _)| (network, mac)),
            tracks: fresh.tracks,
        };
        self.cache.insert(&key, kept);
        let hash = self.cache.hash(&key);
        let found = self.cache.find(&key, hash, self.view.rules.stamps());
        assert!(found.is_some(), "just inserted");
    }

    /// Any frame that agrees in the bits that were looked at is decided alike.
    fn check_mask(&self, key: &FlowKey, fresh: &Translation) {
        let mut other = *key;
        for i in 0..WORDS {
            other.set_word(i, key.word(i) ^ !fresh.mask.word(i));
        }
        let again = translate(self.tables(), &other, Tracking::OFF, None);
        let text =
            |t: &Translation| format!("{:?} {:?} {:?} {:?}", t.ops, t.once, t.learn, t.resolve);
        assert_eq!(text(&again), text(fresh), "{key:?} decided otherwise");
    }

    fn add_rule(&mut self, input: &mut Input) {
        let (mut mask, mut value) = (FlowMask::ZERO, FlowKey::ZERO);
        for _ in 0..input.below(5) {
            let field = Field::ALL[input.below(Field::ALL.len())];
            let bits = if input.bit() {
                u128::MAX
            } else {
                input.u64().into()
            } & field.position().max();
            mask.set(field, bits);
            value.set(field, field_value(field, input) & bits);
        }
        let mut actions = Vec::new();
        for _ in 0..input.below(4) {
            actions.extend(action(input));
        }
        actions.push(match input.below(3) {
            0 => RuleAction::Drop,
            1 => RuleAction::Output(input.below(7) as u16),
            _ => RuleAction::Jump(input.below(4) as u32),
        });
        let rule = CompiledRule {
            name: (0, self.rules),
            priority: input.below(3) as u32,
            group: input.below(4) as u32,
            places: vec![(mask, value.masked(&mask))],
            extracts: Extracts::default(),
            actions: actions.into(),
            age: None,
            uses: Vec::new(),
        };
        self.rules += 1;
        assert!(self.table.insert(&rule).is_ok());
        self.publish();
    }

    fn publish(&mut self) {
        self.table.publish();
        assert!(self.view.refresh());
        self.cache.adopt(self.view.rules.version());
    }

    fn remove_rule(&mut self, input: &mut Input) {
        if self.rules > 0 {
            let id = u32::from(input.u8()) % self.rules;
            let had = self.table.contains(0, id);
            assert_eq!(self.table.remove(0, id).is_ok(), had);
            self.publish();
        }
    }
}

/// The neighbour 192.0.2.2 answers a question for its address.
fn learn_neighbour(underlay: &Underlay, neighbours: &mut Neighbours) {
    let [own, theirs] = [1, 2].map(|n| Ipv4Addr::new(192, 0, 2, n));
    let mut frame = [0; 64];
    let their_mac = [2, 0, 0, 0, 0, 2];
    let len = build::arp_reply(&mut frame, their_mac, theirs, underlay.mac, own).unwrap_or(0);
    let (mut key, mut layout) = (FlowKey::ZERO, Layout::EMPTY);
    let frame = &frame[..len];
    assert!(
        parse(
            frame,
            frame.len(),
            &mut key,
            &mut layout,
            &ParseOptions::PLAIN
        )
        .is_ok()
    );
    let reaction = handle(frame, &layout, underlay, neighbours, 1, &mut [0; 128]);
    assert!(
        reaction.learned.is_some(),
        "an answer to a question was not heard"
    );
}

/// A value of a field, from the few that make frames meet rules.
fn field_value(field: Field, input: &mut Input) -> u128 {
    let choice = input.below(4);
    match field {
        Field::InPort => input.below(7) as u128,
        Field::EthType(_) => [0x0800, 0x86dd, 0x0806, 0x88b5][choice],
        Field::EthSrc(_) | Field::EthDst(_) => [
            0x0200_0000_0001,
            0x0200_0000_0002,
            0xffff_ffff_ffff,
            0x0180_c200_0000,
        ][choice],
        Field::IpProto(_) => [6, 17, 1, 58][choice],
        Field::IpSrc(_) | Field::IpDst(_) => 0xc000_0200 + choice as u128,
        Field::TunnelId(_) => 7 + choice as u128 % 3,
        Field::VlanTci(_) | Field::InnerVlanTci(_) => [0, 0x1005, 0x1006, 0x3005][choice],
        Field::Fragment(_) => [0, 0, 1, 3][choice],
        Field::Layers => [1, 3, 1, 3][choice],
        Field::L4Src(_) | Field::L4Dst(_) => [0, 80, 4789, 53][choice],
        _ => choice as u128,
    }
}

/// A key as the parser could have made it.
fn key(input: &mut Input) -> FlowKey {
    let mut key = FlowKey::with_metadata(input.below(7) as u32, 0);
    let inner = input.bit();
    let layers = if inner {
        [Some(Layer::Outer), Some(Layer::Inner)]
    } else {
        [Some(Layer::Outer), None]
    };
    key.set(
        Field::Layers,
        u128::from(1 | if inner { LAYER_INNER_PRESENT } else { 0 }),
    );
    for layer in layers.into_iter().flatten() {
        for field in Field::ALL
            .into_iter()
            .filter(|field| field.layer() == Some(layer))
        {
            key.set(field, field_value(field, input));
        }
        if layer == Layer::Outer {
            key.set(Field::TunnelKind(layer), inner.into());
        }
    }
    key
}

fn action(input: &mut Input) -> Option<RuleAction> {
    let o = Layer::Outer;
    let field = [
        Field::EthSrc(o),
        Field::EthDst(o),
        Field::IpSrc(o),
        Field::IpDst(o),
        Field::L4Src(o),
        Field::L4Dst(o),
        Field::IpTtl(o),
    ][input.below(7)];
    Some(match input.below(10) {
        0 => RuleAction::Count,
        1 => RuleAction::Register(Field::Mark, input.below(4) as u32, u32::MAX),
        2 => RuleAction::Set(field, field_value(field, input)),
        3 => RuleAction::DecTtl,
        4 => RuleAction::PushVlan(0x8100),
        5 => RuleAction::PopVlan,
        6 => RuleAction::SetVlanVid(input.u8().into()),
        7 => RuleAction::SetVlanPcp(input.u8() & 7),
        8 => RuleAction::Decapsulate,
        _ => {
            let text = "create 0 ingress pattern eth / end actions vxlan_encap vni 9 ip_src 192.0.2.1 ip_dst 192.0.2.2 / drop / end";
            return encapsulation(text);
        }
    })
}

/// The encapsulation of a rule in text: its definition has no other way in.
fn encapsulation(text: &str) -> Option<RuleAction> {
    let sumeru_flow::Command::Create { rule, .. } = sumeru_flow::syntax::parse(text).ok()? else {
        return None;
    };
    rule.actions.iter().find_map(|action| match action {
        sumeru_flow::Action::VxlanEncap(definition) => Some(RuleAction::Encapsulate(*definition)),
        _ => None,
    })
}
