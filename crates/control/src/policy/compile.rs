//! From objects to rules: what every port needs is worked out first ([`PortPlan`]), then each part of the rules by itself. Pure: equal
//! objects and equal numbers give equal rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sumeru_flow::model::MeterProfile;

use super::barrier::{self, Party};
use super::class::{Classes, classify};
use super::group;
use super::line::{Body, ClassRule, Line, Origin};
use super::number::{Numbering, Numbers, Role};
use super::port;
use crate::error::Error;
use crate::inventory::Inventory;
use crate::model::{
    AddressSet, Any, Blocked, Direction, Isolate, Kind, PortSpec, SecurityGroup, SecurityGroupSpec,
};
use crate::value::Prefix;

/// Most rules that policies may compile to: what the engine's table holds.
pub const RULES_MAX: usize = 4 << 20;

/// A part of the rules that is compared as a whole when objects change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What every policy needs.
    Common,
    /// Of one port.
    Port(String),
    /// Of a list of groups, by its number.
    Groups(u16),
    /// Blocklists and isolation.
    Barriers,
    /// Classes by address sets.
    Sets(Direction),
    /// Classes by members of groups.
    Members(Direction),
}

/// Rules of all objects.
#[derive(Debug, Default)]
pub struct Compiled {
    /// The rules; no two of a section are equal.
    pub sections: BTreeMap<Section, Arc<Vec<Line>>>,
    /// Meters that they name.
    pub meters: BTreeMap<u32, MeterProfile>,
    /// What the numbers in them stand for.
    pub numbers: Numbers,
    /// What need not be worked out again while its sets stay the same.
    pub memo: Memo,
}

/// Classes by address sets, as they were worked out last.
pub type Memo = BTreeMap<Direction, SetMemo>;

/// See [`Memo`].
#[derive(Debug, Clone)]
pub struct SetMemo {
    sets: Vec<Arc<AddressSet>>,
    classes: Arc<Classes>,
    numbers: Vec<u16>,
    lines: Arc<Vec<Line>>,
}

/// What is needed of a port.
pub struct PortPlan<'a> {
    /// The port.
    pub spec: &'a PortSpec,
    /// VXLAN network identifier of its network, or 0.
    pub network: u32,
    /// Number of its list of groups, or 0, and whether one of them is stateful.
    pub profile: (u16, bool),
    /// Numbers of the blocklists for what it sends and receives, or 0.
    pub send_scope: u16,
    /// See `send_scope`.
    pub receive_scope: u16,
    /// Its isolation class; 0 if there is no isolation policy at all, and for an uplink.
    pub isolation: u16,
    /// Whether there is any isolation policy.
    pub isolated: bool,
}

/// Classes of addresses with their numbers and the names of what they are in.
pub type Numbered = Vec<(u16, Vec<String>)>;

/// Lists that have a number.
#[derive(Default)]
pub struct Lists {
    /// Lists of groups.
    pub profiles: BTreeMap<u16, Vec<Arc<SecurityGroup>>>,
    /// Lists of blocklists, per direction.
    pub scopes: BTreeMap<Direction, BTreeMap<u16, Vec<String>>>,
    /// Isolation classes: the policies that a port is in, in the order of the inventory.
    pub parties: BTreeMap<u16, Vec<Party>>,
    /// Classes by address sets.
    pub sets: BTreeMap<Direction, Numbered>,
    /// Classes by members.
    pub members: BTreeMap<Direction, Numbered>,
}

