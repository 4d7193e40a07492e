use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

fn cache() -> AnswerCache {
    AnswerCache::new(1 << 20).with_reuse(Reuse {
        max_stale: MINUTE,
        nxdomain_cut: true,
        ..Reuse::default()
    })
}

fn question(name: &str) -> Question {
    Question {
        name: Name::from_ascii(name).unwrap(),
        rtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
    }
}

/// What an upstream says, without records.
fn said(question: &Question, rcode: ResponseCode) -> Answer {
    let rcode = rcode.into();
    let composed = Composed {
        rcode,
        ..Composed::default()
    };
    let wire = composed.to_wire(question).unwrap();
    let answer = Answer::new(wire, rcode, Instant::now(), MINUTE).unwrap();
    answer.with_origin(Origin::Whole)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_come_meanwhile_is_given_and_not_replaced_by_a_stale_one() {
    let (cache, question) = (cache(), question("www.example."));
    let key = question.cache_key();
    cache.take_in(key.clone(), said(&question, ResponseCode::NoError), RETRY);
    tokio::time::advance(MINUTE).await;
    assert!(cache.get(&key, Instant::now()).is_none());
    let old = cache.held(&key, Instant::now()).unwrap();
    let new = cache.take_in(key.clone(), said(&question, ResponseCode::NoError), RETRY);
    let given = cache.give_stale(key.clone(), &old, "too slow", RETRY);
    assert!(Arc::ptr_eq(&given, &new));
    assert!(Arc::ptr_eq(&cache.get(&key, Instant::now()).unwrap(), &new));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_was_forgotten_meanwhile_does_not_come_back() {
    let (cache, question) = (cache(), question("www.example."));
    let key = question.cache_key();
    cache.take_in(key.clone(), said(&question, ResponseCode::NoError), RETRY);
    tokio::time::advance(MINUTE).await;
    let old = cache.held(&key, Instant::now()).unwrap();
    assert_eq!(cache.forget(|_| true), 1);
    let given = cache.give_stale(key.clone(), &old, "too slow", RETRY);
    assert_eq!(given.edes(), [Ede::new(ede::STALE_ANSWER, "too slow")]);
    assert!(cache.held(&key, Instant::now()).is_none());
    let failure = Answer::failure(&question, &Failure::Internal, RETRY);
    assert!(cache.take_in(key, failure, RETRY).is_failure());
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_forgotten_with_its_answer_and_counts_once() {
    let (cache, question) = (cache(), question("nope.example."));
    let denied = |name: &str| {
        let name = Name::from_ascii(name).unwrap();
        cache.denial_of(&name, &question, Instant::now()).is_some()
    };
    let answer = said(&question, ResponseCode::NXDomain);
    cache.take_in(question.cache_key(), answer, RETRY);
    assert!(denied("Nope.example.") && denied("a.b.nope.EXAMPLE."));
    assert!(!denied("example.") && !denied("anope.example.") && !denied("."));
    assert_eq!(cache.of_name(&question.name, Instant::now()).len(), 1);
    assert_eq!(cache.forget(|name| *name == question.name), 1);
    assert!(!denied("nope.example."));
    assert_eq!(cache.usage(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn answers_grow_older_while_the_clock_stands_still() {
    let (cache, question) = (cache(), question("nope.example."));
    let key = question.cache_key();
    let answer = said(&question, ResponseCode::NXDomain);
    let at_hand = cache.take_in(key.clone(), answer, RETRY);
    let now = Instant::now();
    cache.grow_older(MINUTE / 2);
    // Whoever kept it looks again.
    assert!(!at_hand.is_current(now));
    assert_eq!(cache.get(&key, now).unwrap().age(now), 30);
    let below = Name::from_ascii("a.nope.example.").unwrap();
    assert!(cache.denial_of(&below, &question, now).is_none());
    cache.grow_older(MINUTE / 2);
    assert!(cache.get(&key, now).is_none());
    assert!(cache.held(&key, now).is_some());
    cache.grow_older(MINUTE);
    assert!(cache.held(&key, now).is_none());
}

#[tokio::test(start_paused = true)]
async fn names_of_many_labels_are_looked_at_in_part() {
    let (cache, question) = (cache(), question("example."));
    let answer = said(&question, ResponseCode::NXDomain);
    cache.take_in(question.cache_key(), answer, RETRY);
    let denied = |labels: usize| {
        let name = format!("{}example.", "x.".repeat(labels));
        let name = Name::from_ascii(name).unwrap();
        cache.denial_of(&name, &question, Instant::now()).is_some()
    };
    // A name of ip6.arpa has 34.
    assert!(denied(34));
    assert!(!denied(120));
}
