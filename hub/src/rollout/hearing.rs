//! Whether devices are heard at all: owns what a time in which nobody listened changes in a rollout, never what a device said.

use super::machine::Rollout;

/// Devices that are connected have said what they run within this time after they are heard anew, milliseconds.
const HEARD_WITHIN: i64 = 30_000;

/// Takes note of since when devices are heard without a break; none: nobody hears them. What was to be seen while nobody listened was
/// not: soak times and deadlines begin anew once devices have had the time to speak. Said before the first event of a round, which
/// must not find the time of a break gone by.
pub fn listening(r: &mut Rollout, since: Option<i64>, now: i64) {
    let Some(since) = since else {
        r.hears_from = i64::MAX;
        return;
    };
    let before = r.listening.replace(since);
    if before.is_none() {
        r.hears_from = 0;
    } else if before != Some(since) {
        r.hears_from = now + HEARD_WITHIN;
        if r.since.is_some() {
            r.since = Some(r.hears_from);
        }
        r.passed_since = None;
        let from = r.hears_from;
        r.devices.change(|_| true, |_, d| d.restart_clock(from));
    } else if r.hears_from == i64::MAX {
        r.hears_from = now;
    }
}
