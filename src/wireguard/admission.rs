//! Which handshake messages may cost a Diffie-Hellman: load, cookies, budgets. (core: no IO, no clock)
//!
//! # Theory of operation
//! Only messages with a valid MAC1 come here, but anyone who knows our public key can make those, at any rate and from
//! any address. In three stages, by how many messages wait in the queue:
//!
//! 1. *Calm.* Everything is admitted. Each source's budget of 20 a second is spent all the same.
//! 2. *Crowded*: 1/64 waits, and for a second after. A source that is over its budget must show a cookie. A flood from
//!    a few addresses ends here: it costs us a MAC and a cookie each, the queue stays short, and nobody else notices.
//! 3. *Under load*: 1/8 waits, and for a second after. Everybody must show a cookie, as the kernel module demands;
//!    except for a trickle of messages from sources within their budget, few enough to cost little, so that a
//!    peer whose first message falls into such a second need not wait five for its next. In a deluge of such messages
//!    the trickle would be a lottery that hardly a peer wins, so it stops. Turned away, a flood leaves
//!    the queue short; the load lasts until the flood itself is over, or each second of it would begin with as many
//!    Diffie-Hellmans as it takes to fill the queue again.
//!
//! Who shows a cookie owns its address, and has a budget that nobody else can spend: there are two limiters.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::device::MAX_QUEUED_HANDSHAKES;
use crate::time::BootTime;

/// Waiting messages that mean load (the kernel module's fraction).
const UNDER_LOAD: usize = MAX_QUEUED_HANDSHAKES / 8;

/// Waiting messages from which on sources over their budget are challenged.
const CROWDED: usize = MAX_QUEUED_HANDSHAKES / 64;

/// How long a crowd or load is felt after the queue was last long (the kernel module's).
const LOAD_LINGERS: Duration = Duration::from_secs(1);

/// Per source, as the kernel module has it.
const SOURCE: Budget = Budget { per_second: 20, burst: 5 };

/// Messages without a cookie that are admitted under load, from all sources together: 2 % of a core. What 16 sources may
/// send, at once and as long as they like, and room beside them.
const TRICKLE: Budget = Budget { per_second: 400, burst: 100 };

/// More a second, from sources within their budget, are load that goes on: each second would fill the queue.
const CROWD: Budget = Budget { per_second: UNDER_LOAD as u64, burst: UNDER_LOAD as u64 };

/// More a second, from sources within their budget, are ten times what the trickle admits.
const DELUGE: Budget = Budget { per_second: 4000, burst: 400 };

/// How long the trickle stays away after a message beyond that.
const DELUGE_LINGERS: Duration = Duration::from_millis(100);

/// Sources remembered; at 48 bytes each, under a megabyte.
const MAX_SOURCES: usize = 16_384;

/// What to do with a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Look into it.
    Admit,
    /// Answer by a cookie and forget it.
    Challenge,
    /// Forget it: its source owns its address and is over its budget.
    Drop,
}

/// Decides.
pub(super) struct Admission {
    crowded_until: BootTime,
    loaded_until: BootTime,
    deluge_until: BootTime,
    /// By the address a message claims to come from.
    claimed: RateLimiter,
    /// By the address a message was shown to come from.
    proven: RateLimiter,
    trickle: Bucket,
    /// What comes under load from sources within their budget.
    crowd: Bucket,
    /// The same, against a greater measure.
    deluge: Bucket,
}

impl Admission {
    pub(super) fn new() -> Self {
        Self {
            crowded_until: BootTime::default(),
            loaded_until: BootTime::default(),
            deluge_until: BootTime::default(),
            claimed: RateLimiter::default(),
            proven: RateLimiter::default(),
            trickle: Bucket::default(),
            crowd: Bucket::default(),
            deluge: Bucket::default(),
        }
    }

    /// Whether there are, or were just now, so many that some are turned away.
    pub(super) fn is_crowded(&self, now: BootTime) -> bool {
        now < self.crowded_until
    }

