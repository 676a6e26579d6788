//! How the data of a training run is cut: owns holdout and weights as a pure function, never reads data.

use fieldcast_features::Millis;
use fieldcast_train::TrainConfig;

const DAY_MS: Millis = 86_400_000;
/// Share of the days since the onset that is kept for judging.
const HOLDOUT_SHARE: f64 = 0.22;
const MIN_HOLDOUT_DAYS: Millis = 5;
/// Share of the new world that selects, and the same that calibrates.
const PART_SHARE: f64 = 0.15;
/// Fewest origins of each of the two, beyond the horizon that separates them from the part before.
const PART_ORIGINS: Millis = 30;
/// How much the new world counts in all, against the old one.
const RECENT: f64 = 6.0;

/// Share of the days since the onset that says which version of before is the one, and the fewest of them.
const CHOSEN_SHARE: f64 = 0.3;
const MIN_CHOSEN_DAYS: Millis = 2;
/// Fewest days that such a version is judged on.
const MIN_JUDGED_DAYS: Millis = 3;

/// Of each such block of older data the end is kept from learning, at least; 90 days, so that the days of the week go round.
const BLOCK_DAYS: Millis = 90;
/// Days of origins in what is kept, at least.
const KEPT_DAYS: Millis = 4;
/// A block is so many times what is kept of it, at least.
const BLOCK_PARTS: Millis = 16;
/// Most blocks of which something is kept, the newest.
const MOST_BLOCKS: usize = 40;

/// The cut of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The challenger learns from rows up to here.
    pub train_until: Millis,
    /// Origins from here on are judged; none: no champion to be judged against.
    pub holdout_from: Option<Millis>,
    /// Shares and weights.
    pub config: TrainConfig,
}

/// Cuts the data `[first, last]`. With a champion that saw data up to `champion_until`, the newest part is kept from
/// both for judging; after an onset the new world enters every part of the training, and counts more than the old one.
#[must_use]
pub fn cut(
    (first, last): (Millis, Millis),
    onset: Option<Millis>,
    champion_until: Option<Millis>,
    (period_ms, horizon_ms): (Millis, Millis),
    base: TrainConfig,
) -> Cut {
    let mut config = TrainConfig {
        refit: false,
        ..base
    };
    let grid = (period_ms, horizon_ms);
    let Some(champion_until) = champion_until else {
        config.unseen = unseen((first, last - block(grid)), grid);
        return Cut {
            train_until: last,
            holdout_from: None,
            config,
        };
    };
    let since = onset.unwrap_or(champion_until).clamp(first, last);
    let share = ((last - since) as f64 * HOLDOUT_SHARE) as Millis;
    // The last origins have no actuals yet: the horizon is added so that whole days remain to be judged.
    let holdout = share.max(MIN_HOLDOUT_DAYS * DAY_MS) + horizon_ms;
    let train_until = (last - holdout)
        .max(champion_until + horizon_ms)
        .clamp(first, last);
    let onset = onset.filter(|o| *o > first && *o < train_until);
    config.unseen = unseen((first, onset.unwrap_or(train_until - block(grid))), grid);
    if let Some(onset) = onset {
        // Windows that reach into what is kept are lost with it; the new world's share is one of what remains.
        let lost = config
            .unseen
            .iter()
            .map(|(from, until)| until - from + horizon_ms);
        let old = ((onset - first) - lost.sum::<Millis>()).max(0) as f64;
        let new = (train_until - onset) as f64;
        let total = old + new;
        // Chosen and calibrated in the new world, on no more of it than that takes: the rest is learnt from.
        let part = (new * PART_SHARE).max((horizon_ms + PART_ORIGINS * period_ms) as f64);
        let share = (part / total).min(0.2);
        config.train_share = 1.0 - 2.0 * share;
        config.select_share = share;
        let learnt = (new - 2.0 * part).max(part);
        config.recent_weight =
            ((RECENT * old / learnt) as f32).clamp(config.recent_weight, 1_000.0);
        // Its promise comes from the days that judge it: a champion that saw the newest data may have left too few of them.
        config.refit = last - train_until >= MIN_HOLDOUT_DAYS * DAY_MS + horizon_ms;
    }
    Cut {
        train_until,
        holdout_from: Some(train_until),
        config,
    }
}

