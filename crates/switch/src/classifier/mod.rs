//! The classifier: which rule of a group a packet meets, for millions of rules that change while packets come.
//!
//! One [`Writer`], on the control side, adds and removes rules and publishes versions. Each lcore holds a [`View`], one version,
//! which it searches without a lock while the writer prepares the next ([`View::lookup`]). What a rule does is no matter of
//! the classifier: it knows the number of a program, and the rule's owner knows the rest.
//!
//! A search also answers what it rests on: the bits of the key that were looked at, so that the decision can be cached for all packets
//! that agree in them, and the classes of changes that may make it wrong ([`Stamps`]), so that a cached decision is made again only
//! when something near it has changed.

pub mod arena;
pub mod stamps;
mod tuple;
mod view;
mod writer;

pub use stamps::{Class, Stamps};
pub use tuple::Header;
pub use view::{Classes, Found, MAX_CLASSES, View, rest_on};
pub use writer::{CAPACITY, Full, NewRule, Released, RuleRef, TupleId, Writer};

#[cfg(test)]
mod tests;
