//! A name the kernel takes for an interface, checked before anything is asked of the kernel. (vocabulary of tasks)

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes the kernel keeps for a name, without the final zero (`IFNAMSIZ` is 16).
const MAX_LEN: usize = 15;

/// The name of an interface.
///
/// Invariant: 1 to 15 bytes of ASCII, none of them a slash, a colon, a percent sign, white space or a control
/// character; not `.`, `..`, `lo`, `all` or `default`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

/// Why a text is not an interface name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceNameError {
    /// Nothing there.
    #[error("an interface name cannot be empty")]
    Empty,
    /// The kernel would refuse it.
    #[error("an interface name has at most {MAX_LEN} characters")]
    TooLong,
    /// The kernel refuses it, expands it, or cannot show it.
    #[error("an interface name cannot contain {0:?}")]
    Character(char),
    /// It has a meaning of its own.
    #[error("this interface name is reserved")]
    Reserved,
}

impl InterfaceName {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InterfaceNameError;

    fn from_str(text: &str) -> Result<Self, InterfaceNameError> {
        if text.is_empty() {
            return Err(InterfaceNameError::Empty);
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%')) {
            return Err(InterfaceNameError::Character(bad));
        }
        if text.len() > MAX_LEN {
            return Err(InterfaceNameError::TooLong);
        }
        // `all` and `default` are directories beside the interfaces' own under /proc/sys/net.
        if matches!(text, "." | ".." | "lo" | "all" | "default") {
            return Err(InterfaceNameError::Reserved);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InterfaceNameError;
    fn try_from(text: String) -> Result<Self, InterfaceNameError> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_takes_are_taken() {
        for name in ["wg0", "a", "wg-home.1", "abcdefghijklmno"] {
            assert_eq!(name.parse::<InterfaceName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_the_kernel_refuses_or_expands_are_refused() {
        for (name, error) in [
            ("", InterfaceNameError::Empty),
            ("abcdefghijklmnop", InterfaceNameError::TooLong),
            ("a/b", InterfaceNameError::Character('/')),
            ("a b", InterfaceNameError::Character(' ')),
            ("wg%d", InterfaceNameError::Character('%')),
            ("wg:0", InterfaceNameError::Character(':')),
            ("wé", InterfaceNameError::Character('é')),
            ("lo", InterfaceNameError::Reserved),
            ("..", InterfaceNameError::Reserved),
            ("default", InterfaceNameError::Reserved),
        ] {
            assert_eq!(name.parse::<InterfaceName>(), Err(error), "{name:?}");
        }
    }
}
