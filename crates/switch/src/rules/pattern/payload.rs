//! Items that name bytes: `raw` (`struct rte_flow_item_raw`) and the options of Geneve (RFC 8926 section 3.5). They use what the parser
//! extracts; see [`extract`](crate::rules::extract) for what it shares.

use sumeru_flow::model::{GeneveOpt, Item, Raw};
use sumeru_packet::{Field, GeneveExtract, Layer, RawBase, RawExtract};

use super::stack::Stack;
use super::{Pattern, RuleError};
use crate::rules::extract::{EXTRACT_BYTES, GENEVE_SLOTS};

/// Where the item before ended, as the parser counts: `None` where no fixed distance says so.
pub struct Cursor(Option<(RawBase, u32)>);

impl Default for Cursor {
    fn default() -> Self {
        Self(Some((RawBase::L2, 0)))
    }
}

impl Cursor {
    /// Nothing is known any more.
    pub fn lose(&mut self) {
        self.0 = None;
    }

    /// Moves past an item, which stands on `stack`.
    pub fn pass(&mut self, item: &Item, stack: &Stack) {
        self.0 = match stack.layer() {
            Layer::Outer => self.outer(item, stack),
            Layer::Inner => self.inner(item, stack),
        };
    }

    fn outer(&self, item: &Item, stack: &Stack) -> Option<(RawBase, u32)> {
        // Behind the IP header, with the fixed length of each header.
        let l4 = |len| Some((RawBase::L4, len));
        match item {
            Item::Eth(_) => Some((RawBase::L2, 14)),
            Item::Vlan(_) if stack.below().is_some() => self.0.map(|(base, at)| (base, at + 4)),
            Item::Arp(_) => Some((RawBase::L3, 28)),
            Item::Ipv4(_) => l4(0),
            Item::Ipv6(_) => Some((RawBase::L3, 40)),
            Item::Icmp6(_) | Item::Gre(_) => l4(4),
            Item::Udp(_) | Item::Icmp(_) | Item::Esp(_) | Item::Nvgre(_) => l4(8),
            Item::Sctp(_) => l4(12),
            Item::Icmp6NdNs(_) | Item::Icmp6NdNa(_) => l4(24),
            Item::Vxlan(_) | Item::VxlanGpe(_) | Item::Geneve(_) => l4(16),
            Item::Gtp(_) | Item::Gtpu(_) | Item::Gtpc(_) => l4(16),
            _ => None,
        }
    }

    fn inner(&self, item: &Item, stack: &Stack) -> Option<(RawBase, u32)> {
        let first = stack.at_start() && stack.below().is_some();
        match item {
            Item::Eth(_) if first => Some((RawBase::TunnelPayload, 14)),
            Item::Vlan(_) => self.0.map(|(base, at)| (base, at + 4)),
            Item::Ipv6(_) if first => Some((RawBase::TunnelPayload, 40)),
            _ => None,
        }
    }
}

impl Pattern {
    /// Bytes at a fixed place.
    pub(super) fn raw(&mut self, raw: &Raw) -> Result<(), RuleError> {
        let refuse = |field, expected: &str| {
            Err(RuleError::Field {
                item: "raw",
                field,
                expected: expected.into(),
            })
        };
        let (bytes, mask) = (raw.pattern.spec(), raw.pattern.mask());
        if raw.search.spec {
            return refuse("search", "0: bytes at a fixed place");
        }
        if raw.limit.spec != 0 {
            return refuse("limit", "0: bytes at a fixed place");
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() > EXTRACT_BYTES {
            return refuse("pattern_hex", "at most 16 bytes");
        }
        let start = match raw.relative.spec {
            false => Some((RawBase::L2, 0)),
            true => self.cursor.0,
        };
        let Some((base, from)) = start else {
            return refuse(
                "relative",
                "0, or an item before it that ends at a fixed place of the outer headers",
            );
        };
        let Ok(offset) = u8::try_from(i64::from(from) + i64::from(raw.offset.spec)) else {
            return refuse(
                "offset",
                "a place 0 to 255 bytes behind the start of a header",
            );
        };
        let extract = RawExtract {
            base,
            offset,
            len: bytes.len() as u8,
        };
        if self.extracts.raw.is_some_and(|other| other != extract) {
            return Err(RuleError::Unsupported {
                what: "a second raw item",
                expected: "one place of raw bytes",
            });
        }
        self.extracts.raw = Some(extract);
        self.cursor.lose();
        self.require("raw", Field::RawPresent, 1, 1)?;
        self.require("raw", Field::Raw, number(mask), number(bytes))
    }

    /// One option of a Geneve header.
    pub(super) fn geneve_option(&mut self, option: &GeneveOpt) -> Result<(), RuleError> {
        let refuse = |field, expected: &str| {
            Err(RuleError::Field {
                item: "geneve-opt",
                field,
                expected: expected.into(),
            })
        };
        if !option.class.is_exact() {
            return refuse("class", "class and type in full");
        }
        if !option.opt_type.is_exact() {
            return refuse("type", "class and type in full");
        }
        if !option.length.is_any() {
            return refuse("length", "class, type, data");
        }
        let (data, mask) = (option.data.spec(), option.data.mask());
        if mask.iter().skip(EXTRACT_BYTES).any(|bits| *bits != 0) {
            return refuse("data", "at most 16 bytes");
        }
        let extract = GeneveExtract {
            class: option.class.spec.0,
            kind: option.opt_type.spec,
            len: EXTRACT_BYTES as u8,
        };
        let slots = &mut self.extracts.geneve;
        let slot = slots
            .iter()
            .position(|held| held.is_none_or(|held| held == extract));
        let Some(slot) = slot else {
            return Err(RuleError::NoExtraction {
                what: "Geneve options",
                limit: GENEVE_SLOTS,
            });
        };
        slots[slot] = Some(extract);
        let field = match slot {
            0 => Field::GeneveData0,
            _ => Field::GeneveData1,
        };
        self.require("geneve-opt", Field::GenevePresent, 1 << slot, 1 << slot)?;
        self.require("geneve-opt", field, number(mask), number(data))
    }
}

/// The first 16 bytes as a number, zeros after those there are: as the parser puts them into a key.
fn number(bytes: &[u8]) -> u128 {
    let mut whole = [0; EXTRACT_BYTES];
    for (to, from) in whole.iter_mut().zip(bytes) {
        *to = *from;
    }
    u128::from_be_bytes(whole)
}