/// Both directions.
pub const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// Compiles all policies of a node.
pub fn compile(inventory: &Inventory, before: &Numbers, memo: &Memo) -> Result<Compiled, Error> {
    let mut compiled = Compiled::default();
    let mut numbering = Numbering::new(before);
    let mut lists = Lists::default();
    let plans = plan(inventory, &mut numbering, &mut lists)?;
    for direction in DIRECTIONS {
        set_classes(
            inventory,
            direction,
            &mut numbering,
            &mut lists,
            memo,
            &mut compiled,
        )?;
        member_classes(
            inventory,
            direction,
            &mut numbering,
            &mut lists,
            &mut compiled,
        )?;
    }
    let mut needed = false;
    for plan in &plans {
        let lines = port::lines(plan, &mut compiled.meters);
        needed |= !lines.is_empty();
        put(&mut compiled, Section::Port(plan.spec.name.clone()), lines);
    }
    if needed {
        put(
            &mut compiled,
            Section::Common,
            [port::common(), group::common(), barrier::common()].concat(),
        );
    }
    for (number, groups) in &lists.profiles {
        put(
            &mut compiled,
            Section::Groups(*number),
            group::lines(*number, groups, &lists),
        );
    }
    let barriers = [
        barrier::blocklists(inventory, &lists),
        barrier::isolation(inventory, &lists),
    ]
    .concat();
    put(&mut compiled, Section::Barriers, barriers);
    let total: usize = compiled.sections.values().map(|lines| lines.len()).sum();
    if total > RULES_MAX {
        return Err(Error::fault(
            "policy",
            "rules",
            format!("{total} rules together"),
            format!("at most {RULES_MAX}"),
        ));
    }
    compiled.numbers = numbering.finish();
    Ok(compiled)
}

/// Puts a section in without what it says twice.
fn put(compiled: &mut Compiled, section: Section, mut lines: Vec<Line>) {
    if lines.is_empty() {
        return;
    }
    let mut seen: std::collections::HashSet<(u16, Body)> =
        std::collections::HashSet::with_capacity(lines.len());
    lines.retain(|line| seen.insert((line.owner, line.body.clone())));
    compiled.sections.insert(section, Arc::new(lines));
}

/// What each port needs. Gives lists their numbers.
fn plan<'a>(
    inventory: &'a Inventory,
    numbering: &mut Numbering<'_>,
    lists: &mut Lists,
) -> Result<Vec<PortPlan<'a>>, Error> {
    let isolated = inventory.of(Kind::Isolation).next().is_some();
    let mut plans = Vec::new();
    for port in inventory.ports() {
        let spec = &port.spec;
        let mut plan = PortPlan {
            spec,
            network: network_of(inventory, spec.network.as_deref()),
            profile: (0, false),
            send_scope: 0,
            receive_scope: 0,
            isolation: 0,
            isolated,
        };
        if !spec.uplink {
            plan.profile = profile(inventory, spec, numbering, lists)?;
            plan.send_scope = scope(inventory, spec, Direction::Egress, numbering, lists)?;
            plan.receive_scope = scope(inventory, spec, Direction::Ingress, numbering, lists)?;
            if isolated {
                let parties = barrier::parties(inventory, spec);
                let key = parties.iter().map(ToString::to_string).collect();
                plan.isolation = numbering.number(Role::Isolation, key)?;
                lists.parties.insert(plan.isolation, parties);
            }
        }
        plans.push(plan);
    }
    Ok(plans)
}

/// The VXLAN network identifier of a network, 0 for none.
pub fn network_of(inventory: &Inventory, name: Option<&str>) -> u32 {
    name.and_then(|name| inventory.network(name))
        .map_or(0, |network| network.spec.vni.get())
}

fn profile(
    inventory: &Inventory,
    spec: &PortSpec,
    numbering: &mut Numbering<'_>,
    lists: &mut Lists,
) -> Result<(u16, bool), Error> {
    let names: BTreeSet<&String> = spec.policy.security_groups.iter().collect();
    if names.is_empty() {
        return Ok((0, false));
    }
    let groups: Vec<Arc<SecurityGroup>> = names
        .iter()
        .filter_map(|name| inventory.security_group(name))
        .cloned()
        .collect();
    let stateful = groups.iter().any(|group| group.spec.stateful);
    let number = numbering.number(Role::Profile, names.into_iter().cloned().collect())?;
    lists.profiles.insert(number, groups);
    Ok((number, stateful))
}

