//! DNS cookies (RFC 7873): what shows a client that a reply is ours, and us that the client's address
//! is its own. Server cookies have the form of RFC 9018, so that any client may keep them.
//!
//! Nothing is withheld from clients without a valid server cookie: they are answered alike.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use siphasher::sip::SipHasher24;
use tokio::time::Instant;

use crate::wire::{read_u32, write_at};

/// Bytes of a client cookie (RFC 7873 section 4.1).
const CLIENT_LEN: usize = 8;
/// Bytes of our server cookies (RFC 9018 section 4).
const SERVER_LEN: usize = 16;
/// Bytes of server cookies that another server may have given (RFC 7873 section 4.2).
const ANY_SERVER_LEN: std::ops::RangeInclusive<usize> = 8..=32;
/// The version of server cookies that are given and accepted (RFC 9018 section 4.1).
const VERSION: u8 = 1;
/// How long a server cookie is valid, in seconds (RFC 9018 section 4.3).
const MAX_AGE: i32 = 3600;
/// How far in the future it may have been given, in seconds (RFC 9018 section 4.3).
const MAX_AHEAD: i32 = 300;
/// From this age on, in seconds, the client gets a new one (RFC 9018 section 4.3).
const RENEWAL_AGE: i32 = 1800;
/// How long a secret gives cookies (RFC 7873 section 7.1: 36 days at most, a day is better).
const SECRET_LIFETIME: Duration = Duration::from_secs(86_400);

/// The key of the hash.
type Secret = [u8; 16];

/// The COOKIE option of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryCookie<'a> {
    client: [u8; CLIENT_LEN],
    /// Empty if the client has none yet.
    server: &'a [u8],
}

/// The COOKIE option of a reply: the client cookie and a server cookie that is valid.
pub(super) type ReplyCookie = [u8; CLIENT_LEN + SERVER_LEN];

/// What became of a query's cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Judged {
    /// What the reply carries.
    pub(super) reply: ReplyCookie,
    /// There was a server cookie, and it is none of ours, or too old.
    pub(super) bad: bool,
}

impl<'a> QueryCookie<'a> {
    /// Takes the option's data apart; `None` if it has a length that no cookie has.
    pub(super) fn read(data: &'a [u8]) -> Option<Self> {
        let (client, server) = data.split_first_chunk()?;
        // RFC 7873 section 5.2.2: 8 bytes, or 16 to 40.
        let fits = server.is_empty() || ANY_SERVER_LEN.contains(&server.len());
        fits.then_some(Self {
            client: *client,
            server,
        })
    }
}

/// Gives and checks server cookies.
pub(super) struct Cookies {
    secrets: Mutex<Secrets>,
    started: Instant,
    /// Unix time at `started`.
    started_unix: Duration,
}

#[derive(Clone, Copy)]
struct Secrets {
    current: Secret,
    /// The one before: what it gave stays valid (RFC 9018 section 5).
    previous: Secret,
    since: Instant,
}

/// Secrets do not belong in a log.
impl fmt::Debug for Cookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cookies").finish_non_exhaustive()
    }
}

impl Cookies {
    /// Starts with a random secret.
    pub(super) fn new() -> Self {
        let started = Instant::now();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            secrets: Mutex::new(Secrets {
                current: rand::random(),
                // Nobody has a cookie of it.
                previous: rand::random(),
                since: started,
            }),
            started,
            started_unix: since_epoch.unwrap_or_default(),
        }
    }

    /// Checks what a client sent and says what it gets.
    pub(super) fn judge(&self, cookie: &QueryCookie<'_>, client: IpAddr) -> Judged {
        let now = Instant::now();
        self.secrets_at(now).judge(cookie, client, self.time(now))
    }

    /// Unix time, modulo 2^32. It follows the clock that only goes forward, so a step of the system's
    /// clock makes no cookie invalid.
    fn time(&self, now: Instant) -> u32 {
        let elapsed = now.saturating_duration_since(self.started);
        let seconds = self.started_unix.saturating_add(elapsed).as_secs();
        u32::try_from(seconds & u64::from(u32::MAX)).unwrap_or(0)
    }

    /// The secrets in force; a new one each day.
    fn secrets_at(&self, now: Instant) -> Secrets {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(secrets.since) >= SECRET_LIFETIME {
            *secrets = Secrets {
                current: rand::random(),
                previous: secrets.current,
                since: now,
            };
        }
        *secrets
    }
}

