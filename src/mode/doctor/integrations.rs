//! What can be used on this machine, judged by what was seen. (wiring)

use serde::Serialize;

use super::Check;
use crate::sys::sandbox::has_net_admin;

/// One way to use wg4netns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Integration {
    /// What it is called.
    pub name: &'static str,
    /// Whether it works here, in this version.
    pub works: bool,
    /// The command that uses it, or why it does not work.
    pub how: String,
}

/// All of them.
pub(super) fn all(checks: &[Check]) -> Vec<Integration> {
    let is_ok = |id: &str| checks.iter().any(|check| check.id == id && check.is_ok());
    let seen = |id: &str| checks.iter().find(|check| check.id == id).map_or("", |check| check.seen.as_str());
    judge(&Seen {
        namespaces: is_ok("user-namespace") && is_ok("network-namespace"),
        tunnel: is_ok("tun-interface"),
        podman: podman_version(seen("podman")),
        rootlesskit: seen("rootlesskit").starts_with("rootlesskit version"),
        net_admin: has_net_admin(),
        tun_device: is_ok("tun-device"),
    })
}

/// What the table hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    namespaces: bool,
    tunnel: bool,
    tun_device: bool,
    podman: Option<(u32, u32)>,
    /// It is there, and with it rootless Docker and nerdctl may be.
    rootlesskit: bool,
    net_admin: bool,
}

fn judge(seen: &Seen) -> Vec<Integration> {
    let row = |name, works: Result<&str, &str>| {
        let (works, how) = works.map_or_else(|why| (false, why), |how| (true, how));
        Integration { name, works, how: how.into() }
    };
    let needs =
        |condition: bool, why: &'static str, how: &'static str| if condition { Ok(how) } else { Err(why) };
    let no_tunnel = "needs a TUN interface in a user and network namespace: see above";
    let containers = match seen.podman {
        _ if !seen.tunnel => Err(no_tunnel),
        None => Err("podman is not installed"),
        Some(_) => Ok("podman run -d --network none --name NAME IMAGE, then \
             wg4netns --netns-pid \"$(podman inspect -f '{{.State.Pid}}' NAME)\" --config wg0.conf"),
    };
    let mut rows = vec![
        row("run", needs(seen.tunnel, no_tunnel, "wg4netns run --config wg0.conf -- COMMAND")),
        row("demo", needs(seen.tunnel && seen.tun_device, "its peer needs `/dev/net/tun`", "wg4netns demo")),
        row("attach", needs(seen.tunnel, no_tunnel, "wg4netns --netns-pid PID --config wg0.conf")),
        row("podman --network none", containers),
        row(
            "wg-quick",
            needs(
                seen.net_admin && seen.tun_device,
                "needs root, because wg-quick changes the host's own network",
                "sudo WG_QUICK_USERSPACE_IMPLEMENTATION=wg4netns wg-quick up wg0",
            ),
        ),
    ];
    // pasta is podman's default from 5.0 and exists from 4.4; slirp4netns is gone in 6.
    let pasta = needs(
        seen.tunnel,
        no_tunnel,
        "wg4netns drop-ins install, then podman run --network pasta:--wg-config,NAME IMAGE",
    );
    let slirp4netns = needs(
        seen.tunnel,
        no_tunnel,
        "wg4netns drop-ins install, then WG4NETNS_CONFIG=NAME podman run --network slirp4netns IMAGE",
    );
    match seen.podman {
        Some((4, ..4)) => rows.push(row("podman --network slirp4netns", slirp4netns)),
        Some((4 | 5, _)) => {
            rows.push(row("podman --network pasta", pasta));
            rows.push(row("podman --network slirp4netns", slirp4netns));
        }
        Some((6.., _)) => rows.push(row("podman --network pasta", pasta)),
        Some(_) | None => {}
    }
    // These are listed in any case: what is missing is said.
    let since = |oldest: (u32, u32), old: &'static str, how: &'static str| match seen.podman {
        _ if !seen.tunnel => Err(no_tunnel),
        None => Err("podman is not installed"),
        Some(version) if version < oldest => Err(old),
        Some(_) => Ok(how),
    };
    let hook = "wg4netns oci-hook --print-definition > DIR/wg4netns.json, then \
         podman --hooks-dir DIR run --network none --annotation dev.wg4netns.config=NAME IMAGE";
    let device = "wg4netns cdi generate -c NAME -n NAME | sudo tee /etc/cdi/wg4netns.json, then \
         podman run --network none --device wg4netns.dev/tunnel=NAME IMAGE";
    rows.push(row("podman, by an OCI hook", since((4, 3), "needs podman 4.3", hook)));
    rows.push(row("podman, by a CDI device", since((4, 3), "needs podman 4.3", device)));
    let quadlet = "wg4netns quadlet NAME --image IMAGE > ~/.config/containers/systemd/NAME.container";
    rows.push(row("systemd (quadlet)", since((4, 6), "needs podman 4.6", quadlet)));
    let rootlesskit = match (seen.tunnel, seen.rootlesskit) {
        (false, _) => Err(no_tunnel),
        (true, false) => Err("rootlesskit is not installed"),
        (true, true) => Ok("wg4netns drop-ins install --config NAME prints the environment that it needs"),
    };
    rows.push(row("rootlesskit, rootless Docker and nerdctl", rootlesskit));
    rows
}

