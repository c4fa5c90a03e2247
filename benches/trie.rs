//! Cryptokey routing: the longest prefix that holds an address, and building the table. The file of the engine itself is
//! compiled here, which nobody else gets to see.

use std::collections::HashSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, Throughput};

use self::allowed_ips::AllowedIps;

#[expect(dead_code, unused_imports, reason = "what only the engine and its tests use")]
#[path = "../src/wireguard/allowed_ips.rs"]
mod allowed_ips;

const SIZES: [usize; 3] = [1, 100, 10_000];

/// An address out of a random number.
type Address = fn(u64) -> IpAddr;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let kinds: [(_, Address); 2] = [("IPv4 /32", ipv4), ("IPv6 /128", ipv6)];
    let mut group = criterion.benchmark_group("look-up");
    for (kind, address) in kinds {
        for size in SIZES {
            let addresses = addresses(size, address);
            let table = table(&addresses);
            let mut next = addresses.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                bencher.iter(|| table.lookup(black_box(*next.next().expect("endless"))));
            });
            assert!(addresses.iter().zip(0..).all(|(address, peer)| table.lookup(*address) == Some(peer)));
        }
    }
    group.finish();
    // Into an empty table: divided by their number, what one costs on the way.
    let mut group = criterion.benchmark_group("insert");
    for (kind, address) in kinds {
        for size in SIZES {
            let addresses = addresses(size, address);
            group.throughput(Throughput::Elements(size as u64));
            group.bench_function(BenchmarkId::new(kind, size), |bencher| {
                bencher.iter(|| table(black_box(&addresses)));
            });
        }
    }
    group.finish();
    criterion.final_summary();
}

/// The address of peer `n` is the `n`th, and nothing else.
fn table(addresses: &[IpAddr]) -> AllowedIps {
    let mut table = AllowedIps::default();
    for (address, peer) in addresses.iter().zip(0..) {
        table.insert((*address).into(), peer);
    }
    table
}

/// So many different ones, in no order.
fn addresses(count: usize, address: Address) -> Vec<IpAddr> {
    let (mut seen, mut list) = (HashSet::new(), Vec::new());
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    while list.len() < count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let address = address(random);
        if seen.insert(address) {
            list.push(address);
        }
    }
    list
}

/// One of 10.0.0.0/8.
fn ipv4(random: u64) -> IpAddr {
    let [_, a, b, c, ..] = random.to_be_bytes();
    Ipv4Addr::new(10, a, b, c).into()
}

/// One of fd00::/64.
fn ipv6(random: u64) -> IpAddr {
    Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(random)).into()
}
