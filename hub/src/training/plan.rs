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
    let mut config = base;
    let Some(champion_until) = champion_until else {
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
    if let Some(onset) = onset.filter(|o| *o > first && *o < train_until) {
        let (old, new) = ((onset - first) as f64, (train_until - onset) as f64);
        let total = old + new;
        // Chosen and calibrated in the new world, on no more of it than that takes: the rest is learnt from.
        let part = (new * PART_SHARE).max((horizon_ms + PART_ORIGINS * period_ms) as f64);
        let share = (part / total).min(0.2);
        config.train_share = 1.0 - 2.0 * share;
        config.select_share = share;
        let learnt = (new - 2.0 * part).max(part);
        config.recent_weight =
            ((RECENT * old / learnt) as f32).clamp(config.recent_weight, 1_000.0);
    }
    Cut {
        train_until,
        holdout_from: Some(train_until),
        config,
    }
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
        let learnt_until = cut.config.train_share * from as f64 / DAY_MS as f64;
        assert!((410.0..426.0).contains(&learnt_until), "{learnt_until}");
        assert!(cut.config.train_share + cut.config.select_share < 0.999);
    }

    #[test]
    fn a_champion_that_saw_the_newest_data_leaves_nothing_to_judge() {
        let cut = cut(
            (0, 100 * DAY_MS),
            None,
            Some(100 * DAY_MS),
            (DAY_MS / 24, DAY_MS),
            TrainConfig::default(),
        );
        assert_eq!(cut.holdout_from, Some(100 * DAY_MS));
    }
}
