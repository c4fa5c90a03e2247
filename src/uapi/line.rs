//! Lines out of a stream of bytes, at bounded cost. (core: no IO)

use zeroize::{Zeroize, Zeroizing};

/// No line of a request is longer; the longest legitimate one, a private key, has 76 bytes.
pub const MAX_LINE: usize = 4096;

/// Collects bytes until a line is whole.
///
/// Invariant: holds at most [`MAX_LINE`] bytes, whatever the peer sends. Lines may be keys: they are wiped when done.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Zeroizing<Vec<u8>>,
    /// The line in `bytes` was handed out; the next call starts a new one.
    done: bool,
}

/// One line, without its line feed.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// It has more than [`MAX_LINE`] bytes, and how many more is not waited for: read no further.
    TooLong,
}

impl LineBuffer {
    /// Empty, with room for any line.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(MAX_LINE)), done: false }
    }

    /// Takes bytes from the front of `input` up to and including a line feed; `None` when `input` is used up first.
    pub fn next_line(&mut self, input: &mut &[u8]) -> Option<Line<'_>> {
        if self.done {
            self.bytes.as_mut_slice().zeroize();
            self.bytes.clear();
            self.done = false;
        }
        let (taken, whole) = match input.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end, true),
            None => (input.len(), false),
        };
        let line = &input[..taken];
        *input = &input[taken + usize::from(whole)..];
        if line.len() > MAX_LINE - self.bytes.len() {
            self.done = whole;
            return Some(Line::TooLong);
        }
        self.bytes.extend_from_slice(line);
        self.done = whole;
        whole.then_some(Line::Bytes(&self.bytes))
    }

    /// Whether a line has begun that is not whole.
    #[must_use]
    pub fn is_amid_line(&self) -> bool {
        !self.done && !self.bytes.is_empty()
    }
}

impl Default for LineBuffer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_they_went_in() {
        let mut lines = LineBuffer::new();
        let mut seen = Vec::new();
        for chunk in ["a", "b\nc", "d\n\nef"] {
            let mut input = chunk.as_bytes();
            while let Some(line) = lines.next_line(&mut input) {
                let Line::Bytes(bytes) = line else { panic!("no line is that long") };
                seen.push(String::from_utf8(bytes.to_vec()).unwrap());
            }
        }
        assert_eq!(seen, ["ab", "cd", ""]);
        assert!(lines.is_amid_line());
    }

    #[test]
    fn a_long_line_is_told_as_soon_as_it_is_too_long_and_costs_no_memory() {
        let mut lines = LineBuffer::new();
        assert_eq!(lines.next_line(&mut [b'x'; MAX_LINE].as_slice()), None);
        for _ in 0..3200 {
            assert_eq!(lines.next_line(&mut [b'x'; 65536].as_slice()), Some(Line::TooLong));
        }
        assert!(lines.bytes.capacity() <= MAX_LINE);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_accepted() {
        let mut lines = LineBuffer::new();
        let mut text = vec![b'x'; MAX_LINE];
        text.push(b'\n');
        assert_eq!(lines.next_line(&mut text.as_slice()), Some(Line::Bytes(&[b'x'; MAX_LINE])));
        text.insert(0, b'x');
        assert_eq!(lines.next_line(&mut text.as_slice()), Some(Line::TooLong));
    }
}
