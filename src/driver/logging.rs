//! Where log lines go: standard error, the journal, or a file. (tasks)
//!
//! A tunnel in the foreground logs to standard error. One that left its caller logs to the journal if there is one
//! (identifier `wg4netns`, field `NAME`), else to a file. Every descriptor is opened here, before the sandbox closes;
//! afterwards logging opens nothing.
//!
//! A line is worth less than a packet: one that cannot be written at once, because nobody reads the pipe or the journal,
//! is dropped.

use std::error::Error;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::driver::failure::{Failure, FailureClass};
use crate::driver::instance::InstanceName;
use crate::driver::journal::{JOURNAL_SOCKET, JournalLayer};
use crate::sys::signals;

/// How our lines are found in the journal: `journalctl -t wg4netns NAME=…`.
pub const JOURNAL_IDENTIFIER: &str = "wg4netns";

/// A log file that reaches this size starts again from the top.
///
/// INFO writes a few lines per session; 4 MiB hold months of them, and a debugging run cannot fill the disk.
const MAX_LOG_FILE: u64 = 4 << 20;

/// How and how much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// How lines look on standard error and in a file.
    pub format: LogFormat,
    /// What is logged.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    Json,
}

/// The least important line that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogLevel {
    /// Nothing at all (`LOG_LEVEL=silent` of the wireguard-go face).
    Silent,
    /// What ends us.
    Error,
    /// What is unusual but works.
    Warn,
    /// What an operator would write in a diary.
    Info,
    /// Every decision.
    Debug,
    /// Every packet.
    Trace,
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Silent => Self::OFF,
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Who reads the log.
#[derive(Clone, Debug)]
pub enum LogDestination {
    /// Whoever started us.
    Stderr,
    /// The journal or a file, under this name; warnings go to standard error too, while the caller still reads it.
    Detached(InstanceName),
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be written.
    #[error("cannot log to `{}`", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Neither `XDG_STATE_HOME` nor `HOME` is set, and the user has no home.
    #[error("cannot find a directory for the log: neither `XDG_STATE_HOME` nor `HOME` is set")]
    NoDirectory,
    /// Somebody else set a subscriber.
    #[error("cannot start logging")]
    Started(#[source] TryInitError),
}

impl Failure for LogError {
    fn class(&self) -> FailureClass {
        FailureClass::General
    }
}

/// Starts logging for the rest of the process's life.
///
/// A detached tunnel whose log cannot be written runs all the same and says so to its caller.
///
/// # Errors
/// Logging was started before.
pub fn start(options: LogOptions, destination: &LogDestination) -> Result<(), LogError> {
    // A file at its size limit is the end of a line, not of the process.
    let _a_limit_may_never_be_met = signals::ignore(Signal::SIGXFSZ);
    let level = LevelFilter::from(options.level);
    let mut lost = None;
    let mut layers: Vec<BoxedLayer> = Vec::new();
    match destination {
        LogDestination::Stderr => {
            layers.push(lines(options, PatientStderr::new, Clock::Off).with_filter(level).boxed());
        }
        LogDestination::Detached(name) => {
            match detached(options, name) {
                Ok(log) => layers.push(log.with_filter(level).boxed()),
                Err(error) => lost = Some(error),
            }
            let caller = lines(options, PatientStderr::new, Clock::Off);
            layers.push(caller.with_filter(level.min(LevelFilter::WARN)).boxed());
        }
    }
    tracing_subscriber::registry().with(layers).try_init().map_err(LogError::Started)?;
    if let Some(error) = lost {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        tracing::warn!("{error}{cause}; there will be no log");
    }
    Ok(())
}

/// The journal if there is one, else a file.
fn detached(options: LogOptions, name: &InstanceName) -> Result<BoxedLayer, LogError> {
    match journal(name) {
        Some(journal) => Ok(journal.boxed()),
        None => Ok(lines(options, Arc::new(LogFile::open(&log_path(name)?)?), Clock::On)),
    }
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The log file of a detached instance where there is no journal.
///
/// # Errors
/// The environment names no directory.
pub fn log_path(name: &InstanceName) -> Result<PathBuf, LogError> {
    let given = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::home_dir().filter(|path| path.is_absolute());
    let state =
        given.or_else(|| home().map(|home| home.join(".local/state"))).ok_or(LogError::NoDirectory)?;
    Ok(state.join("wg4netns").join(format!("{name}.log")))
}

/// Whether detached instances log to the journal here.
#[must_use]
pub fn journal_is_there() -> bool {
    Path::new(JOURNAL_SOCKET).exists()
}

fn journal(name: &InstanceName) -> Option<JournalLayer> {
    let fixed = [("SYSLOG_IDENTIFIER", JOURNAL_IDENTIFIER), ("NAME", name.as_str())];
    JournalLayer::open(JOURNAL_SOCKET.into(), &fixed).ok()
}

/// Whether lines carry the time: in a file they must; a terminal or a supervisor has its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Clock {
    On,
    Off,
}

fn lines<W>(options: LogOptions, writer: W, clock: Clock) -> BoxedLayer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A line that cannot be written is lost: complaining about it would go the same way.
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false).with_target(false);
    let layer = layer.log_internal_errors(false);
    match (options.format, clock) {
        (LogFormat::Json, _) => layer.json().flatten_event(true).boxed(),
        (LogFormat::Text, Clock::On) => layer.boxed(),
        (LogFormat::Text, Clock::Off) => layer.event_format(ForPeople).boxed(),
    }
}

