//! `genkey`, `genpsk`, `pubkey`. (cli)

use std::io::{self, Read};
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use zeroize::Zeroizing;

use super::super::{print_out, report};
use super::WgCommandError;
use crate::crypto::{Entropy, SystemEntropy};
use crate::key::{KEY_LEN, PresharedKey, PrivateKey};

/// A key and a line feed, and some room for blanks.
const MAX_INPUT: u64 = 4096;

/// `genkey`.
pub(super) fn genkey() -> u8 {
    warn_if_exposed();
    print_key(&PrivateKey::from_bytes(*random_key()).to_base64())
}

/// `genpsk`.
pub(super) fn genpsk() -> u8 {
    warn_if_exposed();
    print_key(&PresharedKey::from_bytes(*random_key()).to_base64())
}

/// `pubkey`.
pub(super) fn pubkey() -> Result<u8, WgCommandError> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text).map_err(WgCommandError::Input)?;
    let key = PrivateKey::parse_base64(text.trim())
        .map_err(|error| WgCommandError::Key { place: "standard input".to_owned(), error })?;
    Ok(print_key(&key.public_key().to_base64()))
}

fn random_key() -> Zeroizing<[u8; KEY_LEN]> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    SystemEntropy::new().fill(bytes.as_mut_slice());
    bytes
}

fn print_key(text: &str) -> u8 {
    print_out(Zeroizing::new(format!("{text}\n")).as_bytes())
}

/// A secret that goes to a file which anyone can read is not secret for long.
fn warn_if_exposed() {
    let exposed = fstat(io::stdout().as_fd()).is_ok_and(|stat| {
        stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() && stat.st_mode & 0o007 != 0
    });
    if exposed {
        report::print_lines(
            "warning: the key goes to a file that others can read",
            Some("set `umask 077` first"),
        );
    }
}
