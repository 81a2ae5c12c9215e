//! Rules of blocklists and of isolation policies: about pairs of classes, never of ports.

use std::fmt;

use sumeru_flow::model::Action;

use super::compile::{DIRECTIONS, Lists, mode_word};
use super::layout::*;
use super::line::{Line, Origin};
use super::pattern::*;
use crate::inventory::Inventory;
use crate::model::{Any, Direction, Isolate, IsolationSpec, Kind, PortSpec};

/// A port's part in an isolation policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The policy.
    pub isolation: String,
    /// The network through which the port is a member; by itself if absent.
    pub network: Option<String>,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.isolation)?;
        // No name has a slash.
        self.network
            .as_ref()
            .map_or(Ok(()), |network| write!(f, "/{network}"))
    }
}

fn isolations(inventory: &Inventory) -> impl Iterator<Item = &IsolationSpec> {
    inventory.of(Kind::Isolation).filter_map(|any| match any {
        Any::Isolation(isolation) => Some(&isolation.spec),
        _ => None,
    })
}

/// The policies that a port is in.
pub fn parties(inventory: &Inventory, port: &PortSpec) -> Vec<Party> {
    let party = |isolation: &IsolationSpec| {
        let network = port
            .network
            .as_ref()
            .filter(|network| isolation.networks.contains(network));
        let member = isolation.ports.contains(&port.name) || network.is_some();
        member.then(|| Party {
            isolation: isolation.name.clone(),
            network: network.cloned(),
        })
    };
    isolations(inventory).filter_map(party).collect()
}

/// Blocklists: an address of a class that is in the set of a list that applies.
pub fn blocklists(inventory: &Inventory, lists: &Lists) -> Vec<Line> {
    let mut out = Vec::new();
    for direction in DIRECTIONS {
        let group = match direction {
            Direction::Egress => SEND_BLOCK,
            Direction::Ingress => RECEIVE_BLOCK,
        };
        let classes = lists.sets.get(&direction).map_or(&[][..], Vec::as_slice);
        for (scope, names) in lists.scopes.get(&direction).into_iter().flatten() {
            for (class, sets) in classes {
                let hit = names
                    .iter()
                    .filter_map(|name| inventory.blocklist(name))
                    .find(|list| sets.contains(&list.spec.address_set));
                let Some(list) = hit else { continue };
                let origin = Origin::new(
                    format!("blocklist {}", list.spec.name),
                    format!("address_set {}", list.spec.address_set),
                );
                let pattern = vec![
                    tag(SCOPE, (*scope).into()),
                    tag(SET_CLASS, (*class).into()),
                    eth(),
                ];
                out.push(Line::new(
                    SHARED,
                    shared(group, 0),
                    pattern,
                    vec![Action::Drop],
                    &origin,
                ));
            }
        }
    }
    out
}

/// A class as seen by one policy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seat<'a> {
    /// No member.
    Out,
    /// A member by itself.
    Alone,
    /// A member through its network.
    Within(&'a str),
}

fn seat<'a>(parties: &'a [Party], isolation: &str) -> Seat<'a> {
    match parties.iter().find(|party| party.isolation == isolation) {
        None => Seat::Out,
        Some(Party { network: None, .. }) => Seat::Alone,
        Some(Party {
            network: Some(network),
            ..
        }) => Seat::Within(network),
    }
}

fn forbids(isolation: &IsolationSpec, one: Seat<'_>, other: Seat<'_>) -> bool {
    match (isolation.mode, one, other) {
        (Isolate::Deny, Seat::Out, _) | (Isolate::Deny, _, Seat::Out) => false,
        (Isolate::Deny, Seat::Within(one), Seat::Within(other)) => one != other,
        (Isolate::Deny, _, _) => true,
        (Isolate::Allow, one, other) => (one == Seat::Out) != (other == Seat::Out),
    }
}

/// What is at the far end of a tunnel is in the network of the port at the near end, and nothing else is known of it.
fn far_seat<'a>(near: Seat<'a>) -> Seat<'a> {
    match near {
        Seat::Within(network) => Seat::Within(network),
        // The network of a port that is a member by itself is no member.
        Seat::Alone | Seat::Out => Seat::Out,
    }
}

/// Isolation: pairs of classes that may not talk to each other. Class 0 is the far end of a tunnel.
pub fn isolation(inventory: &Inventory, lists: &Lists) -> Vec<Line> {
    let mut out = Vec::new();
    let mut pair = |sender: u16, receiver: u16, isolation: &IsolationSpec| {
        let origin = Origin::new(
            format!("isolation {}", isolation.name),
            format!("mode {}", mode_word(isolation.mode)),
        );
        let pattern = vec![
            tags((SENDER, sender.into()), (RECEIVER, receiver.into())),
            eth(),
        ];
        out.push(Line::new(
            SHARED,
            shared(RECEIVE_BLOCK, 1),
            pattern,
            vec![Action::Drop],
            &origin,
        ));
    };
    for (sender, one) in &lists.parties {
        for (receiver, other) in &lists.parties {
            let forbidding = |isolation: &&IsolationSpec| {
                forbids(
                    isolation,
                    seat(one, &isolation.name),
                    seat(other, &isolation.name),
                )
            };
            if let Some(isolation) = isolations(inventory).find(forbidding) {
                pair(*sender, *receiver, isolation);
            }
        }
        let far = |isolation: &&IsolationSpec| {
            let near = seat(one, &isolation.name);
            forbids(isolation, near, far_seat(near))
        };
        if let Some(isolation) = isolations(inventory).find(far) {
            pair(*sender, 0, isolation);
            pair(0, *sender, isolation);
        }
    }
    out
}

/// The way past sets, members and blocklists for what they say nothing about.
pub fn common() -> Vec<Line> {
    let ways = [
        (SEND_SETS, SEND_MEMBERS, "in no address set"),
        (SEND_MEMBERS, SEND_BLOCK, "no member of a remote group"),
        (SEND_BLOCK, SEND_TRACK, "not blocked"),
        (RECEIVE_SETS, RECEIVE_MEMBERS, "in no address set"),
        (
            RECEIVE_MEMBERS,
            RECEIVE_BLOCK,
            "no member of a remote group",
        ),
        (RECEIVE_BLOCK, RECEIVE_TRACK, "not blocked"),
    ];
    let line = |(group, next, why)| {
        Line::new(
            SHARED,
            shared(group, LAST),
            vec![eth()],
            vec![jump(next)],
            &Origin::new("policy", why),
        )
    };
    ways.map(line).to_vec()
}
