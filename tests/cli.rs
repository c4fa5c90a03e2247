//! The built program: what it prints, word for word, and what it exits with.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a run of the program left behind.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The program in an environment of which nothing is left to chance.
fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wg4netns"));
    command.args(arguments).env_clear();
    command
}

fn outcome(output: Output) -> Outcome {
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("the program prints UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("the program prints UTF-8"),
    }
}

fn run(arguments: &[&str]) -> Outcome {
    outcome(program(arguments).output().expect("the program can be started"))
}

fn fails(code: i32, stderr: &str) -> Outcome {
    Outcome { code: Some(code), stdout: String::new(), stderr: stderr.into() }
}

#[test]
fn a10_a_bad_interface_name_is_refused_with_the_rule() {
    let help = "hint: `wg4netns attach --help` lists what can be given\n";
    for (name, rule) in [
        ("sixteen-chars-xx", "an interface name has at most 15 characters"),
        ("a/b", "an interface name cannot contain '/'"),
        ("lo", "this interface name is reserved"),
        ("..", "this interface name is reserved"),
        ("a b", "an interface name cannot contain ' '"),
    ] {
        let seen = run(&["attach", "--netns-pid", "1", "--interface", name]);
        assert_eq!(seen, fails(2, &format!("wg4netns: `--interface {name}`: {rule}\n{help}")));
    }
    let seen = run(&["--netns-pid", "1", "--interface", ""]);
    assert_eq!(
        seen,
        fails(2, &format!("wg4netns: `--interface=`: an interface name cannot be empty\n{help}"))
    );
}