impl Secrets {
    fn judge(&self, cookie: &QueryCookie<'_>, client: IpAddr, now: u32) -> Judged {
        let made_with = |secret: &Secret| is_made_with(secret, cookie, client);
        let age = age(cookie.server, now).filter(|age| (-MAX_AHEAD..=MAX_AGE).contains(age));
        let is_current = age.is_some() && made_with(&self.current);
        let valid = is_current || age.is_some() && made_with(&self.previous);
        // Reserved bytes are not handed on (RFC 9018 section 4.2).
        let stays =
            is_current && age < Some(RENEWAL_AGE) && cookie.server.get(1..4) == Some(&[0; 3]);
        let server = match <[u8; SERVER_LEN]>::try_from(cookie.server) {
            Ok(server) if stays => server,
            Ok(_) | Err(_) => server_cookie(&self.current, cookie.client, [0; 3], now, client),
        };
        let mut reply = [0; CLIENT_LEN + SERVER_LEN];
        write_at(&mut reply, 0, &cookie.client);
        write_at(&mut reply, CLIENT_LEN, &server);
        Judged {
            reply,
            bad: !cookie.server.is_empty() && !valid,
        }
    }
}

/// Seconds since a server cookie of ours was given, by serial arithmetic (RFC 9018 section 4.3); `None`
/// if its form is not ours.
fn age(server: &[u8], now: u32) -> Option<i32> {
    let right = server.len() == SERVER_LEN && server.first() == Some(&VERSION);
    let given = read_u32(server, 4).filter(|_| right)?;
    Some(now.wrapping_sub(given).cast_signed())
}

/// Whether the server cookie is what the secret gives at the time that it names. Its reserved bytes may
/// be anything (RFC 9018 section 4.2).
fn is_made_with(secret: &Secret, cookie: &QueryCookie<'_>, client: IpAddr) -> bool {
    let Some((&[_, a, b, c], rest)) = cookie.server.split_first_chunk() else {
        return false;
    };
    let Some(given) = read_u32(rest, 0) else {
        return false;
    };
    server_cookie(secret, cookie.client, [a, b, c], given, client) == cookie.server
}

