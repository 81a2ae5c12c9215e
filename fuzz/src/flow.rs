//! Fuzz target `flow`: text as flow commands, rules and packet descriptions; rules that parse are compiled, put into a table and looked
//! up. Fails on a panic, on text that does not survive printing, and on a look-up that a plain search contradicts.
//!
//! Input: UTF-8, one command, rule or description per line.

use std::collections::BTreeMap;

use sumeru_flow::model::PortRef;
use sumeru_flow::{Command, PacketDescription, Rule, SyntaxError, syntax};
use sumeru_packet::{FlowKey, FlowMask, key::WORDS};
use sumeru_switch::classifier::{Classes, Found};
use sumeru_switch::rules::{ActionList, CompiledRule, Context, RuleTable, compile, name_from};

/// Most lines that are looked at, so that an input is quick.
const LINES: usize = 12;

/// Runs one input.
///
/// # Panics
/// When a promise of the flow crate or of the rule table is broken: that is the finding.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let mut table = Table::default();
    for line in text.lines().take(LINES) {
        match syntax::parse(line) {
            Ok(command) => {
                let printed = command.to_string();
                assert_eq!(
                    syntax::parse(&printed).as_ref(),
                    Ok(&command),
                    "printed as {printed}"
                );
                table.execute(command);
            }
            Err(error) => check_error(&error, line),
        }
        check_rule(line);
        check_description(line);
        let last = line
            .rsplit(|c: char| c.is_ascii_whitespace())
            .next()
            .unwrap_or_default();
        for completion in syntax::complete(line) {
            assert!(
                completion.starts_with(last),
                "{completion:?} after {line:?}"
            );
        }
    }
    table.check();
}

fn check_error(error: &SyntaxError, text: &str) {
    assert!(error.position + error.length <= text.len());
    assert!(text.is_char_boundary(error.position));
    assert!(!error.render(text).is_empty());
}

fn check_rule(text: &str) {
    match syntax::parse_rule(text) {
        Ok(rule) => {
            let printed = rule.to_string();
            assert_eq!(
                syntax::parse_rule(&printed).as_ref(),
                Ok(&rule),
                "printed as {printed}"
            );
            let json = serde_json::to_string(&rule).ok();
            let back = json.as_deref().map(serde_json::from_str::<Rule>);
            assert!(
                matches!(&back, Some(Ok(back)) if *back == rule),
                "{json:?} came back as {back:?}"
            );
        }
        Err(error) => check_error(&error, text),
    }
}

fn check_description(text: &str) {
    match PacketDescription::parse(text) {
        Ok(description) => {
            let printed = description.to_string();
            assert_eq!(
                PacketDescription::parse(&printed).as_ref(),
                Ok(&description),
                "printed as {printed}"
            );
            let bytes = description.to_bytes();
            assert!((14..=sumeru_flow::describe::MAX_FRAME).contains(&bytes.len()));
        }
        Err(error) => check_error(&error, text),
    }
}

/// Places of a rule that are looked at; a rule with ranges may have many.
const PLACES: usize = 8;

/// A rule as plainly as can be.
struct Plain {
    order: (u32, u32),
    group: u32,
    places: Vec<(FlowMask, FlowKey)>,
    actions: ActionList,
}

/// The engine's table and the same rules in a list.
#[derive(Default)]
struct Table {
    table: RuleTable,
    plain: BTreeMap<(u16, u32), Plain>,
    created: u32,
}

impl Table {
    fn execute(&mut self, command: Command) {
        let resolve = |port: &PortRef| port.number().filter(|n| *n < 4).map(|n| n as u16);
        match command {
            Command::Create { port, rule } => {
                let context = Context {
                    port: resolve(&port).unwrap_or(0),
                    id: self.created,
                    resolve: &resolve,
                };
                let Ok(rule) = compile(&rule, &context) else {
                    return;
                };
                self.created += 1;
                self.insert(rule);
            }
            Command::Destroy { port, rules } => {
                for id in rules {
                    let name = (resolve(&port).unwrap_or(0), id as u32);
                    let had = self.plain.remove(&name).is_some();
                    assert_eq!(self.table.remove(name.0, name.1).is_ok(), had);
                }
            }
            Command::Flush { port } => {
                let port = resolve(&port).unwrap_or(0);
                self.plain.retain(|name, _| {
                    let stays = name.0 != port;
                    assert!(stays || self.table.remove(name.0, name.1).is_ok());
                    stays
                });
            }
            _ => {}
        }
    }

    fn insert(&mut self, rule: CompiledRule) {
        let plain = Plain {
            order: (rule.priority, rule.name.1),
            group: rule.group,
            places: rule.places.clone(),
            actions: rule.actions.clone(),
        };
        for (mask, value) in &rule.places {
            assert_eq!(value.masked(mask), *value, "values outside the mask");
        }
        assert!(self.table.insert(&rule).is_ok(), "numbers are not reused");
        self.plain.insert(rule.name, plain);
    }

    /// Looks up keys that meet rules, and keys one bit beside them.
    fn check(&mut self) {
        self.table.publish();
        let places = self.plain.values().map(|plain| plain.places.len());
        assert_eq!(self.table.len(), places.sum::<usize>());
        for rule in self.plain.values() {
            for (mask, value) in rule.places.iter().take(PLACES) {
                for flip in 0..=WORDS {
                    let mut key = *value;
                    if flip < WORDS {
                        let bits = mask.word(flip);
                        key.set_word(flip, key.word(flip) ^ (bits & bits.wrapping_neg()));
                    }
                    self.check_key(rule.group, &key);
                }
            }
        }
    }

    fn check_key(&self, group: u32, key: &FlowKey) {
        let mut looked = FlowMask::ZERO;
        let view = &self.table.view().rules;
        let found = view.lookup(group, key, &mut Classes::new(), |mask| looked.merge(mask));
        let agrees = |plain: &&Plain| {
            let mut places = plain.places.iter();
            plain.group == group && places.any(|(mask, value)| key.masked(mask) == *value)
        };
        let expected = self.plain.values().filter(agrees).map(|p| p.order).min();
        let found_order = found
            .and_then(|found| self.plain.get(&name_from(found.name)))
            .map(|p| p.order);
        assert_eq!(found_order, expected, "the best rule of group {group}");
        // Bits that were not looked at do not matter, but to which of several rules that do the same it is.
        let mut other = *key;
        for i in 0..WORDS {
            other.set_word(i, key.word(i) ^ !looked.word(i));
        }
        let again = view.lookup(group, &other, &mut Classes::new(), |_| {});
        let done = |found: Option<Found>| {
            let found = found?;
            let rule = self.plain.get(&name_from(found.name))?;
            Some((found.priority, found.counter, &rule.actions))
        };
        assert_eq!(
            done(again),
            done(found),
            "a bit mattered that was not looked at"
        );
    }
}
