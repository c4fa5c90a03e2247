//! How errors and warnings quote what a file says: in backticks, short, and never a key. (vocabulary)

use std::fmt;

/// Longer texts are described, not quoted: a line of an error message stays readable.
const MAX_QUOTED: usize = 72;

/// Base64 of 32 bytes has 43 characters and one of padding; a few may have got lost in pasting. Hex has more.
const KEY_RUN: usize = 40;

/// Something the user wrote, safe to print.
///
/// Invariant: quotes nothing that could be a key, however it came to stand where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Literal(Shown);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Quoted(String),
    Length(usize),
}

impl Literal {
    /// Quotes `text`, or only tells its length.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let length = text.chars().count();
        let printable = text.chars().all(|c| !c.is_control() && c != '`');
        if length > MAX_QUOTED || !printable || holds_a_key(text) {
            return Self(Shown::Length(length));
        }
        Self(Shown::Quoted(text.to_owned()))
    }
}

/// Whether there is a key in `text`, give or take a few characters.
pub(crate) fn holds_a_key(text: &str) -> bool {
    let outside = |c: char| !(c.is_ascii_alphanumeric() || c == '+' || c == '/');
    text.split(outside).any(|run| run.len() >= KEY_RUN)
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Shown::Quoted(text) => write!(f, "`{text}`"),
            Shown::Length(length) => write!(f, "a text of {length} characters"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_texts_are_quoted() {
        assert_eq!(Literal::new("10.0.0.0/33").to_string(), "`10.0.0.0/33`");
    }

    #[test]
    fn keys_long_texts_and_control_characters_are_only_described() {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        assert_eq!(Literal::new(key).to_string(), "a text of 44 characters");
        assert_eq!(Literal::new(&key[..43]).to_string(), "a text of 43 characters");
        assert_eq!(Literal::new(&"ab".repeat(32)).to_string(), "a text of 64 characters");
        assert_eq!(Literal::new(&"x y".repeat(30)).to_string(), "a text of 90 characters");
        assert_eq!(Literal::new("a\u{1b}[31m").to_string(), "a text of 6 characters");
    }
}
