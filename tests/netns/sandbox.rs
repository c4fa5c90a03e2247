//! Namespaces to work in, each held by a process that dies with its guard.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use wg4netns::driver::namespace_child::Helper;
use wg4netns::sys::clock::boot_nanos;

/// A namespace that some process holds.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// A user and a network namespace, us as root in it.
    pub(crate) fn new() -> Self {
        Self::unshare(&["-U", "-r", "-n"])
    }

    /// By the options of unshare(1).
    pub(crate) fn unshare(options: &[&str]) -> Self {
        let mut command = Command::new("unshare");
        command.args(options);
        Self::hold(command)
    }

    /// A user and a network namespace inside this one's user namespace.
    pub(crate) fn nested(&self, options: &[&str]) -> Self {
        let mut command = self.enter();
        command.arg("unshare").args(options);
        Self::hold(command)
    }

    fn hold(mut command: Command) -> Self {
        let mut holder = command
            .args(["sh", "-c", "echo here; exec sleep 600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare(1) is installed");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a pipe can be read");
        assert_eq!(line, "here\n", "cannot make a user namespace here");
        Self { holder }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Ends the process that holds it.
    pub(crate) fn kill(&mut self) {
        self.holder.kill().expect("the holder is our child");
        self.holder.wait().expect("the holder is our child");
    }

    /// A command that runs inside, as root there.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-n", "-t", &self.pid().to_string(), "--"]);
        command
    }

    /// What a command inside prints; it must succeed.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        let output = self.enter().args(command).output().expect("nsenter(1) is installed");
        assert!(
            output.status.success(),
            "{command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ended_already = self.holder.kill();
        let _reaped_already = self.holder.wait();
    }
}

/// The binary under test, as the namespace child.
pub(crate) fn helper() -> Helper {
    Helper::at(env!("CARGO_BIN_EXE_wg4netns").into())
}

/// Waits for a condition; says what was waited for if it does not come.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = boot_nanos() + 10_000_000_000;
    while !condition() {
        assert!(boot_nanos() < deadline, "waited 10 s for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
