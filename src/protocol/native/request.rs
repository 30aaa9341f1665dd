//! Requests: where a line and the body behind it end, and what is wrong with them whatever their verb is.

use std::fmt;

use memchr::memchr;

use super::text::{name_and_value, number, push_body};
use super::verbs::{self, Header, TakesBody};
use crate::error::{Code, Refusal};
use crate::protocol::decoder::{Decoded, Oversize, Then};
use crate::protocol::{Command, Dialect, FrameLimits, HEADER_BYTES_MAX};

/// A line, cut into its parts.
pub(super) struct Split<'a> {
    pub(super) verb: &'a [u8],
    /// Everything between the verb and the header's end, without its colon.
    pub(super) words: &'a [u8],
    /// Everything behind the colon and its one space, if there is a colon.
    pub(super) inline: Option<&'a [u8]>,
    pub(super) len: Len,
    /// Whether the header is longer than [`HEADER_BYTES_MAX`]. If so, the other parts mean nothing.
    pub(super) over: bool,
}

/// What a header says about a body behind its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Len {
    Absent,
    Bytes(u64),
    /// Not a number, or given twice.
    Unreadable,
}

impl Len {
    fn and(self, word: &[u8]) -> Len {
        match (name_and_value(word), self) {
            (Some((b"len", value)), Len::Absent) => number(value).map_or(Len::Unreadable, Len::Bytes),
            (Some((b"len", _)), _) => Len::Unreadable,
            _ => self,
        }
    }
}

/// Cuts a line into its parts. Looks at one byte more than [`HEADER_BYTES_MAX`], however long the line is.
pub(super) fn split(line: &[u8]) -> Split<'_> {
    let sight = &line[..line.len().min(HEADER_BYTES_MAX + 1)];
    let verb_end = sight.iter().position(|byte| matches!(byte, b' ' | b':')).unwrap_or(sight.len());
    let verb = &sight[..verb_end];
    if sight.get(verb_end) == Some(&b':') {
        let (over, inline) = (verb_end >= HEADER_BYTES_MAX, Some(without_space(&line[verb_end + 1..])));
        return Split { verb, words: &[], inline, len: Len::Absent, over };
    }
    let mut len = Len::Absent;
    let mut start = verb_end;
    while start < sight.len() {
        start += 1;
        let end = sight[start..].iter().position(|byte| *byte == b' ').map_or(sight.len(), |at| start + at);
        let word = &sight[start..end];
        if let Some(last) = word.strip_suffix(b":") {
            let (words, inline) = (&sight[verb_end..end - 1], Some(without_space(&line[end..])));
            return Split { verb, words, inline, len: len.and(last), over: end > HEADER_BYTES_MAX };
        }
        len = len.and(word);
        start = end;
    }
    Split { verb, words: &sight[verb_end..], inline: None, len, over: line.len() > HEADER_BYTES_MAX }
}

fn without_space(text: &[u8]) -> &[u8] {
    text.strip_prefix(b" ").unwrap_or(text)
}

/// Makes a command from a line, without its LF, and the bytes behind it.
pub(in crate::protocol) fn decode(line: &[u8], behind: &[u8], limits: &FrameLimits) -> Decoded {
    let split = split(line);
    if let Some(oversize) = refused_unread(&split, limits) {
        return oversize.refused(line);
    }
    match split.len {
        Len::Bytes(len) => with_body_behind(&split, len, behind, limits),
        Len::Absent | Len::Unreadable => match read(&split, split.inline) {
            Ok(command) => Decoded::Command { command, behind: 0 },
            Err(refusal) => Decoded::Refused { refusal, guarded: true, then: Then::GoOn },
        },
    }
}

