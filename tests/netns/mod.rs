//! What touches namespaces, against the kernel: unprivileged, in namespaces made here, loopback only.

mod attach;
#[cfg(feature = "demo")]
mod calls;
#[cfg(feature = "demo")]
mod confined;
#[cfg(feature = "demo")]
mod demo_peer;
mod faults;
mod forward;
mod handover;
#[cfg(feature = "demo")]
mod keys;
mod lifetime;
#[cfg(feature = "demo")]
mod lock_down;
#[cfg(feature = "demo")]
mod locked_tunnel;
mod run;
mod sandbox;
mod terminal;

/// Whether a part of the machine must be there: then a test that lacks it fails instead of skipping.
pub(crate) fn is_required(what: &str) -> bool {
    std::env::var("WG4NETNS_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item == what))
}

/// For a test that cannot be done here: says so, and fails where the machine must have what is missing.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must see what was not tested")]
pub(crate) fn skip(what: &str, why: &str) {
    assert!(!is_required(what), "{what} is required here: {why}");
    eprintln!("skipped: {what}: {why}");
}
