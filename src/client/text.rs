//! Commands as a person writes them, one at a time, for a program that is typed into.

use super::Client;
use crate::error::{Error, Refusal};
use crate::protocol::native::{Answer, write_text};

impl Client {
    /// Sends one command, as [`write_text`] takes it, and waits for its reply: its bytes and what they mean. A refusal by
    /// the server is a reply, too. `QUIT` has none: use [`Client::quit`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the text is not one command; nothing is then sent. [`Error::Disconnected`] and
    /// [`Error::BadReply`]: see [`Client`].
    pub fn call_text(&mut self, command: &[u8]) -> Result<(Vec<u8>, Answer), Error> {
        let mut out = Vec::new();
        write_text(command, &mut out).map_err(|bad| Refusal::usage(bad.to_string()))?;
        self.lose_sync()?;
        self.wire.send(&out)?;
        loop {
            if let Some((raw, answer)) = self.replies.next()? {
                self.in_sync = true;
                return Ok((raw.to_vec(), answer));
            }
            if self.replies.receive(&self.wire)? == 0 {
                return Err(Error::Disconnected { source: None });
            }
        }
    }

    /// Whether the connection is known to have ended, by an earlier error or because the server closed it. Does not block.
    pub fn is_closed(&self) -> bool {
        // Bytes that nobody asked for are the server's reason to close.
        !self.in_sync || !self.wire.is_quiet()
    }
}
