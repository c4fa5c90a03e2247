//! The one-way rule of the crate's folders, checked by reading the sources: `crate::…` names what a file leans on.
//!
//! `main → cli → compat → mode → driver → {wireguard, uapi} → {packet, config, key → crypto}`; `mode` and `driver`
//! also use `sys`, which knows nothing else of the crate; `key` and `crypto` have its memory for secrets, and nothing else. And `unsafe` is said under `src/sys/` only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the files of each module may name, beside their own module.
const MAY_USE: &[(&str, &[&str])] = &[
    ("time", &[]),
    // Both keep secrets in memory that `sys` maps for them.
    ("key", &["crypto", "sys"]),
    ("crypto", &["sys"]),
    ("config", &["key", "crypto", "time"]),
    ("packet", &[]),
    ("wireguard", &["packet", "config", "key", "crypto", "time"]),
    ("uapi", &["packet", "config", "key", "crypto", "time"]),
    ("sys", &["time"]),
    ("driver", &["wireguard", "uapi", "packet", "config", "key", "crypto", "time", "sys"]),
    ("mode", &["driver", "wireguard", "uapi", "packet", "config", "key", "crypto", "time", "sys"]),
    ("compat", &["mode", "driver", "wireguard", "uapi", "packet", "config", "key", "crypto", "time", "sys"]),
    (
        "cli",
        &[
            "compat",
            "mode",
            "driver",
            "wireguard",
            "uapi",
            "packet",
            "config",
            "key",
            "crypto",
            "time",
            "sys",
        ],
    ),
];

/// The crate's own name counts as `crate` in `main.rs`, which may name `cli` alone.
const MAIN_MAY_USE: &[&str] = &["cli"];

#[test]
fn every_module_uses_only_the_layers_below_it() {
    let mut broken = Vec::new();
    for file in sources() {
        let module = module_of(&file);
        let allowed = allowed_for(&module);
        for (line, used) in uses(&read(&file)) {
            if used != module && !allowed.contains(&used.as_str()) {
                broken.push(format!("{}:{line}: `{module}` may not use `{used}`", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "layers are crossed upwards:\n{}", broken.join("\n"));
}

#[test]
fn every_top_level_module_has_a_place_in_the_layers() {
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    let found: BTreeSet<String> = sources()
        .iter()
        .map(|file| module_of(file))
        .filter(|module| !matches!(module.as_str(), "main" | "lib"))
        .collect();
    let strangers: Vec<&String> = found.iter().filter(|module| !known.contains(module.as_str())).collect();
    assert!(strangers.is_empty(), "add these to MAY_USE: {strangers:?}");
}

#[test]
fn keys_have_nothing_of_the_system_but_memory_for_secrets() {
    let named = ["src/key.rs", "src/crypto.rs"].map(|file| {
        let text = read(&root().join(file));
        let lines: Vec<String> = code_lines(&text)
            .filter(|(_, line)| line.contains("crate::sys"))
            .map(|(_, line)| line.trim().to_owned())
            .collect();
        lines
    });
    assert_eq!(
        named,
        [["use crate::sys::secret_memory::SecretBox;"], ["use crate::sys::secret_memory::SecretBox;"]]
    );
}

#[test]
fn unsafe_is_said_under_sys_only() {
    let offenders: Vec<String> = sources()
        .iter()
        .filter(|file| module_of(file) != "sys")
        .flat_map(|file| {
            let path = file.display().to_string();
            code_lines(&read(file))
                .filter(|(_, line)| has_word(line, "unsafe"))
                .map(|(number, line)| format!("{path}:{number}: {line}"))
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(offenders.is_empty(), "{}", offenders.join("\n"));
}

#[test]
fn only_the_demo_peer_names_boringtun_and_only_crypto_names_its_primitives() {
    let rules: &[(&str, &[&str])] = &[
        ("boringtun", &["src/mode/demo_peer.rs", "src/mode/demo_peer/"]),
        ("ring", &["src/crypto.rs", "src/crypto/"]),
        ("x25519_dalek", &["src/crypto.rs", "src/crypto/", "src/key.rs"]),
        ("chacha20", &["src/crypto.rs", "src/crypto/"]),
        ("blake2", &["src/crypto.rs", "src/crypto/"]),
    ];
    let root = root();
    let mut broken = Vec::new();
    for file in sources() {
        let path = file.strip_prefix(&root).expect("sources are below the root").display().to_string();
        let text = read(&file);
        for (name, places) in rules {
            if places.iter().any(|place| path.starts_with(place)) {
                continue;
            }
            for (number, line) in code_lines(tests_cut_off(&text)) {
                if has_word(line, name) && line.contains(&format!("{name}::")) {
                    broken.push(format!("{path}:{number}: names `{name}`"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_reader_sees_what_it_is_meant_to_see() {
    let text = "use crate::sys::tun;\n// crate::mode\nlet x = crate::{driver::y, uapi};\nuse crate::{\n    mode::z,\n};\n";
    let seen: Vec<(usize, String)> = uses(text);
    let names: Vec<&str> = seen.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["sys", "driver", "uapi", "mode"]);
    assert_eq!(seen[0].0, 1);
    assert!(has_word("unsafe { x }", "unsafe") && !has_word("unsafe_code", "unsafe"));
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources can be listed") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 5, "the sources are elsewhere");
    found
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("a source file can be read")
}

/// `src/sys/tun.rs` → `sys`, `src/key.rs` → `key`.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).expect("sources are below src");
    let first =
        inside.components().next().expect("a file has a name").as_os_str().to_string_lossy().into_owned();
    first.strip_suffix(".rs").unwrap_or(&first).to_owned()
}

fn allowed_for(module: &str) -> &'static [&'static str] {
    match module {
        "main" => MAIN_MAY_USE,
        // The map of the code names everything, and declares it.
        "lib" => &[],
        _ => MAY_USE.iter().find(|(name, _)| *name == module).map_or(&[], |(_, allowed)| allowed),
    }
}

/// Every top-level module that the text names by `crate::` (or by the crate's name), with its line.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let code: String = text.lines().map(|line| format!("{}\n", without_comment(line))).collect();
    for prefix in ["crate::", "wg4netns::"] {
        for (at, _) in code.match_indices(prefix) {
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            for name in names_after(&code[at + prefix.len()..]) {
                found.push((line, name));
            }
        }
    }
    found
}

/// `sys::tun` → `sys`; `{driver::{a, b}, uapi}` → `driver`, `uapi`.
fn names_after(rest: &str) -> Vec<String> {
    let Some(list) = rest.strip_prefix('{') else {
        return word(rest).into_iter().collect();
    };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut start = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if c.is_whitespace() => {}
            _ if start => {
                start = false;
                names.extend(word(&list[at..]));
            }
            _ => {}
        }
    }
    names
}

/// The module's name, or nothing for items of the crate's root (types, macros).
fn word(text: &str) -> Option<String> {
    let name: String =
        text.chars().take_while(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_').collect();
    let known = MAY_USE.iter().any(|(module, _)| *module == name);
    known.then_some(name)
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, without_comment(line)))
}

/// Comments may name anything. `//` inside a string cuts too much, which can only hide, and no such line matters here.
fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Unit tests stand at the bottom and may compare against anything.
fn tests_cut_off(text: &str) -> &str {
    text.split_once("#[cfg(test)]").map_or(text, |(code, _)| code)
}

fn has_word(line: &str, wanted: &str) -> bool {
    line.match_indices(wanted).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(part) && !line[at + wanted.len()..].starts_with(part)
    })
}