/// A server cookie (RFC 9018 section 4.4): version, reserved, time, and the hash over client cookie, all
/// these, and the client's address.
fn server_cookie(
    secret: &Secret,
    client_cookie: [u8; CLIENT_LEN],
    reserved: [u8; 3],
    time: u32,
    client: IpAddr,
) -> [u8; SERVER_LEN] {
    let [a, b, c] = reserved;
    let [t0, t1, t2, t3] = time.to_be_bytes();
    let fields = [VERSION, a, b, c, t0, t1, t2, t3];
    // The longest: client cookie, fields, IPv6 address.
    let mut hashed = [0; CLIENT_LEN + 8 + 16];
    write_at(&mut hashed, 0, &client_cookie);
    write_at(&mut hashed, CLIENT_LEN, &fields);
    let address_at = CLIENT_LEN + fields.len();
    // A client over IPv4 counts as such on an IPv6 socket, too.
    let length = match client.to_canonical() {
        IpAddr::V4(ip) => {
            write_at(&mut hashed, address_at, &ip.octets());
            address_at + 4
        }
        IpAddr::V6(ip) => {
            write_at(&mut hashed, address_at, &ip.octets());
            address_at + 16
        }
    };
    let hasher = SipHasher24::new_with_key(secret);
    let hash = hasher.hash(hashed.get(..length).unwrap_or_default());
    let mut cookie = [0; SERVER_LEN];
    write_at(&mut cookie, 0, &fields);
    write_at(&mut cookie, fields.len(), &hash.to_le_bytes());
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 9018 appendices A.1 to A.3, and those of A.4, old and new.
    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";
    const OLD_SECRET: &str = "dd3bdf9344b678b185a6f5cb60fca715";
    const NEW_SECRET: &str = "445536bcd2513298075a5d379663c962";

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        assert_eq!(hex.len(), 2 * N);
        let byte = |at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    fn secrets(current: &str, previous: &str) -> Secrets {
        Secrets {
            current: bytes(current),
            previous: bytes(previous),
            since: Instant::now(),
        }
    }

    /// What a query's cookie becomes.
    fn judged(secrets: &Secrets, query: &[u8], client: &str, now: u32) -> Judged {
        let cookie = QueryCookie::read(query).unwrap();
        secrets.judge(&cookie, client.parse().unwrap(), now)
    }

    fn given(client: &str, server: &str) -> ReplyCookie {
        bytes(&format!("{client}{server}"))
    }

    const CLIENT: &str = "2464c4abcf10c957";
    const ADDRESS: &str = "198.51.100.100";
    /// When the server cookie of appendix A.1 was given.
    const TIME: u32 = 1_559_731_985;
    const SERVER: &str = "010000005cf79f111f8130c3eee29480";

    #[test]
    fn rfc9018_a_1_a_client_learns_a_server_cookie() {
        let judged = judged(
            &secrets(SECRET, OLD_SECRET),
            &bytes::<8>(CLIENT),
            ADDRESS,
            TIME,
        );
        assert_eq!(judged.reply, given(CLIENT, SERVER));
        assert!(!judged.bad);
    }

    #[test]
    fn rfc9018_a_2_after_40_minutes_it_learns_a_new_one() {
        let query = given(CLIENT, SERVER);
        let judged = judged(&secrets(SECRET, OLD_SECRET), &query, ADDRESS, 1_559_734_385);
        let renewed = given(CLIENT, "010000005cf7a871d4a564a1442aca77");
        assert_eq!(judged.reply, renewed);
        assert!(!judged.bad);
    }

    #[test]
    fn rfc9018_a_3_reserved_bytes_are_hashed_as_they_come_and_not_sent_back() {
        let client = "fc93fc62807ddb86";
        let query = given(client, "01abcdef5cf78f71a314227b6679ebf5");
        let secrets = secrets(SECRET, OLD_SECRET);
        let at = |now| judged(&secrets, &query, "203.0.113.203", now);
        assert!(!at(1_559_727_985).bad);
        assert_eq!(at(1_559_727_985).reply[8..12], [1, 0, 0, 0]);
        let renewed = given(client, "010000005cf7a9acf73a7810aca2381e");
        assert_eq!(at(1_559_734_700).reply, renewed);
    }

    #[test]
    fn rfc9018_a_4_a_cookie_of_the_previous_secret_is_valid_and_replaced() {
        let client = "22681ab97d52c298";
        let query = given(client, "010000005cf7c57926556bd0934c72f8");
        let address = "2001:db8:220:1:59de:d0f4:8769:82b8";
        let judged = judged(
            &secrets(NEW_SECRET, OLD_SECRET),
            &query,
            address,
            1_559_741_961,
        );
        let renewed = given(client, "010000005cf7c609a6bb79d16625507a");
        assert_eq!(judged.reply, renewed);
        assert!(!judged.bad);
    }

    #[test]
    fn rfc9018_4_3_an_hour_back_and_five_minutes_ahead_are_valid() {
        let secrets = secrets(SECRET, OLD_SECRET);
        let query = given(CLIENT, SERVER);
        for (age, bad, renewed) in [
            (0, false, false),
            (1799, false, false),
            (1800, false, true),
            (3600, false, true),
            (3601, true, true),
            (-300, false, false),
            (-301, true, true),
            (i32::MIN, true, true),
        ] {
            let now = TIME.wrapping_add_signed(age);
            let judged = judged(&secrets, &query, ADDRESS, now);
            assert_eq!(judged.bad, bad, "{age}");
            assert_eq!(judged.reply != query, renewed, "{age}");
            let again = QueryCookie::read(&judged.reply).unwrap();
            let again = secrets.judge(&again, ADDRESS.parse().unwrap(), now);
            assert!(!again.bad, "{age}");
            assert_eq!(again.reply, judged.reply, "{age}");
        }
    }

    #[test]
    fn rfc9018_4_3_time_may_wrap_around() {
        let secrets = secrets(SECRET, OLD_SECRET);
        let before = judged(&secrets, &bytes::<8>(CLIENT), ADDRESS, u32::MAX - 9);
        let after = judged(&secrets, &before.reply, ADDRESS, 10);
        assert!(!after.bad);
        assert_eq!(after.reply, before.reply);
    }

    #[test]
    fn a_cookie_of_other_bytes_or_another_client_is_bad_and_replaced() {
        let secrets = secrets(SECRET, OLD_SECRET);
        let good = given(CLIENT, SERVER);
        for at in 0..good.len() {
            let mut query = good;
            query[at] ^= 1;
            let judged = judged(&secrets, &query, ADDRESS, TIME);
            assert!(judged.bad, "{at}");
            assert_eq!(judged.reply[..8], query[..8]);
            assert_ne!(judged.reply, query, "{at}");
        }
        assert!(judged(&secrets, &good, "198.51.100.101", TIME).bad);
        assert!(!judged(&secrets, &good, "::ffff:198.51.100.100", TIME).bad);
        for length in [16, 20, 40] {
            let query = [&good[..], &[0; 16]].concat();
            assert!(judged(&secrets, &query[..length], ADDRESS, TIME).bad);
        }
    }

    #[test]
    fn rfc7873_5_2_2_only_some_lengths_are_cookies() {
        for length in 0..70 {
            let right = length == 8 || (16..=40).contains(&length);
            let data = vec![1; length];
            assert_eq!(QueryCookie::read(&data).is_some(), right, "{length}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rfc9018_5_secrets_change_daily_and_the_last_one_stays_valid() {
        let cookies = Cookies::new();
        let client = ADDRESS.parse().unwrap();
        let judge = |query: &[u8]| cookies.judge(&QueryCookie::read(query).unwrap(), client);
        tokio::time::advance(SECRET_LIFETIME - Duration::from_secs(60)).await;
        let first = judge(&[7; 8]);
        assert!(!first.bad);
        assert_eq!(judge(&first.reply), first);
        tokio::time::advance(Duration::from_secs(120)).await;
        let second = judge(&first.reply);
        assert!(!second.bad);
        assert_ne!(second.reply, first.reply);
        assert_eq!(judge(&second.reply), second);
        tokio::time::advance(SECRET_LIFETIME).await;
        assert!(judge(&first.reply).bad);
    }

    #[test]
    fn a_log_shows_no_secret() {
        assert_eq!(format!("{:?}", Cookies::new()), "Cookies { .. }");
    }
}