/// Has a first model chosen on days that the model it may begin at has not seen, where such days are enough: otherwise what began
/// there could not be compared with what did not.
pub(super) fn select_after(
    config: &mut TrainConfig,
    seen: Millis,
    (first, last): (Millis, Millis),
    (period_ms, horizon_ms): (Millis, Millis),
) {
    let usual = first + ((last - first) as f64 * config.train_share) as Millis;
    let part = horizon_ms + (MIN_HOLDOUT_DAYS * DAY_MS).max(PART_ORIGINS * period_ms);
    let from = seen + period_ms;
    if config.select_from.is_none() && from > usual && last - horizon_ms - from >= 2 * part {
        config.select_from = Some(from);
    }
}

/// How the days since an onset are parted where versions of before may be the answer: until when one is chosen, and from when on it is
/// judged. They have learnt from none of these days, so that all of them speak; a champion that has does not judge itself on them. None
/// where they are too few.
#[must_use]
pub fn known(
    onset: Millis,
    last: Millis,
    champion_until: Millis,
    horizon_ms: Millis,
) -> Option<(Millis, Millis)> {
    let days = last - horizon_ms - onset;
    let chosen = ((days as f64 * CHOSEN_SHARE) as Millis).max(MIN_CHOSEN_DAYS * DAY_MS);
    let judged_from = (onset + chosen).max(champion_until) + horizon_ms;
    (last - horizon_ms - judged_from >= MIN_JUDGED_DAYS * DAY_MS)
        .then_some((onset + chosen, judged_from))
}

fn kept_ms((period_ms, horizon_ms): (Millis, Millis)) -> Millis {
    horizon_ms + (KEPT_DAYS * DAY_MS).max(KEPT_DAYS * period_ms)
}

fn block(grid: (Millis, Millis)) -> Millis {
    (BLOCK_DAYS * DAY_MS).max(BLOCK_PARTS * kept_ms(grid))
}

