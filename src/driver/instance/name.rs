//! The name of a running instance. (vocabulary of tasks)

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// As an interface name has: for `wg`, the name of the socket is the name of the interface.
const MAX_LEN: usize = 15;

/// What is wrong with a name. The name itself is known to whoever prints this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("a name has at least one character")]
    Empty,
    /// Longer than the kernel's limit.
    #[error("a name has at most {MAX_LEN} characters, this one has {found}")]
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// One of the characters that cannot be in a name.
    #[error("a name cannot hold {0:?}")]
    Character(char),
    /// A flag or a hidden file.
    #[error("a name cannot start with {0:?}")]
    First(char),
}

/// The name of a running instance; also the stem of its socket's and lock's file names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

impl InstanceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The nearest valid name: other characters become `-`, the rest is cut off.
    ///
    /// `fallback` is used when nothing is left.
    #[must_use]
    pub fn sanitized(text: &str, fallback: &Self) -> Self {
        let cleaned: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        let cut: String = cleaned.trim_start_matches(['-', '.']).chars().take(MAX_LEN).collect();
        cut.trim_end_matches('-').parse().unwrap_or_else(|_nothing_left| fallback.clone())
    }

    /// `stem`, `stem-2`, `stem-3`…; the stem is shortened so that the number fits.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        if number < 2 {
            return self.clone();
        }
        let suffix = format!("-{number}");
        let keep = MAX_LEN - suffix.len();
        // Only ASCII is in a name, so every byte is a character boundary.
        Self(format!("{}{suffix}", &self.0[..self.0.len().min(keep)]))
    }
}

impl FromStr for InstanceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(refused) = text.chars().find(|&c| !is_plain(c)) {
            return Err(NameError::Character(refused));
        }
        // It would read as a flag, or be a hidden file.
        if let Some(first @ ('-' | '.')) = text.chars().next() {
            return Err(NameError::First(first));
        }
        if text.len() > MAX_LEN {
            return Err(NameError::TooLong { found: text.len() });
        }
        Ok(Self(text.into()))
    }
}

/// Whether a character needs no quoting anywhere: shell, file name, socket name, journal field.
const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '=' | '+' | '.' | '-' | '@')
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<InstanceName> for String {
    fn from(name: InstanceName) -> Self {
        name.0
    }
}

impl TryFrom<String> for InstanceName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_name_cannot_be_a_flag_or_a_hidden_file() {
        assert_eq!("-x".parse::<InstanceName>(), Err(NameError::First('-')));
        assert_eq!(".x".parse::<InstanceName>(), Err(NameError::First('.')));
        assert_eq!("x\n".parse::<InstanceName>(), Err(NameError::Character('\n')));
        assert!("wg0".parse::<InstanceName>().is_ok());
    }

    #[test]
    fn any_text_has_a_nearest_instance_name() {
        let fallback: InstanceName = "wg".parse().unwrap();
        for (text, name) in [
            ("wg0", "wg0"),
            ("my server (office)", "my-server--offi"),
            ("..", "wg"),
            ("äöü", "wg"),
            ("a-very-long-name", "a-very-long-nam"),
            ("ends-in-a-dash-x", "ends-in-a-dash"),
        ] {
            assert_eq!(InstanceName::sanitized(text, &fallback).as_str(), name, "{text}");
        }
    }

    #[test]
    fn a_numbered_name_still_fits() {
        let name: InstanceName = "fifteen-chars-x".parse().unwrap();
        assert_eq!(name.numbered(1), name);
        assert_eq!(name.numbered(2).as_str(), "fifteen-chars-2");
        assert_eq!(name.numbered(12).as_str(), "fifteen-char-12");
        assert_eq!("wg0".parse::<InstanceName>().unwrap().numbered(3).as_str(), "wg0-3");
    }
}
