//! Becomes the program whose name we were called by and whose place we took. (wiring)
//!
//! # Theory of operation
//! The program is sought as the engine would have sought it without us: on PATH, then where distributions hide the
//! helpers of containers. Copies of this program are passed over by identity, not by path. Another version of it cannot
//! be told from the real one, but would pass the call on in turn: so that two of them do not do so for ever, each adds
//! itself to a variable, and whoever is in there is passed over too.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::driver::failure::{Failure, FailureClass};
use crate::sys::caller::{CallerState, execute};
use crate::sys::os_error::OsError;

/// Which programs have passed the call on: `device:inode`, separated by commas.
const PASSED_ON: &str = "WG4NETNS_PASSED_ON";

/// Where podman looks for helpers beside PATH.
const HELPER_DIRECTORIES: [&str; 4] =
    ["/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"];

/// Why the call could not be passed on.
#[derive(Debug, thiserror::Error)]
pub enum PassOnError {
    /// There is none.
    #[error(
        "no WireGuard configuration was chosen, and there is no other `{name}` on PATH to pass the call on to"
    )]
    NotFound {
        /// Its name.
        name: &'static str,
    },
    /// It is there, and did not start.
    #[error("cannot execute `{}`", program.display())]
    Execute {
        /// Which file.
        program: PathBuf,
        /// What the system said.
        source: OsError,
    },
}

impl Failure for PassOnError {
    fn class(&self) -> FailureClass {
        FailureClass::General
    }
}

/// Replaces this process by the next program called `name`; returns only if that failed.
///
/// Must be called before the first thread is started.
#[must_use]
pub fn pass_on(name: &'static str, arguments: &[OsString]) -> PassOnError {
    let ourselves = std::fs::metadata("/proc/self/exe").ok().map(|metadata| identity(&metadata));
    let mut passed = std::env::var(PASSED_ON).unwrap_or_default();
    if let Some(ourselves) = ourselves {
        let separator = if passed.is_empty() { "" } else { "," };
        write!(passed, "{separator}{ourselves}").ok();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = next(name, &path, &passed) else { return PassOnError::NotFound { name } };
    crate::sys::environment::set_variable(PASSED_ON, &passed);
    let caller = CallerState::capture();
    let failed = caller.restore().err();
    let source = failed.unwrap_or_else(|| execute(program.as_os_str(), arguments));
    PassOnError::Execute { program, source }
}

/// Whether there is a program that a call could be passed on to.
#[must_use]
pub fn exists(name: &'static str) -> bool {
    let ourselves = std::fs::metadata("/proc/self/exe").map(|metadata| identity(&metadata));
    let path = std::env::var_os("PATH").unwrap_or_default();
    next(name, &path, &ourselves.unwrap_or_default()).is_some()
}

fn next(name: &str, path: &OsStr, passed: &str) -> Option<PathBuf> {
    let directories = std::env::split_paths(path).chain(HELPER_DIRECTORIES.map(PathBuf::from));
    directories
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|candidate| is_other_program(candidate, passed))
}

fn is_other_program(candidate: &Path, passed: &str) -> bool {
    let Ok(metadata) = std::fs::metadata(candidate) else { return false };
    let executable = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    executable && !passed.split(',').any(|other| other == identity(&metadata))
}

fn identity(metadata: &std::fs::Metadata) -> String {
    format!("{}:{}", metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whoever_has_passed_the_call_on_is_passed_over_by_whatever_path() {
        let root = tempfile::tempdir().unwrap();
        let [faces, links, real] = ["faces", "links", "real"].map(|name| {
            let directory = root.path().join(name);
            std::fs::create_dir(&directory).unwrap();
            directory
        });
        let executable = |path: &Path| {
            std::fs::write(path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        };
        executable(&faces.join("pasta"));
        symlink(faces.join("pasta"), links.join("pasta")).unwrap();
        let path = std::env::join_paths([&links, &faces, &real]).unwrap();
        let us = identity(&std::fs::metadata(faces.join("pasta")).unwrap());
        assert_eq!(next("pasta", &path, "1:1"), Some(links.join("pasta")));
        assert!(next("pasta", &path, &us).is_none_or(|other| !other.starts_with(root.path())));
        executable(&real.join("pasta"));
        assert_eq!(next("pasta", &path, &format!("1:1,{us}")), Some(real.join("pasta")));
    }

    #[test]
    fn what_is_not_executable_is_no_program() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("pasta-of-tests"), "").unwrap();
        std::fs::create_dir(root.path().join("other-of-tests")).unwrap();
        for name in ["pasta-of-tests", "other-of-tests", "absent-of-tests"] {
            assert_eq!(next(name, root.path().as_os_str(), ""), None, "{name}");
        }
    }
}
