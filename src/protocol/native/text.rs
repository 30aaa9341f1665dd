//! Small pieces of text, read and written.

use std::time::Duration;

use super::duration::in_units;
use crate::job::QueueName;
pub(super) use crate::protocol::number::{number, push_number};

/// How many bytes of a client's text an error quotes; longer text is cut, and ends in `...`.
pub const QUOTED_BYTES_MAX: usize = 64;

/// A client's text as an error shows it: in quotes, printable ASCII only, cut to [`QUOTED_BYTES_MAX`].
pub(super) fn quoted(text: &[u8]) -> String {
    let shown = &text[..text.len().min(QUOTED_BYTES_MAX)];
    let more = if shown.len() < text.len() { "..." } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}

/// The words of a header. Several spaces count as one.
pub(super) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

/// The parts of a word before and after its first `=`.
pub(super) fn name_and_value(word: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = word.iter().position(|byte| *byte == b'=')?;
    Some((&word[..at], &word[at + 1..]))
}

pub(super) fn push_duration(out: &mut Vec<u8>, duration: Duration) {
    let (number, unit) = in_units(duration);
    push_number(out, number);
    out.extend_from_slice(unit.as_bytes());
}

/// Writes ` name=`, for a value to follow.
pub(super) fn push_name(out: &mut Vec<u8>, name: &str) {
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.push(b'=');
}

pub(super) fn push_text_option(out: &mut Vec<u8>, name: &str, value: &str) {
    push_name(out, name);
    out.extend_from_slice(value.as_bytes());
}

pub(super) fn push_number_option(out: &mut Vec<u8>, name: &str, value: u64) {
    push_name(out, name);
    push_number(out, value);
}

pub(super) fn push_duration_option(out: &mut Vec<u8>, name: &str, value: Duration) {
    push_name(out, name);
    push_duration(out, value);
}

/// Writes ` name=a,b`, or nothing if there are no queues.
pub(super) fn push_queues_option(out: &mut Vec<u8>, name: &str, queues: &[QueueName]) {
    for (at, queue) in queues.iter().enumerate() {
        if at == 0 {
            push_name(out, name);
        } else {
            out.push(b',');
        }
        out.extend_from_slice(queue.as_str().as_bytes());
    }
}

/// Ends a header with its colon and writes the body: in the line if it can be there, else behind the line,
/// with `len=` in the header.
pub(super) fn push_body(out: &mut Vec<u8>, body: &[u8]) {
    if body.last() == Some(&b'\r') || memchr::memchr(b'\n', body).is_some() {
        push_number_option(out, "len", body.len() as u64);
        out.extend_from_slice(b":\n");
    } else {
        out.extend_from_slice(b": ");
    }
    out.extend_from_slice(body);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_printable_and_cut() {
        assert_eq!(quoted(b"a\0\xff\"\n"), r#""a\x00\xff\"\n""#);
        assert_eq!(quoted(&[b'a'; 64]), format!("\"{}\"", "a".repeat(64)));
        assert_eq!(quoted(&[b'a'; 65]), format!("\"{}...\"", "a".repeat(64)));
    }
}
