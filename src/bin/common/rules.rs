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

/// The program's flags. Ends the process where they are wrong, and where help or the version was asked for.
pub(super) fn parse<F: Parser>(rules: &Rules) -> F {
    let mut command = F::command();
    // First without the environment. What is wrong with that is said below, with the environment's part in it.
    let line = F::command().mut_args(|arg| arg.env(Resettable::Reset)).try_get_matches();
    for id in line.iter().flat_map(|line| rules.losers(line)) {
        command = command.mut_arg(id, |arg| arg.env(Resettable::Reset));
    }
    let mut matches = command.clone().get_matches();
    if let Some((kind, problem)) = rules.broken(&matches, &command) {
        command.error(kind, problem).exit();
    }
    F::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command).exit())
}

impl Rules {
    /// The flags whose variables give way to this command line.
    fn losers(&self, line: &ArgMatches) -> Vec<&'static str> {
        let pairs = self.exclusive.iter().flat_map(|&[one, other]| [[one, other], [other, one]]);
        let excluded = pairs.filter(|[one, _]| is_given(line, one)).map(|[_, other]| other);
        let useless = self.needs.iter().filter(|[_, needed]| !is_given(line, needed)).map(|[flag, _]| *flag);
        excluded.chain(useless).collect()
    }

    /// What is wrong with flags that belong, or don't belong, together.
    fn broken(&self, matches: &ArgMatches, command: &Command) -> Option<(ErrorKind, String)> {
        let is_there = |id: &str| is_given(matches, id);
        let name = |id| name(command, matches, id);
        if let Some([flag, needed]) =
            self.needs.iter().find(|[flag, needed]| is_there(flag) && !is_there(needed))
        {
            let problem = format!("{} needs {}", name(flag), name(needed));
            return Some((ErrorKind::MissingRequiredArgument, problem));
        }
        let [one, other] = self.exclusive.iter().find(|[one, other]| is_there(one) && is_there(other))?;
        Some((ErrorKind::ArgumentConflict, format!("{} cannot be used with {}", name(one), name(other))))
    }
}

/// Whether somebody gave a flag, and did not say no by its variable.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let from_outside = [Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)];
    from_outside.contains(&matches.value_source(id)) && !matches!(matches.try_get_one(id), Ok(Some(false)))
}

/// What somebody has written who gave it: `--fsync <POLICY>`, or its variable.
fn name(command: &Command, matches: &ArgMatches, id: &str) -> String {
    // Only then does an argument know how it is shown.
    let mut command = command.clone();
    command.build();
    let arg =
        command.get_arguments().find(|arg| arg.get_id() == id).expect("the rules name flags that there are");
    match arg.get_env() {
        Some(variable) if matches.value_source(id) == Some(ValueSource::EnvVariable) => {
            variable.display().to_string()
        }
        _ => arg.to_string(),
    }
}