    /// For a message with a valid MAC1 from `source`, with `queued` messages waiting behind it; `has_cookie` tells
    /// whether MAC2 is valid.
    pub(super) fn decide(
        &mut self,
        source: IpAddr,
        queued: usize,
        has_cookie: impl FnOnce() -> bool,
        now: BootTime,
    ) -> Verdict {
        for (limit, until) in [(CROWDED, &mut self.crowded_until), (UNDER_LOAD, &mut self.loaded_until)] {
            if queued >= limit {
                *until = now + LOAD_LINGERS;
            }
        }
        // A table full of forged sources knows nothing about this one.
        let within_budget = self.claimed.spend(source, now).unwrap_or(true);
        let loaded = now < self.loaded_until;
        if loaded && within_budget {
            if !self.crowd.spend(CROWD, now) {
                (self.crowded_until, self.loaded_until) = (now + LOAD_LINGERS, now + LOAD_LINGERS);
            }
            if !self.deluge.spend(DELUGE, now) {
                self.deluge_until = now + DELUGE_LINGERS;
            }
        }
        let crowded = self.is_crowded(now);
        if !loaded && (within_budget || !crowded) {
            Verdict::Admit
        } else if has_cookie() {
            match self.proven.spend(source, now) {
                Some(true) => Verdict::Admit,
                Some(false) | None => Verdict::Drop,
            }
        } else if within_budget && now >= self.deluge_until && self.trickle.spend(TRICKLE, now) {
            Verdict::Admit
        } else {
            Verdict::Challenge
        }
    }
}

/// So many a second, so many at once.
#[derive(Clone, Copy)]
struct Budget {
    per_second: u64,
    burst: u64,
}

/// Time saved up, in nanoseconds, up to the burst's price.
#[derive(Clone, Copy, Default)]
struct Bucket {
    /// When the bucket will be full again.
    full_at: BootTime,
}

impl Bucket {
    /// Takes the price of one message out; false, and nothing is taken, if there is not enough.
    fn spend(&mut self, budget: Budget, now: BootTime) -> bool {
        let price = Duration::from_nanos(1_000_000_000 / budget.per_second);
        let capacity = Duration::from_nanos(1_000_000_000 / budget.per_second * budget.burst);
        let full_at = self.full_at.max(now) + price;
        let affordable = full_at.duration_since(now) <= capacity;
        if affordable {
            self.full_at = full_at;
        }
        affordable
    }
}

/// A bucket for each source: an IPv4 address, or an IPv6 /64.
#[derive(Default)]
struct RateLimiter {
    buckets: HashMap<u64, Bucket>,
    /// When full buckets were last thrown away.
    swept: BootTime,
}

