//! Compiled rules and where they come from. A rule that only classifies an address is kept in short, because there may be millions.

use std::sync::Arc;

use sumeru_flow::Rule;
use sumeru_flow::model::{Action, Attributes, Item};

use super::layout::{
    MEMBER_CLASS, NETWORK, RECEIVE_BLOCK, RECEIVE_MEMBERS, RECEIVE_SETS, SEND_BLOCK, SEND_MEMBERS,
    SEND_SETS, SET_CLASS, TagBits,
};
use super::pattern::{eth, ip, set_tag, tag};
use crate::model::Direction;
use crate::value::Prefix;

/// What made a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The object: kind and name, or `policy` for what every policy needs.
    pub object: String,
    /// Which line of it.
    pub line: String,
}

impl Origin {
    pub(super) fn new(object: impl Into<String>, line: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            object: object.into(),
            line: line.into(),
        })
    }
}

/// Tells which sets or groups an address belongs to, by the longest prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassRule {
    /// Of traffic in this direction: the source of what a guest receives, the destination of what it sends.
    pub direction: Direction,
    /// Members of groups in this network (0: no network); address sets if absent.
    pub network: Option<u32>,
    /// The addresses.
    pub prefix: Prefix,
    /// Their class.
    pub class: u16,
}

/// What a rule is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Body {
    /// Any rule.
    Rule(Box<Rule>),
    /// Gives an address its class.
    Class(ClassRule),
}

/// A compiled rule.
#[derive(Debug, Clone)]
pub struct Line {
    /// Index of the port that it is a rule of, or [`SHARED`](super::layout::SHARED).
    pub owner: u16,
    /// The rule.
    pub body: Body,
    /// What made it.
    pub origin: Arc<Origin>,
}

impl Line {
    pub(super) fn new(
        owner: u16,
        attributes: Attributes,
        pattern: Vec<Item>,
        actions: Vec<Action>,
        origin: &Arc<Origin>,
    ) -> Self {
        let rule = Box::new(Rule {
            attributes,
            pattern,
            actions,
        });
        Self {
            owner,
            body: Body::Rule(rule),
            origin: origin.clone(),
        }
    }

    /// The rule in full.
    pub fn rule(&self) -> Rule {
        match &self.body {
            Body::Rule(rule) => Rule::clone(rule),
            Body::Class(class) => class.rule(),
        }
    }

    /// What made it, with the line.
    pub fn origin(&self) -> Origin {
        match &self.body {
            Body::Rule(_) => Origin::clone(&self.origin),
            Body::Class(class) => Origin {
                object: self.origin.object.clone(),
                line: class.prefix.to_string(),
            },
        }
    }
}

impl ClassRule {
    /// Group it stands in, group that follows, and bits that take the class.
    fn place(&self) -> (u32, u32, TagBits) {
        match (self.direction, self.network) {
            (Direction::Egress, None) => (SEND_SETS, SEND_MEMBERS, SET_CLASS),
            (Direction::Egress, Some(_)) => (SEND_MEMBERS, SEND_BLOCK, MEMBER_CLASS),
            (Direction::Ingress, None) => (RECEIVE_SETS, RECEIVE_MEMBERS, SET_CLASS),
            (Direction::Ingress, Some(_)) => (RECEIVE_MEMBERS, RECEIVE_BLOCK, MEMBER_CLASS),
        }
    }

    fn rule(&self) -> Rule {
        let (group, next, bits) = self.place();
        let priority = u32::from(self.prefix.width() - self.prefix.length());
        let mut pattern: Vec<Item> = self
            .network
            .map(|network| tag(NETWORK, network))
            .into_iter()
            .collect();
        pattern.push(eth());
        pattern.push(match self.direction {
            Direction::Ingress => ip(self.prefix.is_ipv6(), Some(self.prefix), None),
            Direction::Egress => ip(self.prefix.is_ipv6(), None, Some(self.prefix)),
        });
        Rule {
            attributes: Attributes {
                group,
                priority,
                transfer: true,
                ..Attributes::default()
            },
            pattern,
            actions: vec![
                set_tag(bits, self.class.into()),
                Action::Jump { group: next },
            ],
        }
    }
}
