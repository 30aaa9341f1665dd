//! The name that a program was called by, such as `djqs-client`, for its help.

use std::path::Path;

use clap::Command;
use clap::builder::{Resettable, StyledStr};

/// The command under the name that it was called by. That also replaces `{name}` in its texts.
pub(super) fn named(command: Command) -> Command {
    let called = std::env::args_os().next();
    let file = called.as_deref().and_then(|path| Path::new(path).file_name()?.to_str());
    let name = file.unwrap_or(command.get_name()).to_owned();
    let fill = |text: Option<&StyledStr>| match text {
        Some(text) => Resettable::Value(StyledStr::from(text.to_string().replace("{name}", &name))),
        None => Resettable::Reset,
    };
    let (about, long_about) = (fill(command.get_about()), fill(command.get_long_about()));
    let (after, long_after) = (fill(command.get_after_help()), fill(command.get_after_long_help()));
    let command = command.about(about).long_about(long_about).after_help(after).after_long_help(long_after);
    // clap wants a name that lives as long as the program.
    command.name(&*name.clone().leak()).bin_name(name)
}