/// `podman version 4.3.1` → (4, 3).
fn podman_version(text: &str) -> Option<(u32, u32)> {
    let version = text.strip_prefix("podman version ")?;
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Seen = Seen {
        namespaces: true,
        tunnel: true,
        tun_device: true,
        podman: Some((5, 4)),
        rootlesskit: true,
        net_admin: true,
    };
    const OTHERS: [&str; 4] = [
        "podman, by an OCI hook",
        "podman, by a CDI device",
        "systemd (quadlet)",
        "rootlesskit, rootless Docker and nerdctl",
    ];

    fn works(seen: &Seen) -> Vec<&'static str> {
        judge(seen).into_iter().filter(|row| row.works).map(|row| row.name).collect()
    }

    #[test]
    fn nothing_rootless_works_without_a_tunnel() {
        let pasta = "podman --network pasta";
        let slirp4netns = "podman --network slirp4netns";
        let first = ["run", "demo", "attach", "podman --network none", "wg-quick", pasta, slirp4netns];
        assert_eq!(works(&ALL), [first.as_slice(), &OTHERS].concat());
        assert_eq!(works(&Seen { tunnel: false, ..ALL }), ["wg-quick"]);
        let bare = Seen { podman: None, rootlesskit: false, net_admin: false, ..ALL };
        assert_eq!(works(&bare), ["run", "demo", "attach"]);
    }

    #[test]
    fn the_drop_ins_named_are_those_that_this_podman_calls() {
        let names = |version| {
            let rows = judge(&Seen { podman: version, ..ALL });
            let names = rows.into_iter().skip(5).map(|row| row.name);
            names.filter(|name| !OTHERS.contains(name)).collect::<Vec<_>>()
        };
        assert_eq!(names(podman_version("podman version 4.3.1")), ["podman --network slirp4netns"]);
        assert_eq!(names(Some((5, 0))), ["podman --network pasta", "podman --network slirp4netns"]);
        assert_eq!(names(podman_version("podman version 6.0.0-rc1")), ["podman --network pasta"]);
        assert_eq!(podman_version("not installed"), None);
    }

    #[test]
    fn an_old_podman_is_told_what_it_is_too_old_for() {
        let rows = judge(&Seen { podman: Some((4, 3)), rootlesskit: false, ..ALL });
        let others: Vec<_> = rows.iter().filter(|row| OTHERS.contains(&row.name)).collect();
        assert_eq!(others.iter().map(|row| row.works).collect::<Vec<_>>(), [true, true, false, false]);
        assert_eq!(others[2].how, "needs podman 4.6");
        assert_eq!(others[3].how, "rootlesskit is not installed");
    }
}
