//! The pid file, the socket for ports, and the process that removes them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use wg4netns::driver::namespace_child::Helper;
use wg4netns::driver::pidfile::PidfileGuard;
use wg4netns::driver::port_socket::PortSocket;
use wg4netns::sys::sandbox::Policy;

#[test]
fn a_pid_file_is_removed_unless_somebody_took_it_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pid");
    let guard = write(&path);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), format!("{}\n", std::process::id()));
    drop(guard);
    assert!(!path.exists());

    let guard = write(&path);
    fs::write(directory.path().join("theirs"), "1\n").expect("a file");
    fs::rename(directory.path().join("theirs"), &path).expect("renamed");
    drop(guard);
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "1\n");
    assert_eq!(fs::read_dir(directory.path()).expect("ours").count(), 1, "no temporary file stays");
}

#[test]
fn a_directory_that_was_exchanged_is_not_followed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let (first, aside) = (scratch.path().join("a"), scratch.path().join("b"));
    fs::create_dir(&first).expect("a directory");
    let guard = write(&first.join("pid"));
    fs::rename(&first, &aside).expect("renamed");
    fs::create_dir(&first).expect("a directory");
    fs::hard_link(aside.join("pid"), first.join("pid")).expect("linked");
    drop(guard);
    assert!(first.join("pid").exists(), "the same file, at another place");
    assert!(!aside.join("pid").exists(), "the place where it was written");
}

#[test]
fn a_pid_file_in_a_directory_that_cannot_be_written_is_refused_by_its_name() {
    let missing = Path::new("/proc/nonexistent/pid");
    let error = PidfileGuard::write(missing, &helper()).expect_err("no directory");
    assert_eq!(error.to_string(), "cannot write our process id to `/proc/nonexistent/pid`");
}

/// A tunnel that was killed left its socket behind, and the container could not be started again.
#[test]
fn a_socket_for_ports_that_was_left_behind_makes_room_and_another_file_does_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("api.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let first = PortSocket::bind(&path, &helper()).expect("it makes room");
    let second = PortSocket::bind(&path, &helper()).expect("so does a new one");
    assert_eq!(second.missing_layers(), [], "the remover is confined");
    drop(first);
    assert!(path.exists(), "it is the second one's");
    drop(second);
    assert!(!path.exists());
    fs::write(&path, "kept").expect("a file");
    PortSocket::bind(&path, &helper()).expect_err("another file");
    assert_eq!(fs::read_to_string(&path).expect("it is there"), "kept");
}

fn write(path: &Path) -> PidfileGuard {
    let guard = PidfileGuard::write(path, &helper()).expect("a pid file");
    assert_eq!(guard.missing_layers(), [], "the remover is confined");
    guard
}

fn helper() -> Helper {
    Helper::at(env!("CARGO_BIN_EXE_wg4netns").into()).under(Policy::Require)
}
