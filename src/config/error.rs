//! Why a configuration file was refused: file, line, key, and what was allowed. (vocabulary)

use std::borrow::Cow;
use std::fmt;

use crate::config::endpoint::EndpointError;
use crate::config::literal::Literal;
use crate::key::KeyError;

/// A mistake in a configuration file, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What the user calls the file.
    pub file: String,
    /// Counted from 1; absent when the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong there.
    pub problem: Problem,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "`{}`:{line}: {}", self.file, self.problem),
            None => write!(f, "`{}`: {}", self.file, self.problem),
        }
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing but blanks and comments.
    #[error("the file is empty")]
    Empty,
    /// Some byte is not text.
    #[error("is not UTF-8 text")]
    NotText,
    /// A file that configures nothing of ours.
    #[error("there is no `[Interface]` section")]
    NoInterface,
    /// Which of the two would hold?
    #[error("a second `[Interface]` section; the first is on line {first}")]
    SecondInterface {
        /// Where the first one starts.
        first: usize,
    },
    /// Neither `[Interface]` nor `[Peer]`.
    #[error("{found} is not a section")]
    UnknownSection {
        /// With its brackets.
        found: Literal,
        /// The section whose name is nearest.
        nearest: Option<&'static str>,
    },
    /// A line that is neither a section, a comment nor an assignment. Not quoted: it may be a key.
    #[error("expected `Key = value`")]
    NotAnAssignment,
    /// An assignment before the first section.
    #[error("{key} stands before any section")]
    OutsideSection {
        /// The key.
        key: Literal,
    },
    /// No such key in this section.
    #[error("{key} is not a key of `[{section}]`")]
    UnknownKey {
        /// The key.
        key: Literal,
        /// `Interface` or `Peer`.
        section: &'static str,
        /// What the reader may have meant.
        hint: KeyHint,
    },
    /// A key that the section cannot do without.
    #[error("`{key}` is missing")]
    MissingKey {
        /// Which.
        key: &'static str,
    },
    /// A section without the key that makes it one.
    #[error("this `[Peer]` has no `PublicKey`")]
    MissingPublicKey,
    /// Not a key in base64.
    #[error("`{key}`: {error}")]
    Key {
        /// Which.
        key: &'static str,
        /// Never quotes the value.
        error: KeyError,
    },
    /// 32 zero bytes mean "no key" in the protocol.
    #[error("`{key}`: a key of zeros is no key")]
    ZeroKey {
        /// Which.
        key: &'static str,
    },
    /// A device cannot be its own peer.
    #[error("`PublicKey`: this is the interface's own key, not a peer's")]
    OwnKey,
    /// Not an endpoint.
    #[error("`Endpoint`: {value} {error}")]
    Endpoint {
        /// What was written.
        value: Literal,
        /// What is wrong with it.
        error: EndpointError,
    },
    /// Neither an address nor a prefix.
    #[error("`{key}`: {value} is not an address prefix")]
    Prefix {
        /// Which key.
        key: &'static str,
        /// What was written.
        value: Literal,
    },
    /// Not a number in the key's range.
    #[error("`{key}`: {value} is not {expected}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What was written.
        value: Literal,
        /// What is allowed.
        expected: &'static str,
    },
    /// `PrivateKey` and `PrivateKeyFile` in one section.
    #[error("`{key}` and `{key}File` exclude each other")]
    KeyAndFile {
        /// `PrivateKey` or `PresharedKey`.
        key: &'static str,
    },
}

/// What may have been meant by an unknown key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyHint {
    /// Nothing comes near.
    None,
    /// A slip of the keyboard.
    Nearest(&'static str),
    /// Right key, wrong section.
    BelongsIn(&'static str),
    /// A `wg-quick(8)` key in a `setconf` file.
    QuickOnly,
}

impl ConfigError {
    /// The one thing the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match &self.problem {
            Problem::UnknownSection { nearest: Some(name), .. } => {
                Some(format!("did you mean `[{name}]`?").into())
            }
            Problem::UnknownKey { hint, .. } => match hint {
                KeyHint::None => None,
                KeyHint::Nearest(key) => Some(format!("did you mean `{key}`?").into()),
                KeyHint::BelongsIn(section) => Some(format!("it belongs in `[{section}]`").into()),
                KeyHint::QuickOnly => Some("`wg-quick strip` removes what only wg-quick(8) knows".into()),
            },
            Problem::NoInterface => Some("begin the file with a line `[Interface]`".into()),
            Problem::MissingKey { key: "PrivateKey" } => {
                Some("make one with `wg4netns genkey`, or name its file with `PrivateKeyFile = …`".into())
            }
            Problem::Empty
            | Problem::NotText
            | Problem::SecondInterface { .. }
            | Problem::UnknownSection { nearest: None, .. }
            | Problem::NotAnAssignment
            | Problem::OutsideSection { .. }
            | Problem::MissingKey { .. }
            | Problem::MissingPublicKey
            | Problem::Key { .. }
            | Problem::ZeroKey { .. }
            | Problem::OwnKey
            | Problem::Endpoint { .. }
            | Problem::Prefix { .. }
            | Problem::Value { .. }
            | Problem::KeyAndFile { .. } => None,
        }
    }
}

/// The candidate nearest to `found`, if a few slips of the keyboard explain the difference.
pub(crate) fn nearest(found: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let found = found.to_ascii_lowercase();
    candidates
        .iter()
        .map(|candidate| (edits(&found, &candidate.to_ascii_lowercase()), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_and_nonsense_has_none() {
        let keys = ["AllowedIPs", "Endpoint", "PublicKey"];
        assert_eq!(nearest("alowedips", &keys), Some("AllowedIPs"));
        assert_eq!(nearest("EndPiont", &keys), Some("Endpoint"));
        assert_eq!(nearest("Colour", &keys), None);
    }
}
