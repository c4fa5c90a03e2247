//! Log lines for the journal, in its native protocol. (tasks)
//!
//! A datagram a line: fields with their length before them, so that a value may hold anything. The socket never makes us
//! wait: a journal that does not read, because it is stopped or its disk is slow, takes no line, and how many were lost
//! is said with the next that it takes.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal reads.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// Sends each line to the journal.
#[derive(Debug)]
pub struct JournalLayer {
    socket: UnixDatagram,
    path: PathBuf,
    /// Fields that every line has.
    fixed: Vec<u8>,
    /// Lines that the journal has not taken.
    lost: AtomicU64,
}

impl JournalLayer {
    /// Talks to the journal at `path`; every line has the fields of `fixed`. The socket is opened here, once.
    ///
    /// # Errors
    /// Nobody reads there.
    pub fn open(path: PathBuf, fixed: &[(&str, &str)]) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let mut fields = Vec::new();
        for (name, value) in fixed {
            put(&mut fields, name, value.as_bytes());
        }
        let layer = Self { socket, path, fixed: fields, lost: AtomicU64::new(0) };
        // The journal passes over an empty one.
        match layer.socket.send_to(&[], &layer.path) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            // It is only busy.
            Ok(_) | Err(_) => Ok(layer),
        }
    }

    fn send(&self, mut line: Vec<u8>) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost != 0 {
            put(&mut line, "LINES_LOST", lost.to_string().as_bytes());
        }
        match self.socket.send_to(&line, &self.path) {
            Ok(_) => {
                self.lost.fetch_sub(lost, Ordering::Relaxed);
            }
            Err(_no_room) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = self.fixed.clone();
        put_metadata(&mut line, event.metadata());
        event.record(&mut Fields { line: &mut line });
        self.send(line);
    }
}

fn put_metadata(line: &mut Vec<u8>, metadata: &Metadata<'_>) {
    // syslog(3): error, warning, notice, informational, debug.
    let priority = match *metadata.level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "5",
        Level::DEBUG => "6",
        Level::TRACE => "7",
    };
    put(line, "PRIORITY", priority.as_bytes());
    put(line, "TARGET", metadata.target().as_bytes());
    if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
        put(line, "CODE_FILE", file.as_bytes());
        put(line, "CODE_LINE", number.to_string().as_bytes());
    }
}

struct Fields<'a> {
    line: &'a mut Vec<u8>,
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        put(self.line, &journal_name(field.name()), value.as_bytes());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        if write!(text, "{value:?}").is_ok() {
            put(self.line, &journal_name(field.name()), text.as_bytes());
        }
    }
}

/// As the journal wants names: upper case letters, digits and underscores, of which none comes first.
fn journal_name(name: &str) -> String {
    let name = name.trim_start_matches('_').chars();
    name.map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' })
        .collect()
}

fn put(line: &mut Vec<u8>, name: &str, value: &[u8]) {
    line.extend_from_slice(name.as_bytes());
    line.push(b'\n');
    line.extend_from_slice(&(value.len() as u64).to_le_bytes());
    line.extend_from_slice(value);
    line.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// With the journal's process stopped, the tunnel stood still and did not hear SIGTERM.
    #[test]
    fn a_journal_that_does_not_read_takes_no_line_and_never_makes_us_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let layer = JournalLayer::open(path, &[("SYSLOG_IDENTIFIER", "wg4netns")]).unwrap();
        let (done, finished) = mpsc::channel();
        let (drained, go_on) = mpsc::channel();
        std::thread::spawn(move || {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                for number in 0..2000 {
                    tracing::warn!(number, peer = %"a\nb", "a line");
                }
                done.send(()).unwrap();
                go_on.recv().unwrap();
                tracing::error!("the last line");
                done.send(()).unwrap();
            });
        });
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(()), "it waits for the journal");
        journal.set_nonblocking(true).unwrap();
        let mut taken = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len) = journal.recv(&mut buffer) {
            taken.push(buffer[..len].to_vec());
        }
        // The empty one, and at least one line.
        assert!((2..2000).contains(&taken.len()), "{} lines", taken.len());
        assert_eq!(taken[0], b"");
        let first = String::from_utf8_lossy(&taken[1]);
        for field in [
            "SYSLOG_IDENTIFIER\n\x08\0\0\0\0\0\0\0wg4netns\n",
            "PRIORITY\n\x01\0\0\0\0\0\0\x004\n",
            "MESSAGE\n\x06\0\0\0\0\0\0\0a line\n",
            "NUMBER\n\x01\0\0\0\0\0\0\x000\n",
            "PEER\n\x03\0\0\0\0\0\0\0a\nb\n",
        ] {
            assert!(first.contains(field), "{field:?} is not in {first:?}");
        }
        drained.send(()).unwrap();
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(()));
        let len = journal.recv(&mut buffer).unwrap();
        let last = String::from_utf8_lossy(&buffer[..len]).into_owned();
        let lost = (2000 - (taken.len() - 1)).to_string();
        assert!(last.contains("the last line") && last.contains(&format!("\0{lost}\n")), "{last:?}");
    }

    #[test]
    fn where_nobody_reads_there_is_no_journal() {
        let directory = tempfile::tempdir().unwrap();
        assert!(JournalLayer::open(directory.path().join("socket"), &[]).is_err());
    }
}
