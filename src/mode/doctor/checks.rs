//! What is tried, in the order in which one thing needs the other. (wiring)

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use nix::unistd::{User, getgid, getuid};

use super::probe::{HeldNamespace, Probe, Refusal, find_program, run, run_program};
use super::remedy::{Guards, for_refusal, for_tun_device};
use super::{Check, Outcome};
use crate::driver::instance::runtime_dir;
use crate::sys::os_error::OsError;
use crate::sys::tun::TUN_PATH;
use crate::sys::udp::UdpSocket;

/// What a socket's receive buffer should be: the data path asks for it.
const WANTED_BUFFER: usize = 4 << 20;

/// All of them.
pub(super) fn all() -> Vec<Check> {
    let guards = Guards::here();
    vec![
        probed("user-namespace", "make a user namespace", Probe::User, &guards),
        probed("network-namespace", "make a network namespace", Probe::Network, &guards),
        tun_device(),
        probed("tun-interface", "make a TUN interface in it", Probe::Tun, &guards),
        overlay(&guards),
        udp(&guards),
        socket_buffers(),
        runtime_directory(),
        sub_ids(),
        version("podman", "podman"),
        version("crun", "crun"),
        version("rootlesskit", "rootlesskit"),
    ]
}

/// What every tunnel needs: refused means none.
fn probed(id: &'static str, tried: &str, probe: Probe, guards: &Guards) -> Check {
    match run(probe) {
        Ok(seen) => Check::ok(id, tried, seen),
        Err(refusal) => Check::failure(id, tried, refusal.to_string(), for_refusal(&refusal, guards)),
    }
}

/// Without it there is a veth pair instead, unless the check of the interface says otherwise.
fn tun_device() -> Check {
    let (id, tried) = ("tun-device", "open `/dev/net/tun`");
    let opened = std::fs::File::options().read(true).write(true).open(TUN_PATH);
    match (opened, std::fs::metadata(TUN_PATH)) {
        (Ok(_), Ok(node)) if node.file_type().is_char_device() => {
            Check::ok(id, tried, format!("opens (mode {:04o})", node.mode() & 0o7777))
        }
        (Ok(_), _) => Check::failure(
            id,
            tried,
            "it is not a device",
            "sudo rm /dev/net/tun && sudo mknod -m 666 /dev/net/tun c 10 200",
        ),
        (Err(error), node) => {
            let mode = node.map(|node| format!(" (mode {:04o})", node.mode() & 0o7777)).unwrap_or_default();
            let seen = format!("{error}{mode}");
            Check::warning(id, tried, seen, for_tun_device(Some(OsError::from(error))))
        }
    }
}

/// Without it `run` mounts the rest of `/etc` piece by piece.
fn overlay(guards: &Guards) -> Check {
    let (id, tried) = ("overlay", "replace files of `/etc` for one command");
    match run(Probe::Overlay) {
        Ok(seen) => Check::ok(id, tried, seen),
        Err(refusal) => Check::warning(id, tried, refusal.to_string(), for_refusal(&refusal, guards)),
    }
}

fn udp(guards: &Guards) -> Check {
    let (id, tried) = ("udp-offload", "send a run of datagrams over loopback");
    match run(Probe::Udp) {
        Ok(seen) if seen.contains("both ways") => Check::ok(id, tried, seen),
        Ok(seen) => Check::warning(id, tried, seen, "Linux 5.0 or later has segmentation offload both ways"),
        Err(refusal) => Check::warning(id, tried, refusal.to_string(), for_refusal(&refusal, guards)),
    }
}

fn socket_buffers() -> Check {
    let (id, tried) = ("socket-buffers", "ask for 4 MiB of receive buffer");
    match UdpSocket::bind(0).and_then(|socket| socket.receive_buffer()) {
        Ok(got) if got >= WANTED_BUFFER => Check::ok(id, tried, format!("got {} KiB", got >> 10)),
        Ok(got) => Check::warning(
            id,
            tried,
            format!("got {} KiB: bursts above 1 Gbit/s will lose datagrams", got >> 10),
            "sudo sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304",
        ),
        Err(error) => Check::failure(id, tried, error.to_string(), "`ulimit -n` must allow a socket"),
    }
}

