//! From a rule of the flow model to bits of the flow key and actions with their ports resolved.
//!
//! A pattern becomes a value under a mask. A range becomes as many prefixes as it takes, so a rule may stand at several places.

use sumeru_flow::Rule;
use sumeru_flow::model::{Item, PortRef};
use sumeru_packet::field::{FRAGMENT_ANY, VLAN_PRESENT};
use sumeru_packet::{Field, FlowKey, FlowMask, Layer, TunnelKind};

use super::action::{self, ActionList, Age};
use super::objects::{Objects, Use};
use super::RuleError;
use crate::frame::PortIndex;

/// Most places of a rule.
pub const MAX_PLACES: usize = 1024;

/// A compiled rule.
#[derive(Debug)]
pub struct CompiledRule {
    /// The port it was created on, and its number there.
    pub name: (PortIndex, u32),
    /// Lower is looked at first.
    pub priority: u32,
    /// Its group.
    pub group: u32,
    /// Where it stands: bits that matter and their values. A packet meets at most one of them.
    pub places: Vec<(FlowMask, FlowKey)>,
    /// What to do, in order.
    pub actions: ActionList,
    /// When it is old.
    pub age: Option<Age>,
    /// The objects it names.
    pub uses: Vec<Use>,
}

/// Where the rule comes from and how ports are found.
pub struct Context<'a> {
    /// The port that the rule is created on.
    pub port: PortIndex,
    /// Its number.
    pub id: u32,
    /// The index of a port.
    pub resolve: &'a dyn Fn(&PortRef) -> Option<PortIndex>,
}

/// Checks and compiles a rule.
///
/// # Errors
/// See [`RuleError`].
pub fn compile(rule: &Rule, context: &Context) -> Result<CompiledRule, RuleError> {
    compile_with(rule, context, &Objects::default())
}

/// Checks and compiles a rule that may name meters and indirect actions.
///
/// # Errors
/// See [`RuleError`].
pub fn compile_with(
    rule: &Rule,
    context: &Context,
    objects: &Objects,
) -> Result<CompiledRule, RuleError> {
    objects.resolved(rule, context.port)?.validate()?;
    let attributes = &rule.attributes;
    if attributes.egress {
        return Err(RuleError::Unsupported {
            what: "attribute egress",
            expected: "write the rule on the port where packets come in (ingress), or as transfer",
        });
    }
    let mut pattern = Pattern {
        key: FlowKey::ZERO,
        mask: FlowMask::ZERO,
        ranges: Vec::new(),
        layer: Layer::Outer,
        tags: 0,
    };
    let mut in_port = (!attributes.transfer).then_some(context.port);
    for (position, item) in rule.pattern.iter().enumerate() {
        match item {
            Item::PortId { port } | Item::RepresentedPort { port } => {
                if let Some(port) = port {
                    in_port = Some(resolve(context, item.name(), port)?);
                }
            }
            Item::PortRepresentor { .. } => {
                return Err(RuleError::Unsupported {
                    what: "item port_representor",
                    expected: "match what comes in from a guest or the wire with represented_port",
                });
            }
            _ => {
                let tag_follows = matches!(rule.pattern.get(position + 1), Some(Item::Vlan(_)));
                pattern.add(item, tag_follows)?;
            }
        }
    }
    if let Some(port) = in_port {
        pattern.require(Field::InPort, u128::MAX, port.into());
    }
    let done = action::compile(&rule.actions, context, objects)?;
    Ok(CompiledRule {
        name: (context.port, context.id),
        priority: attributes.priority,
        group: attributes.group,
        places: pattern.places()?,
        actions: done.list,
        age: done.age,
        uses: done.uses,
    })
}

/// The index of a port that an item or action names.
///
/// # Errors
/// [`RuleError::UnknownPort`].
pub(super) fn resolve(context: &Context, place: &'static str, port: &PortRef) -> Result<PortIndex, RuleError> {
    (context.resolve)(port).ok_or_else(|| RuleError::UnknownPort {
        place,
        port: port.to_string(),
    })
}

/// A pattern on its way into key and mask.
struct Pattern {
    key: FlowKey,
    mask: FlowMask,
    ranges: Vec<Range>,
    layer: Layer,
    tags: u32,
}

