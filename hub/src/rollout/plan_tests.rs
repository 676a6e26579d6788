//! Tests of plans: who takes part in which stage, and what is refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn members(n: u32, line: impl Fn(u32) -> &'static str) -> Vec<Member> {
    let one = |i: u32| Member {
        device: format!("d{i}"),
        rank: i.wrapping_mul(2_654_435_761),
        labels: BTreeMap::from([("line".to_owned(), line(i).to_owned())]),
    };
    (0..n).map(one).collect()
}

fn staged(percents: &[u8]) -> Plan {
    let stage = |p: &u8| Stage::usual(&format!("{p} %"), Mode::Active, *p, 1_000);
    Plan {
        stages: percents.iter().map(stage).collect(),
        floor: 0,
    }
}

fn sizes(plan: &Plan, members: &[Member]) -> Vec<usize> {
    let stages = plan.membership(members);
    (0..plan.stages.len())
        .map(|s| stages.iter().filter(|m| m.contains(&s)).count())
        .collect()
}

#[test]
fn small_fleets_have_a_canary_and_large_ones_their_share() {
    let plan = staged(&[5, 25, 100]);
    for (fleet, expected) in [
        (0, [0, 0, 0]),
        (1, [1, 1, 1]),
        (2, [1, 1, 2]),
        (3, [1, 1, 3]),
        (5, [1, 2, 5]),
        (1_000, [50, 250, 1_000]),
    ] {
        assert_eq!(sizes(&plan, &members(fleet, |_| "a")), expected, "{fleet}");
    }
    let mut few = staged(&[1, 100]);
    few.stages[0].min_devices = 5;
    assert_eq!(sizes(&few, &members(3, |_| "a")), [3, 3]);
    assert_eq!(sizes(&few, &members(40, |_| "a")), [5, 40]);
}

#[test]
fn labelled_groups_come_one_after_the_other_and_stay_in() {
    let fleet = members(10, |i| if i < 4 { "a" } else { "b" });
    let mut plan = staged(&[50, 100, 100]);
    plan.stages[0].labels = BTreeMap::from([("line".into(), "a".into())]);
    plan.stages[1].labels = BTreeMap::from([("line".into(), "b".into())]);
    plan.validate().unwrap();
    // Two of line a; all of line b and the two; everyone.
    assert_eq!(sizes(&plan, &fleet), [2, 8, 10]);
    let stages = plan.membership(&fleet);
    assert!(stages.iter().all(|s| s.contains(&2)));
    assert!(stages[4..].iter().all(|s| !s.contains(&0)));
}

#[test]
fn a_plan_that_cannot_be_meant_is_refused_with_its_stage() {
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = staged(&[10, 50, 100]);
        change(&mut plan);
        plan.validate().unwrap_err().to_string()
    };
    for (change, word) in [
        (
            &(|p: &mut Plan| p.stages.clear()) as &dyn Fn(&mut Plan),
            "no stage",
        ),
        (&|p| p.stages[2].percent = 99, "last stage"),
        (&|p| p.stages[1].percent = 5, "must not fall"),
        (&|p| p.stages[0].percent = 0, "1 to 100"),
        (&|p| p.stages[0].deadline_ms = 0, "deadline_ms"),
        (&|p| p.stages[0].max_failed_share = 1.5, "shares"),
        (&|p| p.stages[0].min_failed = 0, "min_failed"),
        (
            &|p| p.stages[2].labels = BTreeMap::from([("a".into(), "b".into())]),
            "labels",
        ),
        (
            &|p| {
                p.stages[0].evidence = Some(Proof {
                    need: Need::Better,
                    min_blocks: 1,
                    max_blocks: 2,
                    max_span_ms: 1,
                    quiet_ms: 1,
                });
            },
            "shadow",
        ),
    ] {
        let said = refused(change);
        assert!(said.contains(word), "{said}");
    }
}
