//! The update machine driven along a timeline; owns no product code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use fieldcast_wire::Sha256;
use proptest::prelude::*;

use super::*;
use crate::death::Doing;

const TERMS: Terms = Terms {
    probation: 2,
    budget_us: 100_000,
    floor_us: 10_000,
};

/// A forecast that took so many microseconds.
fn forecasted(sha: &str, us: u32) -> Event {
    let took = Took { us, golden_us: 0 };
    Event::Forecasted(sha.to_owned(), took)
}

fn bundle(name: &str) -> Installed {
    Installed {
        sha: Sha256::of(name.as_bytes()).to_string(),
        version: 1,
    }
}

fn order(name: &str, generation: u64, shadow: bool) -> Event {
    Event::Ordered(Target {
        bundle: Some(bundle(name)),
        size: 9,
        shadow,
        generation,
        attempt: 1,
        expires: i64::MAX,
    })
}

/// Runs events and gives the last outputs.
fn run(m: &mut Machine, events: Vec<Event>) -> Vec<Output> {
    events
        .into_iter()
        .map(|e| m.step(e, &TERMS))
        .last()
        .unwrap_or_default()
}

fn install(m: &mut Machine, name: &str, generation: u64) {
    let sha = bundle(name).sha;
    run(
        m,
        vec![
            order(name, generation, false),
            Event::Fetched(sha.clone()),
            Event::Loaded(sha.clone()),
            forecasted(&sha, 0),
            forecasted(&sha, 0),
        ],
    );
    assert_eq!(m.phase, Phase::Healthy);
}

#[test]
fn a_good_bundle_becomes_healthy_after_its_probation() {
    let mut m = Machine::default();
    let sha = bundle("a").sha;
    assert!(matches!(
        run(&mut m, vec![order("a", 1, false)])[..],
        [Output::Fetch(_)]
    ));
    assert_eq!(
        run(&mut m, vec![Event::Fetched(sha.clone())]),
        [Output::Take(bundle("a"))]
    );
    assert_eq!(
        run(&mut m, vec![Event::Loaded(sha.clone())]),
        [Output::Activate(sha.clone())]
    );
    assert_eq!(run(&mut m, vec![forecasted(&sha, 0)]), []);
    let done = run(&mut m, vec![forecasted(&sha, 0)]);
    assert!(matches!(
        &done[..],
        [Output::Outcome {
            ok: true,
            generation: 1,
            ..
        }]
    ));
    assert_eq!(m.last_good, Some(bundle("a")));
    assert_eq!(
        run(&mut m, vec![order("a", 1, false)]),
        [],
        "a retained order comes again"
    );
}

#[test]
fn the_last_good_bundle_ordered_back_in_place_of_one_on_trial_is_healthy_again() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    let trial = vec![
        order("b", 2, false),
        Event::Fetched(b.clone()),
        Event::Loaded(b.clone()),
        forecasted(&b, 0),
    ];
    run(&mut m, trial);
    assert_eq!(m.phase, Phase::Active);
    install(&mut m, "a", 3);
    assert_eq!(m.last_good, Some(bundle("a")));
}

#[test]
fn a_model_that_fails_on_probation_gives_way_to_the_last_good_one() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    let out = run(
        &mut m,
        vec![
            order("b", 2, false),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
            Event::Failed(b, "a value is NaN".into()),
        ],
    );
    assert_eq!(out[..2], [Output::Baseline, Output::Load(bundle("a"))]);
    assert_eq!(
        (m.phase, m.active.clone()),
        (Phase::RolledBack, Some(bundle("a")))
    );
    let a = bundle("a").sha;
    assert_eq!(
        run(&mut m, vec![Event::Loaded(a.clone())]),
        [Output::Activate(a)]
    );
    assert_eq!(
        m.phase,
        Phase::RolledBack,
        "the hub must still see what became of its order"
    );
}

