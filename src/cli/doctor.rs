//! What `doctor` prints. (cli)

use super::args_inspect::DoctorArgs;
use super::inspect::json;
use super::print_out;
use crate::driver::failure::FailureClass;
use crate::mode::doctor::{Check, Diagnosis, Integration, Outcome, apparmor_profile, examine};

/// 0 if a tunnel can be made here, else 5.
pub(super) fn doctor(args: &DoctorArgs) -> u8 {
    if args.apparmor_profile {
        return print_out(apparmor_profile().as_bytes());
    }
    let diagnosis = examine();
    let text = if args.json { json(&diagnosis) } else { describe(&diagnosis) };
    let verdict = if diagnosis.healthy { 0 } else { FailureClass::Kernel.exit_code() };
    print_out(text.as_bytes()).max(verdict)
}

fn describe(diagnosis: &Diagnosis) -> String {
    let checks: String = diagnosis.checks.iter().map(describe_check).collect();
    let integrations: String = diagnosis.integrations.iter().map(describe_integration).collect();
    format!("{checks}\n{integrations}")
}

fn describe_check(check: &Check) -> String {
    let verdict = match check.outcome {
        Outcome::Ok => "ok  ",
        Outcome::Warning => "warn",
        Outcome::Failure => "FAIL",
    };
    let mend = check.mend.as_ref().map(|mend| format!("      mend: {mend}\n")).unwrap_or_default();
    format!("{verdict}  {}: {}\n{mend}", check.tried, check.seen)
}

fn describe_integration(integration: &Integration) -> String {
    let verdict = if integration.works { "works" } else { "no   " };
    format!("{verdict}  {}: {}\n", integration.name, integration.how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_tried_seen_and_what_mends_it() {
        let check = Check {
            id: "tun-device",
            tried: "open `/dev/net/tun`".into(),
            seen: "No such file or directory (os error 2)".into(),
            outcome: Outcome::Failure,
            mend: Some("sudo modprobe tun".into()),
        };
        let integration = Integration { name: "run", works: false, how: "needs a TUN".into() };
        let diagnosis = Diagnosis { healthy: false, checks: vec![check], integrations: vec![integration] };
        assert_eq!(
            describe(&diagnosis),
            "FAIL  open `/dev/net/tun`: No such file or directory (os error 2)\n      \
                   mend: sudo modprobe tun\n\nno     run: needs a TUN\n"
        );
    }
}
