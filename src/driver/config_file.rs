//! Finds and reads configuration files and the key files they name. (tasks)
//!
//! `config` parses bytes; everything that can go wrong before there are bytes is here. A configuration is a regular
//! file or a pipe of at most 1 MiB, wherever it comes from.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::error::KeyHint;
use crate::config::{Config, ConfigError, Problem, Warning};
use crate::key::{KeyError, PresharedKey, PrivateKey};
use crate::sys::environment::take_variable;

use super::failure::{Failure, FailureClass};

/// Room for ten thousand peers; what is larger is not a configuration.
const MAX_CONFIG: u64 = 1 << 20;
/// A key is 44 characters and a line feed.
const MAX_KEY_FILE: u64 = 4096;

/// Where the system keeps configurations for `wg-quick(8)`.
const SYSTEM_CONFIGS: &str = "/etc/wireguard";

/// A configuration and where it came from.
#[derive(Debug)]
pub struct LoadedConfig {
    /// Parsed, the keys of `PrivateKeyFile` and `PresharedKeyFile` read.
    pub config: Config,
    /// Absent when it came from standard input or the environment.
    pub path: Option<PathBuf>,
}

impl LoadedConfig {
    /// Itself, if only its owner may read the keys.
    ///
    /// # Errors
    /// [`ConfigFileError::Exposed`].
    pub fn unexposed(self) -> Result<Self, ConfigFileError> {
        self.config.exposure().map_or(Ok(self), |what| Err(ConfigFileError::Exposed(what)))
    }

    /// `wg0` of `/etc/wireguard/wg0.conf`: what the tunnel is called by default.
    #[must_use]
    pub fn stem(&self) -> Option<&str> {
        self.path.as_deref()?.file_stem()?.to_str()
    }
}

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// No file of that name where files are sought.
    #[error("no configuration `{name}`: {}", sought(missing, closed))]
    NotFound {
        /// What was asked for.
        name: String,
        /// Where it was sought and is not.
        missing: Vec<PathBuf>,
        /// Where it may be for all we know.
        closed: Vec<PathBuf>,
    },
    /// A name must not lead out of the directories where it is sought.
    #[error("`{name}` is not the name of a configuration")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The variable of `--config-env`.
    #[error("the environment variable `{name}` is not set")]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// It is not there, or may not be read.
    #[error("cannot open `{}`", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Reading it might never end, or do something.
    #[error("`{}` is {what}, not a file or a pipe", path.display())]
    Unfit {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It broke off.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a configuration.
    #[error("`{}` is larger than {} KiB", path.display(), limit >> 10)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// Others may read a key, and that is not allowed. (the warning as it would be printed)
    #[error("{0}")]
    Exposed(String),
    /// A mistake in the text.
    #[error("{0}")]
    Parse(ConfigError),
    /// A mistake in a key file.
    #[error("`{}`: {error}", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// Never quotes the key.
        error: KeyError,
    },
}

impl ConfigFileError {
    /// The one thing the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Parse(error) => error.hint(),
            Self::NotFound { name, .. } | Self::Name { name }
                if std::fs::metadata(name).is_ok_and(|found| !found.is_dir()) =>
            {
                Some(format!("`./{name}` is there: names with a `/` are paths").into())
            }
            Self::NotFound { .. }
            | Self::Name { .. }
            | Self::NoVariable { .. }
            | Self::Open { .. }
            | Self::Unfit { .. }
            | Self::Read { .. }
            | Self::TooLarge { .. }
            | Self::Exposed(_)
            | Self::Key { .. } => None,
        }
    }
}

fn sought(missing: &[PathBuf], closed: &[PathBuf]) -> String {
    let list = |paths: &[PathBuf]| {
        paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" and ")
    };
    let verb = if missing.len() == 1 { "is" } else { "are" };
    let missing = (!missing.is_empty()).then(|| format!("{} {verb} not there", list(missing)));
    let closed = (!closed.is_empty()).then(|| format!("{} may not be looked at", list(closed)));
    missing.into_iter().chain(closed).collect::<Vec<_>>().join(", and ")
}