fn scope(
    inventory: &Inventory,
    spec: &PortSpec,
    direction: Direction,
    numbering: &mut Numbering<'_>,
    lists: &mut Lists,
) -> Result<u16, Error> {
    let mut names = Vec::new();
    for any in inventory.of(Kind::Blocklist) {
        let Any::Blocklist(list) = any else { continue };
        let everywhere = list.spec.ports.is_empty() && list.spec.networks.is_empty();
        let here = list.spec.ports.contains(&spec.name)
            || spec
                .network
                .as_ref()
                .is_some_and(|network| list.spec.networks.contains(network));
        let this_way = match list.spec.direction {
            Blocked::Both => true,
            Blocked::Ingress => direction == Direction::Ingress,
            Blocked::Egress => direction == Direction::Egress,
        };
        if this_way && (everywhere || here) {
            names.push(list.spec.name.clone());
        }
    }
    if names.is_empty() {
        return Ok(0);
    }
    let number = numbering.number(Role::Scope(direction), names.clone())?;
    lists
        .scopes
        .entry(direction)
        .or_default()
        .insert(number, names);
    Ok(number)
}

/// Groups that ports have, and their rules of a direction.
fn used_groups(lists: &Lists) -> impl Iterator<Item = &SecurityGroupSpec> {
    let mut seen = BTreeSet::new();
    lists
        .profiles
        .values()
        .flatten()
        .map(|group| &group.spec)
        .filter(move |spec| seen.insert(spec.name.as_str()))
}

/// Classes by the address sets that rules and blocklists of a direction name.
fn set_classes(
    inventory: &Inventory,
    direction: Direction,
    numbering: &mut Numbering<'_>,
    lists: &mut Lists,
    memo: &Memo,
    compiled: &mut Compiled,
) -> Result<(), Error> {
    let mut names: BTreeSet<&str> = used_groups(lists)
        .flat_map(|group| group.remotes_of(direction))
        .filter_map(|remote| remote.set())
        .collect();
    let scopes = lists
        .scopes
        .get(&direction)
        .into_iter()
        .flat_map(BTreeMap::values)
        .flatten();
    names.extend(
        scopes
            .filter_map(|name| inventory.blocklist(name))
            .map(|list| list.spec.address_set.as_str()),
    );
    let sets: Vec<Arc<AddressSet>> = names
        .into_iter()
        .filter_map(|name| inventory.address_set(name))
        .cloned()
        .collect();
    if sets.is_empty() {
        return Ok(());
    }
    let same = |memo: &&SetMemo| {
        memo.sets.len() == sets.len()
            && memo
                .sets
                .iter()
                .zip(&sets)
                .all(|(one, other)| Arc::ptr_eq(one, other))
    };
    let known = memo.get(&direction).filter(same);
    let classes = match known {
        Some(memo) => memo.classes.clone(),
        None => {
            let mut entries =
                Vec::with_capacity(sets.iter().map(|set| set.spec.prefixes.len()).sum());
            for (set, number) in sets.iter().zip(0u32..) {
                entries.extend(set.spec.prefixes.iter().map(|prefix| (*prefix, number)));
            }
            Arc::new(classify(entries))
        }
    };
    let names: Vec<String> = sets.iter().map(|set| set.spec.name.clone()).collect();
    let numbered = number_classes(&classes, &names, Role::SetClass(direction), numbering)?;
    let numbers: Vec<u16> = numbered.iter().map(|(number, _)| *number).collect();
    let lines = match known.filter(|memo| memo.numbers == numbers) {
        Some(memo) => memo.lines.clone(),
        None => Arc::new(class_lines(
            &classes,
            &numbered,
            "address-set",
            direction,
            None,
        )),
    };
    lists.sets.insert(direction, numbered);
    if !lines.is_empty() {
        compiled
            .sections
            .insert(Section::Sets(direction), lines.clone());
    }
    compiled.memo.insert(
        direction,
        SetMemo {
            sets,
            classes,
            numbers,
            lines,
        },
    );
    Ok(())
}

