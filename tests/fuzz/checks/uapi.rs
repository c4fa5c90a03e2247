//! The configuration protocol's parsers take any bytes, in any pieces, and what they accept means the same when it
//! is written again. (fuzz check)

use wg4netns::uapi::request::{Event, RequestParser};
use wg4netns::uapi::response;

/// The first byte is the size of the pieces that the others arrive in.
pub(crate) fn check(data: &[u8]) {
    let Some((size, text)) = data.split_first() else { return };
    let whole = events(text, text.len().max(1));
    assert_eq!(whole, events(text, usize::from(*size).max(1)), "the pieces it comes in change nothing");
    for event in whole {
        if let Event::Request(request) = event {
            let emitted = request.emit();
            assert_eq!(events(emitted.as_bytes(), emitted.len()), [Event::Request(request)]);
        }
    }
    let Ok(text) = str::from_utf8(text) else { return };
    if let Ok(status) = response::parse_status(text) {
        assert_eq!(response::parse_status(&response::emit_status(&status)), Ok(status));
    }
}

fn events(text: &[u8], piece: usize) -> Vec<Event> {
    let mut parser = RequestParser::new(|_| None);
    let mut events = Vec::new();
    for mut piece in text.chunks(piece) {
        while let Some(event) = parser.push(&mut piece) {
            events.push(event);
        }
    }
    events
}
