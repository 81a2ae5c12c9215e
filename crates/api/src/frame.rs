//! Cutting a byte stream into JSON values. Clients of this kind of API (SPDK's among them) write
//! one value after the other without a separator; white space between values is passed over. Only
//! brackets, strings and escapes are looked at here; whether a value is JSON is for the parser.

/// Largest message in bytes.
pub const MESSAGE_MAX: usize = 4 * 1024 * 1024;

/// Deepest nesting of brackets. The deepest valid request (a batch of rules as tables) has about
/// ten.
pub const DEPTH_MAX: usize = 64;

/// A stream that cannot be cut further: where the next value would begin is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The value is too large.
    #[error("the message is larger than {MESSAGE_MAX} bytes")]
    TooLarge,
    /// The value is nested too deeply.
    #[error("the message is nested deeper than {DEPTH_MAX} brackets")]
    TooDeep,
    /// Something other than an object or an array.
    #[error("a message begins with byte {0:#04x}, expected '{{' or '['")]
    NotAMessage(u8),
}

/// Gathers bytes and gives out whole values.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: Vec<u8>,
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Framer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether part of a value is waiting for its end.
    pub fn partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole value, if there is one. After an error the stream is of no more use.
    pub fn next_message(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        if self.depth == 0 {
            let blank = self
                .buffer
                .iter()
                .take_while(|b| b.is_ascii_whitespace())
                .count();
            self.buffer.drain(..blank);
            self.scanned = 0;
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{' | b'[') => {}
                Some(other) => return Err(FrameError::NotAMessage(*other)),
            }
        }
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            self.scanned += 1;
            if self.scanned > MESSAGE_MAX {
                return Err(FrameError::TooLarge);
            }
            if self.step(byte)? {
                let rest = self.buffer.split_off(self.scanned);
                self.scanned = 0;
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
        }
        Ok(None)
    }

    /// Takes one byte; true when it ends the value.
    fn step(&mut self, byte: u8) -> Result<bool, FrameError> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' if self.depth == DEPTH_MAX => return Err(FrameError::TooDeep),
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            _ => {}
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(framer: &mut Framer) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(message) = framer.next_message().unwrap() {
            found.push(String::from_utf8(message).unwrap());
        }
        found
    }

    #[test]
    fn values_are_cut_whatever_is_in_their_strings() {
        let mut framer = Framer::default();
        framer.push(br#"  {"a":"}]\"{"}{"b":[1,{"c":2}]}"#);
        framer.push(b"\n[]\n{\"d\"");
        assert_eq!(
            all(&mut framer),
            [r#"{"a":"}]\"{"}"#, r#"{"b":[1,{"c":2}]}"#, "[]"]
        );
        assert!(framer.partial());
        framer.push(b":1}");
        assert_eq!(all(&mut framer), [r#"{"d":1}"#]);
        assert!(!framer.partial());
    }

    #[test]
    fn limits() {
        let mut framer = Framer::default();
        framer.push(&[b'['; DEPTH_MAX + 1]);
        assert_eq!(framer.next_message(), Err(FrameError::TooDeep));
        let mut framer = Framer::default();
        framer.push(b"{\"");
        framer.push(&vec![b'a'; MESSAGE_MAX]);
        assert_eq!(framer.next_message(), Err(FrameError::TooLarge));
        let mut framer = Framer::default();
        framer.push(b" 17");
        assert_eq!(framer.next_message(), Err(FrameError::NotAMessage(b'1')));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_values(values in prop::collection::vec("\\PC{0,12}", 0..6), cuts: Vec<prop::sample::Index>) {
            let messages: Vec<String> =
                values.iter().map(|v| serde_json::json!({ "v": v, "list": [v] }).to_string()).collect();
            let stream = messages.concat().into_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(stream.len() + 1)).collect();
            at.extend([0, stream.len()]);
            at.sort_unstable();
            let mut framer = Framer::default();
            let mut found = Vec::new();
            for pair in at.windows(2) {
                framer.push(&stream[pair[0]..pair[1]]);
                found.extend(all(&mut framer));
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            let mut framer = Framer::default();
            framer.push(&bytes);
            while let Ok(Some(_)) = framer.next_message() {}
        }
    }
}
