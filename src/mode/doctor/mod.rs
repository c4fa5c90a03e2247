//! `doctor`: tries everything that a tunnel needs from this machine and names the command that mends it. (wiring)
//!
//! # Theory of operation
//! Settings are not believed: what is needed is done, each in a process of its own (this program with a hidden first
//! argument, [`probe::ARGUMENT`]) that is killed after a deadline. Only when something was refused are settings read,
//! to find out who refused it: that is [`remedy`]. Nothing that is tried outlasts its process.

mod checks;
mod integrations;
pub mod probe;
pub mod remedy;

use serde::Serialize;

pub use self::integrations::Integration;

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Every tunnel that is not root's works here.
    pub healthy: bool,
    /// In the order in which one needs the other.
    pub checks: Vec<Check>,
    /// What can be used here, and how.
    pub integrations: Vec<Integration>,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A name for programs, never changed.
    pub id: &'static str,
    /// What was tried.
    pub tried: String,
    /// What was seen.
    pub seen: String,
    /// How good that is.
    pub outcome: Outcome,
    /// The one command, or the one thing, that mends it.
    pub mend: Option<String>,
}

/// How good a thing is that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Something works less well, or not with every program.
    Warning,
    /// No tunnel can be made.
    Failure,
}

impl Check {
    fn ok(id: &'static str, tried: &str, seen: impl Into<String>) -> Self {
        Self { id, tried: tried.into(), seen: seen.into(), outcome: Outcome::Ok, mend: None }
    }

    fn warning(id: &'static str, tried: &str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { outcome: Outcome::Warning, mend: Some(mend.into()), ..Self::ok(id, tried, seen) }
    }

    fn failure(id: &'static str, tried: &str, seen: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { outcome: Outcome::Failure, mend: Some(mend.into()), ..Self::ok(id, tried, seen) }
    }

    fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}

/// Tries everything.
#[must_use]
pub fn examine() -> Diagnosis {
    let checks = checks::all();
    let healthy = checks.iter().all(|check| check.outcome != Outcome::Failure);
    let integrations = integrations::all(&checks);
    Diagnosis { healthy, checks, integrations }
}

/// The AppArmor profile that lets this program make user namespaces, for the place where it lies.
#[must_use]
pub fn apparmor_profile() -> String {
    let program = std::env::current_exe().map(|path| path.display().to_string());
    let usual = "/usr/{,local/}bin/wg4netns";
    match program {
        // A pattern character in the path would mean something else to AppArmor; then the user writes the line.
        Ok(program) if !program.contains(['*', '?', '[', ']', '{', '}', '^', '"', ' ']) => {
            PROFILE.replace(usual, &program)
        }
        Ok(_) | Err(_) => PROFILE.into(),
    }
}

const PROFILE: &str = include_str!("../../../contrib/apparmor/wg4netns");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_names_the_program_that_printed_it() {
        let profile = apparmor_profile();
        let program = std::env::current_exe().unwrap();
        assert!(profile.contains(&format!("profile wg4netns {} flags=", program.display())), "{profile}");
        assert!(profile.contains("  userns,\n"), "{profile}");
    }
}
