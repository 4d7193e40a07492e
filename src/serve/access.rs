//! Who is served, and how often the others are told that they are not.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use hickory_proto::access_control::{AccessControlSet, AccessControlSetBuilder};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::time::Instant;

/// Refusals that a client network gets in a burst, and then each second. A refusal is hardly larger
/// than its query, so this is a bound on being a reflector at all.
const REFUSAL_BURST: u32 = 10;
const REFUSALS_PER_SECOND: u32 = 5;
/// Client networks that are counted apart. A flood of forged senders can only share their buckets.
const BUCKETS: usize = 1024;

/// The networks that are served.
#[derive(Debug)]
pub(crate) struct Access(AccessControlSet);

impl Access {
    /// Serves `allow` and nobody else.
    pub(crate) fn new(allow: &[IpNet]) -> Result<Self, String> {
        let everybody = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        AccessControlSetBuilder::new("clients")
            .deny(everybody.iter())
            .allow(allow.iter())
            .build()
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Whether this client is served. An IPv4 client of an IPv6 socket counts as IPv4.
    pub(crate) fn allows(&self, client: IpAddr) -> bool {
        !self.0.denied(client.to_canonical())
    }
}

/// Token buckets for refusals, one for each client network (IPv4 /24, IPv6 /56).
#[derive(Debug)]
pub(crate) struct RefusalLimit {
    buckets: Mutex<Vec<Bucket>>,
    hasher: RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    filled: Instant,
}

impl RefusalLimit {
    pub(crate) fn new() -> Self {
        let full = Bucket {
            tokens: REFUSAL_BURST,
            filled: Instant::now(),
        };
        Self {
            buckets: Mutex::new(vec![full; BUCKETS]),
            hasher: RandomState::new(),
        }
    }

    /// Whether this client may be told once more.
    pub(crate) fn permits(&self, client: IpAddr) -> bool {
        let network = match client.to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
            IpAddr::V6(ip) => u64::try_from(u128::from(ip) >> 72).unwrap_or(0),
        };
        let hash = self.hasher.hash_one(network);
        let index = usize::try_from(hash).unwrap_or(0) % BUCKETS;
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bucket) = buckets.get_mut(index) else {
            return false;
        };
        let seconds = now.saturating_duration_since(bucket.filled).as_secs();
        if seconds > 0 {
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            let gained = seconds.saturating_mul(REFUSALS_PER_SECOND);
            bucket.tokens = bucket.tokens.saturating_add(gained).min(REFUSAL_BURST);
            bucket.filled = now;
        }
        let permitted = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        permitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_listed_networks_are_served() {
        let allow = ["127.0.0.0/8", "2001:db8::/32"].map(|net| net.parse().unwrap());
        let access = Access::new(&allow).unwrap();
        for (client, served) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("2001:db8::1", true),
            ("::1", false),
            ("192.0.2.1", false),
            ("2001:db9::1", false),
        ] {
            assert_eq!(access.allows(client.parse().unwrap()), served, "{client}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_rare_for_one_network_and_free_for_the_next() {
        let limit = RefusalLimit::new();
        let count = |client: &str| {
            let client = client.parse().unwrap();
            (0..100).filter(|_| limit.permits(client)).count()
        };
        assert_eq!(count("192.0.2.1"), 10);
        assert_eq!(count("192.0.2.200"), 0);
        assert_eq!(count("2001:db8::1"), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(count("192.0.2.1"), 5);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(count("192.0.2.1"), 10);
    }
}