fn with_body_behind(split: &Split<'_>, len: u64, behind: &[u8], limits: &FrameLimits) -> Decoded {
    let refused = |refusal, guarded, then| Decoded::Refused { refusal, guarded, then };
    let size = usize::try_from(len).ok().filter(|size| *size <= limits.body_max);
    let body = size.and_then(|size| behind.get(..size));
    // If the header is refused, there is no need to wait for the body.
    let command = match read(split, split.inline.map(|_| body.unwrap_or_default())) {
        Ok(command) => command,
        Err(refusal) => return refused(refusal, true, Then::SkipBody(len)),
    };
    let Some(size) = size else {
        return refused(body_too_big(limits), false, Then::SkipBody(len));
    };
    match behind.get(size..).unwrap_or_default() {
        [b'\n', ..] => Decoded::Command { command, behind: size + 1 },
        [b'\r', b'\n', ..] => Decoded::Command { command, behind: size + 2 },
        [] => Decoded::Incomplete { wanted: size + 1 },
        [b'\r'] => Decoded::Incomplete { wanted: size + 2 },
        _ => refused(no_line_end(), false, Then::Close),
    }
}

/// Whether an unfinished line is longer than a line may be. Its first `searched` bytes have been looked at
/// before.
pub(in crate::protocol) fn outgrown(
    unfinished: &[u8],
    searched: usize,
    limits: &FrameLimits,
) -> Option<Oversize> {
    // A header of the largest size, its CR, and one byte that shows that no LF follows.
    let header_known = HEADER_BYTES_MAX + 2;
    let line_max = limits.body_max.saturating_add(HEADER_BYTES_MAX + 2);
    let crossed = searched < header_known && unfinished.len() >= header_known;
    if !crossed && unfinished.len() <= line_max {
        return None;
    }
    refused_unread(&split(unfinished.strip_suffix(b"\r").unwrap_or(unfinished)), limits)
}

/// Why a line is refused before its verb and options are read. The line may be unfinished.
fn refused_unread(split: &Split<'_>, limits: &FrameLimits) -> Option<Oversize> {
    if split.over {
        let refusal = Refusal::new(
            Code::TooBig,
            format!(
                "a header has at most {HEADER_BYTES_MAX} bytes, up to its colon; a body goes behind the colon"
            ),
        );
        let dialect = Dialect::Native;
        return Some(Oversize { refusal, dialect, guarded: true, close: false, len_closes: true });
    }
    let inline = split.inline.unwrap_or_default();
    let lost = |text: &'static str| Oversize {
        refusal: Refusal::usage(text),
        dialect: Dialect::Native,
        guarded: true,
        close: true,
        len_closes: false,
    };
    match split.len {
        Len::Absent if inline.len() <= limits.body_max => None,
        Len::Absent => {
            let guarded = read(split, Some(b"")).is_err();
            let (refusal, dialect) = (body_too_big(limits), Dialect::Native);
            Some(Oversize { refusal, dialect, guarded, close: false, len_closes: false })
        }
        Len::Bytes(_) if inline.is_empty() => None,
        Len::Bytes(_) => {
            Some(lost("a body is in the line or behind it: with len= nothing follows the colon; closing"))
        }
        Len::Unreadable => Some(lost("len is the body's size in bytes, a whole number given once; closing")),
    }
}

fn body_too_big(limits: &FrameLimits) -> Refusal {
    Refusal::new(
        Code::TooBig,
        format!("a body has at most {} bytes here; the server's -z sets it", limits.body_max),
    )
}

/// The refusal for a body of `len=` bytes with no line end after it.
pub(in crate::protocol) fn no_line_end() -> Refusal {
    Refusal::usage("no LF behind a body: is len its size in bytes, without the LF? closing")
}

fn read(split: &Split<'_>, body: Option<&[u8]>) -> Result<Command, Refusal> {
    let verb = verbs::find(split.verb)?;
    if split.len != Len::Absent && split.inline.is_none() && verb.body != TakesBody::Never {
        return Err(Refusal::usage("a header with len= ends in a colon, as in TASK len=5:"));
    }
    Header { verb, words: split.words, body }.read()
}

