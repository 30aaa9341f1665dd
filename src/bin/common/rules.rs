//! Flags that exclude each other, or that need another one. Two such flags on the command line are an error.
//! A variable of the environment is ignored if the command line excludes it, and one that says no, as
//! `DJQS_MEMORY=0`, excludes nothing.

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Parser};
use name::named;

#[path = "name.rs"]
mod name;

/// The rules, with flags given by their ids, which clap takes from the names of the fields.
pub(super) struct Rules {
    /// Pairs that exclude each other.
    pub(super) exclusive: &'static [[&'static str; 2]],
    /// Pairs of a flag and the flag that it needs.
    pub(super) needs: &'static [[&'static str; 2]],
}

/// The program's flags. Ends the process if they are wrong, or if help or the version was asked for. The short
/// help does not show the variables of the environment: it is a screen.
pub(super) fn parse<F: Parser>(rules: &Rules) -> F {
    let mut command = named(F::command());
    // First without the environment. Errors are reported below, with the environment.
    let mut bare = command.clone().mut_args(|arg| arg.env(Resettable::Reset));
    let line = bare.try_get_matches_from_mut(std::env::args_os());
    if let Err(help) = &line
        && help.kind() == ErrorKind::DisplayHelp
        && help.to_string() == bare.render_help().to_string()
    {
        help.exit();
    }
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
    /// The flags whose variables this command line overrides.
    fn losers(&self, line: &ArgMatches) -> Vec<&'static str> {
        let pairs = self.exclusive.iter().flat_map(|&[one, other]| [[one, other], [other, one]]);
        let excluded = pairs.filter(|[one, _]| is_given(line, one)).map(|[_, other]| other);
        let useless = self.needs.iter().filter(|[_, needed]| !is_given(line, needed)).map(|[flag, _]| *flag);
        excluded.chain(useless).collect()
    }

    /// The first rule that is broken, as an error.
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

/// Whether a flag was given; a variable that says no does not count.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let from_outside = [Some(ValueSource::CommandLine), Some(ValueSource::EnvVariable)];
    from_outside.contains(&matches.value_source(id)) && !matches!(matches.try_get_one(id), Ok(Some(false)))
}

/// A flag as it was given: `--fsync <POLICY>`, or the name of its variable.
fn name(command: &Command, matches: &ArgMatches, id: &str) -> String {
    // Before that, an argument does not know how it is shown.
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
