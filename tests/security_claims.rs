//! SECURITY.md names a test for each claim: every one of them is there.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_a_claim_of_security_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("the file is there");
    let claims = text.split_once("as claims").expect("there are claims").1;
    let (mut missing, mut seen) = (Vec::new(), 0);
    // What stands between backticks is every second piece.
    for name in claims.split('`').skip(1).step_by(2) {
        if !["tests/", "src/", "integration/"].iter().any(|folder| name.starts_with(folder)) {
            continue;
        }
        seen += 1;
        let (file, function) = name.split_once("::").unwrap_or((name, ""));
        let there = fs::read_to_string(root.join(file)).is_ok_and(|source| {
            function.is_empty()
                || source.contains(&format!("#[test]\n    fn {function}()"))
                || source.contains(&format!("#[test]\nfn {function}()"))
        });
        if !there {
            missing.push(name);
        }
    }
    assert!(seen >= 15, "only {seen} tests are named");
    assert!(missing.is_empty(), "SECURITY.md names what is not there: {missing:?}");
}
