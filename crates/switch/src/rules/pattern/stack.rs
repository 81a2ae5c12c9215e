//! Where in the stack of headers a pattern stands: which tunnel level, how many tags and labels, which layer of protocols.

use sumeru_flow::model::{Any, Item};
use sumeru_packet::field::{FRAGMENT_LATER, LAYER_INNER_ETHERNET, LAYER_INNER_PRESENT};
use sumeru_packet::{Field, Layer, Part};

use super::{INSIDE, Pattern, RuleError, tunnel_kind};

/// Protocol layers below an item: the number of its own. A frame begins at 1.
const FRAME: u32 = 1;
const LINK: u32 = 2;
const NETWORK: u32 = 3;
const TRANSPORT: u32 = 4;
const OVER_UDP: u32 = 5;

/// Bits of `integrity` that hold for every packet that has the header: Ethernet, IP, TCP or UDP, lengths.
pub const CHECKED: u128 = L2_OK | L3_OK | L4_OK | L3_LENGTH_OK;
const L2_OK: u128 = 1 << 1;
const L3_OK: u128 = 1 << 2;
const L4_OK: u128 = 1 << 3;
const L3_LENGTH_OK: u128 = 1 << 7;

/// Where the next item stands.
pub struct Stack {
    layer: Layer,
    /// The protocol layer of the last header.
    level: u32,
    tags: u32,
    labels: u32,
    /// The tunnel item that was last, until something inside it comes.
    tunnel: Option<&'static str>,
    /// The last header item, unless `any` followed.
    below: Option<&'static str>,
    /// Headers that `any` stands for; `None` inside for any number.
    skipped: Option<Option<u32>>,
}

impl Default for Stack {
    fn default() -> Self {
        Self {
            layer: Layer::Outer,
            level: FRAME,
            tags: 0,
            labels: 0,
            tunnel: None,
            below: None,
            skipped: None,
        }
    }
}

impl Stack {
    pub fn layer(&self) -> Layer {
        self.layer
    }

    /// Tags of this layer so far.
    pub fn tags(&self) -> u32 {
        self.tags
    }

    /// MPLS labels so far.
    pub fn labels(&self) -> u32 {
        self.labels
    }

    /// The header item before, unless it is not known.
    pub fn below(&self) -> Option<&'static str> {
        self.below
    }

    /// Whether nothing but `any` came so far in this layer.
    pub fn at_start(&self) -> bool {
        self.level == FRAME
    }

    /// Moves past an item.
    pub fn pass(&mut self, item: &Item) {
        self.below = Some(item.name());
        self.level = level(item).unwrap_or(self.level);
        match item {
            Item::Vlan(_) => self.tags += 1,
            Item::Mpls(_) => self.labels += 1,
            _ => {}
        }
        if tunnel_kind(item).is_some() {
            self.tunnel = Some(item.name());
        }
    }

    fn enter(&mut self) {
        self.layer = Layer::Inner;
        (self.level, self.tags, self.tunnel) = (FRAME, 0, None);
    }
}

/// The protocol layer of an item that is a header of its own.
fn level(item: &Item) -> Option<u32> {
    Some(match item {
        Item::Eth(_) | Item::Vlan(_) => LINK,
        Item::Arp(_) | Item::Ipv4(_) | Item::Ipv6(_) | Item::Mpls(_) => NETWORK,
        Item::Ipv6Ext(_) | Item::Ipv6FragExt(_) => NETWORK,
        Item::GreKey(_) | Item::GreOption(_) | Item::GeneveOpt(_) | Item::GtpPsc(_) => return None,
        Item::Vxlan(_) | Item::VxlanGpe(_) | Item::Geneve(_) => OVER_UDP,
        Item::Gtp(_) | Item::Gtpu(_) | Item::Gtpc(_) => OVER_UDP,
        _ => TRANSPORT,
    })
}

fn unsupported(what: &'static str, expected: &'static str) -> Result<(), RuleError> {
    Err(RuleError::Unsupported { what, expected })
}

impl Pattern {
    /// Goes to the layer that an item belongs to, and refuses it where a key has no room for it.
    pub(super) fn descend(&mut self, item: &Item) -> Result<(), RuleError> {
        let name = item.name();
        let Some(level) = level(item) else {
            return Ok(());
        };
        let stack = &self.stack;
        let more_labels = matches!(item, Item::Mpls(_)) && stack.labels > 0;
        let inside = stack.tunnel.is_some() && !(more_labels && stack.tunnel == Some("mpls"));
        if inside {
            self.enter_directly(item)?;
        } else if let Some(count) = stack.skipped {
            self.skip(item, level, count)?;
        }
        let stack = &self.stack;
        if stack.layer == Layer::Inner && tunnel_kind(item).is_some() {
            return unsupported(
                name,
                "one tunnel; what is inside a tunnel is not looked into",
            );
        }
        let plain = |below: Option<&str>| matches!(below, None | Some("eth" | "vlan"));
        match item {
            Item::Vlan(_) if stack.tags >= 2 => unsupported("a third vlan item", "two tags"),
            Item::Mpls(_) if stack.labels >= 2 => unsupported("a third mpls item", "two labels"),
            Item::Mpls(_) if stack.labels == 0 && !plain(stack.below) => {
                unsupported(name, "mpls behind eth or vlan")
            }
            Item::Esp(_) if stack.below == Some("udp") => unsupported(name, "esp behind IP"),
            _ => Ok(()),
        }
    }

