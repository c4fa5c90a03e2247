//! The broker as the process it is: started by its hidden argument, asked over its socket.

use std::time::Duration;

use wg4netns::driver::broker::{Broker, BrokerError, Resolver};
use wg4netns::driver::endpoint_names::Lookup;
use wg4netns::driver::namespace_child::Helper;

#[test]
fn it_resolves_and_ends_with_its_front() {
    in_runtime(async {
        let resolver = resolver();
        let addresses = resolve(&resolver, 1, "localhost").await.expect("localhost has an address");
        assert!(
            addresses
                .iter()
                .all(|address| address.starts_with("127.0.0.1:") || address.starts_with("[::1]:"))
        );
        assert!(!addresses.is_empty());
        let reason = resolve(&resolver, 2, "a name.with.spaces").await.expect_err("no such name");
        assert!(!reason.is_empty());
    });
}

#[test]
fn sixteen_lookups_at_once_are_all_answered() {
    in_runtime(async {
        let resolver = resolver();
        for id in 0..16 {
            ask(&resolver, id, "127.0.0.1");
        }
        let mut seen = Vec::new();
        for _ in 0..16 {
            let answer = resolver.answer().await.expect("the broker lives");
            assert_eq!(answer.result.map(|addresses| addresses.len()), Ok(1));
            seen.push(answer.id);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..16).collect::<Vec<_>>());
    });
}

#[test]
fn nonsense_ends_it_and_its_front_says_so() {
    in_runtime(async {
        let resolver = resolver();
        // Longer than any record: the broker cannot read it as a question and gives up.
        ask(&resolver, 1, &"x".repeat(20_000));
        assert!(matches!(resolver.answer().await, Err(BrokerError::Ended)));
        assert!(matches!(
            resolver.ask(&Lookup { id: 2, host: "localhost".to_owned(), port: 1 }),
            Err(BrokerError::Ended)
        ));
    });
}

fn resolver() -> Resolver {
    let broker =
        Broker::spawn(&Helper::at(env!("CARGO_BIN_EXE_wg4netns").into())).expect("the broker starts");
    broker.into_resolver().expect("the runtime watches a socket")
}

fn ask(resolver: &Resolver, id: u64, host: &str) {
    resolver.ask(&Lookup { id, host: host.to_owned(), port: 51820 }).expect("the broker listens");
}

async fn resolve(resolver: &Resolver, id: u64, host: &str) -> Result<Vec<String>, String> {
    ask(resolver, id, host);
    let answer = resolver.answer().await.expect("the broker lives");
    assert_eq!(answer.id, id);
    answer.result.map(|addresses| addresses.iter().map(|one| one.address.to_string()).collect())
}

fn in_runtime(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("it ends within 30 s");
    });
}
