//! The compiler seen through its rules: interpreted, compared with a naive reading of the objects, and as text.

mod golden;
mod incremental;
mod interpret;
mod naive;
mod property;
mod spoof;

use serde_json::{Value, json};

use super::*;
use crate::decode::no_lines;
use crate::dry::DryRun;
use crate::model::{Any, Kind, Marks};

/// An object of a kind with these fields.
pub fn object(kind: Kind, fields: Value) -> Any {
    let Value::Object(map) = fields else {
        panic!("{fields}")
    };
    Any::decode(
        kind,
        kind.word(),
        &map,
        &no_lines,
        Marks::new(crate::model::Origin::Api),
    )
    .unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// A TAP port of network blue with fields beside.
pub fn port(name: &str, index: u16, more: Value) -> Any {
    let mut fields = json!({"name": name, "kind": "tap", "ifname": name, "index": index, "network": "blue", "mac": mac(index)});
    for (key, value) in more.as_object().unwrap() {
        fields[key] = value.clone();
    }
    object(Kind::Port, fields)
}

pub fn mac(index: u16) -> String {
    format!("52:54:00:00:00:{index:02x}")
}

/// Objects, each admitted, behind networks blue (100) and red (200).
pub fn inventory(objects: impl IntoIterator<Item = Any>) -> Inventory {
    let mut inventory = Inventory::default();
    for (name, vni) in [("blue", 100), ("red", 200)] {
        inventory.put(object(Kind::Network, json!({"name": name, "vni": vni})));
    }
    for any in objects {
        inventory
            .admit(&any)
            .unwrap_or_else(|error| panic!("{error}"));
        inventory.put(any);
    }
    inventory
        .check_whole()
        .unwrap_or_else(|error| panic!("{error}"));
    inventory
}

/// The rules of objects.
pub fn settled(inventory: &Inventory) -> Policy {
    let mut policy = Policy::default();
    policy
        .settle(inventory, &mut DryRun::default())
        .unwrap_or_else(|error| panic!("{error}"));
    policy
}

pub fn engine(policy: &Policy) -> interpret::Engine {
    interpret::Engine::new(policy.rules().map(|placed| placed.rule))
}