/// It ended by SIGSEGV amid its work, where address space is short (`ulimit -v`) and the stack could not become longer.
#[test]
fn the_stack_has_all_its_room_from_the_start() {
    let mut program = program(&["pubkey"]);
    let mut waits = program.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it can be started");
    let status = format!("/proc/{}/status", waits.id());
    let stack_kib = || -> Option<u32> {
        let status = fs::read_to_string(&status).expect("it waits for its input");
        let line = status.lines().find_map(|line| line.strip_prefix("VmStk:"))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    let mut looks = 0;
    while stack_kib().is_none_or(|kib| kib < 512) {
        looks += 1;
        assert!(looks < 5000, "{:?} KiB of stack", stack_kib());
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(waits.stdin.take());
    waits.wait().expect("it ends");
}

#[test]
fn what_is_asked_wrongly_exits_2_and_in_run_and_exec_125() {
    for (arguments, code, message, hint) in [
        (
            &["frobnicate", "x"][..],
            2,
            "there is no command `frobnicate`",
            "`wg4netns --help` lists what can be given",
        ),
        (&["statsu", "wg0"], 2, "there is no command `statsu`", "did you mean `status`?"),
        (
            &["attach"],
            2,
            "`--netns-pid PID|--netns PATH|--tun-fd FD` is missing",
            "`wg4netns attach --help` lists what can be given",
        ),
        (
            &["--netns-pid", "1", "--no-such-flag"],
            2,
            "there is no `--no-such-flag`",
            "`wg4netns attach --help` lists what can be given",
        ),
        (&["stop", "-x"], 2, "there is no `-x`", "`wg4netns stop --help` lists what can be given"),
        (
            &["run", "--no-such-flag", "--", "true"],
            125,
            "there is no `--no-such-flag`",
            "`wg4netns run --help` lists what can be given",
        ),
        (
            &["--quiet", "run", "--", "true"],
            125,
            "no configuration given",
            if cfg!(feature = "demo") {
                "give `--config wg0.conf`; without any server, try `wg4netns demo`"
            } else {
                "give `--config wg0.conf`"
            },
        ),
        (
            &["run", "true", "--config", "wg0.conf"],
            125,
            "no configuration given: `--config` behind the command is the command's own",
            "give `--config` before the command",
        ),
        (
            &["status", "wg0", "wg1"],
            2,
            "`wg1` is one argument too many",
            "`wg4netns status --help` lists what can be given",
        ),
        (&["exec"], 125, "`NAME` is missing", "`wg4netns exec --help` lists what can be given"),
    ] {
        let text = format!("wg4netns: {message}\nhint: {hint}\n");
        assert_eq!(run(arguments), fails(code, &text), "{arguments:?}");
    }
}

/// The word alone would be taken for an interface's name, and one would be made.
#[cfg(not(feature = "demo"))]
#[test]
fn a_build_without_the_demonstration_says_so() {
    for arguments in [&["demo"][..], &["demo", "--peer"]] {
        let line = "wg4netns: cannot show the demonstration: this wg4netns was built without it\n";
        let seen = run(arguments);
        assert_eq!((seen.code, seen.stdout.as_str()), (Some(1), ""));
        assert!(seen.stderr.starts_with(line), "{}", seen.stderr);
    }
}

#[test]
fn flags_that_make_no_sense_together_exit_2() {
    for (arguments, message) in [
        (&["--netns-pid", "1", "--userns", "/x"][..], "`--userns` needs `--netns PATH`"),
        (&["--netns-pid", "1", "--dns", "10.0.0.1"], "`--dns` needs `--write-resolv-conf FILE`"),
        (
            &["--netns-pid", "1", "--write-resolv-conf", "x", "--dns", "none", "--dns", "10.0.0.1"],
            "`--dns none` cannot be used with `--dns`: `none` stands alone",
        ),
    ] {
        assert_eq!(run(arguments), fails(2, &format!("wg4netns: {message}\n")), "{arguments:?}");
    }
}

#[test]
fn a_descriptor_that_was_not_passed_is_refused() {
    // Far above what a test runner has open, below any limit.
    let seen = run(&["--netns-pid", "1", "--ready-fd", "777"]);
    assert_eq!(seen, fails(2, "wg4netns: `--ready-fd 777`: Bad file descriptor (os error 9)\n"));
}

#[test]
fn one_descriptor_cannot_serve_two_flags() {
    let (_reader, writer) = std::io::pipe().unwrap();
    let writer = OwnedFd::from(writer);
    // The duplicate is not close-on-exec, so the program has it.
    let passed = nix::unistd::dup(&writer).unwrap();
    nix::fcntl::fcntl(&passed, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    let number = passed.as_raw_fd().to_string();
    let seen = run(&["--netns-pid", "1", "--ready-fd", &number, "--exit-fd", &number]);
    assert_eq!(seen, fails(2, "wg4netns: `--exit-fd` and `--ready-fd` are the same descriptor\n"));
}

#[test]
fn help_and_version_are_data_and_no_command_is_a_mistake() {
    let version = run(&["--version"]);
    assert_eq!((version.code, version.stderr.as_str()), (Some(0), ""));
    assert_eq!(version.stdout, format!("wg4netns {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["run", "--help"]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    assert!(help.stdout.contains("--config"), "{}", help.stdout);
    let nothing = run(&[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""));
    assert!(nothing.stderr.contains("Usage: wg4netns COMMAND"), "{}", nothing.stderr);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = program(&["completions", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn completions_and_manual_pages_come_from_the_table() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let seen = run(&["completions", shell]);
        assert_eq!((seen.code, seen.stderr.as_str()), (Some(0), ""));
        assert!(seen.stdout.contains("netns-pid"), "{shell}");
    }
    let page = run(&["man"]);
    assert!(page.stdout.contains(".TH wg4netns 1"), "{}", page.stdout);
    let scratch = tempfile::tempdir().unwrap();
    let seen = run(&["man", scratch.path().to_str().unwrap()]);
    assert_eq!(seen, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    for page in
        ["wg4netns.1", "wg4netns-run.1", "wg4netns-attach.1", "wg4netns-status.1", "wg4netns-doctor.1"]
    {
        let text = fs::read_to_string(scratch.path().join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[test]
fn where_nothing_runs_ls_is_empty_and_the_others_say_so() {
    let scratch = tempfile::tempdir().unwrap();
    let absent = scratch.path().join("absent");
    let directory = absent.to_str().unwrap();
    let ls = run(&["ls", "--uapi-dir", directory]);
    assert_eq!(ls.stdout, "NAME  PID  MODE  INTERFACE  TARGET  CONFIG\n");
    assert_eq!(run(&["ls", "--json", "--uapi-dir", directory]).stdout, "[]\n");
    let missing = "wg4netns: no tunnel named `wg0` is running\nhint: `wg4netns ls` lists those that run\n";
    assert_eq!(run(&["status", "wg0", "--uapi-dir", directory]), fails(1, missing));
    assert_eq!(run(&["stop", "wg0", "--uapi-dir", directory]), fails(1, missing));
    assert!(!absent.exists(), "looking makes nothing");
}

#[test]
fn a_directory_that_others_can_write_is_not_believed() {
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = scratch.path().to_str().unwrap();
    let seen = run(&["ls", "--uapi-dir", path]);
    assert_eq!(
        seen,
        fails(
            3,
            &format!(
                "wg4netns: the socket directory `{path}` can be written by others (mode 0777)\n\
                 hint: `chmod go-w {path}`, or choose another directory with `--uapi-dir`\n"
            )
        )
    );
}

#[test]
fn b11_leftovers_of_a_killed_tunnel_are_removed_by_looking() {
    let scratch = tempfile::tempdir().unwrap();
    let lock = scratch.path().join("wg0.lock");
    let socket = scratch.path().canonicalize().unwrap().join("wg0.sock");
    fs::write(&lock, "{}").unwrap();
    drop(UnixListener::bind(&socket).unwrap());
    let seen = run(&["ls", "--uapi-dir", scratch.path().to_str().unwrap()]);
    assert_eq!(seen.code, Some(0));
    assert!(!lock.exists() && !socket.exists());
}

/// A stand-in for a tunnel: holds the lock as one does, and ends on SIGTERM.
fn hold_lock(directory: &Path, name: &str) -> std::process::Child {
    let lock = directory.join(format!("{name}.lock"));
    // `flock` of util-linux runs the command while it holds the lock; -F lets the command be the process itself.
    let child = Command::new("flock")
        .args(["-F".as_ref(), lock.as_os_str(), "sleep".as_ref(), "60".as_ref()])
        .spawn()
        .expect("`flock` of util-linux is there");
    let stat = format!("/proc/{}/stat", child.id());
    wait_until("the stand-in to hold its lock", || {
        fs::read_to_string(&stat).is_ok_and(|stat| stat.contains("(sleep)"))
    });
    let stat = fs::read_to_string(&stat).expect("the stand-in lives");
    let starttime: u64 = stat
        .rsplit_once(')')
        .expect("the command is in parentheses")
        .1
        .split_whitespace()
        .nth(19)
        .expect("there are 52 fields")
        .parse()
        .expect("it is a number");
    let record = format!(
        r#"{{"pid":{},"starttime":{starttime},"mode":"attach","interface":"wg0","target":"tun","config":null,"version":"0"}}"#,
        child.id()
    );
    fs::write(&lock, record).expect("the lock can be written");
    child
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a test's deadline")]
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(5), "waited 5 s for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_tunnel_that_runs_is_listed_and_stop_ends_exactly_it() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().to_str().unwrap();
    let mut first = hold_lock(scratch.path(), "first");
    let mut second = hold_lock(scratch.path(), "second");
    let ls = run(&["ls", "--uapi-dir", directory]);
    let lines: Vec<Vec<&str>> = ls.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let pid = first.id().to_string();
    assert_eq!(lines[1], ["first", pid.as_str(), "attach", "wg0", "descriptor", "-"]);
    assert_eq!(lines.len(), 3);

    // The lock is free when its holder has ended; the zombie is reaped here.
    let stop = std::thread::scope(|scope| {
        let stop = scope.spawn(|| run(&["stop", "first", "--uapi-dir", directory]));
        let ended = first.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15));
        stop.join().unwrap()
    });
    assert_eq!(stop, Outcome { code: Some(0), stdout: String::new(), stderr: String::new() });
    assert!(!scratch.path().join("first.lock").exists());
    assert!(second.try_wait().unwrap().is_none(), "the other one lives");

    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn stop_does_not_signal_a_process_that_merely_has_the_number() {
    let scratch = tempfile::tempdir().unwrap();
    let mut holder = hold_lock(scratch.path(), "wg0");
    let lock = scratch.path().join("wg0.lock");
    let record = fs::read_to_string(&lock).unwrap();
    let starttime = record.split("\"starttime\":").nth(1).unwrap().split(',').next().unwrap();
    fs::write(&lock, record.replace(starttime, "1")).unwrap();
    let seen = run(&["stop", "wg0", "--uapi-dir", scratch.path().to_str().unwrap()]);
    assert_eq!(seen.code, Some(1), "{seen:?}");
    assert!(holder.try_wait().unwrap().is_none(), "it lives");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn status_of_a_tunnel_that_does_not_answer_names_the_socket() {
    let scratch = tempfile::tempdir().unwrap();
    let mut holder = hold_lock(scratch.path(), "wg0");
    let seen = run(&["status", "wg0", "--uapi-dir", scratch.path().to_str().unwrap()]);
    let socket = scratch.path().canonicalize().unwrap().join("wg0.sock");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(
        seen,
        fails(
            1,
            &format!(
                "wg4netns: cannot talk to `wg0`: cannot connect to `{}`: No such file or directory (os error 2)\n\
                 hint: no tunnel `wg0` is running; `wg4netns ls` lists those that are\n",
                socket.display()
            )
        )
    );
}

#[test]
fn status_asks_the_tunnel_and_exits_by_its_health() {
    use std::io::{Read, Write};
    let scratch = tempfile::tempdir().unwrap();
    let mut holder = hold_lock(scratch.path(), "wg0");
    let listener = UnixListener::bind(scratch.path().join("wg0.sock")).unwrap();
    let server = std::thread::spawn(move || {
        for age in [3, 200, 200] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 10];
            client.read_exact(&mut request).unwrap();
            assert_eq!(request, *b"report=1\n\n");
            let report = format!(
                r#"{{"name":"wg0","interface":"wg0","mtu":1420,"up":true,"link":"tun","listen_port":1,"uptime_secs":5,"healthy":true,"sandbox":[],"refused":[],"drops":{{}},"peers":[{{"public_key":"k","endpoint":"127.0.0.1:1","endpoint_name":null,"last_handshake_secs":{age},"handshake_ms":1.5,"tx_bytes":1,"rx_bytes":2,"reason":null}}]}}"#
            );
            write!(client, "report={report}\nerrno=0\n\n").unwrap();
        }
    });
    let directory = scratch.path().to_str().unwrap();
    let status = |extra: &[&str]| run(&[&["status", "wg0", "--uapi-dir", directory], extra].concat());
    let fresh = status(&[]);
    let stale = status(&["--json"]);
    let tolerated = status(&["--max-age", "5m"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    server.join().unwrap();
    assert_eq!((fresh.code, fresh.stdout.lines().next()), (Some(0), Some("wg0: healthy")), "{fresh:?}");
    assert_eq!(stale.code, Some(1), "{stale:?}");
    assert!(stale.stdout.contains("\"healthy\": false"), "{}", stale.stdout);
    assert_eq!(tolerated.code, Some(0), "{tolerated:?}");
}

#[test]
fn logs_without_a_log_say_where_it_would_be() {
    let scratch = tempfile::tempdir().unwrap();
    if Path::new("/run/systemd/journal/socket").exists() {
        eprintln!("skipped: this machine has a journal");
        return;
    }
    let state = scratch.path().to_str().unwrap();
    let seen = outcome(program(&["logs", "wg0"]).env("XDG_STATE_HOME", state).output().unwrap());
    let missing = format!(
        "wg4netns: cannot read the log `{state}/wg4netns/wg0.log`: No such file or directory (os error 2)\n\
         hint: only a tunnel in the background has a log; others write to standard error\n"
    );
    assert_eq!(seen, fails(1, &missing));
    fs::create_dir(scratch.path().join("wg4netns")).unwrap();
    fs::write(scratch.path().join("wg4netns/wg0.log"), "one\ntwo\n").unwrap();
    let seen = outcome(program(&["logs", "wg0"]).env("XDG_STATE_HOME", state).output().unwrap());
    assert_eq!(seen.stdout, "one\ntwo\n");
}

#[test]
fn check_accepts_a_configuration_and_places_a_mistake() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("wg0.conf");
    let name = path.to_str().unwrap();
    let write = |text: &str| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    let key = "PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
    write(&format!("[Interface]\n{key}\nPostUp = reboot\n"));
    let seen = run(&["check", name]);
    assert_eq!(seen.code, Some(0));
    assert!(seen.stderr.starts_with(&format!("wg4netns: warning: `{name}`:3: ")), "{seen:?}");
    assert!(!seen.stdout.contains("yAnz5TF"), "no secret is shown: {seen:?}");

    write(&format!("[Interface]\n{key}\n[Peer]\nPublicKey = short\n"));
    let wrong = "`PublicKey`: expected 32 bytes in base64 (44 characters), found 5 characters";
    assert_eq!(run(&["check", name]), fails(3, &format!("wg4netns: `{name}`:4: {wrong}\n")));

    let seen = run(&["check", "/proc/nonexistent/wg0.conf"]);
    let missing =
        "wg4netns: cannot open `/proc/nonexistent/wg0.conf`: No such file or directory (os error 2)\n";
    assert_eq!(seen, fails(3, missing));
}

/// `doctor` after `prepare` was done in a user namespace of its own; its lines, or why this cannot be tried here.
#[expect(clippy::print_stderr, reason = "a skip is loud")]
fn doctor_in_namespace(flags: &str, prepare: &str) -> Option<Outcome> {
    let script = format!("{prepare} && exec \"$0\" doctor");
    let output = Command::new("unshare")
        .args([flags, "sh", "-c", &script, env!("CARGO_BIN_EXE_wg4netns")])
        .env("XDG_RUNTIME_DIR", "/proc/nonexistent")
        .output()
        .expect("`unshare` of util-linux is there");
    let outcome = outcome(output);
    if outcome.stdout.is_empty() {
        let required = std::env::var("WG4NETNS_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == "netns"), "{}", outcome.stderr);
        eprintln!("skipped: {}", outcome.stderr.trim());
        return None;
    }
    Some(outcome)
}

#[test]
fn a14_doctor_names_the_limit_of_user_namespaces_and_what_raises_it() {
    let Some(seen) = doctor_in_namespace("-Ur", "echo 0 >/proc/sys/user/max_user_namespaces") else { return };
    assert_eq!(seen.code, Some(5), "{seen:?}");
    let wanted = "FAIL  make a user namespace: unshare(CLONE_NEWUSER): No space left on device (os error 28)\n      \
                  mend: sudo sysctl -w user.max_user_namespaces=15000\n";
    assert!(seen.stdout.starts_with(wanted), "{}", seen.stdout);
    assert!(seen.stdout.contains("no     run: needs a TUN interface"), "{}", seen.stdout);
}

#[test]
fn a15_doctor_names_a_tun_device_that_is_missing_and_what_works_instead() {
    let Some(seen) = doctor_in_namespace("-Urm", "mount -t tmpfs tmpfs /dev/net") else { return };
    // What else is amiss on this machine is not asked here.
    assert!(
        !seen.stdout.contains("FAIL  make a TUN") && !seen.stdout.contains("FAIL  open"),
        "{}",
        seen.stdout
    );
    let wanted = "no `/dev/net/tun` (No such file or directory (os error 2)); a veth pair works instead";
    assert!(seen.stdout.contains(wanted), "{}", seen.stdout);
}

#[test]
fn a15_doctor_sees_what_is_in_the_place_of_the_tun_device() {
    let prepare = "mount -t tmpfs tmpfs /dev/net && mkdir /dev/net/tun";
    let Some(seen) = doctor_in_namespace("-Urm", prepare) else { return };
    // What else is amiss on this machine is not asked here.
    assert!(
        !seen.stdout.contains("FAIL  make a TUN") && !seen.stdout.contains("FAIL  open"),
        "{}",
        seen.stdout
    );
    let wanted = "no `/dev/net/tun` (Is a directory (os error 21)); a veth pair works instead";
    assert!(seen.stdout.contains(wanted), "{}", seen.stdout);
}

#[test]
fn doctor_tries_everything_and_its_json_says_the_same() {
    let text = run(&["doctor"]);
    let document = run(&["doctor", "--json"]);
    assert_eq!(text.code, document.code);
    let document: serde_json::Value = serde_json::from_str(&document.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    assert_eq!(checks.len(), 12);
    for check in checks {
        let line = format!("{}: {}\n", check["tried"].as_str().unwrap(), check["seen"].as_str().unwrap());
        assert!(text.stdout.contains(&line), "{line} is not in {}", text.stdout);
        assert_eq!(check["outcome"] == "ok", check["mend"].is_null(), "{check}");
    }
    assert_eq!(document["healthy"], checks.iter().all(|check| check["outcome"] != "failure"));
    assert_eq!(text.code, Some(if document["healthy"] == true { 0 } else { 5 }));
}

#[test]
fn the_apparmor_profile_is_for_the_program_that_prints_it() {
    let seen = run(&["doctor", "--apparmor-profile"]);
    let line =
        format!("profile wg4netns {} flags=(unconfined) {{\n  userns,\n", env!("CARGO_BIN_EXE_wg4netns"));
    assert!(seen.stdout.contains(&line), "{seen:?}");
}

/// A configuration that is right, in a directory with a socket directory of ours beside it.
struct Site {
    scratch: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a scratch directory can be made");
        let config = scratch.path().join("wg0.conf");
        let text = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n";
        fs::write(&config, text).expect("the scratch directory is ours");
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("the file is ours");
        fs::create_dir(scratch.path().join("run")).expect("the scratch directory is ours");
        fs::set_permissions(scratch.path().join("run"), fs::Permissions::from_mode(0o700))
            .expect("it is ours");
        Self { scratch }
    }

    fn directory(&self) -> std::path::PathBuf {
        self.scratch.path().join("run").canonicalize().expect("it was made")
    }

    /// `attach` to a target that does not exist: name, socket and port must be judged before it is looked at.
    fn attach(&self, more: &[&str]) -> Outcome {
        let config = self.scratch.path().join("wg0.conf");
        let directory = self.directory();
        let arguments = [
            "--netns-pid",
            "5000000",
            "--config",
            config.to_str().expect("it is UTF-8"),
            "--uapi-dir",
            directory.to_str().expect("it is UTF-8"),
        ];
        let state = self.scratch.path().join("state");
        let mut command = program(&[&arguments, more].concat());
        outcome(command.env("XDG_STATE_HOME", state).output().expect("the program can be started"))
    }
}

const NO_TARGET: &str =
    "wg4netns: cannot create `wg0` in the network namespace of pid 5000000: no process with pid 5000000\n";

#[test]
fn a1_a_target_that_does_not_exist_exits_4_and_leaves_nothing() {
    let site = Site::new();
    assert_eq!(site.attach(&[]), fails(4, NO_TARGET));
    assert_eq!(site.attach(&["--background"]), fails(4, NO_TARGET), "the same from the background");
    assert_eq!(fs::read_dir(site.directory()).unwrap().count(), 0);
}

#[test]
fn b8_a_log_that_cannot_be_written_is_a_warning() {
    let site = Site::new();
    if Path::new("/run/systemd/journal/socket").exists() {
        eprintln!("skipped: this machine has a journal");
        return;
    }
    let state = site.scratch.path().join("state");
    fs::write(&state, "in the way").unwrap();
    let log = state.join("wg4netns/wg0.log");
    let warning = format!(
        "wg4netns: warning: cannot log to `{}`: Not a directory (os error 20); there will be no log\n",
        log.display()
    );
    assert_eq!(site.attach(&["--background"]), fails(4, &format!("{warning}{NO_TARGET}")));
}

#[test]
fn b10_a_name_that_is_taken_exits_6_within_100_ms_and_the_first_is_untouched() {
    let site = Site::new();
    let mut holder = hold_lock(&site.directory(), "wg0");
    let lock = site.directory().join("wg0.lock");
    let before = fs::read(&lock).unwrap();
    let taken = format!(
        "wg4netns: the name `wg0` is in use by process {}\n\
         hint: end it with `wg4netns stop wg0`, or choose another `--name`\n",
        holder.id()
    );
    let took = (0..10).map(|_| {
        #[expect(clippy::disallowed_methods, reason = "a test's stopwatch")]
        let begin = Instant::now();
        assert_eq!(site.attach(&["--name", "wg0"]), fails(6, &taken));
        begin.elapsed()
    });
    // Starting an unoptimised program is not what is limited, and a busy machine may stretch some.
    let quickest = took.min();
    assert!(quickest < Some(Duration::from_millis(500)), "{quickest:?}");
    assert_eq!(
        site.attach(&["--name", "wg0", "--background"]),
        fails(6, &taken),
        "the same from the background"
    );
    assert_eq!(site.attach(&[]), fails(4, NO_TARGET), "a default name counts on");
    assert_eq!(fs::read(&lock).unwrap(), before);
    assert!(holder.try_wait().unwrap().is_none(), "the first one lives");
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn b11_only_a_dead_socket_of_ours_is_replaced() {
    let site = Site::new();
    let socket = site.directory().join("wg0.sock");
    let refused = |what: &str, hint: &str| {
        let text = format!("wg4netns: cannot replace `{}`: {what}\nhint: {hint}\n", socket.display());
        assert_eq!(site.attach(&["--name", "wg0"]), fails(6, &text));
    };
    let other = "remove it, or choose another `--name`";
    fs::write(&socket, "precious").unwrap();
    refused("it is not a socket", other);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "precious");
    fs::remove_file(&socket).unwrap();

    std::os::unix::fs::symlink("/etc/hostname", &socket).unwrap();
    refused("it is not a socket", other);
    fs::remove_file(&socket).unwrap();

    fs::create_dir(&socket).unwrap();
    refused("it is not a socket", other);
    fs::remove_dir(&socket).unwrap();

    let alive = UnixListener::bind(&socket).unwrap();
    refused("another program answers on it", "choose another `--name`");
    drop(alive);
    assert_eq!(site.attach(&["--name", "wg0"]), fails(4, NO_TARGET), "now it is a leftover");
}

#[test]
fn a_port_that_is_taken_exits_6_before_the_target_is_looked_at() {
    let site = Site::new();
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = site.scratch.path().join("wg0.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}ListenPort = {port}\n")).unwrap();
    let said = format!(
        "wg4netns: cannot listen on UDP port {port}: Address already in use (os error 98)\n\
         hint: choose another `ListenPort`, or leave it out: the kernel then finds a free one\n"
    );
    assert_eq!(site.attach(&[]), fails(6, &said));
}