/// The end of each block of the data `[first, until]`. Blocks are counted from the epoch, not from the data: whatever a
/// forecaster's models are trained on, they are kept from the same days, so that an older time can judge two of them.
fn unseen((first, until): (Millis, Millis), grid: (Millis, Millis)) -> Vec<(Millis, Millis)> {
    let (kept, block) = (kept_ms(grid), block(grid));
    let ends = (first.div_euclid(block)..=until.div_euclid(block)).map(|n| (n + 1) * block);
    let mut spans: Vec<_> = ends
        .map(|end| (end - kept, end))
        .filter(|(from, end)| from - first >= block / 4 && *end <= until)
        .collect();
    spans.drain(..spans.len().saturating_sub(MOST_BLOCKS));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_model_learns_from_everything() {
        let cut = cut(
            (0, 100 * DAY_MS),
            None,
            None,
            (DAY_MS / 24, DAY_MS),
            TrainConfig::default(),
        );
        assert_eq!((cut.train_until, cut.holdout_from), (100 * DAY_MS, None));
    }

    #[test]
    fn the_holdout_is_unseen_by_both_and_the_new_world_counts_more() {
        let days = |n: Millis| n * DAY_MS;
        let cut = cut(
            (0, days(440)),
            Some(days(400)),
            Some(days(380)),
            (DAY_MS / 24, DAY_MS),
            TrainConfig::default(),
        );
        let from = cut.holdout_from.unwrap_or(0);
        assert_eq!(from, cut.train_until);
        assert!(
            from > days(380) + DAY_MS && from < days(431) && from > days(425),
            "{}",
            from / DAY_MS
        );
        assert!(cut.config.recent_weight > 20.0);
        assert!(cut.config.refit);
        let learnt_until = cut.config.train_share * from as f64 / DAY_MS as f64;
        assert!((410.0..426.0).contains(&learnt_until), "{learnt_until}");
        assert!(cut.config.train_share + cut.config.select_share < 0.999);
    }

    #[test]
    fn every_model_is_kept_from_the_same_older_days() {
        let days = |n: Millis| n * DAY_MS;
        let of = |last, onset: Option<Millis>, seen: Option<Millis>| {
            let grid = (DAY_MS / 24, DAY_MS);
            let span = (days(20_010), days(last));
            let (onset, seen) = (onset.map(days), seen.map(days));
            cut(span, onset, seen, grid, TrainConfig::default())
                .config
                .unseen
        };
        let first = of(20_400, None, None);
        // Blocks end on days 20,070, 20,160, 20,250, 20,340 ...; the newest block is no older time.
        let ends = |spans: &[(Millis, Millis)]| -> Vec<_> {
            spans.iter().map(|(_, end)| end / DAY_MS).collect()
        };
        assert_eq!(ends(&first), [20_070, 20_160, 20_250]);
        assert!(first.iter().all(|(from, end)| end - from == days(5)));
        let second = of(20_500, Some(20_450), Some(20_400));
        assert_eq!(ends(&second), [20_070, 20_160, 20_250, 20_340, 20_430]);
        assert_eq!(second[..3], first[..]);
        assert!(
            of(20_100, None, None).is_empty(),
            "too little to keep any of it"
        );
        // A long horizon costs no larger share.
        let grid = (DAY_MS, days(28));
        let long = cut((0, days(5_000)), None, None, grid, TrainConfig::default())
            .config
            .unseen;
        let lost: Millis = long.iter().map(|(from, end)| end - from).sum();
        assert!(!long.is_empty() && lost * BLOCK_PARTS <= days(5_000));
    }

    #[test]
    fn a_version_of_before_is_chosen_and_judged_on_other_days_of_the_new_world() {
        let days = |n: Millis| n * DAY_MS;
        let known = |last, champion| known(days(400), days(last), days(champion), DAY_MS);
        let (chosen, judged) = known(420, 395).unwrap_or_default();
        assert!(
            chosen > days(405) && chosen < days(406),
            "{}",
            chosen / DAY_MS
        );
        assert_eq!(judged, chosen + DAY_MS, "no actual value is in both");
        assert_eq!(known(406, 395), None);
        assert_eq!(known(407, 395), Some((days(402), days(403))));
        // The champion has seen some of the new world: what it learnt from does not judge it.
        assert_eq!(known(420, 412), Some((chosen, days(413))));
        assert_eq!(known(420, 417), None);
    }

    #[test]
    fn a_first_model_that_begins_at_another_is_chosen_on_days_that_the_other_has_not_seen() {
        let of = |seen: Millis| {
            let mut config = TrainConfig::default();
            let grid = (DAY_MS / 24, DAY_MS);
            select_after(&mut config, seen * DAY_MS, (0, 100 * DAY_MS), grid);
            config.select_from
        };
        assert_eq!(of(60), None, "the usual part begins on day 70");
        assert_eq!(of(80), Some(80 * DAY_MS + DAY_MS / 24));
        assert_eq!(
            of(90),
            None,
            "nine days are too few to choose and calibrate"
        );
    }

    #[test]
    fn a_champion_that_saw_the_newest_data_leaves_nothing_to_judge() {
        let of = |onset: Option<Millis>, seen: Millis| {
            let grid = (DAY_MS / 24, DAY_MS);
            let seen = Some(seen * DAY_MS);
            let onset = onset.map(|o| o * DAY_MS);
            cut((0, 100 * DAY_MS), onset, seen, grid, TrainConfig::default())
        };
        assert_eq!(of(None, 100).holdout_from, Some(100 * DAY_MS));
        // Or too little for the promise of a model that learnt from all the rest.
        assert!(of(Some(80), 80).config.refit);
        assert!(!of(Some(80), 96).config.refit);
    }
}