#[test]
fn only_a_bundle_that_never_proved_itself_is_held_against_the_clock() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let started = || Event::Started(None);
    assert_eq!(run(&mut m, vec![started()]), [Output::Load(bundle("a"))]);
    let b = bundle("b").sha;
    let taken = run(
        &mut m,
        vec![order("b", 2, false), Event::Fetched(b.clone())],
    );
    assert_eq!(taken, [Output::Take(bundle("b"))]);
    // Before it is loaded it is still new, after a restart too.
    let again = run(&mut m, vec![started()]);
    assert_eq!(
        again,
        [Output::Take(bundle("b")), Output::Load(bundle("a"))]
    );
    // On probation it is in place.
    let kept = run(&mut m, vec![Event::Loaded(b), started()]);
    assert_eq!(kept, [Output::Load(bundle("b"))]);
    // The way back is to one that proved itself.
    let back = vec![order("a", 3, false), Event::Fetched(bundle("a").sha)];
    assert_eq!(run(&mut m, back), [Output::Load(bundle("a"))]);
}

#[test]
fn a_refused_bundle_leaves_the_running_one_alone() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    let out = run(
        &mut m,
        vec![
            order("b", 2, false),
            Event::Fetched(b.clone()),
            Event::Refused(b, "the signature is wrong".into()),
        ],
    );
    assert!(matches!(
        &out[..],
        [Output::Outcome {
            ok: false,
            generation: 2,
            ..
        }]
    ));
    assert_eq!(
        (m.phase, m.active.clone()),
        (Phase::Rejected, Some(bundle("a")))
    );
}

#[test]
fn a_model_ten_times_slower_than_the_last_good_one_goes_back_or_is_dropped() {
    for shadow in [false, true] {
        let mut m = Machine::default();
        install(&mut m, "a", 1);
        let (a, b) = (bundle("a").sha, bundle("b").sha);
        run(&mut m, vec![forecasted(&a, 5_000); 20]);
        let out = run(
            &mut m,
            vec![
                order("b", 2, shadow),
                Event::Fetched(b.clone()),
                Event::Loaded(b.clone()),
                forecasted(&b, 50_000),
                forecasted(&b, 50_000),
            ],
        );
        assert!(m.reason.starts_with("slow: "), "{}", m.reason);
        assert_eq!(m.active, Some(bundle("a")));
        if shadow {
            assert_eq!((out[0].clone(), m.phase), (Output::Unwatch, Phase::Failed));
        } else {
            assert_eq!(
                (out[0].clone(), m.phase),
                (Output::Baseline, Phase::RolledBack)
            );
        }
    }
}

#[test]
fn a_proven_model_that_is_far_worse_than_nothing_gives_way_to_the_one_before() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    install(&mut m, "b", 2);
    let worse = |name| Event::Worse(bundle(name).sha, "worse".into());
    assert_eq!(run(&mut m, vec![worse("a")]), [], "it does not run");
    let out = run(&mut m, vec![worse("b")]);
    assert_eq!(out[..2], [Output::Baseline, Output::Load(bundle("a"))]);
    assert_eq!((m.phase, m.told()), (Phase::RolledBack, "worse".to_owned()));
    let out = run(&mut m, vec![worse("a")]);
    assert_eq!((out, &m.active), (vec![Output::Baseline], &None));
}

#[test]
fn a_proven_model_over_its_budget_gives_way_too() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let a = bundle("a").sha;
    assert_eq!(run(&mut m, vec![forecasted(&a, 200_000); 19]), []);
    let out = run(&mut m, vec![forecasted(&a, 200_000)]);
    assert_eq!(out[0], Output::Baseline);
    assert_eq!((m.phase, &m.active), (Phase::Failed, &None));
}

fn death(name: &str, start: u64, doing: Doing) -> Event {
    Event::Started(Some(Death {
        sha: bundle(name).sha,
        start,
        doing,
    }))
}

