//! Who may take the champion's place: owns how it is made and judged, as the hub does both, never when.

use std::ops::ControlFlow;

use fieldcast_features::Millis;
use fieldcast_hub::judge::{self, Gate, Old};
use fieldcast_hub::training::{old, plan};
use fieldcast_sim::{DAY_MS, HOUR_MS};
use fieldcast_train::{TrainConfig, Trained, TrainingData, evaluate, fit, predict};

use crate::World;
use crate::play::{Before, Running};

/// Ridge alone: here the statistics around the model are tested, not the model.
pub fn quick() -> TrainConfig {
    TrainConfig {
        max_epochs: 0,
        ..TrainConfig::default()
    }
}

pub fn train(world: &World, data: &TrainingData, until: Millis, config: &TrainConfig) -> Trained {
    let mut own = TrainingData {
        series: data.series.clone(),
    };
    for s in &mut own.series {
        s.rows.retain(|r| r.time <= until);
    }
    fit(
        &world.spec,
        &own,
        config,
        &mut |_| ControlFlow::Continue(()),
    )
    .unwrap()
}

/// A model that may take the champion's place.
pub struct Challenger {
    pub trained: Trained,
    pub until: Millis,
    pub unseen: Vec<(Millis, Millis)>,
    pub known: bool,
}

/// The version of before that does best in the first days since the onset, judged on the others; none where there is none.
pub fn known<'a>(
    world: &World,
    data: &TrainingData,
    champion: (&Running, &[(Millis, Millis)]),
    past: impl Iterator<Item = &'a Before>,
    (onset, now): (Millis, Millis),
) -> Option<(Challenger, judge::Verdict)> {
    let (until, from) = plan::known(onset, now, champion.0.until, DAY_MS)?;
    let cases = evaluate::cases(&world.spec, data, (onset, until + DAY_MS + 1), 1).unwrap();
    let loss = |b: &Before| score(world, &cases, &b.trained).mase;
    let best = past.min_by(|a, b| loss(a).total_cmp(&loss(b)))?;
    let gate = Gate {
        max_p: 0.2 * Gate::default().max_p,
        ..Gate::default()
    };
    let verdict = compare(
        world,
        data,
        champion,
        (&best.trained, &best.unseen),
        (from, now),
        gate,
    );
    let mut challenger = Challenger {
        trained: best.trained.clone(),
        until,
        unseen: best.unseen.clone(),
        known: true,
    };
    measure(world, data, &mut challenger.trained, (onset, now));
    Some((challenger, verdict))
}

/// A model that learns the days since the onset, judged on those that it was kept from.
pub fn fresh(
    world: &World,
    data: &TrainingData,
    champion: (&Running, &[(Millis, Millis)]),
    (onset, now): (Millis, Millis),
    tried: bool,
) -> (Challenger, judge::Verdict) {
    let base = TrainConfig {
        seed: champion.0.version + 1,
        ..quick()
    };
    let cut = plan::cut(
        (world.start, now),
        Some(onset),
        Some(champion.0.until),
        (HOUR_MS, DAY_MS),
        base,
    );
    let mut trained = train(world, data, cut.train_until, &cut.config);
    let since = match trained.refitted {
        true => (cut.train_until, now),
        false => (trained.split.calibrate_from, now),
    };
    measure(world, data, &mut trained, since);
    let left = if tried { 0.8 } else { 1.0 };
    let gate = Gate {
        max_p: left * Gate::default().max_p,
        ..Gate::default()
    };
    let unseen = cut.config.unseen;
    let days = (cut.holdout_from.unwrap(), now);
    let verdict = compare(world, data, champion, (&trained, &unseen), days, gate);
    let challenger = Challenger {
        trained,
        until: cut.train_until,
        unseen,
        known: false,
    };
    (challenger, verdict)
}

/// What a model promises of its errors is measured on days that it did not learn from.
fn measure(
    world: &World,
    data: &TrainingData,
    trained: &mut Trained,
    (from, now): (Millis, Millis),
) {
    let late = evaluate::cases(&world.spec, data, (from, now + 1), 1).unwrap();
    let daily = evaluate::daily_errors(&late, data, HOUR_MS, |w| predict(&trained.params, w));
    trained.calibration.daily = daily.unwrap();
}

fn score(world: &World, cases: &[evaluate::Case], p: &Trained) -> evaluate::Scores {
    evaluate::backtest(cases, &world.spec.quantiles, |w| predict(&p.params, w)).unwrap()
}

/// Judges a challenger beside the champion, as the hub does.
fn compare(
    world: &World,
    data: &TrainingData,
    (run, had): (&Running, &[(Millis, Millis)]),
    (trained, has): (&Trained, &[(Millis, Millis)]),
    (from, now): (Millis, Millis),
    gate: Gate,
) -> judge::Verdict {
    let cases = evaluate::cases(&world.spec, data, (from, now + 1), 1).unwrap();
    let (old, new) = (
        score(world, &cases, &run.trained),
        score(world, &cases, trained),
    );
    let losses = |s: &evaluate::Scores| s.origin_losses.iter().map(|l| l.1).collect::<Vec<_>>();
    let shared = old::shared(had, has);
    assert!(
        shared.len() > 2,
        "four quarters of the first year are kept: {shared:?}"
    );
    let mut older = [Vec::new(), Vec::new(), Vec::new()];
    for span in &shared {
        let cases = evaluate::cases(&world.spec, data, *span, 1).unwrap();
        older[2].extend(old::naive(&world.spec, data, &cases));
        for (i, model) in [&run.trained, trained].into_iter().enumerate() {
            older[i].extend(losses(&score(world, &cases, model)));
        }
    }
    let eighty = |s: &evaluate::Scores| {
        let found = s.intervals.iter().find(|i| i.lower == 0.1);
        found.map(|i| i.coverage)
    };
    let [champion, challenger, naive] = &older;
    let v = judge::verdict(&losses(&old), &losses(&new), world.spec.horizon, gate)
        .with_coverage(eighty(&new), eighty(&old))
        .with_old(Old::Losses {
            champion,
            challenger,
            naive: Some(naive),
        });
    for rule in &v.rules {
        eprintln!("    {}: {:?}, {}", rule.rule, rule.outcome, rule.words);
    }
    v
}
