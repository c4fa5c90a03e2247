//! What a hook is asked for: flags of its definition, and annotations of the container. (wiring)

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;

use crate::driver::failure::{Failure, FailureClass};

/// Annotations of ours begin so; what follows is the name of a setting.
const PREFIX: &str = "dev.wg4netns.";

/// The annotation that makes podman call us, as podman matches it.
pub(super) const CONFIG_ANNOTATION_PATTERN: &str = "^dev\\.wg4netns\\.config$";

/// The stage *precreate* tells the stage *createRuntime* by this where the container's resolv.conf is.
pub(super) const RESOLV_CONF_ANNOTATION: &str = "dev.wg4netns.resolv-conf";

/// Nobody but ourselves says which file is written: it lies where podman keeps a container's files.
const RESOLV_CONF_TAIL: &str = "userdata/wg4netns-resolv.conf";

/// A setting's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// One.
    One,
    /// One, or empty for the flag without a value.
    Optional,
    /// `true`, or empty: the flag alone; `false`: no flag.
    Switch,
    /// Several, separated by commas or spaces.
    Several,
    /// Several, separated by spaces: a comma is part of a value (`53:53/tcp,udp`).
    Words,
}

/// Every setting: a flag of `attach`, and an annotation of that name.
const SETTINGS: &[(&str, Values)] = &[
    ("config", Values::One),
    ("dns", Values::Several),
    ("dns-search", Values::Several),
    ("interface", Values::One),
    ("keep-other-links", Values::Switch),
    ("mtu", Values::One),
    ("name", Values::One),
    ("publish", Values::Words),
    ("reach", Values::Words),
    ("sandbox", Values::One),
    ("wait-handshake", Values::Optional),
];

/// Why a setting makes no sense. Whatever `attach` itself can see to be wrong is left to it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Nobody says which tunnel.
    #[error("no configuration given: neither `--config` nor the annotation `dev.wg4netns.config`")]
    NoConfig,
    /// Mistyped, or of a later version.
    #[error("unknown annotation `{annotation}`")]
    Unknown {
        /// As it was given.
        annotation: String,
    },
    /// Annotations are text.
    #[error("annotation `{annotation}`: expected {wanted}")]
    Value {
        /// Which.
        annotation: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// The directory we are called in is the engine's.
    #[error("configuration `{path}`: a hook needs a name or an absolute path")]
    RelativePath {
        /// As it was given.
        path: String,
    },
}

impl Failure for SettingError {
    fn class(&self) -> FailureClass {
        FailureClass::Usage
    }
}

/// Settings by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<&'static str, Vec<String>>);

impl Settings {
    /// Says one; nothing is changed without values.
    #[must_use]
    pub fn with(mut self, name: &'static str, values: impl IntoIterator<Item = String>) -> Self {
        debug_assert!(SETTINGS.iter().any(|(known, _)| *known == name), "`{name}` is a setting");
        let values: Vec<_> = values.into_iter().collect();
        if !values.is_empty() {
            self.0.insert(name, values);
        }
        self
    }

    /// The annotations of a container say more than the hook's definition.
    ///
    /// # Errors
    /// An annotation of ours that is unknown, or has a value that it cannot have.
    pub(super) fn with_annotations(mut self, annotations: &Value) -> Result<Self, SettingError> {
        for (annotation, value) in annotations.as_object().into_iter().flatten() {
            let Some(name) = annotation.strip_prefix(PREFIX) else { continue };
            if annotation == RESOLV_CONF_ANNOTATION && is_our_resolv_conf(value) {
                continue;
            }
            let wrong = |wanted| SettingError::Value { annotation: annotation.clone(), wanted };
            let text = value.as_str().ok_or_else(|| wrong("text"))?.trim();
            let Some(&(name, values)) = SETTINGS.iter().find(|(known, _)| *known == name) else {
                return Err(SettingError::Unknown { annotation: annotation.clone() });
            };
            let values = match values {
                Values::One if text.is_empty() => return Err(wrong("a value")),
                Values::One | Values::Optional => vec![text.to_owned()],
                Values::Switch => match text {
                    "" | "true" => vec![String::new()],
                    "false" => Vec::new(),
                    _other => return Err(wrong("`true` or `false`")),
                },
                Values::Several => words(text, |c| c == ',' || c.is_whitespace()),
                Values::Words => words(text, char::is_whitespace),
            };
            self.0.insert(name, values);
        }
        Ok(self)
    }

    /// Which tunnel: a name, or an absolute path; `~/` is the user's home.
    ///
    /// # Errors
    /// There is none, or it depends on the directory.
    pub(super) fn config(&self) -> Result<String, SettingError> {
        let given = self.0.get("config").and_then(|values| values.first()).ok_or(SettingError::NoConfig)?;
        let absolute = match given.strip_prefix("~/") {
            Some(rest) => std::env::home_dir().map(|home| home.join(rest).to_string_lossy().into_owned()),
            None => None,
        };
        let config = absolute.unwrap_or_else(|| given.clone());
        let is_name = !config.contains('/') && !config.ends_with(".conf") && config != "-";
        if is_name || config.starts_with('/') {
            Ok(config)
        } else {
            Err(SettingError::RelativePath { path: config })
        }
    }

