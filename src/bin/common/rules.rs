//! Flags that exclude each other, or that need another. Two on the command line are a mistake. But a variable of the
//! environment gives way to the command line, and one that says no, as `DJQS_MEMORY=0`, excludes nothing.

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Parser};

/// The ids of flags, as clap has them from their fields' names.
pub(super) struct Rules {
    /// Pairs that exclude each other.
    pub(super) exclusive: &'static [[&'static str; 2]],
    /// A flag, and the one that it needs.
    pub(super) needs: &'static [[&'static str; 2]],
}

/// How a flag was given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    Not,
    InEnvironment,
    OnCommandLine,
}

/// The program's flags. Ends the process where they are wrong, and where help or the version was asked for.
pub(super) fn parse<F: Parser>(rules: &Rules) -> F {
    let mut command = F::command();
    let matches = command.clone().get_matches();
    for id in rules.losers(&matches, &mut command) {
        command = command.mut_arg(id, |arg| arg.env(Resettable::Reset));
    }
    let mut matches = command.clone().get_matches();
    F::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

impl Rules {
    /// The flags whose variables give way. Ends the process where there is a mistake.
    fn losers(&self, matches: &ArgMatches, command: &mut Command) -> Vec<&'static str> {
        let given = |id| given(matches, id);
        let mut losers = Vec::new();
        for [one, other] in self.exclusive.iter().copied() {
            match (given(one), given(other)) {
                (Given::OnCommandLine, Given::InEnvironment) => losers.push(other),
                (Given::InEnvironment, Given::OnCommandLine) => losers.push(one),
                _ => {}
            }
        }
        for [flag, needed] in self.needs.iter().copied().filter(|[_, needed]| given(needed) == Given::Not) {
            match given(flag) {
                Given::Not => {}
                Given::InEnvironment => losers.push(flag),
                Given::OnCommandLine => {
                    let text =
                        format!("{} needs {}", name(command, matches, flag), name(command, matches, needed));
                    command.error(ErrorKind::MissingRequiredArgument, text).exit();
                }
            }
        }
        let holds = |id| given(id) != Given::Not && !losers.contains(&id);
        if let Some([one, other]) = self.exclusive.iter().find(|[one, other]| holds(*one) && holds(*other)) {
            let (one, other) = (name(command, matches, one), name(command, matches, other));
            command.error(ErrorKind::ArgumentConflict, format!("{one} cannot be used with {other}")).exit();
        }
        losers
    }
}

fn given(matches: &ArgMatches, id: &str) -> Given {
    match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Given::OnCommandLine,
        Some(ValueSource::EnvVariable) if !matches!(matches.try_get_one(id), Ok(Some(false))) => {
            Given::InEnvironment
        }
        _ => Given::Not,
    }
}

/// What somebody has written who gave it: `--fsync <POLICY>`, or its variable.
fn name(command: &Command, matches: &ArgMatches, id: &str) -> String {
    // Only then does an argument know how it is shown.
    let mut command = command.clone();
    command.build();
    let arg =
        command.get_arguments().find(|arg| arg.get_id() == id).expect("the rules name flags that there are");
    match arg.get_env() {
        Some(variable) if given(matches, id) == Given::InEnvironment => variable.display().to_string(),
        _ => arg.to_string(),
    }
}
