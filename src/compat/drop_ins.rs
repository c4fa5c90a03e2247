//! `drop-ins install|remove`: engines are told to call us in place of pasta and slirp4netns. (wiring)
//!
//! # Theory of operation
//! Engines find their helpers by name in a list of directories, the first one wins. So the faces are copies of this
//! program in a directory of their own, and one file in `containers.conf.d` puts that directory before the others. Copies,
//! not links: an engine passes over a link that leads nowhere, and a container whose tunnel is a default of the engine
//! would have the host's network as soon as this program were moved or built anew. A later list replaces an earlier one,
//! so ours repeats what is in force without it: no other helper is hidden. podman before 4.6 takes slirp4netns from a
//! setting of its own instead; its builds look on PATH alone, which no file can change, so that is said.
//!
//! A configuration for containers that choose none is a variable in the engine's environment, set by the same file: it
//! goes with the file.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Value;

use super::engine::CONFIG_VARIABLE;
use crate::driver::config_file::ConfigFileError;
use crate::driver::failure::{Failure, FailureClass};
use crate::driver::instance::is_system_root;
use crate::mode::request::ConfigSource;

/// The names that engines call.
const FACES: [&str; 2] = ["pasta", "slirp4netns"];
/// The one file; letters sort behind the numbers that others begin with, and the last one wins.
const FILE: &str = "wg4netns.conf";
/// How it begins, so that it is known again.
const MARK: &str = "# Written by `wg4netns drop-ins install`; `wg4netns drop-ins remove` removes it.\n";
/// Where engines look for helpers if nobody says.
const HELPER_DIRECTORIES: [&str; 4] =
    ["/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"];
/// Where the settings of the distribution and of the machine are; each overrides the one before.
const SYSTEM_SETTINGS: [&str; 2] = ["/usr/share/containers", "/etc/containers"];

