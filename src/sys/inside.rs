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

/// As [`inside_namespace`], with TUN devices.
pub(crate) fn inside_namespace_with_tun(test: &str, setup: &str) -> bool {
    let wrapper = ["unshare", "-Urn", "sh", "-ec", &format!("{setup}\nexec \"$@\""), "sh"];
    inside(test, "tun", &["unshare", "-Urn", "sh", "-c", HAS_TUN], &wrapper)
}

/// True in a process whose system calls are made to fail as `fault` says; outside, runs this very test in one.
pub(crate) fn under_injection(test: &str, fault: &str) -> bool {
    let tracer = tracer(fault);
    inside(test, "strace", &["strace", "-o", "/dev/null", "true"], &tracer.each_ref().map(String::as_str))
}

/// As [`inside_namespace_with_tun`] and [`under_injection`] together.
pub(crate) fn inside_namespace_with_tun_under_injection(test: &str, setup: &str, fault: &str) -> bool {
    let (script, tracer) = (format!("{setup}\nexec \"$@\""), tracer(fault));
    let wrapper: Vec<&str> = ["unshare", "-Urn", "sh", "-ec", &script, "sh"]
        .into_iter()
        .chain(tracer.iter().map(String::as_str))
        .collect();
    inside(test, "strace", &["unshare", "-Urn", "strace", "-o", "/dev/null", "sh", "-c", HAS_TUN], &wrapper)
}

/// Fails where there is no TUN device.
const HAS_TUN: &str = "exec 3<>/dev/net/tun";

/// The call that `fault` names is counted in each thread for itself.
fn tracer(fault: &str) -> [String; 9] {
    let call = fault.split(':').next().unwrap_or_default();
    let (trace, inject) = (format!("trace={call}"), format!("inject={fault}"));
    ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject].map(str::to_owned)
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
