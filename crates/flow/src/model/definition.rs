//! What testpmd's `set` commands define for later rules: headers as bytes, actions of samples, and
//! encapsulations.
//!
//! A rule copies what it names when it is read; later changes do not reach it.

use std::collections::BTreeMap;

use super::action::{Action, Argument};
use super::encap::{L2Encap, NvgreDefinition, VxlanDefinition};
use super::header::{HeaderError, header_bytes};
use super::item::Item;

/// How many headers or lists of actions there can be of one kind; they are numbered from 0.
pub const MAX_DEFINITIONS: u32 = 8;

/// One `set` command. The name of what is defined is that of the action that uses it, but for
/// `sample_actions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    /// The header that `raw_encap index N` puts in front.
    RawEncap {
        /// Its number.
        index: u32,
        /// Items whose values are the header's.
        header: Vec<Item>,
    },
    /// The header that `raw_decap index N` removes.
    RawDecap {
        /// Its number.
        index: u32,
        /// Items whose values are the header's.
        header: Vec<Item>,
    },
    /// What `sample index N` does.
    SampleActions {
        /// Its number.
        index: u32,
        /// The actions.
        actions: Vec<Action>,
    },
    /// What `vxlan_encap` without arguments does. testpmd's text has no word for an absent port or MAC
    /// address: they are written as zero.
    Vxlan(VxlanDefinition),
    /// What `nvgre_encap` without arguments does; absent MAC addresses are written as zero.
    Nvgre(NvgreDefinition),
    /// What `l2_encap` without arguments does.
    L2Encap(L2Encap),
    /// What `l2_decap` does.
    L2Decap {
        /// Whether a VLAN tag goes, too.
        vlan: bool,
    },
}

/// What has been defined so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definitions {
    raw_encap: BTreeMap<u32, Vec<u8>>,
    raw_decap: BTreeMap<u32, Vec<u8>>,
    sample: BTreeMap<u32, Vec<Action>>,
    encapsulations: BTreeMap<&'static str, Action>,
}

impl Definitions {
    /// Nothing.
    pub const fn new() -> Self {
        Self {
            raw_encap: BTreeMap::new(),
            raw_decap: BTreeMap::new(),
            sample: BTreeMap::new(),
            encapsulations: BTreeMap::new(),
        }
    }

    /// Adds a definition or replaces the one of the same name and number.
    pub fn define(&mut self, definition: &Definition) -> Result<(), HeaderError> {
        match definition {
            Definition::RawEncap { index, header } => {
                self.raw_encap.insert(*index, header_bytes(header)?);
            }
            Definition::RawDecap { index, header } => {
                self.raw_decap.insert(*index, header_bytes(header)?);
            }
            Definition::SampleActions { index, actions } => {
                self.sample.insert(*index, actions.clone());
            }
            Definition::Vxlan(definition) => self.keep(Action::VxlanEncap(*definition)),
            Definition::Nvgre(definition) => self.keep(Action::NvgreEncap(*definition)),
            Definition::L2Encap(definition) => self.keep(Action::L2Encap(*definition)),
            Definition::L2Decap { vlan } => self.keep(Action::L2Decap { vlan: *vlan }),
        }
        Ok(())
    }

    /// Keeps what an action does without arguments.
    fn keep(&mut self, action: Action) {
        self.encapsulations.insert(action.name(), action);
    }

    /// What `index` of the action of this name stands for.
    pub(crate) fn argument(&self, action: &str, index: u32) -> Option<Argument> {
        let bytes = |of: &BTreeMap<u32, Vec<u8>>| of.get(&index).cloned().map(Argument::Bytes);
        match action {
            "raw_encap" => bytes(&self.raw_encap),
            "raw_decap" => bytes(&self.raw_decap),
            _ => self.sample.get(&index).cloned().map(Argument::Actions),
        }
    }

    /// What the action of this name does without arguments.
    pub(crate) fn action(&self, name: &str) -> Option<&Action> {
        self.encapsulations.get(name)
    }
}