/// Why the drop-ins could not be installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum DropInsError {
    /// Nobody knows where this user's files are.
    #[error("no home directory: neither HOME nor XDG_CONFIG_HOME and XDG_DATA_HOME are set")]
    NoHome,
    /// Nobody knows where this program is.
    #[error("cannot find this program's own path")]
    Program(#[source] io::Error),
    /// The path would end the string that it is written as.
    #[error("`{}` cannot be written into a settings file", path.display())]
    Unwritable {
        /// Which path.
        path: PathBuf,
    },
    /// The configuration is not one.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// It is somebody else's.
    #[error("`{}` is there and was not written by `wg4netns drop-ins install`", path.display())]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// Settings that engines read cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Engines would not start with it either.
    #[error("cannot understand `{}`", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// Something could not be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something could not be removed.
    #[error("cannot remove `{}`", path.display())]
    Remove {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Failure for DropInsError {
    fn class(&self) -> FailureClass {
        match self {
            Self::Config(_) | Self::Malformed { .. } => FailureClass::Config,
            Self::Foreign { .. } => FailureClass::InUse,
            Self::NoHome
            | Self::Program(_)
            | Self::Unwritable { .. }
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Remove { .. } => FailureClass::General,
        }
    }
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Directories with a `containers.conf` and a `containers.conf.d`; the file is written into the last one.
    settings: Vec<PathBuf>,
    /// Where the faces are.
    libexec: PathBuf,
}

impl Places {
    /// The machine's for root, else the user's.
    ///
    /// # Errors
    /// [`DropInsError::NoHome`].
    pub fn of_this_user() -> Result<Self, DropInsError> {
        Self::choose(is_system_root(), |name| std::env::var_os(name)).ok_or(DropInsError::NoHome)
    }

    fn choose(root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let mut settings: Vec<_> = SYSTEM_SETTINGS.iter().map(PathBuf::from).collect();
        if root {
            return Some(Self { settings, libexec: "/usr/local/libexec/wg4netns".into() });
        }
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let directory = |name, below| absolute(name).or_else(|| Some(absolute("HOME")?.join(below)));
        settings.push(directory("XDG_CONFIG_HOME", ".config")?.join("containers"));
        let libexec = directory("XDG_DATA_HOME", ".local/share")?.join("wg4netns/libexec");
        Some(Self { settings, libexec })
    }

    fn file(&self) -> PathBuf {
        let last = self.settings.last().expect("the list begins with the system's directories");
        last.join("containers.conf.d").join(FILE)
    }

    fn face(&self, name: &str) -> PathBuf {
        self.libexec.join(name)
    }
}

/// Writes the file and the faces; what to say about it.
///
/// # Errors
/// See [`DropInsError`].
pub fn install(places: &Places, program: &Path, config: Option<&str>) -> Result<String, DropInsError> {
    let config = config.map(check_config).transpose()?;
    let file = places.file();
    refuse_foreign(&file)?;
    let in_force = Settings::in_force(places)?;
    let text = file_text(places, &in_force, config.as_deref())?;
    make_directory(&places.libexec)?;
    copy_faces(places, program)?;
    make_directory(file.parent().unwrap_or(&file))?;
    write_whole(&file, &text)?;
    Ok(advice(places, &file, config.as_deref()))
}

/// Removes what [`install`] has written; what to say about it.
///
/// # Errors
/// See [`DropInsError`].
pub fn remove(places: &Places) -> Result<String, DropInsError> {
    let file = places.file();
    refuse_foreign(&file)?;
    let mut text = String::new();
    let faces = FACES.iter().map(|name| places.face(name));
    for path in std::iter::once(file).chain(faces) {
        if remove_if_there(&path)? {
            writeln!(text, "removed {}", path.display()).expect("a string takes everything");
        }
    }
    // Not empty, or never made: neither is ours to change.
    std::fs::remove_dir(&places.libexec).ok();
    if text.is_empty() {
        text.push_str("the drop-ins are not installed\n");
    }
    Ok(text)
}

/// The configuration as engines are to name it: it must be there and right, from whatever directory they are started.
fn check_config(value: &str) -> Result<String, DropInsError> {
    let source = ConfigSource::from_flag(value);
    drop(source.load()?);
    Ok(match source {
        ConfigSource::Path(path) => {
            let path = std::path::absolute(&path)
                .map_err(|source| DropInsError::Read { path: path.clone(), source })?;
            path.to_str().ok_or_else(|| DropInsError::Unwritable { path: path.clone() })?.to_owned()
        }
        ConfigSource::Name(name) => name,
        ConfigSource::Stdin | ConfigSource::Variable(_) | ConfigSource::Private(_) => {
            return Err(DropInsError::Unwritable { path: value.into() });
        }
    })
}

fn refuse_foreign(file: &Path) -> Result<(), DropInsError> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.starts_with(MARK) => Ok(()),
        Ok(_) => Err(DropInsError::Foreign { path: file.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DropInsError::Read { path: file.into(), source }),
    }
}

fn file_text(places: &Places, in_force: &Settings, config: Option<&str>) -> Result<String, DropInsError> {
    let text_of = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(DropInsError::Unwritable { path: path.into() }),
    };
    let libexec = text_of(&places.libexec)?;
    let slirp4netns = text_of(&places.face("slirp4netns"))?;
    let mut directories = vec![libexec.clone()];
    match &in_force.helper_binaries_dir {
        Some(others) => directories.extend(others.iter().filter(|other| **other != libexec).cloned()),
        None => directories.extend(HELPER_DIRECTORIES.map(ToOwned::to_owned)),
    }
    let mut text = String::from(MARK);
    text.push_str("[engine]\n");
    text.push_str("# Ours first; then those that are in force without this file.\n");
    push_line(&mut text, "helper_binaries_dir", &directories)?;
    text.push_str("# For podman before 4.6.\n");
    push_line(&mut text, "network_cmd_path", &slirp4netns)?;
    if let Some(config) = config {
        let prefix = format!("{CONFIG_VARIABLE}=");
        let others = in_force.env.iter().flatten().filter(|other| !other.starts_with(&prefix));
        let env: Vec<_> = others.cloned().chain([format!("{prefix}{config}")]).collect();
        text.push_str(
            "# For containers that choose no configuration; the caller's environment overrides it.\n",
        );
        push_line(&mut text, "env", &env)?;
    }
    Ok(text)
}

/// A setting, in the notation that TOML and JSON have in common.
fn push_line(text: &mut String, key: &str, value: &impl serde::Serialize) -> Result<(), DropInsError> {
    let json = serde_json::to_string(value).expect("strings can be written as JSON");
    if json.contains('\x7f') {
        return Err(DropInsError::Unwritable { path: json.into() });
    }
    writeln!(text, "{key} = {json}").expect("a string takes everything");
    Ok(())
}

