//! From the items of a pattern to bits of the flow key.
//!
//! An item demands that its header is there, also when it says nothing about a field; then come its fields, by the table in
//! [`target`](super::target). Items behind a tunnel's match the packet inside. What a key holds, and so what a rule means here:
//!
//! | item | meaning |
//! |---|---|
//! | `any` | headers of any kind; `num` must be as many as there are between its neighbours |
//! | `eth`, `vlan` | the type is the one behind all tags; which protocol identifier a tag has is not known, nor its DEI bit |
//! | `arp_eth_ipv4` | EtherType ARP; ARP of other kinds has operation and addresses 0 |
//! | `ipv6` `proto`, `ipv6_ext` and `ipv6_frag_ext` `next_hdr` | the last next header, behind all extension headers (RFC 8200 section 4) |
//! | transport items | the protocol; fields match only where the header is, so never later fragments |
//! | `icmp6_nd_*` | messages that are not fragmented (RFC 6980); of options of a kind the first |
//! | `gre` | version 0, not fragmented; likewise all tunnels |
//! | `gtp` | GTP-U; `gtpc` is UDP port 2123, no more |
//! | `mpls` | up to two labels behind Ethernet or its tags |
//! | `integrity` | `l2_ok`, `l3_ok`, `l4_ok` and `l3_len_ok` hold for every packet with that header: others are dropped before rules |

use std::ops::RangeInclusive;

use sumeru_flow::model::{Access, ErasedMatch, Item};
use sumeru_packet::field::{
    FRAGMENT_ANY, FRAGMENT_LATER, IPV6_EXT_AUTH, IPV6_EXT_DESTINATION, IPV6_EXT_FRAGMENT,
    IPV6_EXT_HOP_BY_HOP, IPV6_EXT_ROUTING, IPV6_EXT_SHIM6, LAYER_INNER_ETHERNET,
    LAYER_INNER_PRESENT, VLAN_PRESENT,
};
use sumeru_packet::{Field, FlowKey, FlowMask, Layer, Part, TunnelKind};

use super::RuleError;
use super::compile::MAX_PLACES;
use super::extract::Extracts;
use super::target::{self, SECOND_MPLS, SECOND_VLAN};

mod payload;
mod stack;

use payload::Cursor;
use stack::Stack;

/// UDP ports of GTP (3GPP TS 29.281 section 4.4.2, TS 29.060 section 10.1.1).
const GTPU_PORT: u128 = 2152;
const GTPC_PORT: u128 = 2123;
/// Numbers of extension headers that a key's protocol never is: the parser goes on behind them.
const FOLLOWED: [u128; 5] = [0, 43, 44, 51, 60];
/// The extension headers that something can follow.
const FOLLOWED_BITS: u16 = IPV6_EXT_HOP_BY_HOP
    | IPV6_EXT_ROUTING
    | IPV6_EXT_FRAGMENT
    | IPV6_EXT_AUTH
    | IPV6_EXT_DESTINATION;
/// All extension headers.
const EXTENSION_BITS: u16 = IPV6_EXT_SHIM6 * 2 - 1;
/// NVGRE (RFC 7637 section 3.2): of the GRE flags K is set, C and S are not.
const NVGRE_HEAD: (u128, u128) = (0xb000, 0x2000);
const TEB: u128 = 0x6558;

/// A pattern on its way into key and mask.
#[derive(Default)]
pub struct Pattern {
    key: FlowKey,
    mask: FlowMask,
    choices: Vec<Choice>,
    stack: Stack,
    cursor: Cursor,
    extracts: Extracts,
    /// Bits of `integrity` that must hold, for each layer.
    integrity: [u128; 2],
    /// A `gtp` item that may still be GTP-C.
    gtp_open: bool,
}

/// A field that has one of several values, each under its own mask. A packet meets at most one of them.
struct Choice {
    field: Field,
    options: Vec<(u128, u128)>,
}

/// What a pattern compiles to.
#[derive(Debug)]
pub struct Compiled {
    /// Where the rule stands.
    pub places: Vec<(FlowMask, FlowKey)>,
    /// What the parser must fetch for it.
    pub extracts: Extracts,
}