fn crash(name: &str, start: u64) -> Event {
    death(name, start, Doing::Forecasting)
}

#[test]
fn two_deaths_of_a_model_at_work_on_trial_end_it_and_power_cuts_do_not() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    run(
        &mut m,
        vec![
            order("b", 2, false),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
        ],
    );
    for _ in 0..9 {
        let cut = run(&mut m, vec![Event::Started(None)]);
        assert_eq!(cut, [Output::Load(bundle("b"))]);
    }
    for start in [5, 5] {
        let once = run(&mut m, vec![crash("b", start)]);
        assert_eq!(once, [Output::Load(bundle("b"))], "one death counts once");
    }
    let twice = run(&mut m, vec![crash("b", 6)]);
    assert!(
        matches!(&twice[..], [Output::Baseline, Output::Outcome { ok: false, .. }, Output::Load(i)] if *i == bundle("a")),
        "{twice:?}"
    );
    assert_eq!(m.phase, Phase::RolledBack);
    assert!(m.reason.contains("died 2 times"), "{}", m.reason);
    let mut fresh = Machine::default();
    run(
        &mut fresh,
        vec![order("b", 1, false), Event::Fetched(bundle("b").sha)],
    );
    run(&mut fresh, vec![death("b", 1, Doing::Loading)]);
    let out = run(&mut fresh, vec![death("b", 2, Doing::Loading)]);
    assert!(
        matches!(&out[..], [Output::Outcome { ok: false, .. }]),
        "died while it was loaded: {out:?}"
    );
    assert_eq!(fresh.phase, Phase::Failed);
}

#[test]
fn a_proven_model_with_which_the_process_dies_again_and_again_gives_way_to_the_one_before() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    install(&mut m, "b", 2);
    let b = bundle("b").sha;
    run(&mut m, vec![crash("b", 1), crash("b", 2)]);
    // Rare deaths, far apart, are no loop.
    run(&mut m, vec![forecasted(&b, 0); 100]);
    run(&mut m, vec![crash("b", 3), crash("b", 4), crash("x", 5)]);
    assert_eq!((m.phase, &m.active), (Phase::Healthy, &Some(bundle("b"))));
    let out = run(&mut m, vec![crash("b", 6)]);
    assert!(
        matches!(&out[..], [Output::Baseline, Output::Outcome { ok: false, generation: 2, .. }, Output::Load(i)] if *i == bundle("a")),
        "{out:?}"
    );
    assert_eq!(m.phase, Phase::RolledBack);
    // And where that one does the same, the baselines are left.
    let out = run(&mut m, vec![crash("a", 7), crash("a", 8), crash("a", 9)]);
    assert_eq!(out, [Output::Baseline]);
    assert_eq!((&m.active, &m.last_good), (&None, &None));
    assert!(m.told().contains("died 3 times"), "{}", m.told());
}

#[test]
fn a_shadow_with_which_the_process_dies_is_dropped_also_after_its_first_forecasts() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    run(
        &mut m,
        vec![
            order("b", 2, true),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
            forecasted(&b, 0),
            forecasted(&b, 0),
            forecasted(&b, 0),
            crash("b", 1),
        ],
    );
    let out = run(&mut m, vec![crash("b", 2)]);
    assert!(
        matches!(&out[..], [Output::Unwatch, Output::Outcome { ok: false, generation: 2, .. }, Output::Load(i)] if *i == bundle("a")),
        "{out:?}"
    );
    assert_eq!((m.phase, &m.shadow), (Phase::Failed, &None));
    assert_eq!(m.active, Some(bundle("a")));
}

