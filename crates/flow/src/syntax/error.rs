//! What is wrong with a text, where, and what was expected there.

use std::fmt;

use super::MAX_TEXT;
use crate::model::{ArgumentError, BytesError, HeaderError, MAX_ITEMS};

/// Something that could have stood where the error is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// This very token.
    Token(&'static str),
    /// A value, in words.
    Value(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(token) => write!(f, "`{token}`"),
            Self::Value(words) => f.write_str(words),
        }
    }
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxErrorKind {
    /// The text is over the limit and was not looked at.
    #[error("the text has {found} bytes, the limit is {MAX_TEXT}")]
    TooLong {
        /// Length in bytes.
        found: usize,
    },
    /// A token that does not belong there.
    #[error("unexpected `{found}`")]
    Unexpected {
        /// The token, cut to 64 bytes.
        found: String,
    },
    /// The text ends too early.
    #[error("the text ends too early")]
    Incomplete,
    /// An item that rte_flow has and this engine does not.
    #[error("item `{name}` is not supported")]
    UnsupportedItem {
        /// The item.
        name: &'static str,
    },
    /// An action that rte_flow has and this engine does not.
    #[error("action `{name}` is not supported")]
    UnsupportedAction {
        /// The action.
        name: &'static str,
    },
    /// A mask, prefix or upper bound in an item without a value.
    #[error("`{item}` has a mask or an upper bound but no value; add `spec` or `is`")]
    NoSpec {
        /// The item.
        item: &'static str,
    },
    /// A value without a mask in an item that has no default mask.
    #[error(
        "`{item}` has a value and no mask, and rte_flow no default mask for it; use `is` or add `mask`"
    )]
    NoDefaultMask {
        /// The item.
        item: &'static str,
    },
    /// Bytes that an item cannot have.
    #[error(transparent)]
    Bytes(#[from] BytesError),
    /// Nothing was defined under this number.
    #[error("`{name}` {index} is not defined")]
    Undefined {
        /// The action.
        name: &'static str,
        /// The number.
        index: u32,
    },
    /// A header that cannot be built from the items given.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// No action, or several, where there must be one.
    #[error("expected exactly one action")]
    NotOneAction,
    /// Actions in an action in an action.
    #[error("actions of an action cannot have actions of their own")]
    NestedActions,
    /// A range over bits that belong to several fields.
    #[error("`{item} {field}` cannot be a range; it stands for bits of other fields")]
    RangeOverBits {
        /// The item.
        item: &'static str,
        /// The alias.
        field: &'static str,
    },
    /// The arguments of an action do not make one.
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    /// More items than a pattern can have.
    #[error("the pattern has more than {MAX_ITEMS} items")]
    TooManyItems,
    /// More actions than a rule can have.
    #[error("more than {max} actions")]
    TooManyActions {
        /// How many there can be.
        max: usize,
    },
    /// A packet that cannot be built as described.
    #[error(transparent)]
    Describe(#[from] crate::describe::DescribeError),
}

/// An error in a text, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// Byte offset of the offending token; the end of the last one if the text ends too early.
    pub position: usize,
    /// Length of the offending token in bytes, 0 at the end of the text.
    pub length: usize,
    /// What is wrong.
    pub kind: SyntaxErrorKind,
    /// What could have stood there, in the order of the grammar; may be empty.
    pub expected: Vec<Expected>,
}

impl std::error::Error for SyntaxError {}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.kind)?;
        match self.expected.as_slice() {
            [] => Ok(()),
            [one] => write!(f, "; expected {one}"),
            several => {
                f.write_str("; expected one of: ")?;
                for (index, expected) in several.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{expected}")?;
                }
                Ok(())
            }
        }
    }
}

/// How many characters of the text are shown on each side of an error.
const CONTEXT: usize = 60;

impl SyntaxError {
    /// The error with the part of `text` it is in and a mark below the offending token. `text` must
    /// be the text that was parsed; with another one the mark may be in the wrong place.
    pub fn render(&self, text: &str) -> String {
        let position = floor_char_boundary(text, self.position);
        let token_end = floor_char_boundary(text, position.saturating_add(self.length));
        let before = tail(&text[..position], CONTEXT);
        let token = &text[position..token_end];
        let after = head(&text[token_end..], CONTEXT);
        let cut_left = if before.len() < position { "..." } else { "" };
        let cut_right = if token_end + after.len() < text.len() {
            "..."
        } else {
            ""
        };
        // One column per character, so that the mark lines up.
        let plain = |part: &str| -> String {
            part.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect()
        };
        let token = plain(head(token, CONTEXT));
        let indent = cut_left.len() + before.chars().count();
        let marks = token.chars().count().max(1);
        format!(
            "{self}\n  {cut_left}{}{token}{}{cut_right}\n  {:indent$}{}",
            plain(before),
            plain(after),
            "",
            "^".repeat(marks),
        )
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first `count` characters.
pub(super) fn head(text: &str, count: usize) -> &str {
    text.char_indices()
        .nth(count)
        .map_or(text, |(end, _)| &text[..end])
}

/// The last `count` characters.
fn tail(text: &str, count: usize) -> &str {
    let skipped = text.chars().count().saturating_sub(count);
    text.char_indices()
        .nth(skipped)
        .map_or("", |(start, _)| &text[start..])
}
