//! A named set of addresses that groups and blocklists refer to. May be very large: it is given in pieces
//! (see [`crate::reconcile::Control::amend_set`]) and compiles to tagged rules, one per prefix, whoever uses it.

use serde::Serialize;

use super::{Kind, Spec};
use crate::decode::{Field, Fields, Name, optional, required};
use crate::value::Prefix;

/// Most prefixes of a set.
pub const PREFIXES_MAX: usize = 1_000_000;

/// What is configured of an address set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AddressSetSpec {
    /// Name.
    pub name: String,
    /// The prefixes in order, each once.
    pub prefixes: Vec<Prefix>,
}

impl Spec for AddressSetSpec {
    const KIND: Kind = Kind::AddressSet;
    const FIXED: &'static [&'static str] = &[];
    const FIELDS: &'static [Field] = &[
        required("name", "name", "name of the set"),
        optional(
            "prefixes",
            "list of addresses or prefixes",
            "its addresses, at most 1000000 (default none)",
        ),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required::<Name>("name");
        let mut prefixes = fields.list::<Prefix>("prefixes");
        prefixes.sort_unstable();
        for twice in prefixes.windows(2).filter(|pair| pair[0] == pair[1]) {
            fields.fault(
                "prefixes",
                format!("{} twice", twice[0]),
                "each prefix once",
            );
        }
        if prefixes.len() > PREFIXES_MAX {
            fields.fault(
                "prefixes",
                format!("a list of {}", prefixes.len()),
                format!("at most {PREFIXES_MAX}"),
            );
        }
        Some(Self {
            name: name?.0,
            prefixes,
        })
    }
}
