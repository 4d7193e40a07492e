//! Who was asked for what, and how fast the answer could have been found.
//!
//! A lookup is a chain: a node can be asked once a reply has named it. An ideal client asks each node
//! in the very moment in which it learns of it, and loses no time of its own; what it then needs is
//! the shortest path through the replies to one with a value. That is the floor of the lookup.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::net::SocketAddrV4;
use std::time::Duration;

use tokio::time::Instant;

use crate::table::Id;

/// Lookups that are kept until they are taken; one takes about 7 KB. Later ones are not traced.
const MAX_LOOKUPS: usize = 16_384;

/// Requests of one lookup that are kept. A client that asks more nodes than this is lost anyway.
const MAX_EXCHANGES: usize = 1_024;

/// A client that has asked nobody for this long has ended its lookup. Clients give a node about two
/// seconds.
const LOOKUP_GAP: Duration = Duration::from_secs(3);

/// A lookup as the network saw it: the `get`s of one client for one target.
///
/// A client that asks a node again that has answered, or that asks after three seconds of silence,
/// has begun another lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The client's socket.
    pub client: SocketAddrV4,
    /// SHA-1 of the key.
    pub target: [u8; 20],
    /// The time that an ideal client needs to the first value, if there was a value.
    ///
    /// It is the least over all replies with a value of: the ideal time at which their node became
    /// known, plus the round trip. A node that was asked before any reply had named it is known from
    /// the start, from the client's own table. Otherwise it is known with the ideal reply that named
    /// it first. Replies that got lost neither name nor carry anything.
    pub floor_first: Option<Duration>,
    /// The same for the values with the highest `seq` of this lookup.
    pub floor_newest: Option<Duration>,
    /// How many `get`s the network received.
    pub asked: u32,
    /// How many of them it answered; the others met dead nodes, or their replies got lost.
    pub answered: u32,
    /// How many exchanges, one after the other, lead to the first value; 0 without a value.
    pub hops: u32,
}

/// All lookups since they were last taken.
#[derive(Debug)]
pub(crate) struct Tracer {
    on: bool,
    /// How often the traces were taken: a reply under way then must not end in another lookup.
    taken: u64,
    lookups: Vec<Lookup>,
    /// The latest lookup of each client and target.
    current: HashMap<(SocketAddrV4, Id), usize>,
    /// How many requests were not traced for want of room.
    pub(crate) untraced: u64,
}

/// Which request a reply belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExchangeKey {
    taken: u64,
    lookup: usize,
    exchange: usize,
}

#[derive(Debug)]
struct Lookup {
    client: SocketAddrV4,
    target: Id,
    last_asked: Instant,
    /// Nodes that replies have named so far.
    named: HashSet<usize>,
    /// Nodes that have answered so far.
    answered: HashSet<usize>,
    exchanges: Vec<Exchange>,
}

#[derive(Debug)]
struct Exchange {
    node: usize,
    /// No reply had named the node before it was asked.
    from_own_table: bool,
    answer: Option<Answer>,
}

/// A reply that was delivered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) round_trip: Duration,
    /// The nodes that it named.
    pub(crate) names: Vec<usize>,
    /// The `seq` of the value that it carried.
    pub(crate) seq: Option<i64>,
}

impl Tracer {
    pub(crate) fn new(on: bool) -> Self {
        Self {
            on,
            taken: 0,
            lookups: Vec::new(),
            current: HashMap::new(),
            untraced: 0,
        }
    }

    /// Notes that `client` asked `node` for `target`.
    pub(crate) fn asked(
        &mut self,
        client: SocketAddrV4,
        target: Id,
        node: usize,
        now: Instant,
    ) -> Option<ExchangeKey> {
        if !self.on {
            return None;
        }
        let place = self.place(client, target, node, now);
        let lookup = place.and_then(|place| self.lookups.get_mut(place));
        let room = lookup.filter(|lookup| lookup.exchanges.len() < MAX_EXCHANGES);
        let (Some(place), Some(lookup)) = (place, room) else {
            self.untraced += 1;
            return None;
        };
        lookup.last_asked = now;
        lookup.exchanges.push(Exchange {
            node,
            from_own_table: !lookup.named.contains(&node),
            answer: None,
        });
        Some(ExchangeKey {
            taken: self.taken,
            lookup: place,
            exchange: lookup.exchanges.len() - 1,
        })
    }

