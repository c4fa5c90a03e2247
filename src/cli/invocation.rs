//! Which of our faces is meant: the name we were called by, and the short forms. (cli)

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::CommandFactory;

use super::args::CommandLine;
use crate::driver::{broker, namespace_child, pidfile, port_forward, run_child};
use crate::mode::doctor::probe;

/// Whose command line it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// Ours; the arguments are whole, with the subcommand.
    Native(Vec<OsString>),
    /// The process that joins the target.
    NamespaceChild,
    /// The process that becomes the command of `run`.
    RunChild(Vec<OsString>),
    /// The process that resolves endpoint names.
    Broker,
    /// The process that forwards ports.
    Forwarder,
    /// The process that removes the file of this name.
    Remover(OsString),
    /// One thing that `doctor` tries.
    DoctorProbe(String),
    /// One of the processes of `demo`.
    #[cfg(feature = "demo")]
    DemoPart(Vec<OsString>),
    /// `wireguard-go [-f] IFACE`.
    WireguardGo(Vec<OsString>),
    /// `wireguard4netns PID IFACE CONF`.
    Wireguard4netns(Vec<OsString>),
    /// `pasta …`, as podman calls it.
    Pasta(Vec<OsString>),
    /// `slirp4netns …`, as podman, buildah and rootlesskit call it.
    Slirp4netns(Vec<OsString>),
}

/// Reads the name we were called by and expands the short forms.
///
/// `wg4netns --flag…` is `wg4netns attach --flag…`; `wg4netns IFACE`, with nothing else, is `wg4netns device IFACE`.
#[must_use]
pub(super) fn face(arguments: Vec<OsString>) -> Face {
    let called = arguments.first().map(|path| Path::new(path).file_name().unwrap_or(path).to_owned());
    let rest = || arguments.iter().skip(1).cloned().collect();
    match called.as_deref().and_then(OsStr::to_str) {
        Some("wireguard-go") => return Face::WireguardGo(rest()),
        Some("wireguard4netns") => return Face::Wireguard4netns(rest()),
        Some("pasta" | "pasta.avx2") => return Face::Pasta(rest()),
        Some("slirp4netns") => return Face::Slirp4netns(rest()),
        Some(_) | None => {}
    }
    match arguments.get(1).and_then(|first| first.to_str()) {
        Some(namespace_child::CHILD_ARGUMENT | namespace_child::FACTORY_ARGUMENT) => {
            return Face::NamespaceChild;
        }
        Some(run_child::RUN_ARGUMENT) => {
            return Face::RunChild(arguments.iter().skip(2).cloned().collect());
        }
        Some(broker::ARGUMENT) => return Face::Broker,
        Some(port_forward::ARGUMENT) => return Face::Forwarder,
        Some(pidfile::ARGUMENT) => return Face::Remover(arguments.get(3).cloned().unwrap_or_default()),
        Some(probe::ARGUMENT) => {
            let name = arguments.get(2).map(|name| name.to_string_lossy().into_owned());
            return Face::DoctorProbe(name.unwrap_or_default());
        }
        #[cfg(feature = "demo")]
        Some(first) if super::demo::is_part(first) => return Face::DemoPart(rest()),
        Some(_) | None => {}
    }
    Face::Native(expand(arguments))
}

/// The whole form of a short one. How much to log may be said before the subcommand: it moves behind it.
fn expand(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut whole: Vec<OsString> = arguments.by_ref().take(1).collect();
    let mut rest: Vec<OsString> = arguments.collect();
    let log_flags: Vec<OsString> = rest.drain(..count_log_flags(&rest)).collect();
    match rest.first().and_then(|first| first.to_str()) {
        Some("-h" | "--help" | "-V" | "--version") | None => {}
        Some("-f" | "--foreground") => whole.push("device".into()),
        Some(flag) if flag.starts_with('-') => whole.push("attach".into()),
        Some(word) if rest.len() == 1 && is_interface(word) => whole.push("device".into()),
        Some(_subcommand) => whole.push(rest.remove(0)),
    }
    whole.extend(log_flags);
    whole.extend(rest);
    whole
}