fn runtime_directory() -> Check {
    let (id, tried) = ("runtime-directory", "make the directory of the sockets");
    match runtime_dir(None) {
        Ok(directory) => Check::ok(id, tried, format!("`{}`", directory.path().display())),
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let mend = "`export XDG_RUNTIME_DIR=DIR`, a directory of yours that nobody else can write";
            Check::failure(id, tried, format!("{error}{cause}"), mend)
        }
    }
}

/// Only container engines need them: `run` maps one user.
fn sub_ids() -> Check {
    let (id, tried) = ("sub-ids", "map subordinate users with newuidmap");
    if getuid().is_root() {
        return Check::ok(id, tried, "root needs none");
    }
    match try_sub_ids() {
        Ok(seen) => Check::ok(id, tried, seen),
        Err((seen, mend)) => Check::warning(id, tried, seen, mend),
    }
}

fn try_sub_ids() -> Result<String, (String, String)> {
    let user = User::from_uid(getuid()).ok().flatten().map_or_else(|| getuid().to_string(), |user| user.name);
    let mend_ranges = format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}");
    for program in ["newuidmap", "newgidmap"] {
        if find_program(program).is_none() {
            let mend = "sudo apt-get install uidmap (Fedora: shadow-utils)";
            return Err((format!("no `{program}` in $PATH"), mend.into()));
        }
    }
    let range = |file: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        find_range(&text, &user, getuid().as_raw())
            .ok_or_else(|| (format!("`{file}` has no range for {user}"), mend_ranges.clone()))
    };
    let (users, groups) = (range("/etc/subuid")?, range("/etc/subgid")?);
    let held = HeldNamespace::new()
        .map_err(|refusal: Refusal| (refusal.to_string(), "see `user-namespace` above".into()))?;
    let maps = [("newuidmap", getuid().as_raw(), users), ("newgidmap", getgid().as_raw(), groups)];
    for (program, own, (start, count)) in maps {
        let arguments = [held.pid(), 0, own, 1, 1, start, count].map(|number| number.to_string());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output =
            run_program(program, &arguments).map_err(|error| (error.to_string(), mend_ranges.clone()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let mend = format!("sudo chmod u+s \"$(command -v {program})\"");
            return Err((format!("{program}: {}", said.trim()), mend));
        }
    }
    Ok(format!("{} users and {} groups mapped", users.1, groups.1))
}

/// The first range of a user in `/etc/subuid` or `/etc/subgid`, as (start, count). (subuid(5))
fn find_range(text: &str, user: &str, uid: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (owner == user || owner == uid.to_string()).then_some(range)
    })
}

fn version(id: &'static str, program: &'static str) -> Check {
    let tried = format!("run `{program} --version`");
    let absent =
        |seen: &str| Check { id, tried: tried.clone(), seen: seen.into(), outcome: Outcome::Ok, mend: None };
    if find_program(program).is_none() {
        return absent("not installed; only containers need it");
    }
    match run_program(program, &["--version"]) {
        Ok(output) if output.status.success() => {
            absent(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim())
        }
        Ok(output) => Check::warning(
            id,
            &tried,
            format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()),
            format!("`{program} --version` must work by itself first"),
        ),
        Err(error) => Check::warning(
            id,
            &tried,
            error.to_string(),
            format!("`{program} --version` must work by itself first"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_of_a_user_is_found_by_name_or_number() {
        let text = "root:1:1\nalice:100000:65536\nalice:900000:1\n1002:165536:65536\nbroken\n";
        assert_eq!(find_range(text, "alice", 1001), Some((100_000, 65_536)));
        assert_eq!(find_range(text, "bob", 1002), Some((165_536, 65_536)));
        assert_eq!(find_range(text, "carol", 1003), None);
    }
}