/// The file of the configuration `name`: in `$XDG_CONFIG_HOME/wg4netns/`, then in `/etc/wireguard/`.
///
/// # Errors
/// It is in neither, or is no name.
pub fn find(name: &str) -> Result<PathBuf, ConfigFileError> {
    find_in(name, user_directory().into_iter().chain([SYSTEM_CONFIGS.into()]))
}

/// Where the user keeps configurations; absent if the user has no home.
#[must_use]
pub fn user_directory() -> Option<PathBuf> {
    let given = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let configs = given.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(configs.join("wg4netns"))
}

fn find_in(name: &str, directories: impl Iterator<Item = PathBuf>) -> Result<PathBuf, ConfigFileError> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(ConfigFileError::Name { name: name.to_owned() });
    }
    let (mut missing, mut closed) = (Vec::new(), Vec::new());
    for path in directories.map(|directory| directory.join(format!("{name}.conf"))) {
        match std::fs::metadata(&path).map_err(|error| error.kind()) {
            Err(io::ErrorKind::NotFound) => missing.push(path),
            // The system's directory is closed to most users: that is no news, and seldom the reason. But what comes
            // before a file that is there would have been taken instead of it.
            Err(io::ErrorKind::PermissionDenied) => closed.push(path),
            // Whatever else is wrong with it is told when it is opened.
            Ok(_) | Err(_) => return Ok(closed.into_iter().next().unwrap_or(path)),
        }
    }
    Err(ConfigFileError::NotFound { name: name.to_owned(), missing, closed })
}

/// Reads the configuration at `path`.
///
/// # Errors
/// It cannot be read, or has a mistake.
pub fn load(path: &Path) -> Result<LoadedConfig, ConfigFileError> {
    let (text, exposed) = read_file(path, MAX_CONFIG)?;
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let mut config = parse(&text, &path.display().to_string(), directory)?;
    if let Some(mode) = exposed.filter(|_| holds_secrets(&text)) {
        config.warnings.insert(0, exposed_warning("the file", mode));
    }
    Ok(LoadedConfig { config, path: Some(path.to_owned()) })
}

/// Reads the configuration from standard input (`--config -`).
///
/// # Errors
/// It cannot be read, or has a mistake.
pub fn load_stdin() -> Result<LoadedConfig, ConfigFileError> {
    let path = Path::new("standard input");
    let text = read_limited(io::stdin().lock(), path, MAX_CONFIG, 0)?;
    Ok(LoadedConfig { config: parse(&text, "standard input", Path::new(""))?, path: None })
}

/// Takes the configuration out of the environment variable `name` (`--config-env`). To be called before the first
/// thread is started.
///
/// # Errors
/// The variable is not set, or its value has a mistake.
pub fn load_variable(name: &str) -> Result<LoadedConfig, ConfigFileError> {
    let missing = || ConfigFileError::NoVariable { name: name.to_owned() };
    let text = Zeroizing::new(take_variable(name).ok_or_else(missing)?.into_encoded_bytes());
    Ok(LoadedConfig { config: parse(&text, &format!("${name}"), Path::new(""))?, path: None })
}

/// Reads a file in the stricter format of `wg setconf`; `-` is standard input.
///
/// # Errors
/// It cannot be read, or has a mistake.
pub fn load_setconf(path: &Path) -> Result<Config, ConfigFileError> {
    let (text, name) = read_argument(path)?;
    Config::parse_setconf(&*text, &name).map_err(ConfigFileError::Parse)
}

/// What a file for `syncconf` turned out to be.
#[derive(Debug)]
pub enum SyncConfig {
    /// In the format of `wg setconf`: it tells of the device only.
    Device(Config),
    /// A `wg-quick(8)` file: it tells of addresses and routes too.
    Whole(Config),
}