/// The fewest prefixes of numbers of `bits` bits that cover a range, as value and mask.
fn prefixes(range: RangeInclusive<u128>, bits: u32) -> Vec<(u128, u128)> {
    let (all, high) = (low_mask(bits), *range.end());
    let mut out = Vec::new();
    let mut low = *range.start();
    loop {
        // The largest aligned block that begins here and does not pass the end.
        let room = high - low;
        let mut block = match low {
            0 => all,
            _ => (1 << low.trailing_zeros()) - 1,
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

const fn low_mask(bits: u32) -> u128 {
    if bits >= 128 {
        u128::MAX
    } else {
        (1 << bits) - 1
    }
}

impl Pattern {
    /// Adds an item that is not a port's; `next` is the header item behind it.
    ///
    /// # Errors
    /// An item or a field that a key does not have, or that contradicts what stands before it.
    pub fn add(&mut self, item: &Item, next: Option<&Item>) -> Result<(), RuleError> {
        match item {
            Item::Void => return Ok(()),
            Item::Any(any) => return self.any(any),
            Item::Raw(raw) => return self.raw(raw),
            Item::Tag(tag) => return self.tag(tag),
            Item::Integrity(checks) => return self.integrity(checks),
            Item::Mark(_) | Item::Meta(_) | Item::Conntrack(_) | Item::Ct(_) => {
                return self.fields(item, next);
            }
            Item::MeterColor(_) => {
                return Err(RuleError::Unsupported {
                    what: "item meter",
                    expected: "a packet's colour is not matched; act on it in the meter's policy",
                });
            }
            _ => {}
        }
        self.descend(item)?;
        self.presence(item)?;
        if let Item::GeneveOpt(option) = item {
            self.geneve_option(option)?;
        } else {
            self.fields(item, next)?;
        }
        self.cursor.pass(item, &self.stack);
        self.stack.pass(item);
        Ok(())
    }

    /// Requires the bits `mask` of a field to be those of `value`.
    ///
    /// # Errors
    /// When something else was required before; the item is named.
    pub fn require(
        &mut self,
        item: &'static str,
        field: Field,
        mask: u128,
        value: u128,
    ) -> Result<(), RuleError> {
        let mask = mask & field.position().max();
        let known = self.mask.get(field);
        if (self.key.get(field) ^ value) & known & mask != 0 {
            return Err(RuleError::Contradiction { item });
        }
        self.mask.set(field, known | mask);
        self.key
            .set(field, self.key.get(field) & !mask | value & mask);
        Ok(())
    }

    fn require_part(
        &mut self,
        item: &'static str,
        field: Field,
        part: Part,
        value: u128,
    ) -> Result<(), RuleError> {
        self.require(
            item,
            field,
            low_mask(part.width) << part.shift,
            value << part.shift,
        )
    }

    /// Requires one of the extension headers in `bits`.
    fn require_extension(&mut self, bits: u16) {
        let mut before = 0;
        let mut options = Vec::new();
        for bit in (0..16).map(|i| 1 << i).filter(|bit| bits & bit != 0) {
            before |= bit;
            let shift = Part::IPV6_EXTENSIONS.shift;
            options.push((u128::from(bit) << shift, u128::from(before) << shift));
        }
        let field = Field::IpExtra(self.stack.layer());
        self.choices.push(Choice { field, options });
    }

    /// What an item demands by being there.
    fn presence(&mut self, item: &Item) -> Result<(), RuleError> {
        let layer = self.stack.layer();
        let name = item.name();
        let (ether_type, protocol) = names(item);
        if let Some(value) = ether_type {
            self.require(name, Field::EthType(layer), u128::MAX, value.into())?;
        }
        if let Some(value) = protocol {
            self.require(name, Field::IpProto(layer), u128::MAX, value.into())?;
        }
        if let Some(kind) = tunnel_kind(item) {
            let field = Field::TunnelKind(layer);
            self.require(name, field, u128::MAX, kind as u128)?;
        }
        self.presence_more(item, layer)
    }

    /// The rest of [`Self::presence`]: bits that stand for a part of a header.
    fn presence_more(&mut self, item: &Item, layer: Layer) -> Result<(), RuleError> {
        let name = item.name();
        let one = |field| (field, 1);
        let (field, value) = match item {
            Item::Vlan(_) => {
                let tag: fn(Layer) -> Field = match self.stack.tags() {
                    0 => Field::VlanTci,
                    _ => Field::InnerVlanTci,
                };
                let present = u128::from(VLAN_PRESENT);
                return self.require(name, tag(layer), present, present);
            }
            Item::Ipv6Ext(header) => {
                let followed = header.next_hdr.mask != 0;
                self.require_extension(if followed {
                    FOLLOWED_BITS
                } else {
                    EXTENSION_BITS
                });
                return Ok(());
            }
            Item::Ipv6FragExt(_) => {
                let bit = u128::from(IPV6_EXT_FRAGMENT) << Part::IPV6_EXTENSIONS.shift;
                return self.require(name, Field::IpExtra(layer), bit, bit);
            }
            Item::Gtpc(_) => (Field::L4Dst(layer), GTPC_PORT),
            Item::Icmp6NdNs(_) => (Field::L4Src(layer), 135),
            Item::Icmp6NdNa(_) => (Field::L4Src(layer), 136),
            Item::Icmp6NdOptSlaEth(_) => one(Field::NdSourceLinkPresent),
            Item::Icmp6NdOptTlaEth(_) => one(Field::NdTargetLinkPresent),
            Item::GreKey(_) => one(Field::GreKeyPresent(layer)),
            Item::GreOption(option) if option.key.mask != 0 => one(Field::GreKeyPresent(layer)),
            Item::Nvgre(_) => {
                let (mask, head) = NVGRE_HEAD;
                self.require(name, Field::TunnelHead, mask, head)?;
                self.require(name, Field::GreKeyPresent(layer), 1, 1)?;
                (Field::TunnelProtocol, TEB)
            }
            Item::GtpPsc(_) => {
                self.gtp_open = false;
                let part = Part::GTPU_SESSION_PRESENT;
                return self.require_part(name, Field::GtpuSession, part, 1);
            }
            Item::Gtp(_) => {
                self.gtp_open = true;
                return Ok(());
            }
            Item::Mpls(_) if self.stack.labels() == 1 => {
                return self.require_part(name, Field::MplsOuter, Part::MPLS_BOTTOM, 0);
            }
            _ => return Ok(()),
        };
        self.require(name, field, u128::MAX, value)
    }

    /// Compiles the fields of an item.
    fn fields(&mut self, item: &Item, next: Option<&Item>) -> Result<(), RuleError> {
        let row = item.row();
        let (mut matched_any, mut excludes_absence) = (false, false);
        for field in row.fields {
            let Access::Field { get, .. } = &field.access else {
                continue;
            };
            let Some(matched) = get(item).filter(|matched| matched.mask != 0) else {
                continue;
            };
            matched_any = true;
            excludes_absence |= !matched.matches(0);
            if self.special(item, field.name, &matched, next)? {
                continue;
            }
            let Some(target) = target::find(self.name_in_table(item), field.name) else {
                let expected = target::fields_of(self.name_in_table(item));
                return Err(refused(item, field.name, expected));
            };
            let place = (target.field(self.stack.layer()), target.shift);
            self.matched(item, field.name, place, field.bits, &matched)?;
        }
        // Where a header is not there its fields in the key are zero, and a value that is not zero says enough.
        let absent = match item {
            _ if !matched_any || excludes_absence => 0,
            Item::Tcp(_) | Item::Udp(_) | Item::Sctp(_) | Item::Esp(_) => FRAGMENT_LATER,
            Item::Icmp(_) | Item::Icmp6(_) => FRAGMENT_LATER,
            Item::Icmp6NdNs(_) | Item::Icmp6NdNa(_) => FRAGMENT_ANY,
            _ => 0,
        };
        let field = Field::Fragment(self.stack.layer());
        self.require(row.name, field, absent.into(), 0)
    }

    fn name_in_table(&self, item: &Item) -> &'static str {
        match item {
            Item::Vlan(_) if self.stack.tags() > 0 => SECOND_VLAN,
            Item::Mpls(_) if self.stack.labels() > 0 => SECOND_MPLS,
            _ => item.name(),
        }
    }

    /// Requires a field of `bits` bits, which the key has at `place`, to match.
    fn matched(
        &mut self,
        item: &Item,
        name: &'static str,
        (field, shift): (Field, u32),
        bits: u32,
        matched: &ErasedMatch,
    ) -> Result<(), RuleError> {
        // Bits that the key does not have are zero in every packet.
        let width = bits.min(field.position().width - shift);
        let held = low_mask(width);
        let contradiction = Err(RuleError::Contradiction { item: item.name() });
        let Some((low, high)) = matched.range() else {
            if matched.spec & matched.mask & !held != 0 {
                return contradiction;
            }
            let (mask, value) = (matched.mask & held, matched.spec & held);
            return self.require(item.name(), field, mask << shift, value << shift);
        };
        // A range is of the numbers under the mask; other bits between them would make it no range of the key.
        if matched.mask != low_mask(bits) {
            return Err(RuleError::Range {
                item: item.name(),
                field: name,
            });
        }
        if low > held {
            return contradiction;
        }
        let options = prefixes(low..=high.min(held), width)
            .into_iter()
            .map(|(value, mask)| (value << shift, mask << shift))
            .collect();
        self.choices.push(Choice { field, options });
        Ok(())
    }

    /// Fields that are more than bits of the key. Answers whether nothing is left to do.
    fn special(
        &mut self,
        item: &Item,
        field: &'static str,
        matched: &ErasedMatch,
        next: Option<&Item>,
    ) -> Result<bool, RuleError> {
        let exact = |bits| matched.mask == low_mask(bits) && matched.range().is_none();
        let refuse = |expected: &str| Err(refused(item, field, expected.into()));
        match (item, field) {
            (Item::Eth(_), "type") | (Item::Vlan(_), "inner_type") => {
                if matches!(next, Some(Item::Vlan(_))) {
                    return refuse("the type in the last vlan item");
                }
                match matched.spec {
                    0x8100 | 0x88a8 if exact(16) => {
                        refuse("has_vlan, has_more_vlan or a vlan item for a tag")
                    }
                    0..0x0600 if exact(16) => refuse("an EtherType, 0x0600 or above"),
                    _ => Ok(false),
                }
            }
            (Item::Ipv6(_), "proto") | (Item::Ipv6Ext(_) | Item::Ipv6FragExt(_), "next_hdr")
                if exact(8) && FOLLOWED.contains(&matched.spec) =>
            {
                refuse("the protocol behind all extension headers, and has_*_ext of ipv6 for those")
            }
            (Item::Ipv6FragExt(_), "frag_data") => {
                // Of offset and flags a key has whether the offset is zero, and whether all is.
                let absent = match (matched.mask & 0xfff9, matched.spec & matched.mask & 0xfff9) {
                    (0xfff8, 0) if matched.range().is_none() => FRAGMENT_LATER,
                    (0xfff9, 0) if matched.range().is_none() => FRAGMENT_ANY,
                    _ => {
                        return refuse(
                            "next_hdr, packet_id, frag_data 0 under mask 0xfff8 (first fragment) or 0xfff9 (whole packet)",
                        );
                    }
                };
                let field = Field::Fragment(self.stack.layer());
                self.require(item.name(), field, absent.into(), 0)?;
                Ok(true)
            }
            (Item::Icmp6NdOpt(_), "type") => {
                let present = match matched.spec {
                    1 if exact(8) => Field::NdSourceLinkPresent,
                    2 if exact(8) => Field::NdTargetLinkPresent,
                    _ => return refuse("type 1 or 2"),
                };
                self.require(item.name(), present, 1, 1)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A tag register; its number is the item's index.
    fn tag(&mut self, tag: &sumeru_flow::model::Tag) -> Result<(), RuleError> {
        let registers = [Field::Tag0, Field::Tag1, Field::Tag2, Field::Tag3];
        let register = registers.get(usize::from(tag.index.spec));
        let (true, Some(register)) = (tag.index.is_exact(), register) else {
            return Err(RuleError::Field {
                item: "tag",
                field: "index",
                expected: "an index of 0 to 3".into(),
            });
        };
        let item = Item::Tag(*tag);
        let data = tag.data.erase();
        match data.mask {
            0 => Ok(()),
            _ => self.matched(&item, "data", (*register, 0), 32, &data),
        }
    }

    fn integrity(&mut self, checks: &sumeru_flow::model::Integrity) -> Result<(), RuleError> {
        let refuse = |field, expected: &str| {
            Err(RuleError::Field {
                item: "integrity",
                field,
                expected: expected.into(),
            })
        };
        let level = checks.level.spec & checks.level.mask;
        if level > 2 || checks.level.range().is_some() {
            return refuse(
                "level",
                "0 or 1 for the outer headers, 2 for the inner ones",
            );
        }
        let value = checks.value.erase();
        if value.range().is_some() || value.mask & !stack::CHECKED != 0 {
            return refuse(
                "value",
                "l2_ok (2), l3_ok (4), l4_ok (8), l3_len_ok (128); checksums are not verified",
            );
        }
        if value.spec & value.mask != value.mask {
            return Err(RuleError::Contradiction { item: "integrity" });
        }
        self.integrity[usize::from(level == 2)] |= value.mask;
        Ok(())
    }

    /// The places of the rule: one, or one for each combination of what its fields may choose from.
    ///
    /// # Errors
    /// Too many places, or none: what was said last cannot be.
    pub fn finish(mut self) -> Result<Compiled, RuleError> {
        self.finish_any()?;
        self.finish_integrity()?;
        self.finish_gtp()?;
        let mut places = vec![(self.mask, self.key)];
        for choice in &self.choices {
            let field = choice.field;
            let fits = |(mask, key): &(FlowMask, FlowKey), (value, bits): &(u128, u128)| {
                (key.get(field) ^ value) & mask.get(field) & bits == 0
            };
            let fitting = |place| {
                choice
                    .options
                    .iter()
                    .filter(move |option| fits(place, option))
            };
            let needed = places.iter().map(|place| fitting(place).count()).sum();
            if needed > MAX_PLACES {
                return Err(RuleError::TooWide { needed });
            }
            places = places
                .iter()
                .flat_map(|place| fitting(place).map(|option| narrowed(place, field, option)))
                .collect();
        }
        match places.is_empty() {
            true => Err(RuleError::Contradiction { item: "range" }),
            false => Ok(Compiled {
                places,
                extracts: self.extracts,
            }),
        }
    }

    /// `gtp` stands for GTP-U and GTP-C, and only the former has fields in a key.
    fn finish_gtp(&self) -> Result<(), RuleError> {
        let port = Field::L4Dst(Layer::Outer);
        let said = self.mask.get(port) == port.position().max() && self.key.get(port) == GTPU_PORT;
        match self.gtp_open && !said {
            true => Err(RuleError::Unsupported {
                what: "item gtp that may be GTP-C",
                expected: "gtpu, or udp dst is 2152 before gtp; GTP-C is only known by item gtpc",
            }),
            false => Ok(()),
        }
    }
}

fn narrowed(
    (mask, key): &(FlowMask, FlowKey),
    field: Field,
    (value, bits): &(u128, u128),
) -> (FlowMask, FlowKey) {
    let (mut mask, mut key) = (*mask, *key);
    mask.set(field, mask.get(field) | bits);
    key.set(field, key.get(field) & !bits | value);
    (mask, key)
}

fn refused(item: &Item, field: &'static str, expected: String) -> RuleError {
    RuleError::Field {
        item: item.name(),
        field,
        expected,
    }
}

/// EtherType and protocol of the packets that have this header.
fn names(item: &Item) -> (Option<u16>, Option<u8>) {
    match item {
        Item::Arp(_) => (Some(0x0806), None),
        Item::Ipv4(_) => (Some(0x0800), None),
        Item::Ipv6(_) | Item::Ipv6Ext(_) | Item::Ipv6FragExt(_) => (Some(0x86dd), None),
        Item::Icmp(_) => (Some(0x0800), Some(1)),
        Item::Icmp6(_) | Item::Icmp6NdNs(_) | Item::Icmp6NdNa(_) => (Some(0x86dd), Some(58)),
        Item::Icmp6NdOpt(_) | Item::Icmp6NdOptSlaEth(_) | Item::Icmp6NdOptTlaEth(_) => {
            (Some(0x86dd), Some(58))
        }
        Item::Tcp(_) => (None, Some(6)),
        Item::Udp(_) | Item::Gtpc(_) => (None, Some(17)),
        Item::Esp(_) => (None, Some(50)),
        Item::Sctp(_) => (None, Some(132)),
        _ => (None, None),
    }
}

/// The tunnel that an item stands for.
fn tunnel_kind(item: &Item) -> Option<TunnelKind> {
    Some(match item {
        Item::Vxlan(_) => TunnelKind::Vxlan,
        Item::VxlanGpe(_) => TunnelKind::VxlanGpe,
        Item::Geneve(_) => TunnelKind::Geneve,
        Item::Gre(_) | Item::Nvgre(_) => TunnelKind::Gre,
        Item::Gtp(_) | Item::Gtpu(_) => TunnelKind::Gtpu,
        Item::Mpls(_) => TunnelKind::Mpls,
        _ => return None,
    })
}

/// Bits of [`Field::Layers`]: a packet inside, and whether it begins with Ethernet.
const INSIDE: u128 = (LAYER_INNER_PRESENT | LAYER_INNER_ETHERNET) as u128;