impl RateLimiter {
    /// Whether `source` is within its budget; `None` if there is no room to remember one more source.
    fn spend(&mut self, source: IpAddr, now: BootTime) -> Option<bool> {
        let key = match source.to_canonical() {
            IpAddr::V4(address) => u64::from(address.to_bits()),
            // Global prefixes begin with 001: never an IPv4 address's number.
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).expect("64 of 128 bits"),
        };
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&key) && !self.sweep(now) {
            return None;
        }
        Some(self.buckets.entry(key).or_default().spend(SOURCE, now))
    }

    /// Throws away buckets that are full again; whether there is room now. At most once in a quarter of a second:
    /// a bucket takes that long to fill.
    fn sweep(&mut self, now: BootTime) -> bool {
        if now.duration_since(self.swept) < Duration::from_millis(250) {
            return false;
        }
        self.swept = now;
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        self.buckets.len() < MAX_SOURCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos((1000 + millis) * 1_000_000)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_a_burst_of_five_and_twenty_a_second() {
        let mut limiter = RateLimiter::default();
        let source = ip("192.0.2.1");
        let burst = (0..100).filter(|_| limiter.spend(source, at(0)) == Some(true)).count();
        assert_eq!(burst, 5);
        assert_eq!(limiter.spend(ip("192.0.2.2"), at(0)), Some(true));
        let sustained =
            (1..=10_000).filter(|millis| limiter.spend(source, at(*millis)) == Some(true)).count();
        assert_eq!(sustained, 200);
    }

    #[test]
    fn an_ipv6_source_is_its_64_bit_prefix() {
        let mut limiter = RateLimiter::default();
        let within = (0..100_u32)
            .filter(|host| limiter.spend(ip(&format!("2001:db8::{host:x}")), at(0)) == Some(true))
            .count();
        assert_eq!(within, 5);
        assert_eq!(limiter.spend(ip("2001:db8:0:1::1"), at(0)), Some(true));
    }

    #[test]
    fn the_table_of_sources_is_bounded_and_recovers() {
        let mut limiter = RateLimiter::default();
        for bits in 0..100_000_u32 {
            limiter.spend(IpAddr::V4(bits.into()), at(0));
        }
        assert_eq!(limiter.buckets.len(), MAX_SOURCES);
        assert_eq!(limiter.spend(ip("203.0.113.1"), at(1)), None);
        assert_eq!(limiter.spend(ip("203.0.113.1"), at(1000)), Some(true));
        assert_eq!(limiter.buckets.len(), 1);
    }

    #[test]
    fn calm_admits_everybody() {
        let mut admission = Admission::new();
        for _ in 0..1000 {
            let verdict = admission.decide(ip("192.0.2.1"), CROWDED - 1, || false, at(0));
            assert_eq!(verdict, Verdict::Admit);
        }
    }

    #[test]
    fn a_crowd_from_one_source_is_challenged_and_another_source_is_not() {
        let mut admission = Admission::new();
        let admitted = (0..1000)
            .filter(|_| admission.decide(ip("192.0.2.1"), CROWDED, || false, at(0)) == Verdict::Admit)
            .count();
        assert_eq!(admitted, 5);
        assert_eq!(admission.decide(ip("192.0.2.2"), CROWDED, || false, at(0)), Verdict::Admit);
        // The queue is short again at once, and would be long again if that were the end of it.
        assert_eq!(admission.decide(ip("192.0.2.1"), 0, || false, at(1)), Verdict::Challenge);
        assert_eq!(admission.decide(ip("192.0.2.1"), 0, || false, at(1000)), Verdict::Admit);
    }

    #[test]
    fn load_challenges_everybody_without_a_cookie_and_lingers_for_a_second() {
        let mut admission = Admission::new();
        let sources: Vec<_> = (0..1000_u32).map(|bits| IpAddr::V4((0x0a00_0000 + bits).into())).collect();
        let admitted = sources
            .iter()
            .filter(|source| admission.decide(**source, UNDER_LOAD, || false, at(0)) == Verdict::Admit)
            .count();
        assert_eq!(admitted, 100, "the trickle");
        assert_eq!(admission.decide(ip("192.0.2.1"), 0, || false, at(1)), Verdict::Challenge);
        assert_eq!(admission.decide(ip("192.0.2.1"), 0, || true, at(2)), Verdict::Admit);
        assert_eq!(admission.decide(ip("192.0.2.1"), 0, || false, at(1000)), Verdict::Admit);
    }

    /// Each second of a flood from everywhere began with some 700 Diffie-Hellmans: the queue was short again, because
    /// everything in it was turned away.
    #[test]
    fn a_flood_from_everywhere_is_load_until_it_ends() {
        let mut admission = Admission::new();
        let mut flood = (0x0a00_0000_u32..).map(|bits| IpAddr::V4(bits.into()));
        let mut admitted_in = |admission: &mut Admission, queued, millis: std::ops::Range<u64>| {
            let messages = millis.flat_map(|milli| std::iter::repeat_n(milli, 20));
            let verdicts = messages
                .zip(&mut flood)
                .map(|(milli, source)| admission.decide(source, queued, || false, at(milli)));
            verdicts.filter(|verdict| *verdict == Verdict::Admit).count()
        };
        admitted_in(&mut admission, UNDER_LOAD, 0..1);
        let admitted = admitted_in(&mut admission, 0, 1..10_000);
        assert!(admitted <= 100, "{admitted} in ten seconds");
        assert_eq!(admission.decide(ip("192.0.2.1"), 0, || false, at(10_500)), Verdict::Admit, "the trickle");
        assert!(admission.is_crowded(at(10_900)));
        assert!(!admission.is_crowded(at(11_000)), "a second after its end");
    }

    #[test]
    fn a_moderate_flood_from_everywhere_leaves_a_trickle() {
        let mut admission = Admission::new();
        let sources = (0x0a00_0000_u32..).map(|bits| IpAddr::V4(bits.into()));
        let messages = (0..10_000_u64).flat_map(|milli| std::iter::repeat_n(milli, 2)).zip(sources);
        let verdicts =
            messages.map(|(milli, source)| admission.decide(source, UNDER_LOAD, || false, at(milli)));
        let admitted = verdicts.filter(|verdict| *verdict == Verdict::Admit).count();
        assert!((3900..=4200).contains(&admitted), "{admitted} in ten seconds");
    }

    /// Their budgets are more than the trickle: it is their being over it that is to be held against them alone.
    #[test]
    fn a_flood_from_sixteen_sources_is_no_load_that_goes_on() {
        let mut admission = Admission::new();
        for milli in 0..10_000_u64 {
            let queued = if milli == 0 { UNDER_LOAD } else { CROWDED };
            for message in 0..20_u32 {
                let source = IpAddr::V4((0x0a00_0000 + message % 16).into());
                admission.decide(source, queued, || false, at(milli));
            }
        }
        for host in 0..200_u32 {
            let stranger = IpAddr::V4((0xc000_0200 + host).into());
            assert_eq!(admission.decide(stranger, CROWDED, || false, at(10_000)), Verdict::Admit);
        }
    }

    /// A device that was not run for a moment finds a long queue, although no source may have much. One honest
    /// message was then answered with a cookie, and its sender had to wait five seconds.
    #[test]
    fn the_onset_of_load_from_sixteen_sources_leaves_room_for_another() {
        let mut admission = Admission::new();
        for message in 0..2000_u32 {
            admission.decide(IpAddr::V4((0x0a00_0000 + message % 16).into()), UNDER_LOAD, || false, at(1000));
        }
        assert_eq!(admission.decide(ip("192.0.2.1"), UNDER_LOAD, || false, at(1000)), Verdict::Admit);
    }

    /// On a busy machine the queue is long every now and then, so load lasts; and the budgets of 16 sources were more than
    /// was admitted under load: one stranger in five had to wait five seconds.
    #[test]
    fn load_that_lasts_from_sixteen_sources_leaves_room_for_another() {
        let mut admission = Admission::new();
        for milli in 0..10_000_u64 {
            for message in 0..20_u32 {
                let source = IpAddr::V4((0x0a00_0000 + message % 16).into());
                admission.decide(source, UNDER_LOAD, || false, at(milli));
            }
            if milli % 100 == 99 {
                let stranger = IpAddr::V4((0xc000_0200 + u32::try_from(milli).unwrap()).into());
                let verdict = admission.decide(stranger, UNDER_LOAD, || false, at(milli));
                assert_eq!(verdict, Verdict::Admit, "after {milli} ms");
            }
        }
    }

    #[test]
    fn an_owner_of_its_address_keeps_its_budget_while_others_forge_it() {
        let mut admission = Admission::new();
        let source = ip("192.0.2.1");
        for _ in 0..10_000 {
            admission.decide(source, UNDER_LOAD, || false, at(0));
        }
        let admitted = (0..100)
            .filter(|_| admission.decide(source, UNDER_LOAD, || true, at(0)) == Verdict::Admit)
            .count();
        assert_eq!(admitted, 5);
        assert_eq!(admission.decide(source, UNDER_LOAD, || true, at(0)), Verdict::Drop);
    }
}