fn advice(places: &Places, file: &Path, config: Option<&str>) -> String {
    let libexec = places.libexec.display();
    let variable = config.map(|config| format!(" {CONFIG_VARIABLE}={config}")).unwrap_or_default();
    let chosen = match config {
        Some(config) => format!("every container uses `{config}` unless it chooses another\n"),
        None => "no container uses a tunnel unless it chooses one\n".to_owned(),
    };
    format!(
        "wrote {file} and {libexec}, a copy of this program to be made anew after an upgrade: {chosen}\
         podman     podman run --network pasta:--wg-config,NAME …   (before 5: WG4NETNS_CONFIG=NAME podman run …)\n\
         builds     podman build before 5, and buildah then, only with {CONFIG_VARIABLE}=NAME and \
         PATH={libexec}:$PATH: else on the host's network\n\
         rootlesskit{variable} rootlesskit --net=slirp4netns --slirp4netns-binary={libexec}/slirp4netns …\n\
         Docker    {variable} DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns \
         DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS=--slirp4netns-binary={libexec}/slirp4netns\n\
         nerdctl   {variable} CONTAINERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns \
         CONTAINERD_ROOTLESS_ROOTLESSKIT_FLAGS=--slirp4netns-binary={libexec}/slirp4netns\n",
        file = file.display(),
    )
}

/// What engines have been told, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    helper_binaries_dir: Option<Vec<String>>,
    env: Option<Vec<String>>,
}

/// A `containers.conf`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SettingsFile {
    engine: EngineSettings,
}

/// Its table for the engine. An item of a list may be a table of attributes: `{append = true}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EngineSettings {
    helper_binaries_dir: Option<Vec<Value>>,
    env: Option<Vec<Value>>,
}

impl Settings {
    /// Without our own file, in the order in which engines read them.
    fn in_force(places: &Places) -> Result<Self, DropInsError> {
        let ours = places.file();
        let mut settings = Self::default();
        for directory in &places.settings {
            let mut files = vec![directory.join("containers.conf")];
            let mut more: Vec<_> = std::fs::read_dir(directory.join("containers.conf.d"))
                .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
                .unwrap_or_default();
            more.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            more.sort();
            files.extend(more);
            for file in files.iter().filter(|file| **file != ours) {
                settings.read(file)?;
            }
        }
        Ok(settings)
    }

    fn read(&mut self, file: &Path) -> Result<(), DropInsError> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(DropInsError::Read { path: file.into(), source }),
        };
        let settings: SettingsFile = toml::from_str(&text)
            .map_err(|source| DropInsError::Malformed { path: file.into(), source: Box::new(source) })?;
        overlay(&mut self.helper_binaries_dir, settings.engine.helper_binaries_dir);
        overlay(&mut self.env, settings.engine.env);
        Ok(())
    }
}

/// A later list replaces an earlier one, unless it says that it is to be appended.
fn overlay(list: &mut Option<Vec<String>>, later: Option<Vec<Value>>) {
    let Some(later) = later else { return };
    let appends = later.iter().any(|item| item.get("append").and_then(Value::as_bool) == Some(true));
    let items = later.iter().filter_map(Value::as_str).map(ToOwned::to_owned);
    match list {
        Some(list) if appends => list.extend(items),
        Some(_) | None => *list = Some(items.collect()),
    }
}

fn make_directory(path: &Path) -> Result<(), DropInsError> {
    std::fs::create_dir_all(path).map_err(|source| DropInsError::Write { path: path.into(), source })
}

/// A reader sees the old content or the new one.
fn write_whole(path: &Path, text: &str) -> Result<(), DropInsError> {
    put_whole(path, |temporary| std::fs::write(temporary, text))
}

fn put_whole(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), DropInsError> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = write(&temporary).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        std::fs::remove_file(&temporary).ok();
        DropInsError::Write { path: path.into(), source }
    })
}