    /// Enters the packet inside a tunnel, whose first header is this item.
    fn enter_directly(&mut self, item: &Item) -> Result<(), RuleError> {
        let name = item.name();
        let tunnel = self.stack.tunnel;
        if matches!(tunnel, Some("mpls" | "gtp" | "gtpu")) && matches!(item, Item::Eth(_)) {
            return unsupported("item eth inside mpls or gtp", "ipv4 or ipv6");
        }
        if tunnel == Some("mpls") {
            // The header stands directly behind the last label that the pattern names.
            let last = match self.stack.labels {
                1 => Field::MplsOuter,
                _ => Field::MplsSecond,
            };
            self.require_part(name, last, Part::MPLS_BOTTOM, 1)?;
        }
        self.gtp_open = false;
        self.stack.enter();
        let bits = match item {
            Item::Eth(_) => INSIDE,
            _ => LAYER_INNER_PRESENT.into(),
        };
        self.require(name, Field::Layers, INSIDE, bits)
    }

    /// Headers of any kind.
    pub(super) fn any(&mut self, any: &Any) -> Result<(), RuleError> {
        let count = match (any.num.spec & any.num.mask, any.num.is_exact()) {
            (0, _) if any.num.range().is_none() => None,
            (count, true) => Some(count),
            _ => return refuse_number(),
        };
        if self.stack.tunnel.is_some() {
            self.stack.enter();
        }
        let stack = &mut self.stack;
        stack.skipped = Some(match (stack.skipped, count) {
            (None, count) => count,
            (Some(Some(before)), Some(count)) => before.checked_add(count),
            _ => None,
        });
        stack.below = None;
        self.cursor.lose();
        Ok(())
    }

    /// An item behind `any`: `count` headers stand between it and the last one.
    fn skip(&mut self, item: &Item, level: u32, count: Option<u32>) -> Result<(), RuleError> {
        let name = item.name();
        self.stack.skipped = None;
        let stack = &self.stack;
        if level <= stack.level {
            // Below what came before, so it is in a tunnel of any kind.
            if stack.layer == Layer::Inner || matches!(item, Item::Vlan(_) | Item::Mpls(_)) {
                return unsupported("item any", "one tunnel, and eth or IP as what is in it");
            }
            if count.is_some() {
                return refuse_number();
            }
            self.stack.enter();
            let present = LAYER_INNER_PRESENT.into();
            self.require(name, Field::Layers, present, present)?;
        } else if let Some(count) = count {
            let between = level - stack.level - 1;
            let inside = stack.layer == Layer::Inner && stack.at_start();
            if inside && count.checked_add(1) == Some(between) {
                let present = LAYER_INNER_PRESENT.into();
                self.require(name, Field::Layers, INSIDE, present)?;
            } else if count != between {
                return refuse_number();
            } else if inside {
                self.require(name, Field::Layers, INSIDE, INSIDE)?;
            }
        }
        match item {
            Item::Eth(_) if self.stack.layer == Layer::Inner => {
                let ethernet = LAYER_INNER_ETHERNET.into();
                self.require(name, Field::Layers, ethernet, ethernet)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn finish_any(&self) -> Result<(), RuleError> {
        match self.stack.skipped {
            Some(Some(2..)) => refuse_number(),
            _ => Ok(()),
        }
    }

    /// `integrity` holds where the header is there; what it says of headers that may not be there is not known.
    pub(super) fn finish_integrity(&mut self) -> Result<(), RuleError> {
        for (layer, bits) in [Layer::Outer, Layer::Inner].into_iter().zip(self.integrity) {
            let known = |field: Field, values: &[u128]| {
                self.mask.get(field) == field.position().max()
                    && values.contains(&self.key.get(field))
            };
            let ip = known(Field::EthType(layer), &[0x0800, 0x86dd]);
            let transport = known(Field::IpProto(layer), &[6, 17]);
            let link = layer == Layer::Outer || self.key.get(Field::Layers) & INSIDE == INSIDE;
            let expected = match bits {
                _ if bits & L2_OK != 0 && !link => "an inner eth item for l2_ok of level 2",
                _ if bits & (L3_OK | L3_LENGTH_OK) != 0 && !ip => {
                    "an ipv4 or ipv6 item for l3_ok and l3_len_ok"
                }
                _ if bits & L4_OK != 0 && !transport => "a tcp or udp item for l4_ok",
                _ => {
                    if bits & L4_OK != 0 {
                        let later = FRAGMENT_LATER.into();
                        self.require("integrity", Field::Fragment(layer), later, 0)?;
                    }
                    continue;
                }
            };
            return unsupported("item integrity", expected);
        }
        Ok(())
    }
}

fn refuse_number() -> Result<(), RuleError> {
    Err(RuleError::Field {
        item: "any",
        field: "num",
        expected: "0, or as many headers as there are between the items around it".into(),
    })
}
