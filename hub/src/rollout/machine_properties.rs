//! Properties of the rollout's state machine over random plans and histories.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::judge::counts;
use super::machine::{
    Action, DeviceState, Event, Evidence, Operator, Report, Rollout, Status, connected, step,
};
use super::plan::{Member, Mode, Need, Plan, Proof, Stage};

const DEADLINE: i64 = 30 * 60_000;
const DEVICES: u8 = 6;
/// The rolled-out version; the champion is [`OLD`].
const NEW: u64 = 5;
const OLD: u64 = 3;

fn any_phase() -> impl Strategy<Value = DeviceState> {
    prop_oneof![
        Just(DeviceState::Pending),
        Just(DeviceState::Downloading),
        Just(DeviceState::Verified),
        Just(DeviceState::Shadowing),
        Just(DeviceState::Active),
        Just(DeviceState::Healthy),
        Just(DeviceState::Failed),
        Just(DeviceState::RolledBack),
        Just(DeviceState::Rejected),
    ]
}

#[derive(Debug, Clone)]
enum Happening {
    Tick(i64),
    /// Device, connected, how far behind its answer is, phase, what runs (0: none, 1: the old, 2: the new).
    Report(u8, bool, u8, DeviceState, u8),
    /// Every device is connected and as well as its stage asks.
    AllWell,
    Evidence(u32, u8),
    Floor(u64),
    Operator(Operator),
    Newer(bool),
    Expiring,
    Outdated,
}

fn any_happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (1..DEADLINE).prop_map(Happening::Tick),
        12 => (0..DEVICES, any::<bool>(), 0..3u8, any_phase(), 0..3u8)
            .prop_map(|(d, on, lag, phase, runs)| Happening::Report(d, on, lag, phase, runs)),
        4 => Just(Happening::AllWell),
        3 => (0..12u32, 0..6u8).prop_map(|(blocks, says)| Happening::Evidence(blocks, says)),
        1 => (0..NEW + 2).prop_map(Happening::Floor),
        3 => prop_oneof![
            Just(Operator::Pause), Just(Operator::Resume), Just(Operator::Approve), Just(Operator::Abort)
        ].prop_map(Happening::Operator),
        1 => any::<bool>().prop_map(Happening::Newer),
        1 => Just(Happening::Expiring),
        1 => Just(Happening::Outdated),
    ]
}

/// Histories in which anything may come, and such in which devices do well, so that stages pass.
fn any_history() -> impl Strategy<Value = Vec<Happening>> {
    let well = prop_oneof![
        3 => (1..DEADLINE).prop_map(Happening::Tick),
        3 => Just(Happening::AllWell),
        3 => (0..12u32, 0..6u8).prop_map(|(blocks, says)| Happening::Evidence(blocks, says)),
        1 => prop_oneof![Just(Operator::Resume), Just(Operator::Approve)].prop_map(Happening::Operator),
    ];
    prop_oneof![
        prop::collection::vec(any_happening(), 0..80),
        prop::collection::vec(well, 0..20),
    ]
}

fn any_proof() -> impl Strategy<Value = Option<Proof>> {
    let need =
        prop_oneof![2 => Just(Need::Better), 1 => Just(Need::NotHarmful), 1 => Just(Need::None)];
    prop::option::of(
        (need, 1..4u32, 4..10u32).prop_map(|(need, min_blocks, max_blocks)| Proof {
            need,
            min_blocks,
            max_blocks,
            max_span_ms: 8 * 86_400_000,
            quiet_ms: 4 * DEADLINE,
        }),
    )
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let kind = (any::<bool>(), 0..4u8, 1..3usize, any_proof());
    let limits = (
        0..50_000i64,
        0.0..1.0f64,
        0.0..1.0f64,
        1..5usize,
        any::<bool>(),
    );
    let stages = prop::collection::vec((kind, limits), 1..4);
    (stages, prop_oneof![3 => Just(0), 1 => 1..=NEW]).prop_map(|(stages, floor)| {
        let n = stages.len();
        let stages = stages.into_iter().enumerate().map(|(i, (kind, limits))| {
            let (shadow, group, min_devices, evidence) = kind;
            let (soak_ms, max_failed_share, min_online_share, min_failed, approval) = limits;
            let last = i + 1 == n;
            let shadow = shadow && !last;
            let labels = match group {
                1 if !last => BTreeMap::from([("line".to_owned(), "a".to_owned())]),
                2 if !last => BTreeMap::from([("line".to_owned(), "b".to_owned())]),
                3 if !last => BTreeMap::from([("line".to_owned(), "nobody's".to_owned())]),
                _ => BTreeMap::new(),
            };
            Stage {
                labels,
                min_devices,
                soak_ms,
                max_failed_share,
                min_failed,
                min_online_share,
                approval,
                evidence: evidence.filter(|_| shadow),
                ..Stage::usual(
                    &format!("s{i}"),
                    if shadow { Mode::Shadow } else { Mode::Active },
                    u8::try_from((i + 1) * 100 / n).unwrap(),
                    DEADLINE,
                )
            }
        });
        Plan {
            stages: stages.collect(),
            floor,
        }
    })
}