/// Classes by the groups that rules of a direction name as remote. Tenants may have the same addresses, so each network has its own.
fn member_classes(
    inventory: &Inventory,
    direction: Direction,
    numbering: &mut Numbering<'_>,
    lists: &mut Lists,
    compiled: &mut Compiled,
) -> Result<(), Error> {
    let names: BTreeSet<&str> = used_groups(lists)
        .flat_map(|group| group.remotes_of(direction))
        .filter_map(|remote| remote.group())
        .collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let place = |name: &String| names.binary_search(name).ok().map(|place| place as u32);
    let mut entries: BTreeMap<u32, Vec<(Prefix, u32)>> = BTreeMap::new();
    for port in inventory.ports() {
        let network = network_of(inventory, port.spec.network.as_deref());
        for group in port.spec.policy.security_groups.iter().filter_map(place) {
            let addresses = port
                .spec
                .policy
                .sources()
                .map(|source| (source.prefix, group));
            entries.entry(network).or_default().extend(addresses);
        }
    }
    for group in names
        .iter()
        .filter_map(|name| inventory.security_group(name))
    {
        for member in &group.spec.members {
            let network = network_of(inventory, Some(&member.network));
            entries
                .entry(network)
                .or_default()
                .extend(place(&group.spec.name).map(|group| (member.prefix, group)));
        }
    }
    join(inventory, &mut entries);
    let mut all: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    let mut lines = Vec::new();
    for (network, entries) in entries {
        let classes = classify(entries);
        let numbered = number_classes(&classes, &names, Role::MemberClass(direction), numbering)?;
        lines.extend(class_lines(
            &classes,
            &numbered,
            "security-group",
            direction,
            Some(network),
        ));
        all.extend(numbered);
    }
    lists.members.insert(direction, all.into_iter().collect());
    put(compiled, Section::Members(direction), lines);
    Ok(())
}

/// Networks that a router joins know each other's members: a routed packet keeps its addresses, which no two of them share.
fn join(inventory: &Inventory, entries: &mut BTreeMap<u32, Vec<(Prefix, u32)>>) {
    for any in inventory.of(Kind::Router) {
        let Any::Router(router) = any else { continue };
        let networks: Vec<u32> = router
            .spec
            .networks
            .iter()
            .map(|name| network_of(inventory, Some(name)))
            .collect();
        let mut all: Vec<(Prefix, u32)> = networks
            .iter()
            .filter_map(|network| entries.get(network))
            .flatten()
            .copied()
            .collect();
        all.sort_unstable();
        all.dedup();
        for network in networks {
            if !all.is_empty() {
                entries.insert(network, all.clone());
            }
        }
    }
}

fn number_classes(
    classes: &Classes,
    names: &[String],
    role: Role,
    numbering: &mut Numbering<'_>,
) -> Result<Numbered, Error> {
    let mut numbered = Vec::with_capacity(classes.sets.len());
    for sets in &classes.sets {
        let list: Vec<String> = sets
            .iter()
            .filter_map(|set| names.get(*set as usize))
            .cloned()
            .collect();
        numbered.push((numbering.number(role, list.clone())?, list));
    }
    Ok(numbered)
}

fn class_lines(
    classes: &Classes,
    numbered: &Numbered,
    kind: &str,
    direction: Direction,
    network: Option<u32>,
) -> Vec<Line> {
    let label = |(number, names): &(u16, Vec<String>)| {
        let labels: Vec<String> = names.iter().map(|name| format!("{kind} {name}")).collect();
        (*number, Origin::new(labels.join(", "), ""))
    };
    let labelled: Vec<(u16, Arc<Origin>)> = numbered.iter().map(label).collect();
    let line = |(prefix, class): &(Prefix, u32)| {
        let (class, origin) = labelled.get(*class as usize)?;
        let body = Body::Class(ClassRule {
            direction,
            network,
            prefix: *prefix,
            class: *class,
        });
        Some(Line {
            owner: super::layout::SHARED,
            body,
            origin: origin.clone(),
        })
    };
    classes.prefixes.iter().filter_map(line).collect()
}

/// Whether members of a policy may talk to others, in words for the origin of a rule.
pub fn mode_word(mode: Isolate) -> &'static str {
    match mode {
        Isolate::Deny => "deny",
        Isolate::Allow => "allow",
    }
}