/// A line as the program's other words look: `wg4netns: warning: …`, fields behind it.
struct ForPeople;

impl<S, N> FormatEvent<S, N> for ForPeople
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        write!(writer, "wg4netns: {level}")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error, which does not make us wait: a pipe that is full, or a terminal that was stopped, takes no line.
#[derive(Debug)]
struct PatientStderr {
    stderr: io::Stderr,
}

impl PatientStderr {
    fn new() -> Self {
        Self { stderr: io::stderr() }
    }
}

impl Write for PatientStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_without_waiting(self.stderr.as_fd(), line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes as much of a line as can be had at once, and says that it has written all: the rest is lost.
///
/// The descriptor is shared with whoever gave it to us, so it cannot be made non-blocking. But a pipe that is ready has
/// room for [`libc::PIPE_BUF`] bytes.
fn write_without_waiting(file: BorrowedFd<'_>, line: &[u8]) -> io::Result<usize> {
    for piece in line.chunks(libc::PIPE_BUF) {
        let mut ready = [PollFd::new(file, PollFlags::POLLOUT)];
        if poll(&mut ready, PollTimeout::ZERO)? == 0 {
            break;
        }
        nix::unistd::write(file, piece)?;
    }
    Ok(line.len())
}

/// A log file of bounded size.
#[derive(Debug)]
struct LogFile {
    file: Mutex<BoundedFile>,
}

#[derive(Debug)]
struct BoundedFile {
    file: File,
    written: u64,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::File { path: path.into(), source };
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        let mut options = File::options();
        options.create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(path).map_err(failed)?;
        let written = file.metadata().map_err(failed)?.len();
        Ok(Self { file: Mutex::new(BoundedFile { file, written }) })
    }
}

impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut bounded = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if bounded.written >= MAX_LOG_FILE {
            // O_APPEND: the next write lands at the new end.
            bounded.file.set_len(0)?;
            bounded.written = 0;
        }
        let count = bounded.file.write(line)?;
        bounded.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_file_never_grows_beyond_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/wg0.log");
        let log = LogFile::open(&path).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..9 {
            (&log).write_all(&line).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
        drop(log);
        let again = LogFile::open(&path).unwrap();
        (&again).write_all(b"next\n").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (1 << 20) + 5, "a restart appends");
    }

    /// A tunnel whose standard error was a full pipe stood still with it.
    #[test]
    fn a_pipe_that_nobody_reads_takes_lines_until_it_is_full_and_never_makes_us_wait() {
        let (mut reader, writer) = io::pipe().unwrap();
        let line = [[b'x'; 99].as_slice(), b"\n"].concat();
        for _ in 0..2000 {
            assert_eq!(write_without_waiting(writer.as_fd(), &line).unwrap(), 100);
        }
        drop(writer);
        let mut seen = Vec::new();
        io::Read::read_to_end(&mut reader, &mut seen).unwrap();
        assert!((20_000..200_000).contains(&seen.len()) && seen.len() % 100 == 0, "{} bytes", seen.len());
    }

    #[test]
    fn a_log_is_not_written_through_a_symbolic_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wg0.log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(matches!(LogFile::open(&path), Err(LogError::File { .. })));
    }

    #[test]
    fn a_line_for_people_looks_like_the_programs_other_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lines");
        for (format, wanted) in [
            (LogFormat::Text, "wg4netns: warning: no kill switch: eth0 remains\nwg4netns: ready name=wg0\n"),
            (LogFormat::Json, "\"message\":\"ready\""),
        ] {
            let file = Arc::new(LogFile::open(&path).unwrap());
            let options = LogOptions { format, level: LogLevel::Info };
            let layer = lines(options, file, Clock::Off).with_filter(LevelFilter::INFO);
            let layers: Vec<BoxedLayer> = vec![layer.boxed()];
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layers), || {
                tracing::warn!("no kill switch: eth0 remains");
                tracing::info!(name = %"wg0", "ready");
                tracing::debug!("not asked for");
            });
            let seen = std::fs::read_to_string(&path).unwrap();
            assert!(seen.contains(wanted) && !seen.contains("not asked for"), "{seen}");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