    /// The place of the lookup that this request belongs to, if there is one or room for one.
    fn place(
        &mut self,
        client: SocketAddrV4,
        target: Id,
        node: usize,
        now: Instant,
    ) -> Option<usize> {
        if let Some(place) = self.current.get(&(client, target))
            && let Some(lookup) = self.lookups.get(*place)
            && now.duration_since(lookup.last_asked) < LOOKUP_GAP
            && !lookup.answered.contains(&node)
        {
            return Some(*place);
        }
        if self.lookups.len() >= MAX_LOOKUPS {
            return None;
        }
        self.lookups.push(Lookup {
            client,
            target,
            last_asked: now,
            named: HashSet::new(),
            answered: HashSet::new(),
            exchanges: Vec::new(),
        });
        let place = self.lookups.len() - 1;
        self.current.insert((client, target), place);
        Some(place)
    }

    /// Notes a reply in the moment in which it is sent.
    pub(crate) fn answered(&mut self, key: ExchangeKey, answer: Answer) {
        if key.taken != self.taken {
            return;
        }
        let Some(lookup) = self.lookups.get_mut(key.lookup) else {
            return;
        };
        if let Some(exchange) = lookup.exchanges.get_mut(key.exchange) {
            lookup.named.extend(&answer.names);
            lookup.answered.insert(exchange.node);
            exchange.answer = Some(answer);
        }
    }

    /// Hands out what was traced since the last time, and begins anew.
    pub(crate) fn take(&mut self) -> Vec<Trace> {
        self.taken += 1;
        self.current.clear();
        let lookups = std::mem::take(&mut self.lookups);
        lookups.iter().map(Lookup::trace).collect()
    }
}

