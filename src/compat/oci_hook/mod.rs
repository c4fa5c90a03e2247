//! The OCI hook: a tunnel for a container that an engine is about to start. (wiring)
//!
//! # Theory of operation
//! Two stages call the same command line and are told apart by the document on standard input. *precreate* is podman's
//! own: it gets the container's whole configuration and prints another one, here with an empty resolv.conf mounted that
//! lies in podman's directory of the container, and goes with it. (podman gives that stage no environment, so no
//! configuration of ours can be sought there.) *createRuntime* is the runtime's: it gets the container's state, runs in
//! the host's network namespace, and the container starts only if it succeeds. There we run our own `attach
//! --background` on the container's first process: it fills the resolv.conf, and ends with that process.
//!
//! What is wanted is said by the flags in the hook's definition and by annotations of the container
//! (`dev.wg4netns.config` and its like); an annotation that we do not know fails the start, so that none is ignored.
//!
//! crun gives hooks no standard error, and podman shows the runtime's own words only: see `oci_hook/engine.rs`.

mod engine;
pub mod settings;

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::{self, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde_json::{Value, json};

use self::settings::{SettingError, Settings};
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::namespace_child::Helper;
use crate::sys::file_label;

/// A container's configuration of a hundred thousand mounts; what is longer is not one.
const MAX_DOCUMENT: u64 = 64 << 20;

/// How often a name or a port that is in use is asked for again: the same container's last run gives it up within
/// milliseconds of its end.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// Why the container must not start.
#[derive(Debug, thiserror::Error)]
pub enum OciHookError {
    /// Standard input is not what an engine sends.
    #[error("cannot read what the engine sends on standard input")]
    Input(#[source] io::Error),
    /// It is JSON, but neither of the two documents.
    #[error("standard input is neither a container's state nor its configuration")]
    NoDocument,
    /// A state without a process: not the stage we are for.
    #[error("the container has no process yet: this hook is for the stage `createRuntime`")]
    NoProcess,
    /// A flag or an annotation.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// podman's directory of the container is not to be found in its configuration.
    #[error("cannot find the container's directory in its configuration")]
    NoDirectory,
    /// The resolv.conf could not be written.
    #[error("cannot write `{}`", path.display())]
    ResolvConf {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Our own `attach` could not be run.
    #[error("cannot run `wg4netns attach`")]
    Attach(#[source] io::Error),
}

impl Failure for OciHookError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Input(_) | Self::NoDocument | Self::Setting(_) => FailureClass::Usage,
            Self::NoProcess => FailureClass::Target,
            Self::NoDirectory | Self::ResolvConf { .. } | Self::Attach(_) => FailureClass::General,
        }
    }
}

/// What came of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The document to print instead of the one that came.
    Configuration(Vec<u8>),
    /// The container has its tunnel.
    Attached,
    /// It has none: what `attach` said about it, and its exit code.
    Refused {
        /// The error's line, perhaps with warnings before and a hint behind it.
        said: String,
        /// The exit code.
        code: u8,
    },
}

/// Does what the stage asks for.
///
/// # Errors
/// See [`OciHookError`].
pub fn run(flags: Settings, input: impl Read) -> Result<Outcome, OciHookError> {
    let mut bytes = Vec::new();
    input.take(MAX_DOCUMENT).read_to_end(&mut bytes).map_err(OciHookError::Input)?;
    let document: Value =
        serde_json::from_slice(&bytes).map_err(|error| OciHookError::Input(error.into()))?;
    match stage_of(&document) {
        // What is wrong with an annotation is for the next stage to say: podman shows nothing of what this one says.
        Some(Stage::Precreate) => precreate(document, bytes),
        Some(Stage::CreateRuntime) => {
            let settings = flags.with_annotations(&document["annotations"])?;
            let pid = document["pid"].as_u64().filter(|pid| *pid > 0).ok_or(OciHookError::NoProcess)?;
            let resolv_conf = document["annotations"][settings::RESOLV_CONF_ANNOTATION].as_str();
            attach(&settings.attach_arguments(pid, document["id"].as_str(), resolv_conf)?)
        }
        None => Err(OciHookError::NoDocument),
    }
}

/// Tells the engine why the container does not start: see `oci_hook/engine.rs`.
pub fn tell_engine(said: &str) {
    engine::tell(said);
}

enum Stage {
    Precreate,
    CreateRuntime,
}

/// Only a state has a status; only a configuration has a root that is more than a path.
fn stage_of(document: &Value) -> Option<Stage> {
    if document["status"].is_string() && document["id"].is_string() {
        Some(Stage::CreateRuntime)
    } else if document["ociVersion"].is_string() && document["root"].is_object() {
        Some(Stage::Precreate)
    } else {
        None
    }
}

