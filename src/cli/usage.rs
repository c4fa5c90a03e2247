//! What clap complains about, in our form: one line and one hint. (cli)

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A complaint about the command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    /// What is wrong.
    pub(super) message: String,
    /// What to do.
    pub(super) hint: String,
}

/// Rewords clap's error; `subcommand` is what the arguments were read as.
#[must_use]
pub(super) fn complaint(error: &clap::Error, subcommand: Option<&str>) -> Complaint {
    let help = match subcommand {
        Some(subcommand) => format!("`wg4netns {subcommand} --help` lists what can be given"),
        None => "`wg4netns --help` lists what can be given".into(),
    };
    let hint = match suggestion(error) {
        Some(suggestion) => format!("did you mean `{suggestion}`?"),
        None => help,
    };
    Complaint { message: message(error), hint }
}

fn message(error: &clap::Error) -> String {
    let flag = || bare(&first(error, ContextKind::InvalidArg));
    let value = || first(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::InvalidValue if value().is_empty() => format!("`{}` needs a value", flag()),
        ErrorKind::InvalidValue => {
            let allowed = all(error, ContextKind::ValidValue);
            let allowed: Vec<_> = allowed.iter().map(|value| format!("`{value}`")).collect();
            format!("{}: it is one of {}", with_value(error), allowed.join(", "))
        }
        ErrorKind::ValueValidation => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            format!("{}: {}", with_value(error), why.unwrap_or_else(|| "it is not valid".into()))
        }
        ErrorKind::UnknownArgument if !flag().starts_with('-') => {
            format!("`{}` is one argument too many", first(error, ContextKind::InvalidArg))
        }
        ErrorKind::UnknownArgument => format!("there is no `{}`", flag()),
        ErrorKind::InvalidSubcommand => {
            format!("there is no command `{}`", first(error, ContextKind::InvalidSubcommand))
        }
        ErrorKind::NoEquals => format!("`{0}` takes its value after `=`: `{0}=…`", flag()),
        ErrorKind::TooManyValues | ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues => {
            format!("`{}` has the wrong number of values", flag())
        }
        ErrorKind::ArgumentConflict => {
            let other = first(error, ContextKind::PriorArg);
            if bare(&other) == flag() || other.is_empty() {
                format!("`{}` is given more than once", flag())
            } else {
                format!("`{}` cannot be used with `{}`", flag(), bare(&other))
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let missing: Vec<_> = all(error, ContextKind::InvalidArg)
                .iter()
                .map(|missing| format!("`{}`", choice(missing)))
                .collect();
            format!("{} {} missing", missing.join(" and "), if missing.len() == 1 { "is" } else { "are" })
        }
        ErrorKind::MissingSubcommand => "no command given".into(),
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".into(),
        // The first three are no complaints; what is left are failures to print help.
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::DisplayVersion
        | ErrorKind::Io
        | ErrorKind::Format
        | _ => "cannot print the help".into(),
    }
}

/// `--flag value`, or the value of a positional argument, in backticks.
fn with_value(error: &clap::Error) -> String {
    let flag = bare(&first(error, ContextKind::InvalidArg));
    let value = first(error, ContextKind::InvalidValue);
    match (flag.starts_with('-'), value.is_empty()) {
        (true, true) => format!("`{flag}=`"),
        (true, false) => format!("`{flag} {value}`"),
        (false, _) => format!("`{value}`"),
    }
}

/// `--interface <NAME>` → `--interface`; `<NAME>` → `NAME`.
fn bare(argument: &str) -> String {
    let argument = argument.trim_end_matches("...");
    let word = argument.split([' ', '=', '[']).next().unwrap_or(argument);
    word.trim_matches(['<', '>']).into()
}

/// `<--netns-pid <PID>|--netns <PATH>>` → `--netns-pid PID|--netns PATH`.
fn choice(argument: &str) -> String {
    argument.replace(['<', '>'], "")
}

fn suggestion(error: &clap::Error) -> Option<String> {
    [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue]
        .into_iter()
        .find_map(|kind| all(error, kind).into_iter().next())
}

fn first(error: &clap::Error, kind: ContextKind) -> String {
    all(error, kind).into_iter().next().unwrap_or_default()
}

fn all(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(other) => vec![other.to_string()],
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::CommandLine;

    fn complain(arguments: &str) -> Complaint {
        let arguments = std::iter::once("wg4netns").chain(arguments.split(' '));
        let error = CommandLine::try_parse_from(arguments.clone()).expect_err("the arguments are wrong");
        complaint(&error, arguments.clone().nth(1))
    }

    #[test]
    fn every_kind_of_wrong_argument_names_its_object() {
        for (arguments, message) in [
            ("attach --netns-pid 1 --interface lo", "`--interface lo`: this interface name is reserved"),
            (
                "attach --netns-pid 1 -i sixteen-chars-xx",
                "`--interface sixteen-chars-xx`: an interface name has at most 15 characters",
            ),
            (
                "attach --netns-pid 1 --interface a/b",
                "`--interface a/b`: an interface name cannot contain '/'",
            ),
            ("attach --netns-pid 1 --interface=", "`--interface=`: an interface name cannot be empty"),
            ("attach --netns-pid x", "`--netns-pid x`: a process id is a number from 1 to 2147483647"),
            ("attach --netns-pid 0", "`--netns-pid 0`: a process id is a number from 1 to 2147483647"),
            ("attach", "`--netns-pid PID|--netns PATH|--tun-fd FD` is missing"),
            ("attach --netns-pid 1 --netns /x", "`--netns-pid` cannot be used with `--netns`"),
            ("attach --netns-pid 1 --netns-pid 2", "`--netns-pid` is given more than once"),
            ("attach --netns-pid 1 --mtu 67", "`--mtu 67`: an MTU is a number from 68 to 65535"),
            ("attach --netns-pid 1 --log-format xml", "`--log-format xml`: it is one of `text`, `json`"),
            ("attach --netns-pid 1 --ready-fd out", "`--ready-fd out`: a descriptor is a number, 3 or above"),
            ("attach --netns-pid 1 --name", "`--name` needs a value"),
            ("stop", "`NAME` is missing"),
            ("stop a/b", "`a/b`: a name cannot hold '/'"),
            ("frobnicate now", "there is no command `frobnicate`"),
            ("exec wg0 --nowait", "there is no `--nowait`"),
            ("run --nowait", "there is no `--nowait`"),
            ("status wg0 wg1", "`wg1` is one argument too many"),
            ("attach --netns-pid 1 wg0.conf", "`wg0.conf` is one argument too many"),
            ("quadlet", "`--image IMAGE` and `NAME` are missing"),
            (
                "status wg0 --max-age soon",
                "`--max-age soon`: a duration is a number of seconds, or a number with `s`, `m` or `h`",
            ),
        ] {
            assert_eq!(complain(arguments).message, message, "{arguments}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_corrected() {
        assert_eq!(complain("statsu wg0").hint, "did you mean `status`?");
        assert_eq!(complain("attach --netns-pod 1").hint, "did you mean `--netns-pid`?");
        assert_eq!(complain("stop").hint, "`wg4netns stop --help` lists what can be given");
    }
}
