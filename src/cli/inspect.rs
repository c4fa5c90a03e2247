//! What `ls`, `status`, `logs` and `stop` print. (cli)

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use super::args_inspect::{LogsArgs, LsArgs, StatusArgs, StopArgs};
use super::{print_out, report};
use crate::driver::command::{PeerReport, TunnelReport};
use crate::driver::instance::{Instance, InstanceRecord, RecordedTarget};
use crate::mode::forward::in_words;
use crate::mode::inspect::{self, InspectError};

/// `ls`.
pub(super) fn ls(args: &LsArgs) -> Result<u8, InspectError> {
    let instances = inspect::instances(args.uapi_dir.as_deref())?;
    let text = if args.json { json(&rows(&instances)) } else { table(&instances) };
    Ok(print_out(text.as_bytes()))
}

/// `status`: 0 healthy, 1 not.
pub(super) fn status(args: &StatusArgs) -> Result<u8, InspectError> {
    let mut report = inspect::report(&args.name, args.uapi_dir.as_deref())?;
    report.healthy = inspect::is_healthy(&report, args.max_age);
    let text = if args.json { json(&report) } else { describe(&report) };
    Ok(print_out(text.as_bytes()).max(u8::from(!report.healthy)))
}

/// `logs`.
pub(super) fn logs(args: &LogsArgs) -> Result<u8, InspectError> {
    match inspect::logs(&args.name, args.follow, &mut io::stdout()) {
        // `logs -f | head`
        Err(InspectError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other.map(|()| 0),
    }
}

/// `stop`.
pub(super) fn stop(args: &StopArgs) -> Result<u8, InspectError> {
    inspect::stop(&args.name, args.uapi_dir.as_deref()).map(|()| 0)
}

/// One JSON document, over several lines.
pub(super) fn json(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document).unwrap_or_else(|error| {
        report::print(&error);
        String::new()
    });
    text.push('\n');
    text
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(flatten)]
    record: Option<&'a InstanceRecord>,
}

fn rows(instances: &[Instance]) -> Vec<Row<'_>> {
    instances
        .iter()
        .map(|instance| Row { name: instance.name.as_str(), record: instance.record.as_ref() })
        .collect()
}

fn table(instances: &[Instance]) -> String {
    let header = ["NAME", "PID", "MODE", "INTERFACE", "TARGET", "CONFIG"].map(String::from);
    let mut rows = vec![header];
    rows.extend(instances.iter().map(|instance| match &instance.record {
        Some(record) => [
            instance.name.to_string(),
            record.pid.to_string(),
            record.mode.clone(),
            record.interface.to_string(),
            target(&record.target),
            record.config.clone().unwrap_or_else(|| "-".into()),
        ],
        None => [instance.name.as_str(), "-", "starting", "-", "-", "-"].map(String::from),
    }));
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn target(target: &RecordedTarget) -> String {
    match target {
        RecordedTarget::Pid { pid, .. } => format!("pid {pid}"),
        RecordedTarget::Path { netns, .. } => netns.display().to_string(),
        RecordedTarget::Tun => "descriptor".into(),
        RecordedTarget::Own => "own".into(),
    }
}

fn describe(report: &TunnelReport) -> String {
    let mut text = format!("{}: {}\n", report.name, if report.healthy { "healthy" } else { "not healthy" });
    let mut line = |name: &str, value: String| writeln!(text, "  {name}: {value}").unwrap_or_default();
    let state = if report.up { "up" } else { "down" };
    line("interface", format!("{} ({}), {state}, mtu {}", report.interface, report.link, report.mtu));
    line("listening port", report.listen_port.to_string());
    line("running for", duration(report.uptime_secs));
    if !report.sandbox.is_empty() {
        line("sandbox", report.sandbox.join(", "));
    }
    for peer in &report.peers {
        line("peer", peer.public_key.clone());
        for (name, value) in peer_lines(peer) {
            line(&format!("  {name}"), value);
        }
    }
    for forward in &report.forwards {
        line("forwards", in_words(forward));
    }
    for refused in &report.refused {
        let packets = if refused.packets == 1 { "packet" } else { "packets" };
        line(
            "refused",
            format!("{} {packets} to {} ({})", refused.packets, refused.destination, refused.protocol),
        );
    }
    for (reason, count) in &report.drops {
        line("dropped", format!("{count}: {reason}"));
    }
    text
}

fn peer_lines(peer: &PeerReport) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    match (&peer.endpoint, &peer.endpoint_name) {
        (Some(address), Some(name)) => lines.push(("endpoint", format!("{address} ({name})"))),
        (Some(one), None) | (None, Some(one)) => lines.push(("endpoint", one.clone())),
        (None, None) => {}
    }
    if let Some(age) = peer.last_handshake_secs {
        let took = peer.handshake_ms.map(|ms| format!(" (the first took {ms:.1} ms)")).unwrap_or_default();
        lines.push(("latest handshake", format!("{} ago{took}", duration(age))));
    }
    let transfer = format!("{} received, {} sent", bytes(peer.rx_bytes), bytes(peer.tx_bytes));
    lines.push(("transfer", transfer));
    if let Some(reason) = &peer.reason {
        lines.push(("no session", reason.clone()));
    }
    if let Some(hint) = &peer.hint {
        lines.push(("hint", hint.clone()));
    }
    lines
}