// --- precreate -----------------------------------------------------------------------------------------------------

/// The configuration with our resolv.conf; unchanged if the user has mounted another.
fn precreate(mut document: Value, bytes: Vec<u8>) -> Result<Outcome, OciHookError> {
    let directory = container_directory(&document).ok_or(OciHookError::NoDirectory)?;
    if mounted_by_user(&document, &directory) {
        return Ok(Outcome::Configuration(bytes));
    }
    let path = directory.join(RESOLV_CONF_NAME);
    write_for_container(&path, "", document["linux"]["mountLabel"].as_str())?;
    mount(&mut document, &path);
    document["annotations"][settings::RESOLV_CONF_ANNOTATION] = json!(path);
    let whole = serde_json::to_vec(&document).map_err(|error| OciHookError::Input(error.into()))?;
    Ok(Outcome::Configuration(whole))
}

/// Writes a file that processes of a container shall read, under SELinux too.
///
/// # Errors
/// [`OciHookError::ResolvConf`].
pub(super) fn write_for_container(path: &Path, text: &str, label: Option<&str>) -> Result<(), OciHookError> {
    std::fs::write(path, text)
        // Whatever the umask: the processes of a container may be any user.
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o644)))
        .map_err(|source| OciHookError::ResolvConf { path: path.to_owned(), source })?;
    // Without SELinux there is nothing to label; with it, a file that could not be labelled is not readable inside, and
    // names do not resolve. Either way nothing leaks.
    let _unlabelled = label.filter(|label| !label.is_empty()).map(|label| file_label::set(path, label));
    Ok(())
}

/// Where podman keeps what it mounts into this one container.
fn container_directory(document: &Value) -> Option<PathBuf> {
    let mounts = document["mounts"].as_array()?;
    let of = |destination| mounts.iter().find(|mount| mount["destination"] == destination);
    ["/run/.containerenv", "/etc/hostname", "/etc/hosts"].into_iter().filter_map(of).find_map(|mount| {
        let directory = Path::new(mount["source"].as_str()?).parent()?;
        directory.ends_with("userdata").then(|| directory.to_owned())
    })
}

/// Whether somebody gave the container a resolv.conf on purpose: that one stays.
fn mounted_by_user(document: &Value, directory: &Path) -> bool {
    let mounts = document["mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let source = |mount: &Value| mount["source"].as_str().map(PathBuf::from).unwrap_or_default();
    mounts.iter().any(|mount| mount["destination"] == RESOLV_CONF && !source(mount).starts_with(directory))
}

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Our file's name in the container's directory.
const RESOLV_CONF_NAME: &str = "wg4netns-resolv.conf";

fn mount(document: &mut Value, path: &Path) {
    if let Some(mounts) = document["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] != RESOLV_CONF);
        mounts.push(json!({
            "destination": RESOLV_CONF,
            "type": "bind",
            "source": path,
            "options": ["bind", "rprivate"],
        }));
    }
}

// --- createRuntime -------------------------------------------------------------------------------------------------

/// Runs our own `attach` until it has gone to the background or failed.
fn attach(arguments: &[OsString]) -> Result<Outcome, OciHookError> {
    let in_use = i32::from(FailureClass::InUse.exit_code());
    for attempt in 1..=ATTEMPTS {
        // A file in memory, not a pipe: whoever keeps it open keeps nobody waiting.
        let memory = memfd_create("said", MFdFlags::MFD_CLOEXEC)
            .map_err(|errno| OciHookError::Attach(errno.into()))?;
        let mut said = File::from(memory);
        let status = Command::new(Helper::this_program().program())
            .args(arguments)
            // The service manager's socket is the engine's: the service is ready when the engine says so.
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said.try_clone().map_err(OciHookError::Attach)?)
            .status()
            .map_err(OciHookError::Attach)?;
        if status.success() {
            return Ok(Outcome::Attached);
        }
        if status.code() == Some(in_use) && attempt < ATTEMPTS {
            std::thread::sleep(PAUSE);
            continue;
        }
        let mut text = String::new();
        said.rewind().and_then(|()| said.read_to_string(&mut text)).map_err(OciHookError::Attach)?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        return Ok(Outcome::Refused { said: text, code });
    }
    unreachable!("the last attempt returns")
}

