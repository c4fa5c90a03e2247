//! What `run --report` says afterwards: bytes each way, the handshake, what was refused. (wiring)

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use tracing::warn;

use super::request::ReportTarget;
use super::start::StartError;
use crate::driver::command::TunnelReport;
use crate::driver::tunnel::Established;

/// How the command and its tunnel went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The command's status as the shell sees it.
    pub(super) code: u8,
    /// The first handshake, if there was one.
    pub(super) handshake: Option<Established>,
}

/// Refused destinations that are listed; the rest is counted.
const MAX_LISTED: usize = 10;

/// Where the report goes; opened before the sandbox closes.
pub(super) enum ReportSink {
    /// For people.
    Stderr,
    /// Plain text, appended.
    Text(File),
    /// Markdown, appended: the file is the job summary of a CI runner.
    Markdown(File),
}

impl ReportSink {
    /// Opens the file, if it is one.
    pub(super) fn open(target: ReportTarget) -> Result<Self, StartError> {
        let ReportTarget::File(path) = target else { return Ok(Self::Stderr) };
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(|source| StartError::Report { path: path.clone(), source })?;
        let is_summary =
            std::env::var_os("GITHUB_STEP_SUMMARY").is_some_and(|summary| Path::new(&summary) == path);
        Ok(if is_summary { Self::Markdown(file) } else { Self::Text(file) })
    }

    /// Writes the report. The command has run: a full disk changes nothing about its status.
    pub(super) fn write(self, report: &TunnelReport, outcome: Outcome) {
        let written = match self {
            Self::Stderr => io::stderr().write_all(text(report, outcome).as_bytes()),
            Self::Text(mut file) => file.write_all(text(report, outcome).as_bytes()),
            Self::Markdown(mut file) => file.write_all(markdown(report, outcome).as_bytes()),
        };
        if let Err(error) = written {
            warn!(%error, "cannot write the report");
        }
    }
}

/// One fact a line: what it is, and its value.
fn facts(report: &TunnelReport, outcome: Outcome) -> Vec<(&'static str, String)> {
    let sent: u64 = report.peers.iter().map(|peer| peer.tx_bytes).sum();
    let received: u64 = report.peers.iter().map(|peer| peer.rx_bytes).sum();
    let handshake = match outcome.handshake {
        Some(established) => format!("{:.1} ms", established.took.as_secs_f64() * 1e3),
        None => {
            let reason = report.peers.iter().find_map(|peer| peer.reason.clone());
            format!("none: {}", reason.unwrap_or_else(|| "no peer was called".to_owned()))
        }
    };
    vec![
        ("exit status", outcome.code.to_string()),
        ("handshake", handshake),
        ("sent", format!("{sent} bytes")),
        ("received", format!("{received} bytes")),
    ]
}

/// `12 packets to 8.8.8.8:53 (udp)`, most first.
fn refusals(report: &TunnelReport) -> Vec<String> {
    let count = |packets| if packets == 1 { "1 packet".to_owned() } else { format!("{packets} packets") };
    let mut lines: Vec<String> = report
        .refused
        .iter()
        .take(MAX_LISTED)
        .map(|refused| {
            format!("{} to {} ({})", count(refused.packets), refused.destination, refused.protocol)
        })
        .collect();
    let rest: u64 = report.refused.iter().skip(MAX_LISTED).map(|refused| refused.packets).sum();
    if rest > 0 {
        lines.push(format!("{} to other destinations", count(rest)));
    }
    lines
}

fn text(report: &TunnelReport, outcome: Outcome) -> String {
    let mut text = format!("wg4netns: report of `{}`\n", report.name);
    for (what, value) in facts(report, outcome) {
        text.push_str(&format!("  {what}: {value}\n"));
    }
    for line in refusals(report) {
        text.push_str(&format!("  refused: {line}\n"));
    }
    text
}

fn markdown(report: &TunnelReport, outcome: Outcome) -> String {
    let mut text = format!("### Tunnel `{}`\n\n| | |\n|---|---|\n", report.name);
    for (what, value) in facts(report, outcome) {
        text.push_str(&format!("| {what} | {} |\n", value.replace('|', "\\|")));
    }
    for line in refusals(report) {
        text.push_str(&format!("| refused | {line} |\n"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::driver::command::{PeerReport, RefusedDestination};
    use crate::key::PublicKey;

    fn report() -> TunnelReport {
        let refused = |destination: &str, packets| RefusedDestination {
            destination: destination.into(),
            protocol: "udp".into(),
            packets,
        };
        TunnelReport {
            name: "ci".into(),
            peers: vec![PeerReport { tx_bytes: 1200, rx_bytes: 3400, ..PeerReport::default() }],
            refused: vec![refused("8.8.8.8:53", 12), refused("[2001:db8::1]:443", 1)],
            ..TunnelReport::default()
        }
    }

    fn outcome() -> Outcome {
        let peer = PublicKey::from_bytes([1; 32]);
        Outcome { code: 3, handshake: Some(Established { peer, took: Duration::from_micros(12_340) }) }
    }

    #[test]
    fn a_report_says_status_handshake_bytes_and_what_was_refused() {
        assert_eq!(
            text(&report(), outcome()),
            "wg4netns: report of `ci`\n  exit status: 3\n  handshake: 12.3 ms\n  sent: 1200 bytes\n  \
             received: 3400 bytes\n  refused: 12 packets to 8.8.8.8:53 (udp)\n  \
             refused: 1 packet to [2001:db8::1]:443 (udp)\n"
        );
    }

    #[test]
    fn a_job_summary_is_a_table() {
        let text = markdown(&report(), outcome());
        assert!(text.starts_with("### Tunnel `ci`\n\n| | |\n|---|---|\n| exit status | 3 |\n"), "{text}");
        assert!(text.contains("| refused | 12 packets to 8.8.8.8:53 (udp) |\n"), "{text}");
    }

    #[test]
    fn without_a_handshake_the_reason_is_given() {
        let mut report = report();
        report.peers[0].reason = Some("3 initiations sent, nothing came back".into());
        let text = text(&report, Outcome { code: 0, handshake: None });
        assert!(text.contains("  handshake: none: 3 initiations sent, nothing came back\n"), "{text}");
    }
}
