//! Properties: printing and JSON lose nothing, matching means what rte_flow says, and no text and no
//! rule makes anything panic.

mod strategy;

use proptest::prelude::*;
use strategy::{command, rule, text};
use sumeru_flow::model::{Access, ActionsTemplate, Matched, PatternTemplate, Pcp};
use sumeru_flow::{Action, PacketDescription, Rule, syntax};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn printed_commands_parse_back(command in command()) {
        let text = command.to_string();
        match syntax::parse(&text) {
            Ok(parsed) => prop_assert_eq!(parsed, command, "{}", text),
            Err(error) => prop_assert!(false, "{}", error.render(&text)),
        }
    }

    #[test]
    fn json_gives_the_same_rule(rule in rule()) {
        let json = serde_json::to_string(&rule)?;
        prop_assert_eq!(serde_json::from_str::<Rule>(&json)?, rule, "{}", json);
    }

    /// A rule made from templates has the template's masks and constants, and the rule's own rest.
    #[test]
    fn templates_share_masks_and_constants(masks in rule(), rule in rule()) {
        let template = PatternTemplate { pattern: masks.pattern.clone(), ..PatternTemplate::default() };
        let own = template.instantiate(&masks.pattern);
        prop_assert_eq!(own.as_ref(), Ok(&masks.pattern));
        match template.instantiate(&rule.pattern) {
            Ok(made) => for (made, template) in made.iter().zip(&masks.pattern) {
                for field in made.row().fields {
                    if let Access::Field { get, .. } = field.access {
                        prop_assert_eq!(get(made).map(|m| m.mask), get(template).map(|m| m.mask));
                    }
                }
            },
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
        let template = ActionsTemplate {
            actions: rule.actions.clone(),
            masks: rule.actions.clone(),
            ..ActionsTemplate::default()
        };
        prop_assert_eq!(template.instantiate(&rule.actions), Ok(rule.actions.clone()));
        let judged = (template.validate(), template.constants(0));
        prop_assert!(judged.1.len() == rule.actions.first().map_or(0, |a| a.row().arguments.len()));
        let json = serde_json::to_string(&template)?;
        prop_assert_eq!(serde_json::from_str::<ActionsTemplate>(&json)?, template);
    }

    #[test]
    fn any_rule_is_judged(rule in rule()) {
        if let Err(error) = rule.validate() {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_text_is_answered(text in text()) {
        match syntax::parse(&text) {
            Ok(command) => prop_assert_eq!(syntax::parse(&command.to_string()), Ok(command)),
            Err(error) => {
                prop_assert!(error.position + error.length <= text.len());
                prop_assert!(text.is_char_boundary(error.position));
                prop_assert!(error.render(&text).lines().count() == 3, "{}", error.render(&text));
            }
        }
        if let Err(error) = syntax::parse_rule(&text) {
            // A text other than the parsed one must not do harm, either.
            prop_assert!(!error.render("é").is_empty());
        }
        if let Err(error) = PacketDescription::parse(&text) {
            prop_assert!(error.position + error.length <= text.len());
        }
        let last = text.rsplit(|c: char| c.is_ascii_whitespace()).next().unwrap_or_default();
        for completion in syntax::complete(&text) {
            prop_assert!(completion.starts_with(last));
        }
    }

    /// Wherever the text is cut within a word of the grammar, completion offers that word; within a
    /// value it offers nothing.
    #[test]
    fn every_word_is_completed(rule in rule(), cut in any::<proptest::sample::Index>()) {
        let text = format!("flow create 0 {rule}");
        let cut = cut.index(text.len());
        let start = text[..cut].rfind(' ').map_or(0, |blank| blank + 1);
        let end = text[start..].find(' ').map_or(text.len(), |length| start + length);
        let word = &text[start..end];
        let mut words = text[..start].split_whitespace().rev();
        let before = words.next().unwrap_or_default();
        // An action's name may be an argument's, too (`port_id`).
        let names_action = matches!(words.next(), Some("/" | "actions"));
        let takes_value = ["group", "priority", "create", "is", "spec", "last", "mask", "prefix"];
        let is_argument = Action::TABLE
            .iter()
            .any(|row| row.arguments.iter().any(|argument| argument.name == before));
        let in_actions = text[..start].contains(" actions ");
        let value = takes_value.contains(&before) || in_actions && is_argument && !names_action;
        let offered = syntax::complete(&text[..cut]);
        if !offered.iter().any(|offer| offer == word) {
            // A value: behind what takes one, bare, or one of a list that `end` may end.
            let number = word.bytes().all(|byte| byte.is_ascii_digit());
            prop_assert!(value || number, "{:?} at {:?}", offered, &text[..cut]);
            prop_assert!(offered.iter().all(|offer| offer == "end"), "{:?} at {:?}", offered, &text[..cut]);
        }
    }

    #[test]
    fn match_is_what_rte_flow_says(spec: u8, mask: u8, last: Option<u8>, value: u8) {
        let matched = Matched { spec, mask, last };
        let (low, value_masked) = (spec & mask, value & mask);
        let expected = match last.map(|last| last & mask) {
            Some(high) if high != 0 && high != low => low <= value_masked && value_masked <= high,
            _ => value_masked == low,
        };
        prop_assert_eq!(matched.matches(value), expected);
        prop_assert_eq!(matched.is_exact(), (0..=255u8).filter(|v| matched.matches(*v)).count() == 1
            && mask == 255 && matched.range().is_none());
    }

    #[test]
    fn prefix_covers_the_top_bits(spec in 0u32..8, length in 0u32..=3) {
        let spec = Pcp::new(spec)?;
        let matched = Matched::prefix(spec, length);
        for value in 0..8 {
            let same = (value >> (3 - length)) == (u32::from(spec) >> (3 - length));
            prop_assert_eq!(matched.matches(Pcp::new(value)?), same);
        }
    }
}
