//! pasta's port specifications: the values of `-t` and `-u`. (wiring)
//!
//! `[ADDRESS[%INTERFACE]/]PORTS[:PORTS][,…]`, where PORTS is a port or a range: the host's ports, then those inside if
//! they differ. podman writes one range a flag, `127.0.0.1/8080-8080:80-80`.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::engine::EngineCallError;
use crate::config::publish::{PublishedPort, Transport};

/// The form in words.
const WANTED: &str = "expected `[ADDRESS/]PORT[-PORT][:PORT[-PORT]]` or `none`";

/// Reads one specification; none for `none`.
///
/// # Errors
/// It is none, or asks for ports that nobody can tell in advance.
pub(super) fn parse(
    flag: &'static str,
    value: &OsStr,
    transport: Transport,
) -> Result<Vec<PublishedPort>, EngineCallError> {
    let text = value.to_string_lossy();
    let wrong = || EngineCallError::Value { flag, value: text.clone().into_owned(), wanted: WANTED };
    let unsupported = |why| EngineCallError::Unsupported { flag: format!("`{flag} {text}`"), why };
    match &*text {
        // rootlesskit's port driver `implicit` asks for `auto`.
        "none" => return Ok(Vec::new()),
        "auto" => return Err(unsupported("which ports programs inside listen on is not watched; name them")),
        "all" => return Err(unsupported("every port of the host would be taken; name the ports")),
        _named => {}
    }
    let mut ports = Vec::new();
    let (host, list) = match text.split_once('/') {
        None => (None, &*text),
        Some((address, _)) if address.contains('%') => {
            return Err(unsupported("ports are bound to addresses, not to interfaces"));
        }
        Some((address, list)) => {
            let address = address.trim_start_matches('[').trim_end_matches(']');
            (Some(address.parse::<IpAddr>().map_err(|_not_an_address| wrong())?), list)
        }
    };
    for item in list.split(',') {
        if item.starts_with('~') {
            return Err(unsupported("name the ports instead of those that are left out"));
        }
        let (outside, inside) = item.split_once(':').unwrap_or((item, item));
        let (outside, inside) = (range(outside).ok_or_else(wrong)?, range(inside).ok_or_else(wrong)?);
        if outside.end() - outside.start() != inside.end() - inside.start() {
            return Err(wrong());
        }
        ports.extend(outside.zip(inside).filter_map(|(outside, inside)| {
            Some(PublishedPort {
                transport,
                // An unspecified address is every one of its family, which is not the same as none.
                host,
                host_port: Some(NonZeroU16::new(outside)?),
                inside: None,
                inside_port: NonZeroU16::new(inside)?,
            })
        }));
    }
    Ok(ports)
}

/// `80` or `80-90`; port 0 is none.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<String> {
        let ports = parse("-t", OsStr::new(text), Transport::Tcp).unwrap();
        ports.iter().map(ToString::to_string).collect()
    }

    fn refused(text: &str) -> String {
        parse("-u", OsStr::new(text), Transport::Udp).unwrap_err().to_string()
    }

    #[test]
    fn what_podman_writes_is_understood() {
        assert_eq!(ports("18080-18080:80-80"), ["80/tcp -> *:18080"]);
        assert_eq!(
            ports("127.0.0.1/8080-8081:80-81"),
            ["80/tcp -> 127.0.0.1:8080", "81/tcp -> 127.0.0.1:8081"]
        );
        assert_eq!(ports("::1/8080-8080:80-80"), ["80/tcp -> [::1]:8080"]);
        assert_eq!(ports("none"), [""; 0]);
    }

    #[test]
    fn the_rest_of_the_grammar_is_pastas() {
        assert_eq!(ports("22"), ["22/tcp -> *:22"]);
        assert_eq!(ports("[::1]/22,80:8080"), ["22/tcp -> [::1]:22", "8080/tcp -> [::1]:80"]);
        assert_eq!(ports("65534-65535"), ["65534/tcp -> *:65534", "65535/tcp -> *:65535"]);
    }

    #[test]
    fn what_cannot_be_told_in_advance_is_refused() {
        assert!(refused("auto").starts_with("`-u auto` cannot be had with a tunnel"), "{}", refused("auto"));
        assert!(refused("all").ends_with(": every port of the host would be taken; name the ports"));
        assert!(refused("~80").contains("left out"));
        assert!(refused("%eth0/80").contains("interfaces"));
    }

    #[test]
    fn nonsense_is_named_with_its_flag() {
        for text in ["", "0", "x", "80-79", "80:1-2", "1.2.3/80", "80,", "70000", "80:"] {
            assert_eq!(refused(text), format!("`-u {text}`: {WANTED}"), "{text}");
        }
    }
}
