//! Which instances run, as their locks tell. (tasks)

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::{InstanceName, InstanceRecord, RuntimeDir, leads_to, remove_stale_socket};

/// A record is a few hundred bytes; a path in it may have 4096.
const MAX_RECORD: usize = 16 * 1024;

/// How often a record that is being written is read again.
const READ_RETRIES: usize = 3;

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: InstanceName,
    /// Absent while it starts up.
    pub record: Option<InstanceRecord>,
}

/// All instances that run, by name; leftovers of others are removed.
///
/// # Errors
/// The directory cannot be read.
pub fn list(directory: &RuntimeDir) -> io::Result<Vec<Instance>> {
    let mut instances = Vec::new();
    for entry in std::fs::read_dir(directory.path())? {
        let file_name = entry?.file_name();
        let stem = file_name.to_str().and_then(|name| name.strip_suffix(".lock"));
        // Other programs may keep other files here.
        let Some(Ok(name)) = stem.map(str::parse) else { continue };
        if let Some(instance) = find(directory, &name)? {
            instances.push(instance);
        }
    }
    instances.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(instances)
}

/// The instance of this name, if it runs; a leftover is removed.
///
/// # Errors
/// Its lock cannot be read.
pub fn find(directory: &RuntimeDir, name: &InstanceName) -> io::Result<Option<Instance>> {
    let path = directory.lock(name);
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Err((file, Errno::EWOULDBLOCK)) => {
            Ok(Some(Instance { name: name.clone(), record: read_record(&file) }))
        }
        Err((_, errno)) => Err(errno.into()),
        Ok(stale) => {
            if leads_to(&path, &stale) {
                // A socket that is not a leftover stays; it is not ours to judge here.
                remove_stale_socket(&directory.socket(name)).ok();
                std::fs::remove_file(&path)?;
            }
            Ok(None)
        }
    }
}

/// What a lock file holds, if it is whole.
pub(super) fn read_record(file: &File) -> Option<InstanceRecord> {
    let mut buffer = vec![0; MAX_RECORD];
    (0..READ_RETRIES).find_map(|_| {
        let length = file.read_at(&mut buffer, 0).ok()?;
        serde_json::from_slice(&buffer[..length]).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::super::tests::record;
    use super::super::{NameChoice, claim, runtime_dir};
    use super::*;

    #[test]
    fn the_list_holds_what_runs_and_removes_what_does_not() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = runtime_dir(Some(&scratch.path().join("run"))).unwrap();
        let start = |name: &str| claim(&directory, &NameChoice::Exactly(name.parse().unwrap())).unwrap();
        let second = start("b");
        let first = start("a");
        first.record(&record()).unwrap();
        std::fs::write(directory.path().join("gone.lock"), "{}").unwrap();
        drop(UnixListener::bind(directory.path().join("gone.sock")).unwrap());
        std::fs::write(directory.path().join("other"), "").unwrap();

        let seen = list(&directory).unwrap();
        assert_eq!(
            seen,
            [
                Instance { name: first.name().clone(), record: Some(record()) },
                Instance { name: second.name().clone(), record: None },
            ]
        );
        let mut left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.lock", "b.lock", "other"]);
    }

    #[test]
    fn a_second_record_replaces_a_longer_first() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = runtime_dir(Some(&scratch.path().join("run"))).unwrap();
        let guard = claim(&directory, &NameChoice::Exactly("wg0".parse().unwrap())).unwrap();
        let long = InstanceRecord { config: Some("x".repeat(3000)), ..record() };
        guard.record(&long).unwrap();
        guard.record(&record()).unwrap();
        assert_eq!(find(&directory, guard.name()).unwrap().unwrap().record, Some(record()));
    }
}
