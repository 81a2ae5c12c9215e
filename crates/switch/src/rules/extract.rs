//! What the parser fetches for the rules: how deep it looks, and the few places of bytes that rules can name themselves.
//!
//! A key has room for the data of two Geneve options and for one run of raw bytes. All rules of a switch share them: the first rule that
//! names one takes a slot, others that name the same use it too, and the last one to go frees it. Which slot holds what is published with the
//! rules, so an lcore parses for exactly the rules it looks up.

use sumeru_packet::field::{EXTRA_BASE, INNER_BASE, LAYERS_END, USED_WORDS_END};
use sumeru_packet::{Field, FlowKey, FlowMask, GeneveExtract, Layer, ParseOptions, RawExtract};

use super::{RuleError, RuleView};

/// Geneve options that all rules together can name.
pub const GENEVE_SLOTS: usize = 2;
/// Places of raw bytes that all rules together can name.
pub const RAW_SLOTS: usize = 1;
/// Bytes of one extraction, raw or of a Geneve option.
pub const EXTRACT_BYTES: usize = 16;

/// Bytes that are fetched into a key; of a rule: which ones it needs, of the switch: which slot holds what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extracts {
    /// Geneve options; those of a rule are all different and begin with the first.
    pub geneve: [Option<GeneveExtract>; GENEVE_SLOTS],
    /// Raw bytes.
    pub raw: Option<RawExtract>,
}

/// The slots of a switch and how many rules use each.
#[derive(Debug, Default)]
pub struct Slots {
    now: Extracts,
    geneve_uses: [u32; GENEVE_SLOTS],
    raw_uses: u32,
}

impl Extracts {
    /// Whether nothing is fetched.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Slots {
    /// Which slot holds what.
    pub fn current(&self) -> Extracts {
        self.now
    }

    /// Takes what a rule needs. Answers whether its Geneve options are in the slots the other way round, see [`exchange`].
    ///
    /// # Errors
    /// [`RuleError::NoExtraction`]; nothing has been taken then.
    pub fn take(&mut self, wanted: &Extracts) -> Result<bool, RuleError> {
        let full = |what, limit| Err(RuleError::NoExtraction { what, limit });
        if wanted.raw.is_some() && self.now.raw.is_some() && wanted.raw != self.now.raw {
            return full("raw extraction", RAW_SLOTS);
        }
        let mut next = self.now.geneve;
        let mut exchanged = false;
        for (own, option) in wanted.geneve.iter().enumerate() {
            if option.is_none() {
                continue;
            }
            let slot = next.iter().position(|held| held == option);
            let Some(slot) = slot.or_else(|| next.iter().position(Option::is_none)) else {
                return full("Geneve options", GENEVE_SLOTS);
            };
            next[slot] = *option;
            exchanged |= slot != own;
        }
        self.now.geneve = next;
        self.count(wanted, |uses| *uses += 1);
        if wanted.raw.is_some() {
            self.now.raw = wanted.raw;
        }
        Ok(exchanged)
    }

    /// Gives back what a rule took.
    pub fn give(&mut self, wanted: &Extracts) {
        self.count(wanted, |uses| *uses = uses.saturating_sub(1));
        for (slot, uses) in self.now.geneve.iter_mut().zip(self.geneve_uses) {
            if uses == 0 {
                *slot = None;
            }
        }
        if self.raw_uses == 0 {
            self.now.raw = None;
        }
    }

    fn count(&mut self, wanted: &Extracts, change: impl Fn(&mut u32)) {
        for (slot, uses) in self.now.geneve.iter().zip(&mut self.geneve_uses) {
            if slot.is_some() && wanted.geneve.contains(slot) {
                change(uses);
            }
        }
        if wanted.raw.is_some() {
            change(&mut self.raw_uses);
        }
    }
}

/// The place of a rule with its two Geneve options exchanged.
pub fn exchange((mask, key): &(FlowMask, FlowKey)) -> (FlowMask, FlowKey) {
    macro_rules! exchanged {
        ($words:expr) => {{
            let mut out = *$words;
            let present = $words.get(Field::GenevePresent);
            out.set(Field::GenevePresent, present >> 1 | (present & 1) << 1);
            out.set(Field::GeneveData0, $words.get(Field::GeneveData1));
            out.set(Field::GeneveData1, $words.get(Field::GeneveData0));
            out
        }};
    }
    (exchanged!(mask), exchanged!(key))
}

/// What the rules of one version want parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parsing {
    /// Some rule looks at tunnels or into them.
    pub deep: bool,
    /// Some rule looks at fields that are only fetched when asked for.
    pub extras: bool,
    /// What the slots hold.
    pub extracts: Extracts,
}

impl Parsing {
    /// What these rules want.
    pub fn of(view: &RuleView) -> Self {
        let union = view.rules.union();
        let any = |mut words: std::ops::Range<usize>| words.any(|i| union.word(i) != 0);
        Self {
            deep: union.get(Field::TunnelKind(Layer::Outer)) | union.get(Field::Layers) != 0
                || any(INNER_BASE..LAYERS_END),
            extras: any(EXTRA_BASE..USED_WORDS_END),
            extracts: view.extracts,
        }
    }

    /// The options for a port; `uplink` is one that this switch's own tunnels end on.
    pub fn options(&self, vxlan_port: u16, uplink: bool) -> ParseOptions {
        let tunnels = match (self.deep, uplink) {
            (true, _) => ParseOptions::TUNNELS,
            (false, true) => ParseOptions::TUNNELS,
            (false, false) => ParseOptions::PLAIN,
        };
        ParseOptions {
            vxlan_port: if tunnels.inner { vxlan_port } else { 0 },
            extras: self.extras,
            geneve_options: self.extracts.geneve,
            raw: self.extracts.raw,
            ..tunnels
        }
    }
}
