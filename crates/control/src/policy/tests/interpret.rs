//! A small interpreter of rules over described packets: what an engine would do with them, a header and a field at a time. Shares
//! nothing with the compiler but the rule model.

use std::collections::{BTreeMap, HashSet};

use sumeru_flow::PacketDescription;
use sumeru_flow::describe::Layer;
use sumeru_flow::model::{Access, Action, CtAction, CtState, Item, Rule};

use crate::dataplane::NamedRule;

/// Headers of a packet with the values of their fields, by the names of items.
#[derive(Debug, Clone)]
pub struct Packet {
    headers: BTreeMap<&'static str, BTreeMap<&'static str, u128>>,
}

impl Packet {
    pub fn of(text: &str) -> Self {
        let described =
            PacketDescription::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let mut headers: BTreeMap<&'static str, BTreeMap<&'static str, u128>> = BTreeMap::new();
        let mut of_type = 0;
        for layer in described.layers() {
            let row = Layer::TABLE
                .iter()
                .find(|row| (row.fields.iter()).any(|field| (field.get)(layer).is_some()));
            let Some(row) = row else {
                if let (Layer::Payload(bytes), Some(target)) = (layer, neighbour_item(of_type)) {
                    // Four bytes of flags, then the target (RFC 4861, sections 4.3 and 4.4).
                    headers.entry(target).or_default().insert(
                        "target_addr",
                        u128::from_be_bytes(bytes[..16].try_into().unwrap()),
                    );
                }
                continue;
            };
            let name = if row.name == "arp" {
                "arp_eth_ipv4"
            } else {
                row.name
            };
            let fields: BTreeMap<_, _> = row
                .fields
                .iter()
                .filter_map(|field| Some((field.name, (field.get)(layer)?)))
                .collect();
            if name == "icmp6" {
                of_type = fields["type"];
            }
            headers.insert(name, fields);
        }
        let tagged = headers.contains_key("vlan");
        headers
            .get_mut("eth")
            .unwrap()
            .insert("has_vlan", tagged.into());
        Self { headers }
    }

    fn field(&self, header: &str, field: &str) -> Option<u128> {
        self.headers.get(header)?.get(field).copied()
    }

    /// Both ends, as seen from the sender: IP version, protocol, addresses, ports.
    fn tuple(&self) -> Option<Tuple> {
        let ip = ["ipv4", "ipv6"]
            .into_iter()
            .find(|ip| self.headers.contains_key(ip))?;
        let get = |field| self.field(ip, field).unwrap_or(0);
        let upper = ["tcp", "udp", "sctp"]
            .into_iter()
            .find(|upper| self.headers.contains_key(upper));
        let port = |field| {
            upper
                .and_then(|upper| self.field(upper, field))
                .unwrap_or(0)
        };
        Some(Tuple {
            ip,
            proto: get("proto"),
            ends: [(get("src"), port("src")), (get("dst"), port("dst"))],
        })
    }
}