#[test]
fn a_shadow_watches_and_may_be_promoted() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    let out = run(
        &mut m,
        vec![
            order("b", 2, true),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
        ],
    );
    assert_eq!(out, [Output::Watch(b.clone())]);
    assert_eq!(
        (m.phase, m.active.clone()),
        (Phase::Shadowing, Some(bundle("a")))
    );
    let out = run(
        &mut m,
        vec![
            order("b", 3, false),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
        ],
    );
    assert_eq!(out, [Output::Unwatch, Output::Activate(b.clone())]);
    let mut failing = Machine::default();
    run(
        &mut failing,
        vec![
            order("b", 2, true),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
        ],
    );
    let out = run(&mut failing, vec![Event::Failed(b, "NaN".into())]);
    assert_eq!(out[0], Output::Unwatch);
    assert_eq!(failing.phase, Phase::Failed);
}

#[test]
fn a_proven_model_that_fails_three_times_leaves_the_baselines() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let failed = || Event::Failed(bundle("a").sha, "error".into());
    assert_eq!(run(&mut m, vec![failed(), failed()]), []);
    let out = run(&mut m, vec![failed()]);
    assert_eq!(out[0], Output::Baseline);
    assert_eq!((m.phase, m.active.clone()), (Phase::Failed, None));
}

#[test]
fn a_download_that_waits_says_so_and_goes_on() {
    let mut m = Machine::default();
    let a = bundle("a").sha;
    let waiting = |why: &str| Event::Waiting(bundle("a").sha, why.into());
    let out = run(&mut m, vec![order("a", 1, false), waiting("no room")]);
    assert_eq!((out, m.phase), (vec![], Phase::Downloading));
    assert_eq!(m.told(), "no room");
    run(&mut m, vec![waiting("")]);
    assert_eq!(m.told(), "");
    let out = run(&mut m, vec![waiting("no room"), Event::Fetched(a)]);
    assert_eq!(
        (out, m.told()),
        (vec![Output::Take(bundle("a"))], String::new())
    );
    run(&mut m, vec![waiting("no room")]);
    assert_eq!(m.told(), "", "it is here");
}

#[test]
fn why_a_download_waits_outlives_the_running_models_forecasts_and_not_the_order() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let waiting = Event::Waiting(bundle("b").sha, "other bytes".into());
    let forecast = forecasted("a", 100);
    run(&mut m, vec![order("b", 2, false), waiting, forecast]);
    assert_eq!(m.told(), "other bytes");
    run(&mut m, vec![order("a", 3, false)]);
    assert_eq!((m.phase, m.told()), (Phase::Healthy, String::new()));
}

fn no_model(generation: u64) -> Event {
    Event::Ordered(Target {
        bundle: None,
        size: 0,
        shadow: false,
        generation,
        attempt: 1,
        expires: i64::MAX,
    })
}

#[test]
fn a_bundle_that_cannot_be_checked_now_is_neither_dropped_nor_forgotten() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let a = bundle("a").sha;
    run(&mut m, vec![Event::Started(None)]);
    let out = run(
        &mut m,
        vec![Event::Unchecked(a.clone(), "no identity".into())],
    );
    assert_eq!(out, []);
    assert_eq!(
        (&m.active, &m.last_good),
        (&Some(bundle("a")), &Some(bundle("a")))
    );
    assert!(m.told().contains("no identity"), "{}", m.told());
    let later = run(&mut m, vec![Event::Loaded(a.clone())]);
    assert_eq!(later, [Output::Activate(a)]);
    assert_eq!((m.phase, m.told()), (Phase::Healthy, String::new()));
}

#[test]
fn an_old_model_that_fails_does_not_end_the_order_for_a_new_one() {
    let failed = || Event::Failed(bundle("a").sha, "error".into());
    let b = bundle("b").sha;
    for old in [
        vec![failed(), failed(), failed()],
        vec![Event::Refused(bundle("a").sha, "changed on disk".into())],
    ] {
        let mut m = Machine::default();
        install(&mut m, "a", 1);
        run(&mut m, vec![order("b", 2, false)]);
        let out = run(&mut m, old);
        assert_eq!(out, [Output::Baseline], "no outcome of the order for b");
        assert_eq!((m.phase, m.active.clone()), (Phase::Downloading, None));
        let out = run(&mut m, vec![Event::Fetched(b.clone())]);
        assert_eq!(out, [Output::Take(bundle("b"))]);
    }
}

