//! The container device interface: `--device wg4netns.dev/tunnel=NAME` of podman, Docker and nerdctl. (wiring)
//!
//! A device's description names the hook that makes the tunnel and mounts a resolv.conf. Unlike the hook alone, it needs
//! neither annotations nor podman; but its resolv.conf is written when the description is, and lies beside our other data.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::oci_hook::{OciHookError, write_for_container};
use crate::driver::config_file::ConfigFileError;
use crate::driver::failure::{Failure, FailureClass};
use crate::mode::request::{ConfigSource, DnsOptions};
use crate::mode::resolv_conf;

/// The kind of our devices: what stands before `=NAME`.
pub const KIND: &str = "wg4netns.dev/tunnel";

/// The oldest version of the specification that has all that we use; podman 4.3 knows it.
const VERSION: &str = "0.5.0";

/// What every policy lets every container read.
const LABEL: &str = "system_u:object_r:container_file_t:s0";

/// A device's name, as the specification allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName(String);

impl std::str::FromStr for DeviceName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let edge = |c: char| c.is_ascii_alphanumeric();
        let inner = |c: char| edge(c) || matches!(c, '_' | '-' | '.' | ':');
        if text.len() <= 64 && text.starts_with(edge) && text.ends_with(edge) && text.chars().all(inner) {
            Ok(Self(text.to_owned()))
        } else {
            Err(
                "a device's name is made of letters, digits, `_`, `-`, `.` and `:`, and ends in a letter or digit",
            )
        }
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A device to describe.
#[derive(Debug)]
pub struct CdiRequest {
    /// What stands behind `wg4netns.dev/tunnel=`.
    pub name: DeviceName,
    /// As `--config` has it; read now, for its mistakes and its DNS, and again whenever a container starts.
    pub config: String,
    /// Instead of the configuration's.
    pub dns: DnsOptions,
    /// Further flags of the hook.
    pub hook_flags: Vec<String>,
    /// The program that the hook runs.
    pub program: PathBuf,
}

/// Why there is no description.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// A configuration that cannot be read again when a container starts.
    #[error("`--config -` cannot be read again when a container starts")]
    Stdin,
    /// Neither `XDG_DATA_HOME` nor `HOME` is set.
    #[error("cannot find a directory for the resolv.conf: neither `XDG_DATA_HOME` nor `HOME` is set")]
    NoDirectory,
    /// The directory for the resolv.conf cannot be made.
    #[error("cannot make `{}`", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The resolv.conf cannot be written.
    #[error(transparent)]
    ResolvConf(#[from] OciHookError),
}

impl Failure for CdiError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Config(_) => FailureClass::Config,
            Self::Stdin => FailureClass::Usage,
            Self::NoDirectory | Self::Directory { .. } | Self::ResolvConf(_) => FailureClass::General,
        }
    }
}

/// Writes the resolv.conf of a device, and describes it: JSON for a file in one of the engine's `cdi_spec_dirs`.
///
/// # Errors
/// See [`CdiError`].
pub fn generate(request: &CdiRequest) -> Result<String, CdiError> {
    let source = ConfigSource::from_flag(&request.config);
    if source == ConfigSource::Stdin {
        return Err(CdiError::Stdin);
    }
    let loaded = source.load()?;
    let config = loaded.path.as_deref().and_then(|path| std::path::absolute(path).ok());
    let config = config.map_or_else(|| request.config.clone(), |path| path.to_string_lossy().into_owned());
    let directory = data_directory().ok_or(CdiError::NoDirectory)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&directory)
        .map_err(|source| CdiError::Directory { path: directory.clone(), source })?;
    let resolv = directory.join(format!("{}.resolv.conf", request.name));
    write_for_container(&resolv, &resolv_conf(Some(&loaded.config), &request.dns), Some(LABEL))?;
    Ok(describe(request, &config, &resolv))
}

fn data_directory() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = given.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))?;
    Some(data.join("wg4netns/cdi"))
}

fn describe(request: &CdiRequest, config: &str, resolv_conf: &Path) -> String {
    let mut arguments = vec!["wg4netns".to_owned(), "oci-hook".to_owned(), format!("--config={config}")];
    arguments.extend(request.hook_flags.iter().cloned());
    let description = json!({
        "cdiVersion": VERSION,
        "kind": KIND,
        "devices": [{
            "name": request.name.0,
            "containerEdits": {
                "hooks": [{ "hookName": "createRuntime", "path": request.program, "args": arguments }],
                "mounts": [{
                    "hostPath": resolv_conf,
                    "containerPath": "/etc/resolv.conf",
                    "options": ["ro", "bind"],
                }],
            },
        }],
    });
    format!("{description:#}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_device_runs_the_hook_and_mounts_the_resolv_conf() {
        let request = CdiRequest {
            name: "work".parse().unwrap(),
            config: "work".into(),
            dns: DnsOptions::default(),
            hook_flags: vec!["--wait-handshake=5".into()],
            program: "/usr/bin/wg4netns".into(),
        };
        let text = describe(&request, "/home/u/work.conf", Path::new("/data/work.resolv.conf"));
        let description: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(description["kind"], "wg4netns.dev/tunnel");
        let device = &description["devices"][0];
        assert_eq!(device["name"], "work");
        let hook = &device["containerEdits"]["hooks"][0];
        assert_eq!(hook["hookName"], "createRuntime");
        assert_eq!(
            hook["args"],
            json!(["wg4netns", "oci-hook", "--config=/home/u/work.conf", "--wait-handshake=5"])
        );
        assert_eq!(device["containerEdits"]["mounts"][0]["hostPath"], "/data/work.resolv.conf");
    }

    #[test]
    fn a_device_is_named_as_the_specification_says() {
        for good in ["work", "a", "a.b:c-d_e", "9"] {
            assert!(good.parse::<DeviceName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a/b", "a b", "ä", "a="] {
            assert!(bad.parse::<DeviceName>().is_err(), "{bad}");
        }
    }
}
