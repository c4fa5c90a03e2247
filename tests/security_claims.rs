//! SECURITY.md names a test for each claim: every one of them is there.

use std::fs;
use std::path::Path;

#[test]
fn every_claim_of_security_md_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("the file is there");
    let claims = text.split_once("as claims").expect("there are claims").1;
    let (mut missing, mut bare) = (Vec::new(), Vec::new());
    // A claim begins `1. **K1** …` and goes on until the next.
    let mut claims = claims.split("\n").fold(Vec::<String>::new(), |mut claims, line| {
        let begins = line.split_once(". **").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        match claims.last_mut() {
            Some(claim) if !begins => *claim += line,
            _ => claims.push(line.to_owned()),
        }
        claims
    });
    // What stands before the first.
    claims.remove(0);
    assert!(claims.len() >= 11, "only {} claims", claims.len());
    for claim in &claims {
        let mut seen = 0;
        // What stands between backticks is every second piece.
        for name in claim.split('`').skip(1).step_by(2) {
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
        if seen == 0 {
            bare.push(claim);
        }
    }
    assert!(bare.is_empty(), "claims that name no test: {bare:#?}");
    assert!(missing.is_empty(), "SECURITY.md names what is not there: {missing:?}");
}