/// How many of the first arguments say how much, or how, to log.
fn count_log_flags(arguments: &[OsString]) -> usize {
    let mut count = 0;
    while let Some(argument) = arguments.get(count).and_then(|argument| argument.to_str()) {
        let letters = argument.strip_prefix('-').filter(|letters| !letters.is_empty());
        let only_counts =
            letters.is_some_and(|letters| letters.bytes().all(|letter| matches!(letter, b'v' | b'q')));
        count += match argument {
            "--verbose" | "--quiet" => 1,
            "--log-format" if count + 1 < arguments.len() => 2,
            flag if only_counts || flag.starts_with("--log-format=") => 1,
            _other => return count,
        };
    }
    count
}

/// Whether a lone word is an interface rather than a subcommand, right or mistyped.
///
/// Interfaces are numbered by custom, subcommands never are; a lone word without a digit is taken for an interface
/// only if it is nowhere near a subcommand.
fn is_interface(word: &str) -> bool {
    let command = CommandLine::command();
    if command.get_subcommands().any(|subcommand| subcommand.get_name() == word) {
        return false;
    }
    let numbered = word.bytes().any(|byte| byte.is_ascii_digit());
    numbered || !command.get_subcommands().any(|subcommand| is_slip(word, subcommand.get_name()))
}

/// Whether one is the other with at most two letters wrong.
fn is_slip(typed: &str, meant: &str) -> bool {
    // The edit distance, one row at a time; the words are short.
    let mut row: Vec<usize> = (0..=meant.len()).collect();
    for (i, a) in typed.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in meant.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[meant.len()] <= 2
}

/// The subcommand that arguments name, if it is one of ours.
#[must_use]
pub(super) fn subcommand(arguments: &[OsString]) -> Option<&str> {
    let word = arguments.get(1)?.to_str()?;
    CommandLine::command().find_subcommand(word).map(|_| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn face_of(line: &str) -> Face {
        face(line.split(' ').map(OsString::from).collect())
    }

    fn native(line: &str) -> Face {
        Face::Native(line.split(' ').map(OsString::from).collect())
    }

    #[test]
    fn short_forms_are_expanded() {
        assert_eq!(face_of("wg4netns --netns-pid 7"), native("wg4netns attach --netns-pid 7"));
        assert_eq!(face_of("wg4netns wg0"), native("wg4netns device wg0"));
        assert_eq!(face_of("wg4netns demo0"), native("wg4netns device demo0"));
        assert_eq!(face_of("wg4netns -f wg0"), native("wg4netns device -f wg0"));
        assert_eq!(face_of("wg4netns -vv --netns-pid 7 -q"), native("wg4netns attach -vv --netns-pid 7 -q"));
        assert_eq!(
            face_of("wg4netns --quiet --log-format json run -- x"),
            native("wg4netns run --quiet --log-format json -- x")
        );
        assert_eq!(face_of("wg4netns office"), native("wg4netns device office"));
    }

    #[test]
    fn everything_else_is_left_alone() {
        for line in [
            "wg4netns",
            "wg4netns ls",
            "wg4netns --help",
            "wg4netns -V",
            "wg4netns wg0 wg1",
            "wg4netns stauts",
        ] {
            assert_eq!(face_of(line), native(line));
        }
    }

    #[test]
    fn the_name_we_are_called_by_decides() {
        assert_eq!(
            face_of("/usr/bin/wireguard-go -f wg0"),
            Face::WireguardGo(vec!["-f".into(), "wg0".into()])
        );
        assert_eq!(face_of("pasta --version"), Face::Pasta(vec!["--version".into()]));
        assert_eq!(face_of("./slirp4netns --help"), Face::Slirp4netns(vec!["--help".into()]));
        assert_eq!(
            face_of("wireguard4netns 7 wg0 c"),
            Face::Wireguard4netns(vec!["7".into(), "wg0".into(), "c".into()])
        );
        assert_eq!(face_of("exe __namespace-child"), Face::NamespaceChild);
        assert_eq!(face_of("exe __socket-factory"), Face::NamespaceChild);
        assert_eq!(face_of("exe __broker"), Face::Broker);
    }
}
