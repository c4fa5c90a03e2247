//! For tests of what only root of a namespace, or a failing system call, can bring about. (operating system)

use std::process::Command;

/// Tells the copy of a test that it is inside.
const INSIDE: &str = "WG4NETNS_TEST_INSIDE";

/// True inside the user and network namespace that `setup` prepared; outside, runs this very test, named with its
/// modules, in such a one.
pub(crate) fn inside_namespace(test: &str, setup: &str) -> bool {
    let wrapper = ["unshare", "-Urn", "sh", "-ec", &format!("{setup}\nexec \"$@\""), "sh"];
    inside(test, "netns", &["unshare", "-Urn", "true"], &wrapper)
}

/// True in a process whose system calls are made to fail as `fault` says; outside, runs this very test in one.
pub(crate) fn under_injection(test: &str, fault: &str) -> bool {
    let trace = fault.split(':').next().unwrap_or_default();
    let (trace, inject) = (format!("trace={trace}"), format!("inject={fault}"));
    let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    inside(test, "strace", &["strace", "-o", "/dev/null", "true"], &wrapper)
}

/// Runs ip(8), which must succeed.
pub(crate) fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
}

fn inside(test: &str, what: &str, probe: &[&str], wrapper: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let possible =
        Command::new(probe[0]).args(&probe[1..]).output().is_ok_and(|output| output.status.success());
    if !possible {
        let required = std::env::var("WG4NETNS_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|word| word == what), "`{}` does not work here", probe.join(" "));
        eprintln!("SKIPPED {test}: `{}` does not work here", probe.join(" "));
        return false;
    }
    let output = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "inside: {said}");
    false
}
