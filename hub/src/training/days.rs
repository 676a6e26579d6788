//! Losses of champion and challenger over time: owns how they are thinned for the verdict that keeps them, never a verdict.

use fieldcast_features::Millis;
use serde::{Deserialize, Serialize};

const DAY_MS: Millis = 86_400_000;
/// Most points that a verdict keeps: a year of days.
const MOST: Millis = 366;

/// Mean losses of one day, or of a few where there are many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Day {
    /// Begin of the first origin's day, ms UTC.
    pub time: Millis,
    /// The champion's.
    pub champion: f64,
    /// The challenger's.
    pub challenger: f64,
}

/// What both lost at each origin, in time order, by day.
#[must_use]
pub(super) fn by_day(origins: &[Millis], champion: &[f64], challenger: &[f64]) -> Vec<Day> {
    let (Some(first), Some(last)) = (origins.first(), origins.last()) else {
        return Vec::new();
    };
    let width = ((last - first) / DAY_MS / MOST + 1) * DAY_MS;
    let pairs = champion.iter().zip(challenger);
    let all: Vec<_> = origins.iter().zip(pairs).collect();
    all.chunk_by(|(a, _), (b, _)| a.div_euclid(width) == b.div_euclid(width))
        .filter_map(|days| {
            let ((time, _), n) = (days.first()?, days.len() as f64);
            Some(Day {
                time: time.div_euclid(DAY_MS) * DAY_MS,
                champion: days.iter().map(|(_, (a, _))| *a).sum::<f64>() / n,
                challenger: days.iter().map(|(_, (_, b))| *b).sum::<f64>() / n,
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HOUR_MS: Millis = 3_600_000;

    #[test]
    fn a_day_is_the_mean_of_its_origins_and_many_days_are_thinned() {
        let hours: Vec<Millis> = (10..34).map(|h| h * HOUR_MS).collect();
        let champion: Vec<f64> = (10..34).map(|h| f64::from(h / 24)).collect();
        let days = by_day(&hours, &champion, &[2.0; 24]);
        let day = |time, champion| Day {
            time,
            champion,
            challenger: 2.0,
        };
        assert_eq!(days, [day(0, 0.0), day(DAY_MS, 1.0)]);
        let years: Vec<Millis> = (0..4 * 366).map(|d| d * DAY_MS).collect();
        let losses: Vec<f64> = (0..years.len()).map(|d| d as f64).collect();
        let thin = by_day(&years, &losses, &losses);
        assert!((300..=367).contains(&thin.len()), "{}", thin.len());
        assert!(thin.iter().all(|d| d.champion == d.challenger));
        assert!(by_day(&[], &[], &[]).is_empty());
    }
}