#[test]
fn a_model_proves_itself_also_while_its_successor_is_on_the_way() {
    let mut m = Machine::default();
    let (a, b) = (bundle("a").sha, bundle("b").sha);
    run(
        &mut m,
        vec![
            order("a", 1, false),
            Event::Fetched(a.clone()),
            Event::Loaded(a.clone()),
            forecasted(&a, 0),
            order("b", 2, false),
            forecasted(&a, 0),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
        ],
    );
    assert_eq!(m.last_good, Some(bundle("a")));
    let out = run(&mut m, vec![Event::Failed(b, "NaN".into())]);
    assert_eq!(out[..2], [Output::Baseline, Output::Load(bundle("a"))]);
    assert_eq!(m.phase, Phase::RolledBack);
}

#[test]
fn an_order_for_no_model_ends_on_the_baselines_and_nothing_comes_back_by_itself() {
    let mut m = Machine::default();
    install(&mut m, "a", 1);
    let b = bundle("b").sha;
    run(
        &mut m,
        vec![
            order("b", 2, true),
            Event::Fetched(b.clone()),
            Event::Loaded(b.clone()),
        ],
    );
    let out = run(&mut m, vec![no_model(3)]);
    assert_eq!(out[..2], [Output::Unwatch, Output::Baseline]);
    assert!(
        matches!(
            &out[2..],
            [Output::Outcome {
                ok: true,
                generation: 3,
                ..
            }]
        ),
        "{out:?}"
    );
    assert_eq!((m.phase, m.generation()), (Phase::None, 3));
    assert!(m.needed().is_empty());
    assert_eq!(run(&mut m, vec![Event::Loaded(bundle("a").sha)]), []);
    assert_eq!(run(&mut m, vec![Event::Started(None)]), []);
    install(&mut m, "c", 4);
}

fn event() -> impl Strategy<Value = Event> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c")];
    (name, 0..12_u8, 1..6_u64).prop_map(|(name, kind, generation)| {
        let sha = bundle(name).sha;
        match kind {
            0 => order(name, generation, false),
            1 => order(name, generation, true),
            2 => Event::Fetched(sha),
            3 => Event::Loaded(sha),
            4 => Event::Refused(sha, "r".into()),
            5 => forecasted(&sha, 0),
            6 => Event::Failed(sha, "f".into()),
            7 => Event::Unchecked(sha, "u".into()),
            8 => no_model(generation),
            9 => Event::Started(None),
            10 => Event::Worse(sha, "w".into()),
            _ => crash(name, generation),
        }
    })
}

proptest! {
    /// Whatever comes: generations never go back, healthy means proven, what runs is kept on disk, and state survives storage.
    #[test]
    fn no_order_of_events_breaks_the_rules(events in proptest::collection::vec(event(), 0..60)) {
        let mut m = Machine::default();
        let mut generation = 0;
        for event in events {
            let outputs = m.step(event, &TERMS);
            prop_assert!(m.generation() >= generation);
            generation = m.generation();
            if m.phase == Phase::Healthy {
                prop_assert_eq!(&m.active, &m.last_good);
            }
            if m.phase == Phase::Active {
                prop_assert!(m.active.is_some());
            }
            prop_assert!(m.before.is_none() || m.before != m.last_good, "two ways back that are one");
            for output in &outputs {
                if let Output::Load(i) | Output::Take(i) | Output::Fetch(Target { bundle: Some(i), .. }) = output {
                    prop_assert!(m.needed().contains(&i.sha.as_str()));
                }
            }
            let json = serde_json::to_vec(&m).unwrap();
            prop_assert_eq!(&serde_json::from_slice::<Machine>(&json).unwrap(), &m);
        }
    }
}
