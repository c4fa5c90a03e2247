//! Waits for a first answer, and tells why there is none. (tasks)

use std::time::Duration;

use tokio::sync::watch;

use super::control::Established;
use crate::driver::command::TunnelHandle;

/// Waiting is silent this long; then one line says what is being waited for.
const SILENT: Duration = Duration::from_secs(1);

/// No peer has answered in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no handshake within {} s: {reason}", waited.as_secs())]
pub struct NoHandshake {
    /// How long was waited.
    pub waited: Duration,
    /// What was seen meanwhile.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Waits until a peer has answered, for at most `limit`; `say` gets one line if that takes more than a second.
///
/// # Errors
/// [`NoHandshake`] with the reason seen.
pub async fn wait_for_handshake(
    handle: &TunnelHandle,
    mut established: watch::Receiver<Option<Established>>,
    limit: Duration,
    say: impl FnOnce(&str),
) -> Result<Established, NoHandshake> {
    let silent = SILENT.min(limit);
    if let Some(established) = answered(&mut established, silent).await {
        return Ok(established);
    }
    say(&format!("waiting up to {} s for a peer to answer", limit.as_secs()));
    if let Some(established) = answered(&mut established, limit.saturating_sub(silent)).await {
        return Ok(established);
    }
    let report = handle.report().await.unwrap_or_default();
    let peer = report.peers.into_iter().find(|peer| peer.reason.is_some()).unwrap_or_default();
    let reason = peer.reason.unwrap_or_else(|| "there is no peer".to_owned());
    Err(NoHandshake { waited: limit, reason, hint: peer.hint })
}

async fn answered(
    established: &mut watch::Receiver<Option<Established>>,
    limit: Duration,
) -> Option<Established> {
    let waiting = established.wait_for(Option::is_some);
    let answered = tokio::time::timeout(limit, waiting).await;
    answered.ok()?.ok().and_then(|established| *established)
}
