//! Replays the committed fuzz corpus through the fuzz targets' own checks, without libFuzzer.
//!
//! To look for new inputs, see the head of `tests/fuzz/Cargo.toml`.

use std::fs;
use std::path::Path;

#[path = "fuzz/checks/coalesce.rs"]
pub(crate) mod coalesce;
#[path = "fuzz/checks/config.rs"]
mod config;
#[path = "fuzz/checks/datagram.rs"]
mod datagram;
#[path = "fuzz/checks/handshake.rs"]
mod handshake;
#[path = "fuzz/checks/replay.rs"]
mod replay;
#[path = "fuzz/checks/uapi.rs"]
mod uapi;
#[path = "fuzz/checks/vnet_split.rs"]
pub(crate) mod vnet_split;

#[test]
fn the_corpus_of_vnet_split_holds() {
    replay_corpus("vnet_split", vnet_split::check);
}

#[test]
fn the_corpus_of_coalesce_holds() {
    replay_corpus("coalesce", coalesce::check);
}

#[test]
fn the_corpus_of_uapi_holds() {
    replay_corpus("uapi", uapi::check);
}

#[test]
fn the_corpus_of_config_holds() {
    replay_corpus("config", config::check);
}

#[test]
fn the_corpus_of_datagram_holds() {
    replay_corpus("datagram", datagram::check);
}

#[test]
fn the_corpus_of_handshake_holds() {
    replay_corpus("handshake", handshake::check);
}

#[test]
fn the_corpus_of_replay_holds() {
    replay_corpus("replay", replay::check);
}

fn replay_corpus(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&folder).expect("each target has a committed corpus") {
        let path = entry.expect("the folder can be read").path();
        let input = fs::read(&path).expect("a corpus file can be read");
        if std::panic::catch_unwind(|| check(&input)).is_err() {
            panic!("`{}` fails the check of `{target}`", path.display());
        }
        inputs += 1;
    }
    assert!(inputs > 0, "`{}` is empty", folder.display());
}
