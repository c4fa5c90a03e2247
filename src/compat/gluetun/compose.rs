//! The parts of a compose file that say how gluetun is run: its variables, its ports, and who uses its network. (wiring)

use std::collections::BTreeMap;

use saphyr::{LoadableYamlNode, Yaml};

use super::GluetunError;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// gluetun's variables.
    pub(super) variables: BTreeMap<String, String>,
    /// Its published ports, as `-p` has them.
    pub(super) ports: Vec<String>,
    /// The services whose network is gluetun's, with their images.
    pub(super) users: Vec<(String, String)>,
}

/// Reads a compose file, or a file of `NAME=VALUE` lines if it is not one. `known` is where `${NAME}` is looked up.
pub(super) fn read(text: &str, known: &dyn Fn(&str) -> Option<String>) -> Result<Found, GluetunError> {
    let documents = Yaml::load_from_str(text).unwrap_or_default();
    let services = documents.first().and_then(|document| document.as_mapping_get("services"));
    match services {
        Some(services) => compose(services, known),
        None => Ok(Found { variables: lines(text), ..Found::default() }),
    }
}

/// `NAME=VALUE` lines, as `--env-file` and `.env` have them.
pub(super) fn lines(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let quoted = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        Some((name.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

fn compose(services: &Yaml<'_>, known: &dyn Fn(&str) -> Option<String>) -> Result<Found, GluetunError> {
    let named: Vec<_> = services
        .as_mapping()
        .into_iter()
        .flatten()
        .filter_map(|(name, service)| Some((name.as_str()?.to_owned(), service)))
        .collect();
    let value = |yaml: &Yaml<'_>| scalar(yaml).map(|text| interpolate(&text, known));
    let image = |service: &Yaml<'_>| service.as_mapping_get("image").and_then(value).unwrap_or_default();
    let (name, gluetun) = named
        .iter()
        .find(|(_, service)| image(service).contains("gluetun"))
        .ok_or(GluetunError::NoService)?;
    let container = gluetun.as_mapping_get("container_name").and_then(value).unwrap_or_default();
    let networks = [format!("service:{name}"), format!("container:{container}")];
    let uses_it = |service: &Yaml<'_>| {
        service.as_mapping_get("network_mode").and_then(value).is_some_and(|mode| networks.contains(&mode))
    };
    let users = named
        .iter()
        .filter(|(_, service)| uses_it(service))
        .map(|(name, service)| (name.clone(), image(service)))
        .collect();
    Ok(Found {
        variables: gluetun
            .as_mapping_get("environment")
            .map(|yaml| variables(yaml, known))
            .unwrap_or_default(),
        ports: gluetun
            .as_mapping_get("ports")
            .and_then(Yaml::as_sequence)
            .into_iter()
            .flatten()
            .filter_map(|port| published(port, known))
            .collect(),
        users,
    })
}

/// `environment:` is a mapping, or a list of `NAME=VALUE`; a name alone takes its value from outside.
fn variables(yaml: &Yaml<'_>, known: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let pairs = yaml.as_mapping().into_iter().flatten().filter_map(|(name, value)| {
        let name = name.as_str()?.to_owned();
        let value = scalar(value).map(|text| interpolate(&text, known)).or_else(|| known(&name))?;
        Some((name, value))
    });
    let items = yaml.as_sequence().into_iter().flatten().filter_map(|item| {
        let item = item.as_str()?;
        match item.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), interpolate(value, known))),
            None => Some((item.to_owned(), known(item)?)),
        }
    });
    pairs.chain(items).collect()
}

/// A port in the short form, or in the long one with `target` and `published`.
fn published(yaml: &Yaml<'_>, known: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(short) = scalar(yaml) {
        return Some(interpolate(&short, known));
    }
    let part = |key| yaml.as_mapping_get(key).and_then(scalar).map(|text| interpolate(&text, known));
    let host = part("host_ip").map(|host| format!("{host}:")).unwrap_or_default();
    let outside = part("published").map(|port| format!("{port}:")).unwrap_or_default();
    let protocol = part("protocol").map(|protocol| format!("/{protocol}")).unwrap_or_default();
    Some(format!("{host}{outside}{}{protocol}", part("target")?))
}

