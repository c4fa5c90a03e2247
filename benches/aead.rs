//! The AEAD of the data path, by packet size and by batch: a figure per packet is the time divided by the batch.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use wg4netns::crypto::{AeadJob, AeadKey, TAG_LEN, open_batch, seal_batch};

const SIZES: [usize; 5] = [64, 128, 576, 1280, 1420];
const BATCHES: [usize; 4] = [1, 4, 16, 64];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let key = AeadKey::new(&[7; 32]);
    seal(&mut criterion, &key);
    open(&mut criterion, &key);
    criterion.final_summary();
}

/// Messages of `size` bytes and a tag each, side by side as a segmented send wants them.
fn batch(size: usize, count: usize) -> (Vec<u8>, Vec<AeadJob>) {
    let stride = 16 + size + TAG_LEN;
    let jobs = (0..count)
        .map(|index| {
            let range = index * stride + 16..(index + 1) * stride;
            AeadJob { range, counter: index as u64, authentic: false }
        })
        .collect();
    (vec![0x5a; stride * count], jobs)
}

fn seal(criterion: &mut Criterion, key: &AeadKey) {
    let mut group = criterion.benchmark_group("seal");
    for size in SIZES {
        for count in BATCHES {
            let (mut slab, jobs) = batch(size, count);
            group.throughput(Throughput::Bytes((size * count) as u64));
            group.bench_function(
                BenchmarkId::new(format!("{size} bytes"), format!("{count} packets")),
                |bencher| {
                    bencher.iter(|| seal_batch(key, black_box(&mut slab), black_box(&jobs)));
                },
            );
        }
    }
}

fn open(criterion: &mut Criterion, key: &AeadKey) {
    let mut group = criterion.benchmark_group("open");
    for size in SIZES {
        for count in BATCHES {
            let (mut sealed, mut jobs) = batch(size, count);
            seal_batch(key, &mut sealed, &jobs);
            let mut slab = sealed.clone();
            group.throughput(Throughput::Bytes((size * count) as u64));
            group.bench_function(
                BenchmarkId::new(format!("{size} bytes"), format!("{count} packets")),
                |bencher| {
                    bencher.iter(|| {
                        // Opening destroys the ciphertext; the copy is 1 % of the time.
                        slab.copy_from_slice(&sealed);
                        open_batch(key, black_box(&mut slab), black_box(&mut jobs));
                    });
                },
            );
            assert!(
                jobs.iter().all(|job| job.authentic),
                "only authentic packets cost what they cost in use"
            );
        }
    }
}
