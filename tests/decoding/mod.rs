//! A connection without a socket: feeds bytes to a decoder in pieces, and holds it to its promises. Shared by
//! the tests and by the fuzz target.
#![allow(dead_code, reason = "each user takes a part of it")]

use djqs::Refusal;
use djqs::protocol::{Command, Decoder, Dialect, FrameLimits, Step};

/// What a connection would act upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Command(Command, Dialect),
    Refused(Refusal, Dialect),
    /// A refusal behind which the connection closes.
    Lost(Refusal, Dialect),
    /// An HTTP request was turned away.
    Farewell,
}

impl Event {
    pub(crate) fn closes(&self) -> bool {
        matches!(self, Event::Lost(..) | Event::Farewell)
    }
}

/// All that came of a stream of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Event>,
    /// Whether the stream ended in the middle of a command.
    pub(crate) midway: bool,
}

/// Feeds pieces to a decoder, one read after the other.
///
/// # Panics
/// Where the decoder drops more than there is, makes no step forward, needs more in sight than it may, or
/// carries anything out after it has said that the connection closes.
pub(crate) fn decode<'a>(limits: FrameLimits, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(limits);
    let mut held: Vec<u8> = Vec::new();
    let mut events: Vec<Event> = Vec::new();
    for piece in pieces {
        held.extend_from_slice(piece);
        let mut start = 0;
        loop {
            let closed = events.last().is_some_and(Event::closes);
            let sight = &held[start..];
            let (consumed, event) = match decoder.next(sight) {
                Step::Incomplete => break,
                Step::Skip { consumed } => (consumed, None),
                Step::Command { consumed, command, dialect } => {
                    (consumed, Some(Event::Command(command, dialect)))
                }
                Step::Refused { consumed, refusal, dialect, close: false } => {
                    (consumed, Some(Event::Refused(refusal, dialect)))
                }
                Step::Refused { consumed, refusal, dialect, close: true } => {
                    (consumed, Some(Event::Lost(refusal, dialect)))
                }
                Step::Farewell { text } => {
                    assert!(text.starts_with(b"HTTP/1.1 400 "));
                    (0, Some(Event::Farewell))
                }
            };
            assert!(consumed <= sight.len(), "drops {consumed} of {}", sight.len());
            let closing = event.as_ref().is_some_and(Event::closes);
            assert!(consumed > 0 || closing, "no step forward");
            assert!(!(closed && event.is_some()), "carries out {event:?} after the end");
            events.extend(event);
            start += consumed;
        }
        held.drain(..start);
        assert!(held.len() < limits.frame_max(), "needs {} bytes in sight", held.len());
    }
    let closed = events.last().is_some_and(Event::closes);
    let midway = !closed && decoder.is_midway(&held);
    Outcome { events, midway }
}

/// Cuts bytes into pieces of the sizes that are given, over and over; the last one may be smaller.
pub(crate) fn pieces<'a>(mut bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        let size = sizes.next().copied().unwrap_or(bytes.len()).clamp(1, bytes.len().max(1));
        if bytes.is_empty() {
            return None;
        }
        let (piece, rest) = bytes.split_at(size);
        bytes = rest;
        Some(piece)
    })
}
