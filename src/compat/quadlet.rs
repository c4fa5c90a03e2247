//! A container with its tunnel as a unit for systemd, in the form that podman's quadlet reads. (wiring)
//!
//! The unit is whole: it needs podman 4.6, this program, and nothing installed or configured besides. It writes the
//! hook's definition where only this container looks for it, so the tunnel is there before the container's first
//! instruction, and the service fails if there is none.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::config::publish::{PublishError, PublishedPorts};
use crate::driver::failure::{Failure, FailureClass};

/// A unit to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuadletRequest {
    /// Of the container, and the file's stem.
    pub name: UnitName,
    /// What it runs.
    pub image: String,
    /// Instead of the image's own command.
    pub command: Vec<String>,
    /// As `--config` has it.
    pub config: String,
    /// As `-p` has them; podman publishes nothing for a container without a network of its own.
    pub publish: Vec<Publication>,
    /// Seconds that a peer may take to answer; 0: do not wait.
    pub wait_handshake: u64,
    /// What the hook runs.
    pub program: PathBuf,
    /// Remarks for whoever reads the unit.
    pub remarks: Vec<String>,
}

/// Name of a container and of its unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitName(String);

impl FromStr for UnitName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = text.len() <= 128 && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if fits && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a container's name is made of letters, digits, `_`, `.` and `-`")
        }
    }
}

impl std::fmt::Display for UnitName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value of `-p` that was found to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication(String);

impl FromStr for Publication {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        text.parse::<PublishedPorts>().map(|_ports| Self(text.to_owned()))
    }
}