/// A field whose value lies between two others, both included.
struct Range {
    field: Field,
    low: u128,
    high: u128,
}

impl Range {
    /// The fewest prefixes that cover it, as value and mask.
    fn prefixes(&self) -> Vec<(u128, u128)> {
        let all = self.field.position().max();
        let mut out = Vec::new();
        let mut low = self.low;
        loop {
            // The largest aligned block that begins here and does not pass the end.
            let room = self.high - low;
            let mut block = if low == 0 {
                all
            } else {
                (1 << low.trailing_zeros()) - 1
            };
            while block > room {
                block >>= 1;
            }
            out.push((low, all & !block));
            if block == room {
                return out;
            }
            low += block + 1;
        }
    }
}

impl Pattern {
    /// The places of the rule: one, or one for each combination of the prefixes of its ranges.
    fn places(&self) -> Result<Vec<(FlowMask, FlowKey)>, RuleError> {
        let mut places = vec![(self.mask, self.key)];
        for range in &self.ranges {
            let prefixes = range.prefixes();
            let needed = places.len().saturating_mul(prefixes.len());
            if needed > MAX_PLACES {
                return Err(RuleError::TooWide { needed });
            }
            let with = |(mask, key): &(FlowMask, FlowKey), (value, bits): &(u128, u128)| {
                let (mut mask, mut key) = (*mask, *key);
                mask.set(range.field, mask.get(range.field) | bits);
                key.set(range.field, key.get(range.field) & !bits | value);
                (mask, key)
            };
            places = places
                .iter()
                .flat_map(|place| prefixes.iter().map(move |prefix| with(place, prefix)))
                .collect();
        }
        Ok(places)
    }

    /// Requires the bits `mask` of a field to be those of `value`.
    fn require(&mut self, field: Field, mask: u128, value: u128) {
        let mask = mask & field.position().max();
        self.mask.set(field, self.mask.get(field) | mask);
        self.key
            .set(field, self.key.get(field) & !mask | value & mask);
    }

    /// What an item demands by being there.
    fn require_presence(&mut self, item: &Item) {
        let layer = self.layer;
        let mut exact = |field, value| self.require(field, u128::MAX, value);
        match item {
            Item::Ipv4(_) => exact(Field::EthType(layer), 0x0800),
            Item::Ipv6(_) => exact(Field::EthType(layer), 0x86dd),
            Item::Tcp(_) => exact(Field::IpProto(layer), 6),
            Item::Udp(_) => exact(Field::IpProto(layer), 17),
            Item::Icmp(_) => exact(Field::IpProto(layer), 1),
            Item::Icmp6(_) => exact(Field::IpProto(layer), 58),
            Item::Vxlan(_) => exact(Field::TunnelKind(layer), TunnelKind::Vxlan as u128),
            Item::Vlan(_) => {
                let tag = self.tag_field();
                self.require(tag, VLAN_PRESENT.into(), VLAN_PRESENT.into());
            }
            _ => {}
        }
    }

    fn tag_field(&self) -> Field {
        if self.tags == 0 {
            Field::VlanTci(self.layer)
        } else {
            Field::InnerVlanTci(self.layer)
        }
    }

    fn add(&mut self, item: &Item, tag_follows: bool) -> Result<(), RuleError> {
        if self.layer == Layer::Inner && matches!(item, Item::Vxlan(_)) {
            return Err(RuleError::Unsupported {
                what: "item vxlan inside vxlan",
                expected: "one tunnel",
            });
        }
        if !matches!(
            item,
            Item::Void
                | Item::Eth(_)
                | Item::Vlan(_)
                | Item::Ipv4(_)
                | Item::Ipv6(_)
                | Item::Tcp(_)
                | Item::Udp(_)
                | Item::Icmp(_)
                | Item::Icmp6(_)
                | Item::Vxlan(_)
                | Item::Mark(_)
        ) {
            return Err(RuleError::Unsupported {
                what: item.name(),
                expected: "the engine does not match this item",
            });
        }
        self.require_presence(item);
        let row = item.row();
        for field in row.fields {
            let sumeru_flow::model::Access::Field { get, .. } = &field.access else {
                continue;
            };
            let Some(matched) = get(item) else { continue };
            if matched.mask == 0 {
                continue;
            }
            let (target, shift) =
                self.place(item, field.name, tag_follows)
                    .map_err(|expected| RuleError::Field {
                        item: row.name,
                        field: field.name,
                        expected,
                    })?;
            match matched.range() {
                None => self.require(target, matched.mask << shift, matched.spec << shift),
                // A range is of the numbers under the mask; other bits between them would make it no range of the key.
                Some((low, high))
                    if shift == 0
                        && matched.mask == field_bits(field.bits)
                        && target.position().width == field.bits =>
                {
                    self.ranges.push(Range {
                        field: target,
                        low,
                        high,
                    });
                }
                Some(_) => {
                    return Err(RuleError::Range {
                        item: row.name,
                        field: field.name,
                    });
                }
            }
        }
        match item {
            Item::Vlan(_) => self.tags += 1,
            Item::Vxlan(_) => (self.layer, self.tags) = (Layer::Inner, 0),
            _ => {}
        }
        Ok(())
    }