/// The size of the body that follows this line, before its LF: a program that forwards commands has to keep
/// them together. The line is given without its LF. `None` if no body follows, or if the server can't know,
/// and closes.
pub fn body_behind(line: &[u8]) -> Option<u64> {
    let split = split(line.strip_suffix(b"\r").unwrap_or(line));
    match split.len {
        Len::Bytes(size) if !split.over && split.inline.unwrap_or_default().is_empty() => Some(size),
        _ => None,
    }
}

/// Why a text is not one command. Its text says what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadText {
    /// It has an LF outside a body, so that it would be more than one command.
    LfOutsideBody,
    /// It has `len=`.
    Len,
}

impl fmt::Display for BadText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadText::LfOutsideBody => "a line feed can only stand in a body, behind the colon",
            BadText::Len => "leave out len=: the body's size is known, and sent where it is needed",
        })
    }
}

impl std::error::Error for BadText {}

/// Writes one command that is given as a text, such as a program's argument. Its body may contain any bytes,
/// unlike on the wire: a body that can't be in the line is written behind it, with `len=` in the header. The
/// server judges the rest.
///
/// # Errors
/// [`BadText`] if the text is not one command; then nothing is written.
pub fn write_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadText> {
    let split = split(text);
    let body = split.inline.unwrap_or_default();
    let header = &text[..text.len() - body.len()];
    match memchr(b'\n', header) {
        Some(_) => return Err(BadText::LfOutsideBody),
        None if split.over && memchr(b'\n', body).is_some() => return Err(BadText::LfOutsideBody),
        None if split.len != Len::Absent => return Err(BadText::Len),
        None => {}
    }
    match header.trim_ascii_end().strip_suffix(b":") {
        Some(header) if split.inline.is_some() && !split.over => {
            out.extend_from_slice(header);
            push_body(out, body);
        }
        _ => {
            out.extend_from_slice(text);
            out.push(b'\n');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_behind_a_line_is_what_its_len_says() {
        let sizes: [(&[u8], Option<u64>); 10] = [
            (b"TASK len=5:", Some(5)),
            (b"TASK queue=q len=0: \r", Some(0)),
            (b"PING len=3", Some(3)),
            (b"TASK: len=5", None),
            (b"TASK key=a:len=5: b", None),
            (b"TASK key=a: len=5:", None),
            (b"TASK len=5: b", None),
            (b"TASK len=x:", None),
            (b"TASK len=1 len=1:", None),
            (b"", None),
        ];
        for (line, size) in sizes {
            assert_eq!(body_behind(line), size, "{}", line.escape_ascii());
        }
        let long = format!("TASK key={} len=5:", "k".repeat(HEADER_BYTES_MAX));
        assert_eq!(body_behind(long.as_bytes()), None);
    }

    #[test]
    fn text_is_written_so_that_its_body_comes_across_whole() {
        let written = |text: &str| {
            let mut out = Vec::new();
            write_text(text.as_bytes(), &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(written("TASK: a: b"), Ok("TASK: a: b\n".into()));
        assert_eq!(written("STATS  queue=q"), Ok("STATS  queue=q\n".into()));
        assert_eq!(written("TASK:a\nb"), Ok("TASK len=3:\na\nb\n".into()));
        assert_eq!(written("TASK key=a:b ttr=5: \n"), Ok("TASK key=a:b ttr=5 len=1:\n\n\n".into()));
        assert_eq!(written("TASK: a\r"), Ok("TASK len=2:\na\r\n".into()));
        assert_eq!(written("TASK : a\nb"), Ok("TASK  len=3:\na\nb\n".into()));
        assert_eq!(written("TASK key=a\nb: c"), Err(BadText::LfOutsideBody));
        assert_eq!(written("PING\nPING"), Err(BadText::LfOutsideBody));
        assert_eq!(written("TASK len=3:"), Err(BadText::Len));
        assert_eq!(written("TASK len=x: a"), Err(BadText::Len));
        let long = format!("TASK key={}: a\nb", "k".repeat(HEADER_BYTES_MAX));
        assert_eq!(written(&long), Err(BadText::LfOutsideBody));
    }
}
