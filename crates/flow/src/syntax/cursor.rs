//! Tokens of a text and the place reached in them.
//!
//! Tokens are separated by blanks; `#` starts a comment, as in testpmd. The cursor remembers what
//! was looked for at the present token, which is what an error or a completion then offers.

use super::MAX_TEXT;
use super::error::{Expected, SyntaxError, SyntaxErrorKind, head};
use super::value::{ValueText, describe_value};
use crate::model::{Argument, Definitions, FieldKind};

/// How much of an offending token an error repeats, in characters.
const SHOWN: usize = 64;

#[derive(Clone, Copy)]
struct Token<'a> {
    start: usize,
    text: &'a str,
}

/// A place in a text.
pub(crate) struct Cursor<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    text_length: usize,
    expected: Vec<Expected>,
    definitions: Option<&'a Definitions>,
    /// Whether a list of actions inside of an action is being read.
    nested: bool,
}

impl<'a> Cursor<'a> {
    /// At the first token, or an error if the text is too long.
    pub(crate) fn new(text: &'a str) -> Result<Self, SyntaxError> {
        if text.len() > MAX_TEXT {
            return Err(SyntaxError {
                position: MAX_TEXT,
                length: 0,
                kind: SyntaxErrorKind::TooLong { found: text.len() },
                expected: Vec::new(),
            });
        }
        let code = text.split('#').next().unwrap_or_default();
        let mut tokens = Vec::new();
        let mut start = 0;
        for part in code.split(|c: char| c.is_ascii_whitespace()) {
            if !part.is_empty() {
                tokens.push(Token { start, text: part });
            }
            start += part.len() + 1;
        }
        Ok(Self {
            tokens,
            at: 0,
            text_length: code.trim_end().len(),
            expected: Vec::new(),
            definitions: None,
            nested: false,
        })
    }

    /// With what `set` commands defined.
    pub(crate) fn with_definitions(self, definitions: &'a Definitions) -> Self {
        Self {
            definitions: Some(definitions),
            ..self
        }
    }

    /// What `set` commands defined, if that is known.
    pub(crate) fn definitions(&self) -> Option<&'a Definitions> {
        self.definitions
    }

    /// Reads actions inside of an action; an error if that is being done already.
    pub(crate) fn nest<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        if std::mem::replace(&mut self.nested, true) {
            return Err(self.error(SyntaxErrorKind::NestedActions));
        }
        let result = read(self);
        self.nested = false;
        result
    }

    /// The present token.
    pub(crate) fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(|token| token.text)
    }

    /// The present token and those behind it.
    pub(crate) fn ahead(&self) -> impl Iterator<Item = &'a str> {
        self.tokens.iter().skip(self.at).map(|token| token.text)
    }

    /// Goes to the next token.
    pub(crate) fn advance(&mut self) {
        self.at += 1;
        self.expected.clear();
    }

    /// Whether the present token is `word`; if so it is passed.
    pub(crate) fn keyword(&mut self, word: &'static str) -> bool {
        if self.peek() == Some(word) {
            self.advance();
            return true;
        }
        self.expected.push(Expected::Token(word));
        false
    }

    /// Like [`Self::keyword`], an error if the token is another one.
    pub(crate) fn require(&mut self, word: &'static str) -> Result<(), SyntaxError> {
        if self.keyword(word) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    /// The place of the present token in `rows` by name; if it is one of them it is passed.
    pub(crate) fn choose<R>(
        &mut self,
        rows: &'static [R],
        name: impl Fn(&R) -> &'static str,
    ) -> Option<usize> {
        let found = self
            .peek()
            .and_then(|token| rows.iter().position(|row| name(row) == token));
        match found {
            Some(_) => self.advance(),
            None => self
                .expected
                .extend(rows.iter().map(|row| Expected::Token(name(row)))),
        }
        found
    }

    /// The value that the present token is; an error if it is none.
    pub(crate) fn value(&mut self, kind: FieldKind, bits: u32) -> Result<Argument, SyntaxError> {
        if let FieldKind::Named(names) = kind {
            let index = self.choose(names, |name| name);
            return index
                .map(|index| Argument::Bits(index as u128))
                .ok_or_else(|| self.unexpected());
        }
        self.expect_value(describe_value(kind, bits));
        let value = self
            .peek()
            .and_then(|token| ValueText { kind, bits }.read(token));
        let value = value.ok_or_else(|| self.unexpected())?;
        self.advance();
        Ok(value)
    }

    /// A number from 0 to `max`.
    pub(crate) fn number(&mut self, max: u64) -> Result<u64, SyntaxError> {
        self.expect_value(format!("a number 0 to {max}"));
        let number = self
            .peek()
            .and_then(crate::number::parse)
            .and_then(|number| u64::try_from(number).ok())
            .filter(|number| *number <= max);
        let number = number.ok_or_else(|| self.unexpected())?;
        self.advance();
        Ok(number)
    }

    /// Remembers that a value could stand here.
    pub(crate) fn expect_value(&mut self, words: String) {
        self.expected.push(Expected::Value(words));
    }

    /// An error unless all tokens are passed.
    pub(crate) fn require_end(&mut self) -> Result<(), SyntaxError> {
        if self.peek().is_none() {
            return Ok(());
        }
        self.expect_value("the end of the line".to_owned());
        Err(self.unexpected())
    }

    /// An error at the present token: it is none of those looked for.
    pub(crate) fn unexpected(&mut self) -> SyntaxError {
        let kind = match self.peek() {
            Some(token) => SyntaxErrorKind::Unexpected {
                found: head(token, SHOWN).to_owned(),
            },
            None => SyntaxErrorKind::Incomplete,
        };
        SyntaxError {
            expected: std::mem::take(&mut self.expected),
            ..self.error(kind)
        }
    }

    /// An error at the present token.
    pub(crate) fn error(&self, kind: SyntaxErrorKind) -> SyntaxError {
        self.error_at(self.at, kind)
    }

    /// An error at the token of this number, see [`Self::place`].
    pub(crate) fn error_at(&self, place: usize, kind: SyntaxErrorKind) -> SyntaxError {
        let (position, length) = match self.tokens.get(place) {
            Some(token) => (token.start, token.text.len()),
            None => (self.text_length, 0),
        };
        SyntaxError {
            position,
            length,
            kind,
            expected: Vec::new(),
        }
    }

    /// Number of the present token.
    pub(crate) fn place(&self) -> usize {
        self.at
    }

    /// What was looked for at the present token.
    pub(crate) fn into_expected(self) -> Vec<Expected> {
        self.expected
    }
}