impl std::fmt::Display for Publication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no unit.
#[derive(Debug, thiserror::Error)]
pub enum QuadletError {
    /// A unit has no way to say it.
    #[error("a unit cannot hold {what} `{}`: {why}", value.escape_debug())]
    Value {
        /// What it is.
        what: &'static str,
        /// As it was given.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Failure for QuadletError {
    fn class(&self) -> FailureClass {
        FailureClass::Usage
    }
}

/// The unit's text.
///
/// # Errors
/// A name or a path that a unit cannot hold.
pub fn print(request: &QuadletRequest) -> Result<String, QuadletError> {
    let QuadletRequest { name, image, command, config, publish, wait_handshake, program, remarks } = request;
    let config = config_for_hook(config)?;
    let mut unit = format!("# ~/.config/containers/systemd/{name}.container, made by `wg4netns quadlet`\n");
    for remark in remarks {
        writeln!(unit, "# {}", one_line("a remark", remark)?).expect("a string takes all");
    }
    let mut annotations = vec![format!("dev.wg4netns.config={config}")];
    if *wait_handshake > 0 {
        annotations.push(format!("dev.wg4netns.wait-handshake={wait_handshake}"));
    }
    if !publish.is_empty() {
        let ports: Vec<_> = publish.iter().map(ToString::to_string).collect();
        annotations.push(format!("dev.wg4netns.publish={}", ports.join(" ")));
    }
    let annotations: Result<Vec<_>, _> =
        annotations.iter().map(|text| Ok(format!("Annotation={}\n", word("an annotation", text)?))).collect();
    let annotations = annotations?.concat();
    let image = word("the image", image)?;
    // The manager of services replaces what begins with `$`.
    let command: Result<Vec<_>, _> =
        command.iter().map(|each| Ok(word("the command", each)?.replace('$', "$$"))).collect();
    let command = match command?.join(" ") {
        command if command.is_empty() => command,
        command => format!("Exec={command}\n"),
    };
    let program = in_shell(program)?;
    // In the user's runtime directory, which `%t` is to systemd.
    let hooks = format!("%t/wg4netns/{name}.hooks.d");
    write!(
        unit,
        "[Unit]
Description={name}, in a network that is a WireGuard tunnel and nothing else

[Container]
ContainerName={name}
Image={image}
{command}# Nothing but what wg4netns adds: lo and the tunnel. Without the tunnel the container does not start.
Network=none
GlobalArgs=--hooks-dir={hooks}
{annotations}
[Service]
ExecStartPre=/bin/mkdir -p {hooks}
ExecStartPre=/bin/sh -c 'exec {program} oci-hook --print-definition >{hooks}/wg4netns.json'
Restart=on-failure
RestartSec=5

[Install]
WantedBy=default.target
"
    )
    .expect("a string takes all");
    Ok(unit)
}

/// A hook is called in the engine's directory: a path must be absolute.
fn config_for_hook(config: &str) -> Result<String, QuadletError> {
    let is_name = !config.contains('/') && !config.ends_with(".conf");
    if is_name {
        return Ok(config.to_owned());
    }
    let wrong = |why| QuadletError::Value { what: "the configuration", value: config.to_owned(), why };
    let absolute = std::path::absolute(config).map_err(|_empty| wrong("it is no path"))?;
    absolute.to_str().map(str::to_owned).ok_or_else(|| wrong("it is not UTF-8"))
}

/// One word of a unit (systemd.syntax(7)): specifiers doubled, quoted if it must be.
fn word(what: &'static str, value: &str) -> Result<String, QuadletError> {
    let value = one_line(what, value)?.replace('%', "%%");
    if value.is_empty() {
        return Err(QuadletError::Value { what, value, why: "it is empty" });
    }
    if value.contains([' ', '"', '\'', '\\']) {
        Ok(format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")))
    } else {
        Ok(value)
    }
}

fn one_line<'v>(what: &'static str, value: &'v str) -> Result<&'v str, QuadletError> {
    if value.chars().any(char::is_control) {
        return Err(QuadletError::Value {
            what,
            value: value.to_owned(),
            why: "it holds control characters",
        });
    }
    Ok(value)
}

/// The program's path inside a shell's command inside a unit: three sets of rules, so only what is special in none.
fn in_shell(program: &Path) -> Result<&str, QuadletError> {
    let plain = |text: &&str| {
        text.chars().all(|c| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@'))
    };
    program.to_str().filter(plain).ok_or_else(|| QuadletError::Value {
        what: "the path of this program",
        value: program.to_string_lossy().into_owned(),
        why: "it holds characters that are special to a shell",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> QuadletRequest {
        QuadletRequest {
            name: "web".parse().unwrap(),
            image: "docker.io/library/nginx:1".into(),
            command: vec!["sh".into(), "-c".into(), "echo \"$HOME\" 100%".into()],
            config: "work".into(),
            publish: vec!["8080:80".parse().unwrap(), "127.0.0.1:53:53/udp".parse().unwrap()],
            wait_handshake: 10,
            program: "/usr/bin/wg4netns".into(),
            remarks: Vec::new(),
        }
    }

    #[test]
    fn the_unit_has_no_network_but_the_tunnel() {
        let unit = print(&request()).unwrap();
        for line in [
            "Network=none",
            "Image=docker.io/library/nginx:1",
            "Annotation=dev.wg4netns.config=work",
            "Annotation=dev.wg4netns.wait-handshake=10",
            "Annotation=\"dev.wg4netns.publish=8080:80 127.0.0.1:53:53/udp\"",
            "Exec=sh -c \"echo \\\"$$HOME\\\" 100%%\"",
            "GlobalArgs=--hooks-dir=%t/wg4netns/web.hooks.d",
            "ExecStartPre=/bin/sh -c 'exec /usr/bin/wg4netns oci-hook --print-definition >%t/wg4netns/web.hooks.d/wg4netns.json'",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line}\nis not in\n{unit}");
        }
    }

    #[test]
    fn a_path_is_made_absolute_and_quoted() {
        let unit = print(&QuadletRequest { config: "/home/a b/50%.conf".into(), ..request() }).unwrap();
        assert!(unit.contains("Annotation=\"dev.wg4netns.config=/home/a b/50%%.conf\"\n"), "{unit}");
        let unit = print(&QuadletRequest { config: "wg0.conf".into(), ..request() }).unwrap();
        assert!(unit.contains("Annotation=dev.wg4netns.config=/"), "{unit}");
    }

    #[test]
    fn a_value_cannot_add_a_line_to_the_unit() {
        for request in [
            QuadletRequest { image: "x\nExecStartPre=/bin/evil".into(), ..request() },
            QuadletRequest { config: "a\r/b".into(), ..request() },
            QuadletRequest { remarks: vec!["x\ny".into()], ..request() },
            QuadletRequest { program: "/tmp/a b;c".into(), ..request() },
            QuadletRequest { image: String::new(), ..request() },
        ] {
            assert!(print(&request).is_err(), "{request:?}");
        }
        for name in ["", "-x", "a/b", "a b", "%i", "a\n"] {
            assert!(name.parse::<UnitName>().is_err(), "{name}");
        }
    }
}