/// `3 d 2 h`, `5 min 10 s`, `7 s`: the two largest units.
fn duration(secs: u64) -> String {
    let units = [(secs / 86_400, "d"), (secs / 3600 % 24, "h"), (secs / 60 % 60, "min"), (secs % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    let shown = units[first..].iter().take(2).filter(|(count, unit)| *count > 0 || *unit == "s");
    let words: Vec<_> = shown.map(|(count, unit)| format!("{count} {unit}")).collect();
    words.join(" ")
}

/// As `wg` prints them: powers of 1024, two decimals.
fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two decimals are printed")]
    let scaled = |shift: u32| count as f64 / (1_u64 << shift) as f64;
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.2} KiB", scaled(10)),
        1_048_576..1_073_741_824 => format!("{:.2} MiB", scaled(20)),
        1_073_741_824..1_099_511_627_776 => format!("{:.2} GiB", scaled(30)),
        1_099_511_627_776.. => format!("{:.2} TiB", scaled(40)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::command::RefusedDestination;

    #[test]
    fn durations_show_two_units_and_bytes_two_decimals() {
        for (secs, text) in
            [(0, "0 s"), (59, "59 s"), (310, "5 min 10 s"), (3600, "1 h"), (266_400, "3 d 2 h")]
        {
            assert_eq!(duration(secs), text);
        }
        for (count, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.50 KiB"), (5 << 30, "5.00 GiB")] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_status_names_what_is_wrong() {
        let report = TunnelReport {
            name: "office".into(),
            interface: "wg0".into(),
            mtu: 1420,
            up: true,
            link: "tun".into(),
            listen_port: 51820,
            uptime_secs: 61,
            peers: vec![PeerReport {
                public_key: "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".into(),
                endpoint: Some("192.0.2.1:51820".into()),
                endpoint_name: Some("vpn.example:51820".into()),
                tx_bytes: 444,
                reason: Some("3 initiations sent, nothing came back".into()),
                hint: Some("check `Endpoint`".into()),
                ..PeerReport::default()
            }],
            refused: vec![RefusedDestination {
                destination: "8.8.8.8:53".into(),
                protocol: "udp".into(),
                packets: 12,
            }],
            ..TunnelReport::default()
        };
        assert_eq!(
            describe(&report),
            "office: not healthy\n  \
               interface: wg0 (tun), up, mtu 1420\n  \
               listening port: 51820\n  \
               running for: 1 min 1 s\n  \
               peer: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n    \
                 endpoint: 192.0.2.1:51820 (vpn.example:51820)\n    \
                 transfer: 0 B received, 444 B sent\n    \
                 no session: 3 initiations sent, nothing came back\n    \
                 hint: check `Endpoint`\n  \
               refused: 12 packets to 8.8.8.8:53 (udp)\n"
        );
    }

    #[test]
    fn the_table_is_aligned_and_shows_who_starts() {
        let record = InstanceRecord {
            pid: 4242,
            starttime: 1,
            mode: "attach".into(),
            interface: "wg0".parse().unwrap(),
            target: RecordedTarget::Pid { pid: 7, starttime: 2 },
            config: None,
            version: "0".into(),
        };
        let instances = [
            Instance { name: "a".parse().unwrap(), record: Some(record) },
            Instance { name: "office".parse().unwrap(), record: None },
        ];
        assert_eq!(
            table(&instances),
            "NAME    PID   MODE      INTERFACE  TARGET  CONFIG\n\
             a       4242  attach    wg0        pid 7   -\n\
             office  -     starting  -          -       -\n"
        );
        let json: serde_json::Value = serde_json::from_str(&json(&rows(&instances))).unwrap();
        assert_eq!(json[0]["target"]["pid"]["pid"], 7);
        assert_eq!(json[1], serde_json::json!({ "name": "office" }));
    }
}