/// One file of two names, where the file system can. Tunnels that run keep the program that they have.
fn copy_faces(places: &Places, program: &Path) -> Result<(), DropInsError> {
    let mut made: Option<PathBuf> = None;
    for face in FACES.map(|name| places.face(name)) {
        put_whole(&face, |temporary| {
            // Left behind by one that was killed.
            std::fs::remove_file(temporary).ok();
            if made.as_ref().is_some_and(|first| std::fs::hard_link(first, temporary).is_ok()) {
                return Ok(());
            }
            std::fs::copy(program, temporary)?;
            std::fs::set_permissions(temporary, PermissionsExt::from_mode(0o755))
        })?;
        made = Some(face);
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<bool, DropInsError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DropInsError::Remove { path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn scratch() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        let [etc, user, libexec] = ["etc", "user", "libexec"].map(|name| root.path().join(name));
        fs::create_dir_all(etc.join("containers.conf.d")).unwrap();
        (root, Places { settings: vec![etc, user], libexec })
    }

    fn program(root: &Path) -> PathBuf {
        let program = root.join("wg4netns");
        fs::write(&program, "older").unwrap();
        program
    }

    fn directories(places: &Places) -> Vec<String> {
        let file: SettingsFile = toml::from_str(&fs::read_to_string(places.file()).unwrap()).unwrap();
        let list = file.engine.helper_binaries_dir.unwrap();
        list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn one_file_is_written_and_removed_and_the_faces_with_it() {
        let (root, places) = scratch();
        let program = program(root.path());
        let said = install(&places, &program, None).unwrap();
        assert!(said.contains("no container uses a tunnel unless it chooses one"), "{said}");
        for name in FACES {
            let face = fs::symlink_metadata(places.face(name)).unwrap();
            assert!(face.is_file() && face.permissions().mode() & 0o777 == 0o755, "{face:?}");
        }
        let libexec = places.libexec.to_str().unwrap().to_owned();
        assert_eq!(directories(&places)[0], libexec);
        assert_eq!(directories(&places)[1..], HELPER_DIRECTORIES);
        assert!(fs::read_to_string(places.file()).unwrap().contains(&format!("\"{libexec}/slirp4netns\"")));
        // Once more changes nothing.
        let before = fs::read(places.file()).unwrap();
        fs::write(&program, "newer").unwrap();
        install(&places, &program, None).unwrap();
        assert_eq!(fs::read(places.file()).unwrap(), before);
        // But for the program; and without that the faces stay.
        fs::remove_file(&program).unwrap();
        let faces = FACES.map(|name| fs::read_to_string(places.face(name)).unwrap());
        assert_eq!(faces, ["newer", "newer"]);
        assert_eq!(fs::read_dir(&places.libexec).unwrap().count(), 2);
        let said = remove(&places).unwrap();
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(!places.file().exists() && !places.libexec.exists());
        assert_eq!(remove(&places).unwrap(), "the drop-ins are not installed\n");
        drop(root);
    }

    #[test]
    fn no_other_helper_is_hidden() {
        let (root, places) = scratch();
        fs::write(places.settings[0].join("containers.conf"), "[engine]\nhelper_binaries_dir = [\"/a\"]\n")
            .unwrap();
        fs::write(
            places.settings[0].join("containers.conf.d/10-b.conf"),
            "[engine]\nhelper_binaries_dir = [\"/b\", {append = true}]\nenv = [\"X=1\", \"WG4NETNS_CONFIG=old\"]\n",
        )
        .unwrap();
        fs::write(places.settings[0].join("containers.conf.d/notes.txt"), "not TOML").unwrap();
        install(&places, &program(root.path()), None).unwrap();
        assert_eq!(directories(&places)[1..], ["/a", "/b"]);
        let settings = Settings::in_force(&places).unwrap();
        let text = file_text(&places, &settings, Some("work")).unwrap();
        assert!(text.contains("env = [\"X=1\",\"WG4NETNS_CONFIG=work\"]"), "{text}");
    }

    #[test]
    fn a_file_of_somebody_else_stays() {
        let (_root, places) = scratch();
        fs::create_dir_all(places.file().parent().unwrap()).unwrap();
        fs::write(places.file(), "[engine]\n").unwrap();
        assert!(matches!(install(&places, Path::new("/x"), None), Err(DropInsError::Foreign { .. })));
        assert!(matches!(remove(&places), Err(DropInsError::Foreign { .. })));
        assert_eq!(fs::read_to_string(places.file()).unwrap(), "[engine]\n");
    }

    #[test]
    fn settings_that_no_engine_could_read_are_named() {
        let (_root, places) = scratch();
        let file = places.settings[0].join("containers.conf");
        fs::write(&file, "[engine\n").unwrap();
        let error = install(&places, Path::new("/x"), None).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot understand `{}`", file.display()));
        assert!(!places.file().exists() && !places.libexec.exists(), "nothing was written");
    }

    #[test]
    fn a_configuration_that_is_not_there_is_not_installed() {
        let (_root, places) = scratch();
        let error = install(&places, Path::new("/x"), Some("/nowhere/work.conf")).unwrap_err();
        assert!(matches!(error, DropInsError::Config(_)), "{error}");
        assert!(!places.file().exists());
    }

    #[test]
    fn root_of_the_machine_writes_for_the_machine() {
        let unset = |_: &str| None;
        let places = Places::choose(true, unset).unwrap();
        assert_eq!(places.file(), PathBuf::from("/etc/containers/containers.conf.d/wg4netns.conf"));
        assert_eq!(places.libexec, PathBuf::from("/usr/local/libexec/wg4netns"));
        assert_eq!(Places::choose(false, unset), None);
        let home = |name: &str| (name == "HOME").then(|| OsString::from("/home/u"));
        let places = Places::choose(false, home).unwrap();
        assert_eq!(
            places.file(),
            PathBuf::from("/home/u/.config/containers/containers.conf.d/wg4netns.conf")
        );
        assert_eq!(places.libexec, PathBuf::from("/home/u/.local/share/wg4netns/libexec"));
    }
}
