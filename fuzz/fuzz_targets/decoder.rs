//! Any bytes in any pieces: the decoder keeps its promises, what it understands is written and read back the
//! same, and a client survives whatever a server says.
#![no_main]

use djqs::protocol::FrameLimits;
use djqs::protocol::native::{read_answer, write_command};
use libfuzzer_sys::fuzz_target;

use decoding::{Event, decode, pieces};

#[path = "../../tests/decoding/mod.rs"]
mod decoding;

fuzz_target!(|data: &[u8]| {
    // The first bytes say how the rest is cut; a small limit on bodies brings its edges near.
    let (head, bytes) = data.split_at(data.len().min(4));
    let sizes: Vec<usize> = head.iter().map(|byte| usize::from(*byte)).collect();
    let limits = FrameLimits { body_max: 100 };
    let whole = decode(limits, [bytes]);
    assert_eq!(decode(limits, pieces(bytes, &sizes)), whole);
    assert_eq!(decode(limits, bytes.chunks(1)), whole);
    for event in whole.events {
        if let Event::Command(command, dialect) = event {
            let mut written = Vec::new();
            write_command(&command, &mut written);
            let again = decode(FrameLimits::default(), [&written[..]]);
            assert_eq!(again.events, [Event::Command(command, dialect)]);
        }
    }
    if let Ok(Some((used, _))) = read_answer(bytes) {
        assert!(used <= bytes.len());
    }
});
