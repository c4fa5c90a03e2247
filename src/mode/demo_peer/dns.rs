//! One DNS question in, one answer out: the name of the demonstration, and nothing else exists. (no IO)
//!
//! Enough of RFC 1035 to answer every resolver: one question, class IN; EDNS options of the question are ignored,
//! which RFC 6891 allows a server that does not speak it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The one name that exists.
pub(crate) const NAME: &str = "demo.wg4netns";

/// Bytes of the fixed header.
const HEADER_LEN: usize = 12;

/// Seconds that an answer may be kept: the peer has new keys, and maybe other addresses, at its next start.
const TTL: u32 = 5;

/// Longest name on the wire (RFC 1035 §2.3.4).
const MAX_NAME_LEN: usize = 255;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

const RESPONSE: u8 = 0x80;
const AUTHORITATIVE: u8 = 0x04;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const OPCODE: u8 = 0x78;

/// Response codes (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Code {
    NoError = 0,
    FormatError = 1,
    NoSuchName = 3,
    NotImplemented = 4,
}

/// The addresses of [`NAME`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    /// The A record.
    pub v4: Ipv4Addr,
    /// The AAAA record.
    pub v6: Ipv6Addr,
}

/// Answers a query; `None` if it does not even have a header, or is itself an answer.
pub(crate) fn answer(query: &[u8], zone: Zone) -> Option<Vec<u8>> {
    let header = query.get(..HEADER_LEN)?;
    if header[2] & RESPONSE != 0 {
        return None;
    }
    if header[2] & OPCODE != 0 {
        return Some(reply(header, Code::NotImplemented, &[], &[]));
    }
    let Some((question, name, kind)) = parse_question(query) else {
        return Some(reply(header, Code::FormatError, &[], &[]));
    };
    if name != NAME {
        return Some(reply(header, Code::NoSuchName, question, &[]));
    }
    let mut records = Vec::new();
    if kind == TYPE_A || kind == TYPE_ANY {
        records.push(IpAddr::V4(zone.v4));
    }
    if kind == TYPE_AAAA || kind == TYPE_ANY {
        records.push(IpAddr::V6(zone.v6));
    }
    Some(reply(header, Code::NoError, question, &records))
}

/// The question's bytes, its name in lower case without the final dot, and its type.
fn parse_question(query: &[u8]) -> Option<(&[u8], String, u16)> {
    if query[4..6] != [0, 1] {
        return None;
    }
    let mut name = String::new();
    let mut at = HEADER_LEN;
    loop {
        let len = usize::from(*query.get(at)?);
        at += 1;
        if len == 0 {
            break;
        }
        // Also refuses compression: there is nothing before the first name that it could point to.
        if len > 63 || at + len - HEADER_LEN > MAX_NAME_LEN {
            return None;
        }
        let label = std::str::from_utf8(query.get(at..at + len)?).ok()?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&label.to_ascii_lowercase());
        at += len;
    }
    let fixed = query.get(at..at + 4)?;
    let (kind, class) = (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
    (class == CLASS_IN).then(|| (&query[HEADER_LEN..at + 4], name, kind))
}

fn reply(header: &[u8], code: Code, question: &[u8], records: &[IpAddr]) -> Vec<u8> {
    let flags = [
        RESPONSE | AUTHORITATIVE | header[2] & (OPCODE | RECURSION_DESIRED),
        RECURSION_AVAILABLE | code as u8,
    ];
    let questions = u8::from(!question.is_empty());
    let answers = u8::try_from(records.len()).expect("a name has at most two records here");
    let mut message = Vec::with_capacity(HEADER_LEN + question.len() + 28 * records.len());
    message.extend_from_slice(&header[..2]);
    message.extend_from_slice(&flags);
    message.extend_from_slice(&[0, questions, 0, answers, 0, 0, 0, 0]);
    message.extend_from_slice(question);
    for record in records {
        // 0xc00c: the name is the question's.
        message.extend_from_slice(&[0xc0, 0x0c]);
        let (kind, data) = match record {
            IpAddr::V4(address) => (TYPE_A, address.octets().to_vec()),
            IpAddr::V6(address) => (TYPE_AAAA, address.octets().to_vec()),
        };
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&TTL.to_be_bytes());
        let len = u16::try_from(data.len()).expect("an address has at most 16 bytes");
        message.extend_from_slice(&len.to_be_bytes());
        message.extend_from_slice(&data);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZONE: Zone =
        Zone { v4: Ipv4Addr::new(10, 77, 0, 1), v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1) };

    #[test]
    fn the_name_has_one_address_of_each_family() {
        let message = answer(&query("Demo.WG4netns", TYPE_A), ZONE).unwrap();
        assert_eq!((code(&message), message[7]), (Code::NoError as u8, 1));
        assert!(message.ends_with(&[0, 4, 10, 77, 0, 1]));
        let message = answer(&query("demo.wg4netns", TYPE_AAAA), ZONE).unwrap();
        assert_eq!((code(&message), message[7]), (Code::NoError as u8, 1));
        assert!(message.ends_with(&[&[0, 16][..], &ZONE.v6.octets()].concat()));
    }

    #[test]
    fn other_names_do_not_exist_and_other_types_are_empty() {
        assert_eq!(code(&answer(&query("example.com", TYPE_A), ZONE).unwrap()), Code::NoSuchName as u8);
        let message = answer(&query("demo.wg4netns", 15), ZONE).unwrap();
        assert_eq!((code(&message), message[7]), (Code::NoError as u8, 0));
    }

    #[test]
    fn the_answer_repeats_identifier_question_and_wish_for_recursion() {
        let query = query("demo.wg4netns", TYPE_A);
        let message = answer(&query, ZONE).unwrap();
        assert_eq!(message[..2], query[..2]);
        assert_eq!(message[2] & RECURSION_DESIRED, RECURSION_DESIRED);
        assert_eq!(message[HEADER_LEN..query.len()], query[HEADER_LEN..]);
    }

    #[test]
    fn no_prefix_of_a_query_panics_and_an_answer_is_not_answered() {
        let query = query("demo.wg4netns", TYPE_A);
        for len in 0..query.len() {
            let message = answer(&query[..len], ZONE);
            assert_eq!(message.is_some(), len >= HEADER_LEN, "{len} bytes");
        }
        let message = answer(&query, ZONE).unwrap();
        assert_eq!(answer(&message, ZONE), None);
    }

    #[test]
    fn a_name_that_is_too_long_or_compressed_is_a_format_error() {
        let long = vec!["a".repeat(63); 5].join(".");
        assert_eq!(code(&answer(&query(&long, TYPE_A), ZONE).unwrap()), Code::FormatError as u8);
        let mut pointer = query("demo.wg4netns", TYPE_A);
        pointer[HEADER_LEN] = 0xc0;
        assert_eq!(code(&answer(&pointer, ZONE).unwrap()), Code::FormatError as u8);
    }

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend_from_slice(label.as_bytes());
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message
    }

    fn code(message: &[u8]) -> u8 {
        message[3] & 0x0f
    }
}
