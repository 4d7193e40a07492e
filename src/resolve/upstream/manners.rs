//! How to speak with a server over UDP, as it has shown: EDNS, letter case, cookies.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::resolve::query::Style;
use crate::resolve::response::Response;

/// How long it is remembered that a server lacks something; it may be updated.
const MEMORY: Duration = Duration::from_secs(3600);
/// How long a client cookie is used: it is the same for all queries to a server, and would tell it
/// who we are after our address has changed (RFC 7873 section 6).
const COOKIE_LIFETIME: Duration = Duration::from_secs(3600);
/// Length of the client's part of a cookie (RFC 7873 section 4).
const CLIENT_COOKIE_LEN: usize = 8;
/// The longest cookie: the client's part, and the longest of a server (RFC 7873 section 4).
const MAX_COOKIE_LEN: usize = 40;

/// What is remembered of one server.
#[derive(Debug)]
pub(super) struct Manners(Mutex<Memory>);

#[derive(Debug, Clone)]
struct Memory {
    /// Until when queries have no OPT.
    no_edns: Option<Instant>,
    /// Until when letters are not mixed.
    breaks_case: Option<Instant>,
    /// Until when no cookie is sent.
    no_cookies: Option<Instant>,
    client_cookie: [u8; CLIENT_COOKIE_LEN],
    cookie_made: Instant,
    /// The server's part of the cookie; empty if it has not told any.
    server_cookie: Box<[u8]>,
}

/// How one query is written, and what its answer must show.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    pub(super) edns: bool,
    pub(super) mixes_case: bool,
    cookie: Vec<u8>,
}

impl Manners {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Memory {
            no_edns: None,
            breaks_case: None,
            no_cookies: None,
            client_cookie: rand::random(),
            cookie_made: Instant::now(),
            server_cookie: Box::default(),
        }))
    }

    /// How to write the next query.
    pub(super) fn now(&self) -> Manner {
        let now = Instant::now();
        let mut memory = self.lock();
        if now.saturating_duration_since(memory.cookie_made) > COOKIE_LIFETIME {
            memory.client_cookie = rand::random();
            memory.cookie_made = now;
            memory.server_cookie = Box::default();
        }
        let holds = |until: Option<Instant>| until.is_some_and(|until| now < until);
        let edns = !holds(memory.no_edns);
        let cookie = if edns && !holds(memory.no_cookies) {
            [&memory.client_cookie, &*memory.server_cookie].concat()
        } else {
            Vec::new()
        };
        Manner {
            edns,
            mixes_case: !holds(memory.breaks_case),
            cookie,
        }
    }

    /// Takes what a proven answer shows of the server.
    pub(super) fn learn(&self, manner: &Manner, response: &Response) {
        if manner.cookie.is_empty() {
            return;
        }
        let told = response.cookie.as_deref().unwrap_or_default();
        let same = manner.cookie.get(CLIENT_COOKIE_LEN..).unwrap_or_default();
        match told.split_first_chunk::<CLIENT_COOKIE_LEN>() {
            Some((_, server)) if server == same => {}
            Some((client, server)) if told.len() <= MAX_COOKIE_LEN => {
                let mut memory = self.lock();
                if memory.client_cookie == *client {
                    memory.server_cookie = server.into();
                }
            }
            Some(_) | None => {
                let mut memory = self.lock();
                memory.no_cookies = Some(Instant::now() + MEMORY);
                memory.server_cookie = Box::default();
            }
        }
    }

    /// Remembers that the server does not know EDNS.
    pub(super) fn lacks_edns(&self) {
        self.lock().no_edns = Some(Instant::now() + MEMORY);
    }

    /// Remembers that the server does not keep the case of letters.
    pub(super) fn breaks_case(&self) {
        self.lock().breaks_case = Some(Instant::now() + MEMORY);
    }

    /// Remembers that the server does not bear cookies.
    pub(super) fn lacks_cookies(&self) {
        self.lock().no_cookies = Some(Instant::now() + MEMORY);
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Manner {
    pub(super) fn style(&self) -> Style<'_> {
        Style {
            edns: self.edns,
            mixes_case: self.mixes_case,
            cookie: &self.cookie,
            padded: false,
        }
    }

    /// The same without what a server stumbles over.
    pub(super) fn without_edns(&self) -> Self {
        Self {
            edns: false,
            cookie: Vec::new(),
            ..self.clone()
        }
    }

    pub(super) fn without_cookie(&self) -> Self {
        Self {
            cookie: Vec::new(),
            ..self.clone()
        }
    }

    pub(super) fn has_cookie(&self) -> bool {
        !self.cookie.is_empty()
    }

    /// Whether it would write the same query.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.cookie == other.cookie
    }

    /// The same without what this answer did not send back.
    pub(super) fn without_what_lacks(&self, response: &Response) -> Self {
        let mut manner = self.clone();
        if !response.keeps_case {
            manner.mixes_case = false;
        }
        if !manner.is_proof(response) {
            manner.cookie = Vec::new();
        }
        manner
    }

    /// Whether an answer over UDP shows what a forger could not know: the case of the letters, our
    /// cookie if the server has sent it back before (RFC 7873 section 5.3).
    pub(super) fn is_proof(&self, response: &Response) -> bool {
        if self.mixes_case && !response.keeps_case {
            return false;
        }
        let Some(client) = self.cookie.first_chunk::<CLIENT_COOKIE_LEN>() else {
            return true;
        };
        match &response.cookie {
            Some(cookie) => cookie.starts_with(client),
            None => self.cookie.len() == CLIENT_COOKIE_LEN,
        }
    }
}
