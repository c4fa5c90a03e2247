//! slirp4netns's API socket: engines ask here for ports to be published while the tunnel runs. (tasks)
//!
//! # Theory of operation
//! One request a connection, a JSON object of at most 4 KiB, then the answer, then the end. Engines ask one after the
//! other and wait, so connections are served one at a time, each with a deadline; who does not ask in time is hung up on.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tracing::{info, warn};

use super::helper_end::HelperEnd;
use super::namespace_child::Helper;
use super::pidfile::PidfileGuard;
use super::port_forward::{Forward, ForwardKind, PortForwards};
use crate::config::publish::{PublishedPort, Transport};
use crate::sys::sandbox::MissingLayer;

/// As slirp4netns has it.
const MAX_REQUEST: usize = 4096;
/// For a request and its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{}`", path.display())]
pub struct PortSocketError {
    /// Where.
    path: PathBuf,
    /// What the system said.
    source: io::Error,
}

/// Listening; nobody is answered before [`serve`](Self::serve).
#[derive(Debug)]
pub struct PortSocket {
    listener: StdListener,
    /// Removes its file in the end, which is not ours to do behind the sandbox.
    file: PidfileGuard,
}

impl PortSocket {
    /// Makes the socket; one that was left behind makes room, as slirp4netns has it. Before the sandbox: behind it no
    /// file can be made.
    ///
    /// # Errors
    /// There is a file of another kind already, or the directory is not there.
    pub fn bind(path: &Path, helper: &Helper) -> Result<Self, PortSocketError> {
        let failed = |source| PortSocketError { path: path.into(), source };
        let found = std::fs::symlink_metadata(path);
        if found.is_ok_and(|metadata| metadata.file_type().is_socket()) {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = StdListener::bind(path).map_err(failed)?;
        let file = PidfileGuard::over(path, helper).map_err(|source| {
            std::fs::remove_file(path).ok();
            failed(source)
        })?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, file })
    }

    /// Layers of its sandbox that the process which removes the file could not have.
    #[must_use]
    pub fn missing_layers(&self) -> &[MissingLayer] {
        self.file.missing_layers()
    }

    /// The end of that process, to be told while the tunnel runs.
    pub fn take_end(&mut self) -> Option<HelperEnd> {
        self.file.take_end()
    }

    /// Answers, for as long as it is polled.
    pub async fn serve(self, forwards: PortForwards) {
        let Self { listener, file: _until_the_end } = self;
        let listener = match UnixListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "the engine's socket for ports is not served"),
        };
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    if tokio::time::timeout(PATIENCE, converse(client, &forwards)).await.is_err() {
                        info!("the engine did not ask for a port in time");
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept on the engine's socket for ports");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(mut client: UnixStream, forwards: &PortForwards) {
    let mut request = Vec::new();
    let answer = loop {
        let mut bytes = [0; 1024];
        let Ok(count) = client.read(&mut bytes).await else { return };
        request.extend_from_slice(&bytes[..count]);
        match serde_json::from_slice::<Request>(&request) {
            Ok(request) => break answer(request, forwards).await,
            // More may come.
            Err(error) if error.is_eof() && count > 0 && request.len() < MAX_REQUEST => {}
            Err(error) => break Err(format!("bad request: {error}")),
        }
    };
    let answer = answer.unwrap_or_else(|desc| json!({ "error": { "desc": desc } }));
    // The engine may be gone: then nobody cares.
    client.write_all(format!("{answer}\n").as_bytes()).await.ok();
    client.shutdown().await.ok();
}

/// What engines ask.
#[derive(Debug, Deserialize)]
#[serde(try_from = "RawRequest")]
enum Request {
    Add(AddHostfwd),
    List,
    Remove { id: u64 },
}

/// A request as it is written.
#[derive(Debug, Deserialize)]
struct RawRequest {
    execute: String,
    #[serde(default)]
    arguments: Value,
}

impl TryFrom<RawRequest> for Request {
    type Error = String;

