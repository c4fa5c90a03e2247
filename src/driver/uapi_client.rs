//! Asks a running tunnel over its configuration socket; blocking, for the command line. (tasks)
//!
//! Each question takes a connection of its own, as `wg(8)` does, so that it works with any user-space WireGuard. The
//! answer holds private keys and a `set` carries them, so the server must be ours or root's.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use zeroize::Zeroizing;

use crate::config::device::{DeviceStatus, DeviceUpdate};
use crate::config::plan::NetworkChange;
use crate::driver::command::TunnelReport;
use crate::driver::instance::{DirectoryError, existing_runtime_dir};
use crate::uapi::request::Request;
use crate::uapi::response::{ResponseError, parse_lines, parse_status};

/// A server that says nothing for so long is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// No device is larger; a server that goes on and on is none.
const MAX_ANSWER: usize = 256 << 20;

/// Why a tunnel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum UapiClientError {
    /// The directory where it should be will not do.
    #[error("cannot look for `{name}`")]
    Directory {
        /// The name the tunnel was asked for by.
        name: String,
        /// Why.
        source: DirectoryError,
    },
    /// Nobody ever started a tunnel here.
    #[error("no tunnel `{name}` is running")]
    NoDirectory {
        /// The name the tunnel was asked for by.
        name: String,
    },
    /// Nobody to talk to.
    #[error("cannot connect to `{}`", path.display())]
    Connect {
        /// The name the tunnel was asked for by.
        name: String,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Secrets are not told to another user.
    #[error("`{}` is served by uid {uid}", path.display())]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Who serves it.
        uid: u32,
    },
    /// The connection broke.
    #[error("cannot exchange data over `{}`", path.display())]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The answer is an error, or not an answer.
    #[error("`{}` answered", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What it said.
        source: ResponseError,
    },
    /// The report is not what this version understands.
    #[error("cannot read the report of `{}`", path.display())]
    Report {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl UapiClientError {
    /// The one thing the reader can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Connect { name, source, .. } => match source.raw_os_error() {
                Some(libc::ECONNREFUSED) => Some(
                    format!(
                        "no wg4netns is running for `{name}`; the socket is a leftover and can be removed"
                    )
                    .into(),
                ),
                Some(libc::ENOENT) => {
                    Some(format!("no tunnel `{name}` is running; `wg4netns ls` lists those that are").into())
                }
                Some(libc::EACCES) => {
                    Some("it belongs to another user; run this as that user or as root".into())
                }
                Some(_) | None => None,
            },
            Self::Stranger { .. } => Some("run this as that user, or as root".into()),
            Self::NoDirectory { .. } => Some("`wg4netns ls` lists those that are".into()),
            Self::Directory { .. } => None,
            Self::Exchange { .. } | Self::Answer { .. } | Self::Report { .. } => None,
        }
    }
}

/// A running tunnel, seen from outside.
#[derive(Clone, Debug)]
pub struct UapiClient {
    name: String,
    path: PathBuf,
}