    /// The command line of our own `attach`, for the container's first process.
    ///
    /// # Errors
    /// As [`config`](Self::config).
    pub(super) fn attach_arguments(
        &self,
        pid: u64,
        id: Option<&str>,
        resolv_conf: Option<&str>,
    ) -> Result<Vec<OsString>, SettingError> {
        let mut arguments: Vec<OsString> = vec!["attach".into(), "--background".into()];
        arguments.push(format!("--netns-pid={pid}").into());
        arguments.push(format!("--config={}", self.config()?).into());
        if !self.0.contains_key("name")
            && let Some(id) = id
        {
            // As `podman ps` shows it.
            let short: String = id.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
            arguments.push(format!("--name={short}").into());
        }
        if let Some(path) = resolv_conf {
            arguments.push(format!("--write-resolv-conf={path}").into());
        }
        for (name, values) in &self.0 {
            for value in values {
                match *name {
                    "config" => {}
                    // There is a resolv.conf already: the user's, or the device's.
                    "dns" | "dns-search" if resolv_conf.is_none() => {}
                    name if value.is_empty() => arguments.push(format!("--{name}").into()),
                    name => arguments.push(format!("--{name}={value}").into()),
                }
            }
        }
        Ok(arguments)
    }
}

fn words(text: &str, is_between: impl Fn(char) -> bool) -> Vec<String> {
    text.split(is_between).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn is_our_resolv_conf(value: &Value) -> bool {
    value
        .as_str()
        .is_some_and(|path| Path::new(path).is_absolute() && Path::new(path).ends_with(RESOLV_CONF_TAIL))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(settings: &Settings) -> String {
        let words = settings.attach_arguments(7, Some("0123456789abcdef"), None).unwrap();
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn annotated(annotations: &Value) -> Result<Settings, SettingError> {
        Settings::default().with_annotations(annotations)
    }

    #[test]
    fn annotations_become_flags_of_attach() {
        let settings = annotated(&json!({
            "dev.wg4netns.config": "work",
            "dev.wg4netns.wait-handshake": "",
            "dev.wg4netns.mtu": "1380",
            "dev.wg4netns.publish": "53:53/tcp,udp 80",
            "dev.wg4netns.keep-other-links": "false",
            "io.container.manager": "libpod",
        }));
        assert_eq!(
            arguments(&settings.unwrap()),
            "attach --background --netns-pid=7 --config=work --name=0123456789ab --mtu=1380 \
             --publish=53:53/tcp,udp --publish=80 --wait-handshake"
        );
    }

    #[test]
    fn an_annotation_overrides_the_flag() {
        let flags = Settings::default()
            .with("config", ["/etc/a.conf".to_owned()])
            .with("wait-handshake", ["5".to_owned()]);
        let both = flags.with_annotations(&json!({"dev.wg4netns.wait-handshake": "30s"})).unwrap();
        assert!(arguments(&both).ends_with("--config=/etc/a.conf --name=0123456789ab --wait-handshake=30s"));
    }

    #[test]
    fn a_mistyped_annotation_is_not_ignored() {
        let error = annotated(&json!({"dev.wg4netns.wait_handshake": ""})).unwrap_err();
        assert_eq!(error.to_string(), "unknown annotation `dev.wg4netns.wait_handshake`");
        let error = annotated(&json!({"dev.wg4netns.keep-other-links": "yes"})).unwrap_err();
        assert_eq!(
            error.to_string(),
            "annotation `dev.wg4netns.keep-other-links`: expected `true` or `false`"
        );
    }

    #[test]
    fn a_configuration_must_not_depend_on_the_engines_directory() {
        let config = |text: &str| Settings::default().with("config", [text.to_owned()]).config();
        assert_eq!(config("work").unwrap(), "work");
        assert_eq!(config("/home/u/wg.conf").unwrap(), "/home/u/wg.conf");
        assert!(config("~/wg.conf").unwrap().starts_with('/'));
        for relative in ["./wg.conf", "wg.conf", "a/b", "-"] {
            assert!(matches!(config(relative), Err(SettingError::RelativePath { .. })), "{relative}");
        }
        assert_eq!(Settings::default().config(), Err(SettingError::NoConfig));
    }

    #[test]
    fn name_servers_are_for_the_resolv_conf_that_we_made() {
        let annotations = json!({
            "dev.wg4netns.config": "work",
            "dev.wg4netns.dns": "10.0.0.1, fd00::1",
            RESOLV_CONF_ANNOTATION: "/run/x/userdata/wg4netns-resolv.conf",
        });
        let settings = annotated(&annotations).unwrap();
        assert!(!arguments(&settings).contains("dns"));
        let words = settings.attach_arguments(7, None, Some("/x/resolv.conf")).unwrap();
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(words[4..], ["--write-resolv-conf=/x/resolv.conf", "--dns=10.0.0.1", "--dns=fd00::1"]);
    }

    #[test]
    fn an_annotation_does_not_make_us_write_any_file() {
        for path in ["/home/u/.bashrc", "userdata/wg4netns-resolv.conf", "/home/u/wg4netns-resolv.conf"] {
            let error = annotated(&json!({RESOLV_CONF_ANNOTATION: path})).unwrap_err();
            assert!(matches!(error, SettingError::Unknown { .. }), "{path}");
        }
    }
}