fn begin(plan: Plan, champion: bool) -> Rollout {
    let member = |i: u8| Member {
        device: format!("d{i}"),
        rank: u32::from(i),
        labels: [("line".to_owned(), if i < 3 { "a" } else { "b" }.to_owned())].into(),
    };
    let members: Vec<Member> = (0..DEVICES).map(member).collect();
    let mut r = Rollout::new(plan, NEW, &members, 3);
    r.previous = champion.then_some(OLD);
    r
}

fn said(r: &Rollout, d: u8, online: bool, lag: u8, phase: DeviceState, runs: u8) -> Event {
    let device = format!("d{d}");
    let generation = r.devices[&device].generation.saturating_sub(u64::from(lag));
    let report = Report {
        online,
        generation,
        phase,
        runs_new: runs == 2,
        version: [0, OLD, NEW][usize::from(runs)],
        reason: String::new(),
    };
    Event::Reports(vec![(device, report)])
}

fn well(r: &Rollout) -> Event {
    let shadow = r.plan.stages[r.stage].mode == Mode::Shadow;
    let reports = (0..DEVICES).map(|d| {
        let one = match r.status {
            Status::RollingBack => said(r, d, true, 0, DeviceState::Healthy, 0),
            _ if shadow => said(r, d, true, 0, DeviceState::Shadowing, 1),
            _ => said(r, d, true, 0, DeviceState::Healthy, 2),
        };
        let Event::Reports(one) = one else {
            unreachable!("a report")
        };
        one
    });
    Event::Reports(reports.flatten().collect())
}

fn evidence(blocks: u32, says: u8) -> Event {
    Event::Evidence(Evidence {
        blocks,
        devices: 2,
        better: says == 1,
        harmful: says == 2,
        bet_better: f64::from(says),
        span_ms: i64::from(blocks) * 86_400_000,
        ..Evidence::default()
    })
}

fn play(r: &mut Rollout, now: &mut i64, h: &Happening) -> Vec<Action> {
    let event = match h {
        Happening::Tick(ms) => {
            *now += ms;
            Event::Tick
        }
        Happening::Report(d, online, lag, phase, runs) => said(r, *d, *online, *lag, *phase, *runs),
        Happening::AllWell => well(r),
        Happening::Evidence(blocks, says) => evidence(*blocks, *says),
        Happening::Floor(floor) => Event::Floor(*floor),
        Happening::Operator(o) => Event::Operator(*o, "ann".into()),
        Happening::Newer(watches) => Event::NewerRollout {
            id: 2,
            watches: *watches,
        },
        Happening::Expiring => Event::Expiring(r.devices.keys().cloned().collect()),
        Happening::Outdated => Event::Outdated("the world changed".into()),
    };
    step(r, event, *now)
}

/// What was ordered of whom, as the fleet and the database would have it.
#[derive(Default)]
struct Told {
    generations: BTreeMap<String, u64>,
    promoted: usize,
}

impl Told {
    fn take(&mut self, r: &Rollout, actions: &[Action]) -> Result<(), TestCaseError> {
        for action in actions {
            let (device, generation, version) = match action {
                Action::Order {
                    device, generation, ..
                } => (device, *generation, Some(NEW)),
                Action::OrderBack {
                    device,
                    to,
                    generation,
                } => (device, *generation, *to),
                Action::Promote => {
                    self.promoted += 1;
                    prop_assert!(NEW >= r.plan.floor, "a champion below the version floor");
                    continue;
                }
            };
            // No device below the version floor: none is ordered there, forward or back.
            prop_assert!(
                version.is_none_or(|v| v >= r.plan.floor),
                "{device} is ordered version {version:?}, the floor is {}",
                r.plan.floor
            );
            let before = self
                .generations
                .insert(device.clone(), generation)
                .unwrap_or(3);
            prop_assert!(generation > before, "{generation} after {before}");
        }
        Ok(())
    }
}