/// Reads a file for `syncconf`: what `wg-quick strip` prints, or the file itself; `-` is standard input.
///
/// # Errors
/// It cannot be read, or has a mistake.
pub fn load_syncconf(path: &Path) -> Result<SyncConfig, ConfigFileError> {
    let (text, name) = read_argument(path)?;
    match Config::parse_setconf(&*text, &name) {
        Ok(config) => Ok(SyncConfig::Device(config)),
        Err(ConfigError { problem: Problem::UnknownKey { hint: KeyHint::QuickOnly, .. }, .. }) => {
            let directory = path.parent().unwrap_or_else(|| Path::new(""));
            parse(&text, &name, directory).map(SyncConfig::Whole)
        }
        Err(error) => Err(ConfigFileError::Parse(error)),
    }
}

/// The text of a file or of standard input, and what it is called.
fn read_argument(path: &Path) -> Result<(Zeroizing<Vec<u8>>, String), ConfigFileError> {
    if path == Path::new("-") {
        let name = "standard input".to_owned();
        return Ok((read_limited(io::stdin().lock(), Path::new(&name), MAX_CONFIG, 0)?, name));
    }
    Ok((read_file(path, MAX_CONFIG)?.0, path.display().to_string()))
}

/// Reads the text of a key file: what `wg set … private-key FILE` names. Empty if the file is.
///
/// # Errors
/// It cannot be read.
pub fn read_key_text(path: &Path) -> Result<Zeroizing<String>, ConfigFileError> {
    // `/dev/null` stands for "no key".
    if path == Path::new("/dev/null") {
        return Ok(Zeroizing::default());
    }
    key_text(&read_file(path, MAX_KEY_FILE)?.0, path)
}

fn key_text(bytes: &[u8], path: &Path) -> Result<Zeroizing<String>, ConfigFileError> {
    match str::from_utf8(bytes) {
        Ok(text) => Ok(Zeroizing::new(text.trim().to_owned())),
        Err(_) => {
            let error = KeyError::Alphabet { encoding: "base64", expected: 44 };
            Err(ConfigFileError::Key { path: path.to_owned(), error })
        }
    }
}

fn parse(text: &[u8], name: &str, directory: &Path) -> Result<Config, ConfigFileError> {
    let mut config = Config::parse(text, name).map_err(ConfigFileError::Parse)?;
    let mut warnings = Vec::new();
    if let Some(path) = &config.interface.private_key_file {
        let (text, path) = read_named_key(directory, path, &mut warnings)?;
        let key = PrivateKey::parse_base64(&text).map_err(|error| ConfigFileError::Key { path, error })?;
        config.interface.private_key = Some(key);
    }
    for peer in &mut config.peers {
        if let Some(path) = &peer.preshared_key_file {
            let (text, path) = read_named_key(directory, path, &mut warnings)?;
            let key =
                PresharedKey::parse_base64(&text).map_err(|error| ConfigFileError::Key { path, error })?;
            peer.preshared_key = Some(key);
        }
    }
    config.warnings.extend(warnings);
    Ok(config)
}

/// The key in a file that a configuration names, and the file's path for errors.
fn read_named_key(
    directory: &Path,
    path: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<(Zeroizing<String>, PathBuf), ConfigFileError> {
    let path = directory.join(path);
    let (bytes, exposed) = read_file(&path, MAX_KEY_FILE)?;
    if let Some(mode) = exposed {
        warnings.push(exposed_warning(&format!("`{}`", path.display()), mode));
    }
    Ok((key_text(&bytes, &path)?, path))
}

/// The contents, and the permission bits if others than the owner may read them.
fn read_file(path: &Path, limit: u64) -> Result<(Zeroizing<Vec<u8>>, Option<u32>), ConfigFileError> {
    let cannot_open = |source| ConfigFileError::Open { path: path.to_owned(), source };
    // Before it is opened: opening a device may already do something.
    check_kind(&std::fs::metadata(path).map_err(cannot_open)?, path)?;
    let file = File::open(path).map_err(cannot_open)?;
    let metadata = file.metadata().map_err(cannot_open)?;
    check_kind(&metadata, path)?;
    let exposed = Some(metadata.mode() & 0o7777).filter(|mode| metadata.is_file() && mode & 0o044 != 0);
    Ok((read_limited(file, path, limit, metadata.len())?, exposed))
}

fn check_kind(metadata: &std::fs::Metadata, path: &Path) -> Result<(), ConfigFileError> {
    let kind = metadata.file_type();
    let what = if kind.is_file() || kind.is_fifo() {
        return Ok(());
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(ConfigFileError::Unfit { path: path.to_owned(), what })
}

fn read_limited(
    source: impl Read,
    path: &Path,
    limit: u64,
    expected: u64,
) -> Result<Zeroizing<Vec<u8>>, ConfigFileError> {
    // A pipe does not tell its length; room for the whole limit keeps the vector from growing and leaving copies.
    let capacity = if expected == 0 { limit + 1 } else { expected.min(limit) + 1 };
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(capacity).unwrap_or(usize::MAX)));
    let read = source.take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| ConfigFileError::Read { path: path.to_owned(), source })?;
    if bytes.len() as u64 > limit {
        return Err(ConfigFileError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Whether the text itself has keys in it that must stay secret.
fn holds_secrets(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n').any(|line| {
        let line = line.trim_ascii_start().to_ascii_lowercase();
        [b"privatekey".as_slice(), b"presharedkey"]
            .iter()
            .any(|key| line.strip_prefix(*key).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"=")))
    })
}

