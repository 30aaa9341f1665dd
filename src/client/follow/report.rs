//! How the end of a job is written: as JSON for programs, and safely on a terminal.

use serde_core::ser::{Serialize, SerializeMap, Serializer};

use super::Ended;
use crate::client::json::{finished, push_escaped};
use crate::job::Finished;
use crate::printable::escape_for_terminal;

/// Appends a JSON object and an LF: `line`, `id`, `state` (`done`, `dead`, `cancelled` or `gone`), and for a done
/// job `attempt`, `seconds` and `result` (`result_base64` if it is not UTF-8, `result_dropped` if there was no room
/// for it), for a dead one `failures` and `reason`, for a cancelled one `reason`.
pub fn json_line(ended: &Ended, out: &mut Vec<u8>) {
    let json = serde_json::to_string(&Object(ended)).expect("numbers and strings are always JSON");
    push_escaped(&json, out);
    out.push(b'\n');
}

/// Bytes as a terminal may get them: what it may obey is escaped.
pub fn terminal_text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    escape_for_terminal(bytes, &mut out);
    out
}

struct Object<'a>(&'a Ended);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Ended { line, id, how } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("line", line)?;
        map.serialize_entry("id", &id.0)?;
        let state = match how {
            Finished::Done { .. } => "done",
            Finished::Dead { .. } => "dead",
            Finished::Cancelled { .. } => "cancelled",
            Finished::Gone => "gone",
        };
        map.serialize_entry("state", state)?;
        finished(&mut map, how)?;
        map.end()
    }
}
