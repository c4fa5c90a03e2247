//! The one place where an error is printed: one line for what happened, at most one for what to do. (cli)

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, Write};
use std::sync::OnceLock;

use nix::errno::Errno;

use super::hint::hint;
use crate::driver::failure::{Failure, FailureClass};

/// What `run` and `exec` exit with when the failure is ours and not the command's.
pub const EXIT_OURS: u8 = 125;

/// What a broken invariant exits with (`EX_SOFTWARE` of sysexits.h).
pub const EXIT_BUG: u8 = 70;

/// The other name we were called by, if its caller shows what we print to somebody who did not call us.
static FACE: OnceLock<&'static str> = OnceLock::new();

/// From now on every line says by which other name we were called.
pub(super) fn speak_as(face: &'static str) {
    // Said a second time it would be the same.
    FACE.set(face).ok();
}

/// Prints the error and its hint to standard error.
pub fn print(error: &(dyn Error + 'static)) {
    print_lines(&chain(error), hint(error).as_deref());
}

/// Prints a line that is not an error value, in the same form.
pub fn print_lines(message: &str, hint: Option<&str>) {
    let mut text = match FACE.get() {
        Some(face) => format!("wg4netns (as {face}): {}\n", one_line(message)),
        None => format!("wg4netns: {}\n", one_line(message)),
    };
    if let Some(hint) = hint {
        text.push_str(&format!("hint: {}\n", one_line(hint)));
    }
    print_raw(&text);
}

/// Prints text as it is, for people: help that was not asked for.
pub fn print_raw(text: &str) {
    // One write, so that lines of several processes do not mix; nobody can be told if it fails.
    io::stderr().write_all(text.as_bytes()).ok();
}

/// The error and its causes, outermost first, separated by colons.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = describe(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&describe(error));
        cause = error.source();
    }
    text
}

/// One link of the chain. An errno reads the same whichever crate it came through.
fn describe(error: &(dyn Error + 'static)) -> String {
    match error.downcast_ref::<Errno>() {
        Some(&errno) => io::Error::from(errno).to_string(),
        None => error.to_string(),
    }
}

/// Control characters of file names and of what the system said would break the one line, or the terminal.
fn one_line(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

/// Which command an exit code is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exits {
    /// By blame.
    ByBlame,
    /// 125 for everything of ours, because all other codes are the command's.
    AsCommandRunner,
}

impl Exits {
    /// The code for a failure of ours.
    #[must_use]
    pub const fn code(self, class: FailureClass) -> u8 {
        match self {
            Self::ByBlame => class.exit_code(),
            Self::AsCommandRunner => EXIT_OURS,
        }
    }

    /// Prints the error; the code to exit with.
    pub fn fail(self, error: &dyn Failure) -> u8 {
        print(error);
        self.code(error.class())
    }

    /// The code for a panic.
    #[must_use]
    pub const fn bug(self) -> u8 {
        match self {
            Self::ByBlame => EXIT_BUG,
            Self::AsCommandRunner => EXIT_OURS,
        }
    }
}

/// From now on a panic prints one line instead of a trace.
///
/// The text of a panic is printed only if it is a literal: a formatted one may hold values, and values may be secret.
pub fn install_panic_hook() {
    if std::env::var_os("RUST_BACKTRACE").is_some() {
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let what = panic.payload().downcast_ref::<&'static str>().map(|text| format!(": {text}"));
        let message = format!(
            "internal error{}{}; please report this, it is a bug",
            place.unwrap_or_default(),
            what.unwrap_or_default()
        );
        print_lines(&message, Some("RUST_BACKTRACE=1 shows more"));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot create `wg0` in the network namespace of pid 4242")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot join the user namespace of pid 4242")]
    struct Inner(#[source] Errno);

    #[test]
    fn a_chain_is_one_line_and_says_everything_once() {
        assert_eq!(
            chain(&Outer(Inner(Errno::EPERM))),
            "cannot create `wg0` in the network namespace of pid 4242: \
             cannot join the user namespace of pid 4242: Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn control_characters_cannot_break_the_line() {
        assert_eq!(one_line("a\nb\x1b[31mc\n"), "a b [31mc");
        assert!(matches!(one_line("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn a_command_runner_blames_nobody_but_itself() {
        assert_eq!(Exits::ByBlame.code(FailureClass::InUse), 6);
        assert_eq!(Exits::AsCommandRunner.code(FailureClass::Usage), 125);
        assert_eq!(Exits::AsCommandRunner.bug(), 125);
    }
}