fn neighbour_item(of_type: u128) -> Option<&'static str> {
    match of_type {
        135 => Some("icmp6_nd_ns"),
        136 => Some("icmp6_nd_na"),
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Tuple {
    ip: &'static str,
    proto: u128,
    ends: [(u128, u128); 2],
}

impl Tuple {
    fn reply(&self) -> Self {
        let [src, dst] = self.ends;
        Self {
            ends: [dst, src],
            ..self.clone()
        }
    }
}

/// Rules and the connections that they made.
#[derive(Default)]
pub struct Engine {
    pub rules: Vec<NamedRule>,
    connections: HashSet<(u16, Tuple)>,
}

/// What goes with a packet from rule to rule.
#[derive(Default, Clone)]
pub struct Walk {
    tags: [u32; 4],
    state: u8,
    pub met: Vec<(u16, u32)>,
    pub meters: Vec<u32>,
}

impl Engine {
    pub fn new(rules: impl Iterator<Item = NamedRule>) -> Self {
        let rules: Vec<NamedRule> = rules.collect();
        for rule in &rules {
            rule.rule
                .validate()
                .unwrap_or_else(|error| panic!("{}: {error}", rule.rule));
        }
        Self {
            rules,
            connections: HashSet::new(),
        }
    }

    /// The ingress pass; whether the packet goes on to be forwarded.
    pub fn sent(&mut self, port: u16, packet: &Packet, walk: &mut Walk) -> bool {
        self.run(Some(port), None, packet, walk)
    }

    /// The egress pass of a port; whether the packet leaves by it.
    pub fn received(&mut self, from: u16, port: u16, packet: &Packet, walk: &mut Walk) -> bool {
        self.run(Some(from), Some(port), packet, walk)
    }

    fn run(
        &mut self,
        from: Option<u16>,
        to: Option<u16>,
        packet: &Packet,
        walk: &mut Walk,
    ) -> bool {
        let mut group = 0;
        for _ in 0..16 {
            let matching = self.rules.iter().filter(|rule| {
                let attributes = &rule.rule.attributes;
                let here = match (attributes.transfer, attributes.ingress) {
                    // Groups are common to both passes but for the first.
                    (true, _) | (_, true) if group == 0 && to.is_some() => false,
                    (true, _) => true,
                    (false, true) => from == Some(rule.name.port),
                    (false, false) => to == Some(rule.name.port),
                };
                attributes.group == group
                    && here
                    && rule
                        .rule
                        .pattern
                        .iter()
                        .all(|item| matches(item, packet, walk))
            });
            let Some(rule) = matching
                .min_by_key(|rule| rule.rule.attributes.priority)
                .cloned()
            else {
                return true;
            };
            walk.met.push((rule.name.port, rule.name.id));
            match self.apply(&rule.rule, packet, walk) {
                Some(next) => group = next,
                None => return false,
            }
        }
        panic!("too many jumps");
    }

    fn apply(&mut self, rule: &Rule, packet: &Packet, walk: &mut Walk) -> Option<u32> {
        for action in &rule.actions {
            match action {
                Action::Drop => return None,
                Action::Jump { group } => return Some(*group),
                Action::SetTag { data, index, mask } => {
                    let tag = &mut walk.tags[usize::from(*index)];
                    *tag = *tag & !mask | data & mask;
                }
                Action::Meter { mtr_id } => walk.meters.push(*mtr_id),
                Action::Ct(ct) => {
                    self.track(ct, packet, walk);
                    return ct.group;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("no fate: {rule}");
    }

    fn track(&mut self, ct: &CtAction, packet: &Packet, walk: &mut Walk) {
        let tuple = packet.tuple().unwrap();
        let known = self.connections.contains(&(ct.zone, tuple.clone()))
            || self.connections.contains(&(ct.zone, tuple.reply()));
        walk.state = CtState::TRK.0
            | if known {
                CtState::EST.0
            } else {
                CtState::NEW.0
            };
        if ct.commit.is_some() && !known {
            self.connections.insert((ct.zone, tuple));
        }
    }
}

fn matches(item: &Item, packet: &Packet, walk: &Walk) -> bool {
    match item {
        Item::Tag(tag) => tag.data.matches(walk.tags[usize::from(tag.index.spec)]),
        Item::Ct(ct) => ct.state.matches(CtState(walk.state)),
        _ => {
            let row = item.row();
            let Some(header) = packet.headers.get(row.name) else {
                return false;
            };
            row.fields.iter().all(|field| {
                let Access::Field { get, .. } = &field.access else {
                    return true;
                };
                let matched = get(item).unwrap();
                matched.mask == 0
                    || matched.matches(
                        *header
                            .get(field.name)
                            .unwrap_or_else(|| panic!("{} {}", row.name, field.name)),
                    )
            })
        }
    }
}
