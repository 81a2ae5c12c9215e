//! Completion of a command that is being typed.

use super::error::Expected;
use super::grammar::command;
use super::{Cursor, SyntaxErrorKind};

/// Tokens that can stand in the place of the last, perhaps empty, token of `prefix`.
///
/// Only tokens of the grammar are offered; where a value is expected, or where the text before the
/// last token is wrong, the answer is empty.
pub fn complete(prefix: &str) -> Vec<String> {
    let start = prefix
        .rfind(|c: char| c.is_ascii_whitespace())
        .map_or(0, |blank| blank + 1);
    let (done, partial) = prefix.split_at(start);
    let Ok(mut cursor) = Cursor::new(done) else {
        return Vec::new();
    };
    let expected = match command(&mut cursor) {
        Ok(_) => cursor.into_expected(),
        Err(error) if error.kind == SyntaxErrorKind::Incomplete => error.expected,
        Err(_) => return Vec::new(),
    };
    let tokens = expected.iter().filter_map(|expected| match expected {
        Expected::Token(token) if token.starts_with(partial) => Some((*token).to_owned()),
        _ => None,
    });
    tokens.collect()
}