/// The definition for podman's `hooks.d`: both stages, for containers with our annotation.
#[must_use]
pub fn definition(program: &Path) -> String {
    let definition = json!({
        "version": "1.0.0",
        "hook": { "path": program, "args": ["wg4netns", "oci-hook"] },
        "when": { "annotations": { settings::CONFIG_ANNOTATION_PATTERN: ".+" } },
        "stages": ["precreate", "createRuntime"],
    });
    format!("{definition:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_are_told_apart_by_their_document() {
        let state = json!({"ociVersion": "1.0", "id": "x", "pid": 7, "root": "/r", "bundle": "/b", "status": "created"});
        let configuration =
            json!({"ociVersion": "1.2.0", "process": {}, "root": {"path": "/r"}, "mounts": []});
        assert!(matches!(stage_of(&state), Some(Stage::CreateRuntime)));
        assert!(matches!(stage_of(&configuration), Some(Stage::Precreate)));
        assert!(stage_of(&json!({"root": "/r"})).is_none());
        assert!(stage_of(&json!([])).is_none());
    }

    #[test]
    fn the_configuration_gets_our_resolv_conf_instead_of_podmans() {
        let scratch = tempfile::tempdir().unwrap();
        let userdata = scratch.path().join("userdata");
        std::fs::create_dir(&userdata).unwrap();
        let podmans = userdata.join("resolv.conf");
        let document = configuration(&userdata, &podmans);
        let Outcome::Configuration(bytes) = run(Settings::default(), &*document).unwrap() else { panic!() };
        let changed: Value = serde_json::from_slice(&bytes).unwrap();
        let mounts: Vec<_> = changed["mounts"].as_array().unwrap().iter().collect();
        let sources: Vec<_> = mounts
            .iter()
            .filter(|mount| mount["destination"] == RESOLV_CONF)
            .map(|mount| &mount["source"])
            .collect();
        let ours = userdata.join("wg4netns-resolv.conf");
        assert_eq!(sources, [&json!(ours)]);
        assert_eq!(std::fs::read_to_string(&ours).unwrap(), "", "the next stage fills it");
        assert_eq!(changed["annotations"][settings::RESOLV_CONF_ANNOTATION], json!(ours));
        assert_eq!(
            changed["process"]["rlimits"][0]["hard"], 18_446_744_073_709_551_615_u64,
            "the rest is as it was"
        );
    }

    #[test]
    fn a_resolv_conf_that_the_user_mounts_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let userdata = scratch.path().join("userdata");
        std::fs::create_dir(&userdata).unwrap();
        let document = configuration(&userdata, Path::new("/home/u/resolv.conf"));
        let Outcome::Configuration(bytes) = run(Settings::default(), &*document).unwrap() else { panic!() };
        assert_eq!(bytes, document);
    }

    #[test]
    fn an_engine_that_is_not_podman_is_not_guessed_at() {
        let document = configuration(Path::new("/somewhere/else"), Path::new("/x"));
        assert!(matches!(run(Settings::default(), &*document), Err(OciHookError::NoDirectory)));
    }

    #[test]
    fn a_state_without_a_process_or_a_configuration_is_refused() {
        let state = |pid: u32, annotations: Value| {
            json!({"id": "x", "pid": pid, "status": "created", "annotations": annotations}).to_string()
        };
        let error = |text: String| run(Settings::default(), text.as_bytes()).unwrap_err();
        assert!(matches!(error(state(0, json!({"dev.wg4netns.config": "x"}))), OciHookError::NoProcess));
        assert!(matches!(error(state(7, json!({}))), OciHookError::Setting(SettingError::NoConfig)));
        assert!(matches!(error("{}".into()), OciHookError::NoDocument));
        assert!(matches!(error("nonsense".into()), OciHookError::Input(_)));
    }

    #[test]
    fn the_definition_is_for_containers_with_our_annotation_alone() {
        let definition: Value = serde_json::from_str(&definition(Path::new("/usr/bin/wg4netns"))).unwrap();
        assert_eq!(definition["hook"]["path"], "/usr/bin/wg4netns");
        assert_eq!(definition["when"]["annotations"], json!({"^dev\\.wg4netns\\.config$": ".+"}));
        assert_eq!(definition["stages"], json!(["precreate", "createRuntime"]));
    }

    fn configuration(userdata: &Path, resolv_conf: &Path) -> Vec<u8> {
        let document = json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["sh"], "rlimits": [{"type": "RLIMIT_NOFILE", "hard": u64::MAX, "soft": 1}]},
            "root": {"path": "/r"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": RESOLV_CONF, "type": "bind", "source": resolv_conf},
                {"destination": "/run/.containerenv", "type": "bind", "source": userdata.join(".containerenv")},
            ],
            "annotations": {"dev.wg4netns.config": "work", "io.container.manager": "libpod"},
            "linux": {"mountLabel": ""},
        });
        serde_json::to_vec(&document).unwrap()
    }
}