impl UapiClient {
    /// For the socket at `path`, which names the tunnel. Connects to nothing yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Self { name, path: path.to_owned() }
    }

    /// For the tunnel `name` in `uapi_dir` or where sockets are by default; a `name` with a `/` is the path of the
    /// socket itself. Connects to nothing yet.
    ///
    /// # Errors
    /// There is no such directory, or others could put a false socket there.
    pub fn find(name: &str, uapi_dir: Option<&Path>) -> Result<Self, UapiClientError> {
        if name.contains('/') {
            return Ok(Self::at(Path::new(name)));
        }
        match existing_runtime_dir(uapi_dir) {
            Ok(Some(directory)) => {
                Ok(Self { name: name.to_owned(), path: directory.path().join(format!("{name}.sock")) })
            }
            Ok(None) => Err(UapiClientError::NoDirectory { name: name.to_owned() }),
            Err(source) => Err(UapiClientError::Directory { name: name.to_owned(), source }),
        }
    }

    /// All tunnels that can be asked, by name. Leftovers are passed over.
    ///
    /// # Errors
    /// Others could put a false socket into the directory.
    pub fn list(uapi_dir: Option<&Path>) -> Result<Vec<Self>, DirectoryError> {
        let Some(directory) = existing_runtime_dir(uapi_dir)? else { return Ok(Vec::new()) };
        let Ok(entries) = std::fs::read_dir(directory.path()) else { return Ok(Vec::new()) };
        let sockets = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut found: Vec<Self> = sockets
            .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
            .filter(|path| UnixStream::connect(path).is_ok())
            .map(|path| Self::at(&path))
            .collect();
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The name it was asked for by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is asked.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `get`: everything the device tells, its secrets included.
    ///
    /// # Errors
    /// Nobody is there, or the answer is none.
    pub fn status(&self) -> Result<DeviceStatus, UapiClientError> {
        let answer = self.ask(&Request::Get)?;
        parse_status(&answer).map_err(|source| self.refused(source))
    }

    /// `set`: changes the device, whole or not at all.
    ///
    /// # Errors
    /// Nobody is there, or the change was refused.
    pub fn apply(&self, update: &DeviceUpdate) -> Result<(), UapiClientError> {
        let answer = self.ask(&Request::Set(update.clone()))?;
        parse_lines(&answer).map(drop).map_err(|source| self.refused(source))
    }

    /// `report`: everything the tunnel tells.
    ///
    /// # Errors
    /// Nobody is there, or the answer is none.
    pub fn report(&self) -> Result<TunnelReport, UapiClientError> {
        let answer = self.ask(&Request::Report)?;
        let lines = parse_lines(&answer).map_err(|source| self.refused(source))?;
        let json = lines.iter().find(|(key, _)| *key == "report").map_or("", |(_, value)| value);
        serde_json::from_str(json)
            .map_err(|source| UapiClientError::Report { path: self.path.clone(), source })
    }

    /// `network`: changes addresses, routes and MTU of the link, and the names that are resolved.
    ///
    /// # Errors
    /// Nobody is there, or the kernel refused; the server says what.
    pub fn network(&self, change: &NetworkChange) -> Result<(), UapiClientError> {
        let answer = self.ask(&Request::Network(change.clone()))?;
        parse_lines(&answer).map(drop).map_err(|source| self.refused(source))
    }

    fn refused(&self, source: ResponseError) -> UapiClientError {
        UapiClientError::Answer { path: self.path.clone(), source }
    }

    fn ask(&self, request: &Request) -> Result<Zeroizing<String>, UapiClientError> {
        let exchange = |source: io::Error| {
            // How a socket with a time limit says that the limit is over.
            let late = source.kind() == io::ErrorKind::WouldBlock;
            let source = if late { io::ErrorKind::TimedOut.into() } else { source };
            UapiClientError::Exchange { path: self.path.clone(), source }
        };
        let mut stream = self.connect()?;
        stream.write_all(request.emit().as_bytes()).map_err(exchange)?;
        let answer = read_answer(&mut stream).map_err(exchange)?;
        match str::from_utf8(&answer) {
            Ok(text) => Ok(Zeroizing::new(text.to_owned())),
            Err(_) => Err(self.refused(ResponseError::Malformed { line: 1 })),
        }
    }

    fn connect(&self) -> Result<UnixStream, UapiClientError> {
        let failed =
            |source| UapiClientError::Connect { name: self.name.clone(), path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(failed)?;
        let server = getsockopt(&stream, PeerCredentials).map_err(|errno| failed(errno.into()))?.uid();
        let own = geteuid().as_raw();
        if server != own && server != 0 && own != 0 {
            return Err(UapiClientError::Stranger { path: self.path.clone(), uid: server });
        }
        Ok(stream)
    }
}

/// Everything up to and including the empty line, or whatever came before the server left.
fn read_answer(stream: &mut UnixStream) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut answer = Zeroizing::new(Vec::with_capacity(64 << 10));
    let mut chunk = Zeroizing::new([0; 16 << 10]);
    loop {
        let length = match stream.read(chunk.as_mut_slice()) {
            Ok(0) => return Ok(answer),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if answer.len() + length > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer does not end"));
        }
        if answer.len() + length > answer.capacity() {
            // A vector that grows by itself leaves its old contents, keys included, in freed memory.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * answer.capacity()));
            larger.extend_from_slice(&answer);
            answer = larger;
        }
        answer.extend_from_slice(&chunk[..length]);
        if answer.ends_with(b"\n\n") {
            return Ok(answer);
        }
    }
}