impl Failure for ConfigFileError {
    fn class(&self) -> FailureClass {
        FailureClass::Config
    }
}

fn exposed_warning(what: &str, mode: u32) -> Warning {
    let text = format!("{what} can be read by others (mode {mode:04o}); `chmod 600` it");
    Warning { line: None, text, exposes_key: true }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

    fn write(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn config() -> String {
        format!("[Interface]\nPrivateKey = {PRIVATE}\n")
    }

    #[test]
    fn a_file_is_read_and_its_stem_is_the_tunnels_name() {
        let scratch = tempfile::tempdir().unwrap();
        let loaded = load(&write(scratch.path(), "home.conf", &config(), 0o600)).unwrap();
        assert_eq!(loaded.stem(), Some("home"));
        assert_eq!(loaded.config.warnings, []);
    }

    #[test]
    fn a_secret_that_others_can_read_is_warned_of() {
        let scratch = tempfile::tempdir().unwrap();
        let path = write(scratch.path(), "wg0.conf", &config(), 0o644);
        assert_eq!(
            load(&path).unwrap().config.warning_lines().collect::<Vec<_>>(),
            [format!("`{}`: the file can be read by others (mode 0644); `chmod 600` it", path.display())]
        );
        write(scratch.path(), "key", PRIVATE, 0o600);
        let path = write(scratch.path(), "wg1.conf", "[Interface]\nPrivateKeyFile = key\n", 0o644);
        assert_eq!(load(&path).unwrap().config.warnings, []);
    }

    #[test]
    fn key_files_lie_beside_the_configuration() {
        let scratch = tempfile::tempdir().unwrap();
        let text = "[Interface]\nPrivateKeyFile = key\n";
        let path = write(scratch.path(), "wg0.conf", text, 0o600);
        let key = write(scratch.path(), "key", &format!("{PRIVATE}\n"), 0o640);
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.config.interface.private_key, Some(PrivateKey::parse_base64(PRIVATE).unwrap()));
        assert_eq!(
            loaded.config.warnings[0].text,
            format!("`{}` can be read by others (mode 0640); `chmod 600` it", key.display())
        );
        fs::write(&key, "short").unwrap();
        assert_eq!(
            load(&path).unwrap_err().to_string(),
            format!("`{}`: expected 32 bytes in base64 (44 characters), found 5 characters", key.display())
        );
        fs::remove_file(&key).unwrap();
        let error = load(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot open `{}`", key.display()));
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "No such file or directory (os error 2)"
        );
    }

    #[test]
    fn what_is_not_a_file_or_a_pipe_is_refused_before_it_is_read() {
        let error = |path: &str| load(Path::new(path)).unwrap_err().to_string();
        assert_eq!(error("/dev/zero"), "`/dev/zero` is a device, not a file or a pipe");
        assert_eq!(error("/"), "`/` is a directory, not a file or a pipe");
        assert_eq!(error("/nosuch.conf"), "cannot open `/nosuch.conf`");
    }

    #[test]
    fn a_file_of_ten_gigabytes_costs_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("huge.conf");
        File::create(&path).unwrap().set_len(10 << 30).unwrap();
        assert_eq!(
            load(&path).unwrap_err().to_string(),
            format!("`{}` is larger than 1024 KiB", path.display())
        );
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, config())
        });
        assert!(load(&path).unwrap().config.interface.private_key.is_some());
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn a_name_is_sought_in_order_and_cannot_lead_elsewhere() {
        let scratch = tempfile::tempdir().unwrap();
        let [user, system] = ["user", "system"].map(|name| scratch.path().join(name));
        let sought = |name: &str| find_in(name, [user.clone(), system.clone()].into_iter());
        fs::create_dir(&user).unwrap();
        fs::create_dir(&system).unwrap();
        assert_eq!(
            sought("home").unwrap_err().to_string(),
            format!(
                "no configuration `home`: `{}` and `{}` are not there",
                user.join("home.conf").display(),
                system.join("home.conf").display()
            )
        );
        let system_file = write(&system, "home.conf", "", 0o600);
        assert_eq!(sought("home").unwrap(), system_file);
        let user_file = write(&user, "home.conf", "", 0o600);
        assert_eq!(sought("home").unwrap(), user_file);
        assert_eq!(
            sought("../home").unwrap_err().to_string(),
            "`../home` is not the name of a configuration"
        );
    }

    #[test]
    fn the_path_of_a_file_that_is_there_is_told_and_that_of_a_directory_is_not() {
        // Tests run in the package's directory.
        let advice = |name: &str| find_in(name, std::iter::empty()).unwrap_err().hint();
        for name in ["Cargo.toml", ".gitignore"] {
            assert_eq!(advice(name).unwrap(), format!("`./{name}` is there: names with a `/` are paths"));
        }
        for name in ["src", ".", "", "nosuch"] {
            assert_eq!(advice(name), None, "{name}");
        }
    }

    #[test]
    fn a_directory_that_is_closed_to_us_is_not_blamed_for_a_name_that_was_mistyped() {
        let [user, system] = ["/home/u/x.conf", "/etc/wireguard/x.conf"].map(PathBuf::from);
        let error = |missing: &[&PathBuf], closed: &[&PathBuf]| {
            let [missing, closed] = [missing, closed].map(|paths| paths.iter().copied().cloned().collect());
            ConfigFileError::NotFound { name: "x".into(), missing, closed }.to_string()
        };
        assert_eq!(
            error(&[&user], &[&system]),
            "no configuration `x`: `/home/u/x.conf` is not there, and `/etc/wireguard/x.conf` may not be looked at"
        );
        assert_eq!(
            error(&[], &[&system]),
            "no configuration `x`: `/etc/wireguard/x.conf` may not be looked at"
        );
    }

    #[test]
    fn syncconf_takes_both_formats() {
        let scratch = tempfile::tempdir().unwrap();
        let stripped = write(scratch.path(), "stripped", &config(), 0o600);
        assert!(matches!(load_syncconf(&stripped), Ok(SyncConfig::Device(_))));
        let whole = write(scratch.path(), "whole", &(config() + "Address = 10.0.0.1/24\n"), 0o600);
        let Ok(SyncConfig::Whole(loaded)) = load_syncconf(&whole) else { panic!("it has an address") };
        assert_eq!(loaded.interface.addresses.len(), 1);
        let wrong = write(scratch.path(), "wrong", &(config() + "Adress = 10.0.0.1/24\n"), 0o600);
        let expected = format!("`{}`:3: `Adress` is not a key of `[Interface]`", wrong.display());
        assert_eq!(load_syncconf(&wrong).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_parse_error_names_the_file_as_it_was_given() {
        let scratch = tempfile::tempdir().unwrap();
        let path = write(scratch.path(), "wg0.conf", "[Interfce]\n", 0o600);
        let error = load(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("`{}`:1: `[Interfce]` is not a section", path.display()));
        assert_eq!(error.hint().unwrap(), "did you mean `[Interface]`?");
    }
}
