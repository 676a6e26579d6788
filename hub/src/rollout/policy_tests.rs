//! Tests of the `[rollout]` table: the plans it makes, and what it refuses.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const HOUR_MS: i64 = 3_600_000;

fn names(plan: &Plan) -> Vec<&str> {
    plan.stages.iter().map(|s| s.name.as_str()).collect()
}

#[test]
fn a_challenger_is_watched_before_anyone_runs_it_and_a_first_model_is_not() {
    let policy = Policy::default();
    policy.validate().unwrap();
    let plan = policy.plan(Kind::Challenger, HOUR_MS);
    assert_eq!(names(&plan), ["shadow", "canary", "25 %", "all"]);
    assert_eq!(plan.stages[0].mode, Mode::Shadow);
    let proof = plan.stages[0].evidence.as_ref().unwrap();
    assert_eq!((proof.need, proof.max_blocks), (Need::Better, 60));
    assert_eq!(proof.max_span_ms, 120 * DAY_MS);
    assert!(plan.stages[1..].iter().all(|s| s.mode == Mode::Active));
    let heir = policy.plan(Kind::Successor, HOUR_MS);
    assert_eq!(names(&heir), names(&plan));
    let proof = heir.stages[0].evidence.as_ref().unwrap();
    assert_eq!((proof.need, proof.min_blocks), (Need::NotHarmful, 7));
    assert_eq!(names(&policy.plan(Kind::First, HOUR_MS)), ["canary", "all"]);
    let other = policy.plan(Kind::Incomparable, HOUR_MS);
    assert_eq!(names(&other), ["canary", "25 %", "all"]);
}

#[test]
fn a_device_has_time_for_the_forecasts_of_its_probation() {
    let policy = Policy::default();
    let deadline = |policy: &Policy, period| policy.plan(Kind::First, period).stages[0].deadline_ms;
    assert_eq!(deadline(&policy, 60_000), 2 * HOUR_MS);
    assert_eq!(deadline(&policy, HOUR_MS), 8 * HOUR_MS);
    assert_eq!(deadline(&policy, DAY_MS), 8 * DAY_MS);
    let own = Policy {
        deadline: Some("30m".into()),
        ..policy
    };
    assert_eq!(deadline(&own, DAY_MS), HOUR_MS / 2);
}

#[test]
fn the_table_names_groups_floor_and_evidence() {
    let policy: Policy = toml::from_str(
        "stages = [10, { labels = { line = \"a\" } }, { labels = { line = \"b\" }, percent = 50 }]\n\
         soak = \"0s\"\ndeadline = \"10m\"\napproval = true\nfloor = 4\n\
         [evidence]\nneed = \"not_harmful\"\nmin_blocks = 2\nmax_blocks = 9\n",
    )
    .unwrap();
    policy.validate().unwrap();
    let plan = policy.plan(Kind::Challenger, HOUR_MS);
    assert_eq!(
        names(&plan),
        ["shadow", "canary", "line=a", "line=b", "all"]
    );
    assert_eq!((plan.floor, plan.stages[3].percent), (4, 50));
    assert_eq!(plan.stages[3].labels["line"], "b");
    assert_eq!(
        (plan.stages[1].soak_ms, plan.stages[1].deadline_ms),
        (0, 600_000)
    );
    let asked: Vec<bool> = plan.stages.iter().map(|s| s.approval).collect();
    assert_eq!(asked, [false, false, true, true, true]);
    let none: Policy = toml::from_str("stages = []\n[evidence]\nneed = \"none\"").unwrap();
    none.validate().unwrap();
    assert_eq!(names(&none.plan(Kind::Challenger, HOUR_MS)), ["all"]);
    let back: Policy = serde_json::from_value(serde_json::to_value(&policy).unwrap()).unwrap();
    assert_eq!(back, policy);
}

#[test]
fn a_table_that_cannot_be_meant_is_refused_with_its_field() {
    for (text, word) in [
        ("soak = \"soon\"", "rollout.soak"),
        ("deadline = \"0s\"", "rollout.deadline"),
        ("stages = [0]", "1 to 100"),
        ("stages = [50, 25]", "must not fall"),
        ("evidence = { percent = 0 }", "evidence.percent"),
        ("evidence = { devices = 0 }", "evidence.devices"),
        (
            "evidence = { min_blocks = 9, max_blocks = 8 }",
            "evidence.max_blocks",
        ),
        ("evidence = { within = \"always\" }", "evidence.within"),
    ] {
        let policy: Policy = toml::from_str(text).unwrap();
        let said = policy.validate().unwrap_err().to_string();
        assert!(said.contains(word), "{text}: {said}");
    }
    for (text, word) in [
        ("speed = 1", "unknown field"),
        ("stages = [\"ten\"]", "a stage is a percentage"),
        ("evidence = { need = \"luck\" }", "not_harmful"),
    ] {
        let said = toml::from_str::<Policy>(text).unwrap_err().to_string();
        assert!(said.contains(word), "{text}: {said}");
    }
}