impl Lookup {
    /// The shortest path to a value (Dijkstra's algorithm; the distance is the ideal time).
    fn trace(&self) -> Trace {
        let mut answers: HashMap<usize, Vec<&Answer>> = HashMap::new();
        let mut waiting = BinaryHeap::new();
        for exchange in &self.exchanges {
            if exchange.from_own_table {
                waiting.push(Reverse((Duration::ZERO, 0, exchange.node)));
            }
            if let Some(answer) = &exchange.answer {
                answers.entry(exchange.node).or_default().push(answer);
            }
        }
        let all = || answers.values().flatten();
        let newest = all().filter_map(|answer| answer.seq).max();
        let answered = all().count();
        let mut first: Option<(Duration, u32)> = None;
        let mut floor_newest: Option<Duration> = None;
        while let Some(Reverse((known, hops, node))) = waiting.pop() {
            // Taken out: a node's later, longer ways are of no use.
            for answer in answers.remove(&node).unwrap_or_default() {
                let (ideal, hops) = (known + answer.round_trip, hops + 1);
                if answer.seq.is_some() {
                    first = Some(first.map_or((ideal, hops), |best| best.min((ideal, hops))));
                }
                if answer.seq.is_some() && answer.seq == newest {
                    floor_newest = Some(floor_newest.map_or(ideal, |best| best.min(ideal)));
                }
                let named = answer.names.iter();
                waiting.extend(named.map(|name| Reverse((ideal, hops, *name))));
            }
        }
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Trace {
            client: self.client,
            target: self.target.bytes(),
            floor_first: first.map(|(floor, _)| floor),
            floor_newest,
            asked: count(self.exchanges.len()),
            answered: count(answered),
            hops: first.map_or(0, |(_, hops)| hops),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Id = Id { high: 1, low: 2 };

    fn client(port: u16) -> SocketAddrV4 {
        SocketAddrV4::new([127, 0, 0, 1].into(), port)
    }

    /// A client that asks for `TARGET` and is answered.
    struct Lookups {
        tracer: Tracer,
        now: Instant,
    }

    impl Lookups {
        fn new() -> Self {
            Self {
                tracer: Tracer::new(true),
                now: Instant::now(),
            }
        }

        fn ask(&mut self, node: usize) -> ExchangeKey {
            self.tracer
                .asked(client(1), TARGET, node, self.now)
                .unwrap()
        }

        fn answer(&mut self, key: ExchangeKey, millis: u64, names: &[usize], seq: Option<i64>) {
            let answer = Answer {
                round_trip: Duration::from_millis(millis),
                names: names.to_vec(),
                seq,
            };
            self.tracer.answered(key, answer);
        }

        fn one(mut self) -> Trace {
            let traces = self.tracer.take();
            assert_eq!(traces.len(), 1, "{traces:?}");
            traces[0].clone()
        }
    }

    fn millis(floor: Option<Duration>) -> Option<u128> {
        floor.map(|floor| floor.as_millis())
    }

    #[test]
    fn the_floor_is_the_shortest_way_through_the_replies() {
        let mut lookup = Lookups::new();
        let (slow, fast) = (lookup.ask(1), lookup.ask(2));
        lookup.answer(slow, 90, &[3], None);
        lookup.answer(fast, 20, &[4], None);
        let (holder, middle) = (lookup.ask(3), lookup.ask(4));
        lookup.answer(middle, 20, &[3, 5], None);
        lookup.answer(holder, 30, &[], Some(7));
        let trace = lookup.one();
        assert_eq!(millis(trace.floor_first), Some(20 + 20 + 30));
        assert_eq!(trace.floor_newest, trace.floor_first);
        assert_eq!((trace.asked, trace.answered, trace.hops), (4, 4, 3));
        assert_eq!(trace.client, client(1));
        assert_eq!(trace.target, TARGET.bytes());
    }

    #[test]
    fn a_node_that_no_reply_had_named_was_known_from_the_start() {
        let mut lookup = Lookups::new();
        let first = lookup.ask(1);
        let holder = lookup.ask(2);
        lookup.answer(first, 50, &[2], None);
        lookup.answer(holder, 80, &[], Some(1));
        let trace = lookup.one();
        assert_eq!(millis(trace.floor_first), Some(80));
        assert_eq!(trace.hops, 1);
    }

    #[test]
    fn the_newest_value_has_a_floor_of_its_own() {
        let mut lookup = Lookups::new();
        let (stale, first) = (lookup.ask(1), lookup.ask(2));
        lookup.answer(stale, 10, &[], Some(5));
        lookup.answer(first, 40, &[3], None);
        let holder = lookup.ask(3);
        lookup.answer(holder, 40, &[], Some(6));
        let trace = lookup.one();
        assert_eq!(millis(trace.floor_first), Some(10));
        assert_eq!(millis(trace.floor_newest), Some(80));
        assert_eq!(trace.hops, 1);
    }

    #[test]
    fn lost_replies_count_as_asked_alone() {
        let mut lookup = Lookups::new();
        let first = lookup.ask(1);
        lookup.ask(2);
        lookup.answer(first, 50, &[3], None);
        let trace = lookup.one();
        assert_eq!((trace.asked, trace.answered, trace.hops), (2, 1, 0));
        assert_eq!((trace.floor_first, trace.floor_newest), (None, None));
    }

    #[test]
    fn a_retry_belongs_to_its_lookup_and_a_repetition_begins_another() {
        let mut lookup = Lookups::new();
        lookup.ask(1);
        let retry = lookup.ask(1);
        lookup.answer(retry, 50, &[], Some(1));
        lookup.ask(1);
        let asked: Vec<u32> = lookup.tracer.take().iter().map(|t| t.asked).collect();
        assert_eq!(asked, [2, 1]);
    }

    #[test]
    fn silence_another_client_or_another_target_make_another_lookup() {
        let mut lookup = Lookups::new();
        lookup.ask(1);
        lookup.now += LOOKUP_GAP - Duration::from_millis(1);
        lookup.ask(2);
        lookup.now += LOOKUP_GAP;
        lookup.ask(3);
        let other = Id { high: 9, low: 9 };
        lookup.tracer.asked(client(2), TARGET, 4, lookup.now);
        lookup.tracer.asked(client(1), other, 4, lookup.now);
        let asked: Vec<u32> = lookup.tracer.take().iter().map(|t| t.asked).collect();
        assert_eq!(asked, [2, 1, 1, 1]);
    }

    #[test]
    fn a_reply_to_what_was_taken_is_forgotten() {
        let mut lookup = Lookups::new();
        let before = lookup.ask(1);
        assert_eq!(lookup.tracer.take().len(), 1);
        lookup.ask(2);
        lookup.answer(before, 50, &[], Some(1));
        let trace = lookup.one();
        assert_eq!((trace.asked, trace.answered), (1, 0));
    }

    #[test]
    fn what_is_over_the_limits_is_counted_and_not_kept() {
        let mut tracer = Tracer::new(true);
        let now = Instant::now();
        for node in 0..MAX_EXCHANGES + 3 {
            tracer.asked(client(1), TARGET, node, now);
        }
        assert_eq!(tracer.untraced, 3);
        for low in 0..u32::try_from(MAX_LOOKUPS).unwrap() {
            tracer.asked(client(1), Id { high: 0, low }, 1, now);
        }
        assert_eq!(tracer.untraced, 3 + 1);
        let traces = tracer.take();
        assert_eq!(traces.len(), MAX_LOOKUPS);
        assert_eq!(traces[0].asked, 1_024);
    }

    #[test]
    fn nothing_is_kept_when_tracing_is_off() {
        let mut tracer = Tracer::new(false);
        let key = tracer.asked(client(1), TARGET, 1, Instant::now());
        assert!(key.is_none());
        assert_eq!(tracer.untraced, 0);
        assert!(tracer.take().is_empty());
    }
}