    /// The key's field for an item's field, and how far the value is shifted in it; or what could be matched instead.
    fn place(
        &self,
        item: &Item,
        field: &str,
        tag_follows: bool,
    ) -> Result<(Field, u32), &'static str> {
        let layer = self.layer;
        let present = VLAN_PRESENT.trailing_zeros();
        Ok(match (item, field) {
            (Item::Eth(_), "dst") => (Field::EthDst(layer), 0),
            (Item::Eth(_), "src") => (Field::EthSrc(layer), 0),
            (Item::Eth(_), "type") if !tag_follows => (Field::EthType(layer), 0),
            (Item::Eth(_), "has_vlan") => (Field::VlanTci(layer), present),
            (Item::Eth(_), _) => {
                return Err("dst, src, has_vlan, type (of a packet without a vlan item)");
            }
            (Item::Vlan(_), "vid") => (self.tag_field(), 0),
            (Item::Vlan(_), "pcp") => (self.tag_field(), 13),
            (Item::Vlan(_), "inner_type") if !tag_follows => (Field::EthType(layer), 0),
            (Item::Vlan(_), "has_more_vlan") if self.tags == 0 => {
                (Field::InnerVlanTci(layer), present)
            }
            (Item::Vlan(_), _) => {
                return Err("vid, pcp, has_more_vlan, inner_type of the last tag");
            }
            (Item::Ipv4(_), "tos") | (Item::Ipv6(_), "tc") => (Field::IpTos(layer), 0),
            (Item::Ipv4(_), "ttl") | (Item::Ipv6(_), "hop") => (Field::IpTtl(layer), 0),
            (Item::Ipv4(_) | Item::Ipv6(_), "proto") => (Field::IpProto(layer), 0),
            (Item::Ipv4(_) | Item::Ipv6(_), "src") => (Field::IpSrc(layer), 0),
            (Item::Ipv4(_) | Item::Ipv6(_), "dst") => (Field::IpDst(layer), 0),
            (Item::Ipv6(_), "has_frag_ext") => {
                (Field::Fragment(layer), FRAGMENT_ANY.trailing_zeros())
            }
            (Item::Ipv4(_), _) => return Err("tos, ttl, proto, src, dst"),
            (Item::Ipv6(_), _) => return Err("tc, hop, proto, has_frag_ext, src, dst"),
            (Item::Tcp(_) | Item::Udp(_), "src") | (Item::Icmp(_) | Item::Icmp6(_), "type") => {
                (Field::L4Src(layer), 0)
            }
            (Item::Tcp(_) | Item::Udp(_), "dst") | (Item::Icmp(_) | Item::Icmp6(_), "code") => {
                (Field::L4Dst(layer), 0)
            }
            (Item::Tcp(_), "flags") => (Field::TcpFlags(layer), 0),
            (Item::Tcp(_), _) => return Err("src, dst, flags"),
            (Item::Icmp(_) | Item::Icmp6(_), _) => return Err("type, code"),
            (Item::Vxlan(_), "vni") => (Field::TunnelId(layer), 0),
            (Item::Vxlan(_), _) => return Err("vni"),
            (Item::Mark(_), "id") => (Field::Mark, 0),
            _ => return Err("nothing"),
        })
    }
}

const fn field_bits(bits: u32) -> u128 {
    if bits >= 128 {
        u128::MAX
    } else {
        (1 << bits) - 1
    }
}
