//! `run` on a terminal, under an interactive shell, as people use it: by the keys they press.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::faults::CONFIG;

#[test]
fn interrupting_the_command_does_not_end_us_before_it() {
    let mut shell = Shell::new();
    shell.enter("$RUN sh -c 'trap \"echo stopped by hand; exit 9\" INT; echo rea\"\"dy; while :; do sleep 0.05; done'");
    shell.expect("ready");
    shell.press(CONTROL_C);
    shell.expect("stopped by hand");
    shell.enter("echo status $?.");
    shell.expect("status 9.");
}

#[test]
fn stopping_the_command_gives_the_shell_its_terminal_back() {
    let mut shell = Shell::new();
    shell.enter("$RUN sh -c 'echo rea\"\"dy; read line; echo \"read: $line\"; exit 4'");
    shell.expect("ready");
    shell.press(CONTROL_Z);
    shell.expect("Stopped");
    // What is typed while the terminal changes hands may be lost.
    shell.expect(PROMPT);
    shell.enter("echo shell \"is\" here");
    shell.expect("shell is here");
    shell.enter("fg");
    shell.expect("$RUN sh");
    shell.enter("from the terminal");
    shell.expect("read: from the terminal");
    shell.enter("echo status $?.");
    shell.expect("status 4.");
}

#[test]
fn a_command_that_ignores_being_stopped_is_not_left_without_us() {
    let mut shell = Shell::new();
    shell.enter("$RUN sh -c 'trap \"\" TSTP; echo rea\"\"dy; read line; echo \"read: $line\"; exit 3'");
    shell.expect("ready");
    shell.press(CONTROL_Z);
    shell.expect("^Z");
    shell.enter("from the terminal");
    shell.expect("read: from the terminal");
    shell.expect(PROMPT);
    shell.enter("echo status $?.");
    shell.expect("status 3.");
}

#[test]
fn a_shell_inside_has_jobs_of_its_own() {
    let mut shell = Shell::new();
    shell.enter("$RUN bash --norc --noediting -i");
    shell.enter("echo in\"\"side $(ls /proc/sys/net/ipv4/conf | tr '\\n' .)");
    shell.expect("inside all.default.lo.wg0.");
    shell.enter("sh -c 'echo jo\"\"b; exec sleep 60'");
    shell.expect("job");
    shell.press(CONTROL_Z);
    shell.expect("Stopped");
    shell.enter("");
    // A stopped job is not waited for.
    shell.enter("while [ \"$(jobs)\" ]; do kill -9 %1; sleep 0.05; done; echo job\"\"less");
    shell.expect("jobless");
    shell.enter("exit 5");
    shell.enter("echo status $?.");
    shell.expect("status 5.");
}

#[test]
fn the_command_sees_the_size_of_the_terminal_and_hears_of_another() {
    let mut shell = Shell::new();
    shell.enter("stty rows 33 cols 77; tty >\"$DIR/tty\"");
    shell.enter(
        "$RUN sh -c 'trap \"stty size; exit 8\" WINCH; stty size; echo rea\"\"dy; while :; do sleep 0.05; done'",
    );
    shell.expect("33 77");
    shell.expect("ready");
    let terminal = fs::read_to_string(shell.directory.path().join("tty")).expect("the shell has told");
    let resized = Command::new("stty").args(["-F", terminal.trim(), "rows", "44", "cols", "99"]).status();
    assert!(resized.expect("stty(1) is installed").success());
    shell.expect("44 99");
    shell.enter("echo status $?.");
    shell.expect("status 8.");
}

const PROMPT: &str = "ready for> ";
const CONTROL_C: u8 = 3;
const CONTROL_Z: u8 = 26;

/// An interactive shell on a terminal of its own.
struct Shell {
    script: Child,
    keys: ChildStdin,
    output: Receiver<Vec<u8>>,
    /// Printed and not yet expected.
    seen: String,
    directory: tempfile::TempDir,
}

impl Shell {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("far.conf");
        fs::write(&config, CONFIG).expect("a file");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("our file");
        let run = format!(
            "{} run --no-wait --uapi-dir {} --config {} --",
            env!("CARGO_BIN_EXE_wg4netns"),
            directory.path().display(),
            config.display()
        );
        let mut script = Command::new("script")
            .args(["-q", "-e", "-f", "-c", "bash --norc --noediting -i", "/dev/null"])
            .env("RUN", run)
            .env("DIR", directory.path())
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script(1) is installed");
        let keys = script.stdin.take().expect("a pipe");
        let mut screen = script.stdout.take().expect("a pipe");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = screen.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut shell = Self { script, keys, output, seen: String::new(), directory };
        shell.enter("PS1='ready for''> '");
        shell.expect(PROMPT);
        shell
    }

    fn press(&mut self, key: u8) {
        self.keys.write_all(&[key]).expect("the shell lives");
    }

    fn enter(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).expect("the shell lives");
    }

    fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            match self.output.recv_timeout(Duration::from_secs(10)) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("waited 10 s for {text:?}, saw {:?}", self.seen),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ended_already = self.script.kill();
        let _reaped_already = self.script.wait();
    }
}