/// Devices of a stage that were ordered, are connected and have not settled.
fn running_in(r: &Rollout, stage: usize) -> usize {
    let shadow = r.plan.stages[stage].mode == Mode::Shadow;
    let open = |d: &&super::machine::Deployment| {
        d.stages.contains(&stage)
            && d.online
            && !(d.settled() || (shadow && d.state == DeviceState::Shadowing))
    };
    r.devices.values().filter(open).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn no_dead_state_no_stage_done_with_devices_on_the_way_and_no_device_below_the_floor(
        plan in any_plan(),
        champion in prop::bool::weighted(0.8),
        happenings in any_history(),
    ) {
        prop_assert!(plan.validate().is_ok(), "{:?}", plan.validate());
        let mut r = begin(plan, champion);
        let (mut now, mut told) = (0, Told::default());
        let first = step(&mut r, Event::Tick, now);
        told.take(&r, &first)?;
        for h in &happenings {
            r.devices.now_stored();
            let before = r.clone();
            let actions = play(&mut r, &mut now, h);
            told.take(&r, &actions)?;
            let changed: Vec<&String> = r.devices.changed().map(|(name, _)| name).collect();
            let differ = r.devices.iter().filter(|(name, d)| before.devices[*name] != **d);
            prop_assert_eq!(changed, differ.map(|(name, _)| name).collect::<Vec<_>>());
            if before.status.is_final() {
                prop_assert_eq!(&before, &r, "a final state changed");
                prop_assert!(actions.is_empty());
            }
            // A stage ends only when nobody of it is on the way.
            let passed = r.stage > before.stage
                || (r.status == Status::Succeeded && before.status != Status::Succeeded);
            if passed && r.stage <= before.stage + 1 {
                let fresh = |d: &&String| actions.iter().any(|a| matches!(a, Action::Order { device, .. } if device == *d));
                let mut ended = r.clone();
                let begun: Vec<String> = ended.devices.keys().filter(fresh).cloned().collect();
                for name in begun {
                    // The next stage's order hides what the device was in the one that ended: as it was before.
                    ended.devices.get_mut(&name).unwrap().state = match h {
                        Happening::AllWell => DeviceState::Healthy,
                        Happening::Report(d, _, 0, phase, _) if name == format!("d{d}") => *phase,
                        _ => before.devices[&name].state,
                    };
                }
                prop_assert_eq!(running_in(&ended, before.stage), 0, "done with devices on the way");
            }
            if r.status == Status::Succeeded {
                prop_assert_eq!(counts(&r).open, 0, "done with devices on the way");
            }
            // What must be shown has been shown before anyone gets it active.
            let proof = before.plan.stages[before.stage].evidence.as_ref();
            if let Some(proof) = proof.filter(|_| r.stage > before.stage && r.back_to().is_some()) {
                let known = r.evidence.clone().unwrap_or_default();
                let shown = match proof.need {
                    Need::Better => known.better,
                    Need::NotHarmful => known.blocks >= proof.min_blocks && !known.harmful && known.gain >= 0.0 && known.bet_better >= 2.0,
                    Need::None => true,
                };
                prop_assert!(shown, "passed without evidence: {known:?}");
            }
            let back = matches!(r.status, Status::RollingBack | Status::RolledBack);
            let ordered = actions.iter().any(|a| matches!(a, Action::Order { .. }));
            prop_assert!(!(back && ordered), "ordered forward while going back");
        }
        prop_assert!(told.promoted <= 1);
        prop_assert_eq!(told.promoted == 1, r.status == Status::Succeeded);

        // From wherever it is, everyone turning healthy, evidence coming in and a person approving end it.
        let mut end = r.clone();
        for round in 0..30 {
            step(&mut end, Event::Operator(Operator::Resume, "ann".into()), now);
            step(&mut end, Event::Operator(Operator::Approve, "ann".into()), now);
            step(&mut end, evidence(round, 0), now);
            let event = well(&end);
            step(&mut end, event, now);
            now += 60_000;
            step(&mut end, Event::Tick, now);
        }
        prop_assert!(end.status.is_final(), "stuck in {:?}: {}", end.status, end.reason);

        // With nobody and nothing heard any more it ends, or a person is asked.
        let mut silent = r.clone();
        for d in 0..DEVICES {
            connected(&mut silent, &format!("d{d}"), false, now);
        }
        for _ in 0..60 {
            now += DEADLINE;
            step(&mut silent, Event::Tick, now);
        }
        prop_assert!(
            silent.status.is_final() || matches!(silent.status, Status::Paused | Status::Awaiting),
            "waits for nothing in {:?}: {}", silent.status, silent.reason
        );

        // And an abort always ends it within one deadline, even with every device gone silent.
        let mut end = r;
        step(&mut end, Event::Operator(Operator::Abort, "ann".into()), now);
        step(&mut end, Event::Tick, now + DEADLINE);
        prop_assert!(end.status.is_final());
    }
}
