//! `check`: what a configuration would do, and what is wrong with it. (cli)

use std::fmt::Write as _;

use super::args_inspect::CheckArgs;
use super::{print_out, report};
use crate::config::{Config, EndpointName};
use crate::driver::config_file::ConfigFileError;
use crate::mode::request::ConfigSource;

/// Mistakes are errors; warnings go to standard error, what the file says to standard output.
pub(super) fn check(args: &CheckArgs) -> Result<u8, ConfigFileError> {
    let config = ConfigSource::from_flag(&args.config).strict(args.strict_perms).load()?.config;
    for warning in config.warning_lines() {
        report::print_lines(&format!("warning: {warning}"), None);
    }
    Ok(print_out(describe(&config).as_bytes()))
}

/// No secret is in it.
fn describe(config: &Config) -> String {
    let mut text = format!("{}\n", config.name);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            writeln!(text, "  {name}: {value}").unwrap_or_default();
        }
    };
    let interface = &config.interface;
    if let Some(key) = &interface.private_key {
        line("public key", key.public_key().to_base64());
    }
    line("addresses", join(&interface.addresses));
    line("dns", join(&interface.dns));
    line("search", join(&interface.dns_search));
    line("mtu", interface.mtu.map(|mtu| mtu.to_string()).unwrap_or_default());
    line("listening port", interface.listen_port.map(|port| port.to_string()).unwrap_or_default());
    line("routes", join(&config.network_plan().routes));
    for peer in &config.peers {
        line("peer", peer.public_key.to_base64());
        line("  endpoint", peer.endpoint.as_ref().map(EndpointName::to_string).unwrap_or_default());
        line("  allowed ips", join(&peer.allowed_ips));
        line(
            "  preshared key",
            peer.preshared_key.as_ref().map(|_| "(hidden)".to_owned()).unwrap_or_default(),
        );
        let keepalive = peer
            .persistent_keepalive
            .filter(|seconds| *seconds != 0)
            .map(|seconds| format!("every {seconds} s"));
        line("  persistent keepalive", keepalive.unwrap_or_default());
    }
    text
}

fn join(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_shows_everything_but_secrets() {
        let text = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\nAddress = 10.0.0.2/32\n\
                    DNS = 10.0.0.1, corp.example\n[Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n\
                    PresharedKey = TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=\nAllowedIPs = 10.0.0.0/8\n\
                    Endpoint = vpn.example:51820\nPersistentKeepalive = 25\n";
        let config = Config::parse(text, "wg0.conf").unwrap();
        assert_eq!(
            describe(&config),
            "wg0.conf\n  \
               public key: HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\n  \
               addresses: 10.0.0.2/32\n  \
               dns: 10.0.0.1\n  \
               search: corp.example\n  \
               routes: 10.0.0.0/8\n  \
               peer: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n    \
                 endpoint: vpn.example:51820\n    \
                 allowed ips: 10.0.0.0/8\n    \
                 preshared key: (hidden)\n    \
                 persistent keepalive: every 25 s\n"
        );
    }
}
