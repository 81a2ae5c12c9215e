//! Rules of security groups. They are compiled once per list of groups that ports have, whatever the number of ports.

use std::sync::Arc;

use sumeru_flow::model::{Action, CtState, Item};

use super::compile::{DIRECTIONS, Lists, Numbered};
use super::layout::*;
use super::line::{Line, Origin};
use super::pattern::*;
use super::port::{icmp6_of_type, udp_over};
use crate::model::{Direction, GroupRule, Remote, SecurityGroup, SecurityGroupSpec};

impl SecurityGroupSpec {
    /// Remotes that rules of a direction name.
    pub fn remotes_of(&self, direction: Direction) -> impl Iterator<Item = &Remote> {
        self.rules
            .iter()
            .filter(move |rule| rule.direction == direction)
            .filter_map(|rule| rule.remote.as_ref())
    }
}

impl Remote {
    /// The address set that it is.
    pub fn set(&self) -> Option<&str> {
        match self {
            Self::Set(name) => Some(name),
            _ => None,
        }
    }

    /// The group that it is.
    pub fn group(&self) -> Option<&str> {
        match self {
            Self::Group(name) => Some(name),
            _ => None,
        }
    }
}

/// Groups of rules that one direction passes.
struct Path {
    track: u32,
    groups: u32,
    commit: u32,
    done: u32,
}

fn path(direction: Direction) -> Path {
    match direction {
        Direction::Egress => Path {
            track: SEND_TRACK,
            groups: SEND_GROUPS,
            commit: SEND_COMMIT,
            done: FORWARD,
        },
        Direction::Ingress => Path {
            track: RECEIVE_TRACK,
            groups: RECEIVE_GROUPS,
            commit: RECEIVE_COMMIT,
            done: RECEIVE_RATE,
        },
    }
}

/// The rules of a list of groups.
pub fn lines(number: u16, groups: &[Arc<SecurityGroup>], lists: &Lists) -> Vec<Line> {
    let stateful = groups.iter().any(|group| group.spec.stateful);
    let profile = u32::from(number) | if stateful { STATEFUL.mask } else { 0 };
    let mut out = Vec::new();
    for group in groups {
        for (i, rule) in group.spec.rules.iter().enumerate() {
            let origin = Origin::new(
                format!("security-group {}", group.spec.name),
                format!("rule {}: {rule}", i + 1),
            );
            let path = path(rule.direction);
            let (priority, next) = if group.spec.stateful {
                (2, path.commit)
            } else {
                (3, path.done)
            };
            for pattern in patterns(rule, profile, lists) {
                out.push(Line::new(
                    SHARED,
                    shared(path.groups, priority),
                    pattern,
                    vec![jump(next)],
                    &origin,
                ));
            }
        }
    }
    out
}

/// Numbers of the classes that are in a list of a name.
fn classes<'a>(numbered: Option<&'a Numbered>, name: &'a str) -> impl Iterator<Item = u32> + 'a {
    let within = move |(_, names): &&(u16, Vec<String>)| names.iter().any(|other| other == name);
    numbered
        .into_iter()
        .flatten()
        .filter(within)
        .map(|(number, _)| u32::from(*number))
}

/// The packets that a rule allows to or from ports with a profile.
fn patterns(rule: &GroupRule, profile: u32, lists: &Lists) -> Vec<Vec<Item>> {
    let versions = match rule.ipv6 {
        Some(ipv6) => vec![ipv6],
        None => vec![false, true],
    };
    let (prefix, marks) = match &rule.remote {
        None => (None, vec![None]),
        Some(Remote::Prefix(prefix)) => (Some(*prefix), vec![None]),
        Some(Remote::Set(name)) => (
            None,
            classes(lists.sets.get(&rule.direction), name)
                .map(|class| Some(tag(SET_CLASS, class)))
                .collect(),
        ),
        Some(Remote::Group(name)) => (
            None,
            classes(lists.members.get(&rule.direction), name)
                .map(|class| Some(tag(MEMBER_CLASS, class)))
                .collect(),
        ),
    };
    let mut out = Vec::new();
    for mark in marks {
        for ipv6 in &versions {
            let header = match rule.direction {
                Direction::Ingress => ip(*ipv6, prefix, None),
                Direction::Egress => ip(*ipv6, None, prefix),
            };
            let mut pattern = vec![tag(PROFILE, profile)];
            pattern.extend(mark.clone());
            pattern.push(eth());
            pattern.extend(above(header, rule.protocol));
            out.push(pattern);
        }
    }
    out
}

/// What no port can do without: DHCP as a client, neighbour discovery, multicast listener discovery. Never tracked.
fn basics(direction: Direction) -> Vec<(Vec<Item>, &'static str)> {
    let icmp6 = |types: &[u8], what| {
        types
            .iter()
            .map(|of_type| (icmp6_of_type(*of_type), what))
            .collect::<Vec<_>>()
    };
    let mut basics = match direction {
        Direction::Egress => vec![
            (udp_over(false, 68, 67), "DHCP"),
            (udp_over(true, 546, 547), "DHCPv6"),
        ],
        Direction::Ingress => vec![
            (udp_over(false, 67, 68), "DHCP"),
            (udp_over(true, 547, 546), "DHCPv6"),
        ],
    };
    basics.extend(match direction {
        Direction::Egress => icmp6(
            &[133, 135, 136, 131, 132, 143],
            "neighbour and listener discovery",
        ),
        Direction::Ingress => icmp6(&[134, 135, 136, 130], "neighbour and listener discovery"),
    });
    basics
}

/// What holds for every port with groups, and the way around for the others.
pub fn common() -> Vec<Line> {
    let mut out = Vec::new();
    for direction in DIRECTIONS {
        let path = path(direction);
        let mut line = |group, priority, pattern, action, why: &str| {
            out.push(Line::new(
                SHARED,
                shared(group, priority),
                pattern,
                vec![action],
                &Origin::new("policy", why),
            ));
        };
        line(
            path.track,
            0,
            vec![tag(PROFILE, 0), eth()],
            jump(path.done),
            "no security groups",
        );
        for (pattern, what) in basics(direction) {
            line(
                path.track,
                1,
                pattern,
                jump(path.done),
                &format!("always allowed: {what}"),
            );
        }
        line(
            path.track,
            LAST,
            vec![eth()],
            jump(path.groups),
            "security groups without state",
        );
        // A port without stateful groups must not believe the state that the other side's zone left.
        let tracked =
            |set: &[CtState], clear: &[CtState]| vec![tag(STATEFUL, 1), state(set, clear), eth()];
        let (trk, est, rel, inv) = (CtState::TRK, CtState::EST, CtState::REL, CtState::INV);
        line(
            path.groups,
            0,
            tracked(&[trk, inv], &[]),
            Action::Drop,
            "invalid for its connection",
        );
        line(
            path.groups,
            1,
            tracked(&[trk, est], &[inv]),
            jump(path.done),
            "of a connection that was allowed",
        );
        line(
            path.groups,
            1,
            tracked(&[trk, rel], &[inv]),
            jump(path.done),
            "related to a connection that was allowed",
        );
        for ipv6 in [false, true] {
            line(
                path.groups,
                4,
                vec![eth(), ip(ipv6, None, None)],
                Action::Drop,
                "no rule of the port's security groups allows it",
            );
        }
        line(path.groups, LAST, vec![eth()], jump(path.done), "not IP");
    }
    out
}
