//! Where the keys of a running tunnel are, and where they are not.

use std::fs;
use std::os::unix::fs::FileExt;

use super::locked_tunnel::{Tunnel, children, hex, occurrences};

#[test]
fn each_secret_key_is_in_memory_once_as_bytes_and_nowhere_as_text() {
    let mut tunnel = Tunnel::start(&["-vv", "-p127.0.0.1::80"]);
    tunnel.live();
    let log = tunnel.log();
    let secrets = [tunnel.secret("PrivateKey"), tunnel.secret("PresharedKey")];
    for (text, bytes) in &secrets {
        for secret in [text, &hex(bytes)] {
            assert!(!log.contains(secret.as_str()), "the log holds a key");
        }
    }
    if !nix::unistd::geteuid().is_root() {
        println!("skipped the search through memory: only root can read it");
        return;
    }
    let helpers = children(tunnel.pid());
    assert_eq!(helpers.len(), 3, "broker, factory, forwarder");
    for ((text, bytes), process) in secrets
        .iter()
        .flat_map(|key| helpers.iter().chain([&tunnel.pid()]).map(move |one| (key, *one)).collect::<Vec<_>>())
    {
        let memory = memory(process);
        let found =
            |needle: &[u8]| -> usize { memory.iter().map(|part| occurrences(&part.bytes, needle)).sum() };
        // One copy is the device's: every handshake needs it. What the AEAD has of it is nothing: it works with the keys
        // of sessions, which it keeps expanded, in the same kind of memory.
        let wanted = usize::from(process == tunnel.pid());
        assert_eq!(
            (found(bytes), found(text.as_bytes()), found(hex(bytes).as_bytes())),
            (wanted, 0, 0),
            "copies as bytes, as base64, as hex"
        );
        for part in memory.iter().filter(|part| occurrences(&part.bytes, bytes) != 0) {
            for flag in ["lo", "dd", "wf"] {
                assert!(part.flags.split_whitespace().any(|one| one == flag), "not {flag}: {}", part.flags);
            }
        }
    }
}

#[test]
fn where_nothing_can_be_locked_into_memory_a_tunnel_says_so_and_runs() {
    if nix::unistd::geteuid().is_root() {
        println!("skipped: the limit does not hold for root");
        return;
    }
    let mut tunnel = Tunnel::start_by(&["prlimit", "--memlock=0"], &[]);
    tunnel.live();
    let said = "keys are not locked into memory and may be swapped out";
    assert_eq!(occurrences(tunnel.log().as_bytes(), said.as_bytes()), 1, "{}", tunnel.log());
}

/// A mapping of a process that may hold secrets.
struct Memory {
    bytes: Vec<u8>,
    /// What the kernel does with it, in two letters each.
    flags: String,
}

/// All memory of a process that can be written, and read by root.
fn memory(process: u32) -> Vec<Memory> {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).expect("we are root");
    let memory = fs::File::open(format!("/proc/{process}/mem")).expect("we are root");
    let mut image: Vec<Memory> = Vec::new();
    let mut current = None;
    let end = |text| u64::from_str_radix(text, 16).ok();
    for line in maps.lines() {
        let (first, rest) = line.split_once(' ').expect("several words");
        if let Some((Some(from), Some(to))) = first.split_once('-').map(|(from, to)| (end(from), end(to))) {
            let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
            let read = rest.starts_with("rw") && memory.read_exact_at(&mut bytes, from).is_ok();
            current = read.then_some(bytes);
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            image.extend(current.take().map(|bytes| Memory { bytes, flags: flags.to_owned() }));
        }
    }
    let size: usize = image.iter().map(|part| part.bytes.len()).sum();
    assert!(size > 1 << 18, "{size} bytes of memory");
    image
}