    fn try_from(raw: RawRequest) -> Result<Self, String> {
        let arguments = raw.arguments;
        match &*raw.execute {
            "add_hostfwd" => {
                serde_json::from_value(arguments).map(Self::Add).map_err(|error| error.to_string())
            }
            "list_hostfwd" => Ok(Self::List),
            "remove_hostfwd" => match arguments.get("id").and_then(Value::as_u64) {
                Some(id) => Ok(Self::Remove { id }),
                None => Err("no id".into()),
            },
            _other => Err("not one of add_hostfwd, list_hostfwd, remove_hostfwd".into()),
        }
    }
}

/// A port to publish; an empty address is every one of the host, or the target's own.
#[derive(Debug, Deserialize)]
struct AddHostfwd {
    proto: Transport,
    #[serde(default)]
    host_addr: String,
    host_port: NonZeroU16,
    #[serde(default)]
    guest_addr: String,
    guest_port: NonZeroU16,
}

impl AddHostfwd {
    fn port(&self) -> Result<PublishedPort, String> {
        let address = |text: &str| match text {
            "" => Ok(None),
            text => text.parse::<IpAddr>().map(Some).map_err(|error| format!("{text:?}: {error}")),
        };
        Ok(PublishedPort {
            transport: self.proto,
            host: address(&self.host_addr)?,
            host_port: Some(self.host_port),
            inside: address(&self.guest_addr)?,
            inside_port: self.guest_port,
        })
    }
}

async fn answer(request: Request, forwards: &PortForwards) -> Result<Value, String> {
    match request {
        Request::Add(add) => {
            let made = forwards.add(add.port()?).await.map_err(|error| error.to_string())?;
            let id = made.first().map(|forward| forward.id).ok_or("nothing listens")?;
            Ok(json!({ "return": { "id": id } }))
        }
        Request::List => {
            let all = forwards.list().await.map_err(|error| error.to_string())?;
            let entries: Vec<Value> =
                all.iter().filter(|forward| forward.kind == ForwardKind::Publish).map(entry).collect();
            Ok(json!({ "return": { "entries": entries } }))
        }
        Request::Remove { id } => {
            forwards.remove(id).await.map_err(|error| error.to_string())?;
            Ok(json!({ "return": {} }))
        }
    }
}

fn entry(forward: &Forward) -> Value {
    let inside = forward.to.first().map(SocketAddr::ip).map(|address| address.to_string());
    json!({
        "id": forward.id,
        "proto": forward.transport,
        "host_addr": forward.listen.ip().to_string(),
        "host_port": forward.listen.port(),
        "guest_addr": inside.unwrap_or_default(),
        "guest_port": forward.inside_port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_podman_and_rootlesskit_write_is_understood() {
        let podman = r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"","guest_port":80}}"#;
        let Request::Add(add) = request(podman) else { panic!("{podman}") };
        let port = add.port().unwrap();
        assert_eq!(port.to_string(), "80/tcp -> 0.0.0.0:8080");
        assert_eq!(port.inside, None);
        assert!(matches!(request(r#"{"execute":"list_hostfwd"}"#), Request::List));
        assert!(matches!(request(r#"{"execute":"list_hostfwd","arguments":{}}"#), Request::List));
        let remove = r#"{"execute":"remove_hostfwd","arguments":{"id":7}}"#;
        assert!(matches!(request(remove), Request::Remove { id: 7 }));
    }

    #[test]
    fn nonsense_is_an_error_and_not_a_port() {
        for text in [
            r#"{"execute":"add_hostfwd","arguments":{"proto":"sctp","host_port":1,"guest_port":1}}"#,
            r#"{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_port":0,"guest_port":1}}"#,
            r#"{"execute":"shutdown"}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
        let add = AddHostfwd {
            proto: Transport::Tcp,
            host_addr: "localhost".into(),
            host_port: NonZeroU16::MIN,
            guest_addr: String::new(),
            guest_port: NonZeroU16::MIN,
        };
        assert!(add.port().unwrap_err().starts_with("\"localhost\""), "a name is no address");
    }
}
