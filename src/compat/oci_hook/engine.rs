//! Why a container does not start, said where the engine's user reads it. (wiring)
//!
//! # Theory of operation
//! runc reports what a hook wrote to standard error. crun points it at `/dev/null` and reports the exit code alone, and
//! podman prints what crun reports. But podman takes the runtime's log for the reason only if it is one record; else it
//! prints what the runtime said on *its* standard error, which is a pipe to conmon. So the reason goes to both: one more
//! record for the log, and the lines to the runtime's standard error, where crun's own line follows. (podman 4.3 and
//! 5.4, crun 1.8 and 1.21.)
//!
//! All of it is best effort: the container does not start in any case, and the log of the tunnel has the reason too.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::sys::stat::{fstat, major, minor};
use nix::unistd::getppid;
use serde_json::json;

/// `/dev/null` of `mem(4)`.
const NULL_DEVICE: (u64, u64) = (1, 3);

/// Says it on standard error; also on the runtime's, if ours leads nowhere.
pub(super) fn tell(said: &str) {
    io::stderr().write_all(said.as_bytes()).ok();
    if !leads_nowhere(io::stderr()) {
        return;
    }
    let parent = getppid();
    let stderr = File::options().append(true).open(format!("/proc/{parent}/fd/2"));
    if let Ok(mut stderr) = stderr {
        stderr.write_all(said.as_bytes()).ok();
    }
    let command_line = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
    if let Some(path) = json_log(&command_line)
        && let Ok(mut log) = File::options().append(true).open(path)
    {
        writeln!(log, "{}", json!({"msg": said.trim_end(), "level": "error"})).ok();
    }
}

fn leads_nowhere(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|status| (major(status.st_rdev), minor(status.st_rdev)) == NULL_DEVICE)
}

/// The log of a runtime that writes JSON records, from its command line.
fn json_log(command_line: &[u8]) -> Option<PathBuf> {
    let words: Vec<_> = command_line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let value = |flag: &str| {
        let (index, word) =
            words.iter().enumerate().find(|(_, word)| word.strip_prefix(flag).is_some_and(is_value))?;
        match word.split_once('=') {
            Some((_, value)) => Some(value.to_owned()),
            None => words.get(index + 1).map(ToString::to_string),
        }
    };
    (value("--log-format")? == "json").then(|| value("--log").map(PathBuf::from))?
}

/// Whether what follows a flag's name ends the name.
fn is_value(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_log_is_found_however_it_is_named() {
        let log = |line: &str| json_log(line.replace(' ', "\0").as_bytes());
        let path = Some(PathBuf::from("/run/oci-log"));
        assert_eq!(log("/usr/bin/crun --log-format=json --log /run/oci-log create x"), path);
        assert_eq!(log("runc --log=/run/oci-log --log-format json create x"), path);
        assert_eq!(log("crun --log /run/oci-log create x"), None, "text");
        assert_eq!(log("podman run --log-level debug x"), None);
    }

    #[test]
    fn only_dev_null_leads_nowhere() {
        assert!(leads_nowhere(File::open("/dev/null").unwrap()));
        assert!(!leads_nowhere(File::open("/dev/zero").unwrap()));
        assert!(!leads_nowhere(tempfile::tempfile().unwrap()));
    }
}
