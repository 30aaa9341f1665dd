//! The native dialect: upper-case verbs, one line a command, one line a reply, to be typed by hand.
//!
//! ```text
//! request = VERB [ SP argument ]* [ SP key=value ]* [ ":" [ SP ] body ] LF
//! ```
//! The header ends at the `:` that follows the verb directly, or at the first word that ends in `:`. A body
//! that holds an LF comes behind the line instead, with its size in the header: `TASK len=5:` LF, five
//! bytes, LF. `docs/protocol.md` is the whole reference.
//!
//! [`write_command`] and [`read_answer`] are the client's side, [`crate::protocol::Decoder`] and
//! [`write_reply`] the server's; each pair is the other's inverse.

mod answer;
mod base64;
mod command;
mod duration;
pub(crate) mod job_json;
mod options;
mod reply;
mod request;
mod text;
mod verbs;
mod worker_json;

pub use answer::{Answer, BadAnswer, read_answer};
pub use command::write_command;
pub use duration::{BadDuration, format_duration, parse_duration};
pub use reply::write_reply;
pub use request::{BadText, body_behind, write_text};
pub use text::QUOTED_BYTES_MAX;

pub(super) use request::{decode, no_line_end, outgrown};
