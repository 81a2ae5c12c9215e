//! The beginning of an answer by HTTP/1 (RFC 9112 section 4): its status line says all.

/// Longest status line.
pub const LINE_MAX: usize = 512;

/// What is known of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is more to come.
    Partial,
    /// The status code.
    Code(u16),
    /// It is none.
    Malformed,
}

/// Looks at what came so far.
pub fn status(answer: &[u8]) -> Status {
    let end = answer.iter().take(LINE_MAX).position(|byte| *byte == b'\n');
    let Some(end) = end else {
        return match answer.len() >= LINE_MAX {
            true => Status::Malformed,
            false => Status::Partial,
        };
    };
    let mut response = httparse::Response::new(&mut []);
    match response.parse(&answer[..=end]) {
        Ok(_) => response.code.map_or(Status::Malformed, Status::Code),
        Err(_) => Status::Malformed,
    }
}