/// A scalar as it would be written.
fn scalar(yaml: &Yaml<'_>) -> Option<String> {
    yaml.as_str()
        .map(str::to_owned)
        .or_else(|| yaml.as_integer().map(|number| number.to_string()))
        .or_else(|| yaml.as_bool().map(|truth| truth.to_string()))
        .or_else(|| yaml.as_floating_point().map(|number| number.to_string()))
}

/// `$NAME`, `${NAME}`, `${NAME-default}`, `${NAME:-default}` and `$$`, as compose has them.
fn interpolate(text: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            whole.push('$');
            rest = after;
        } else if let Some((inside, after)) = after.strip_prefix('{').and_then(|after| after.split_once('}'))
        {
            let end = inside.find(|c| !is_name(c)).unwrap_or(inside.len());
            let (name, otherwise) = inside.split_at(end);
            let value = known(name);
            whole.push_str(&match (otherwise.strip_prefix(":-"), otherwise.strip_prefix('-')) {
                (Some(default), _) => {
                    value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
                }
                (None, Some(default)) => value.unwrap_or_else(|| default.into()),
                (None, None) => value.unwrap_or_default(),
            });
            rest = after;
        } else {
            let (name, after) = after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()));
            whole.push_str(&known(name).unwrap_or_default());
            rest = after;
        }
    }
    whole.push_str(rest);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "KEY" => Some("secret".into()),
            "EMPTY" => Some(String::new()),
            _other => None,
        }
    }

    #[test]
    fn a_compose_file_says_how_gluetun_is_run_and_who_uses_it() {
        let text = "
services:
  vpn:
    image: qmcgee/gluetun:v3
    container_name: gluetun
    ports: ['8080:8080', 6881:6881/udp, {target: 80, published: 81, host_ip: 127.0.0.1, protocol: tcp}, 9091]
    environment:
      - VPN_TYPE=wireguard
      - WIREGUARD_PRIVATE_KEY=${KEY}
      - KEY
  torrent:
    image: lscr.io/linuxserver/qbittorrent
    network_mode: 'service:vpn'
  web: {image: nginx, network_mode: container:gluetun}
  other: {image: redis}
";
        let found = read(text, &known).unwrap();
        assert_eq!(found.variables["WIREGUARD_PRIVATE_KEY"], "secret");
        assert_eq!(found.variables["KEY"], "secret");
        assert_eq!(found.ports, ["8080:8080", "6881:6881/udp", "127.0.0.1:81:80/tcp", "9091"]);
        let users: Vec<_> = found.users.iter().map(|(name, image)| (name.as_str(), image.as_str())).collect();
        assert_eq!(users, [("torrent", "lscr.io/linuxserver/qbittorrent"), ("web", "nginx")]);
    }

    #[test]
    fn variables_may_be_a_mapping_and_need_not_be_text() {
        let text =
            "services: {g: {image: gluetun, environment: {WIREGUARD_MTU: 1320, HTTPPROXY: true, KEY: }}}";
        let variables = read(text, &known).unwrap().variables;
        let pairs: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(pairs, ["HTTPPROXY=true", "KEY=secret", "WIREGUARD_MTU=1320"]);
    }

    #[test]
    fn a_file_of_lines_is_one_of_variables() {
        let found = read("# gluetun\nexport A=1\nB='x y'\n\nC=\"z\"\nnonsense\nD=a=b\n", &known).unwrap();
        let pairs: Vec<_> = found.variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(pairs, ["A=1", "B=x y", "C=z", "D=a=b"]);
    }

    #[test]
    fn a_compose_file_without_gluetun_is_said_to_be_one() {
        assert!(matches!(read("services: {a: {image: nginx}}", &known), Err(GluetunError::NoService)));
    }

    #[test]
    fn references_are_resolved_as_compose_does() {
        for (text, wanted) in [
            ("a${KEY}b", "asecretb"),
            ("$KEY/x", "secret/x"),
            ("${NONE:-d}${EMPTY:-e}${EMPTY-f}${NONE-g}", "deg"),
            ("$$KEY", "$KEY"),
            ("${NONE}", ""),
            ("${KEY", "{KEY"),
            ("$", ""),
        ] {
            assert_eq!(interpolate(text, &known), wanted, "{text}");
        }
    }
}
