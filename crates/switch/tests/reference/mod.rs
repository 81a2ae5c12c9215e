//! A naive pipeline ([`pipeline`]) and the switch ([`system`]) side by side in random worlds ([`run`]).

mod checksum;
mod frames;
mod headers;
mod pattern;
mod pipeline;
mod rules;
pub mod run;
mod seed;
pub mod system;
