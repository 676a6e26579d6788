//! What goes up now: owns the choice between what was sent before and what was not, and into a silence; never when to connect.

use super::{Asks, Lane, Output, PAGE, State};

/// Sends what is due, and what was not sent yet, as far as the window lets it; into a silence ever less.
pub(super) fn go(s: &mut State, now: i64, out: &mut Vec<Output>) {
    if s.is_silent(now) {
        return ask(s, now, out);
    }
    s.asks = None;
    let (again, late) = s.flights.again(now, s.window.size());
    if late && s.window.late(now, s.flights.wait()) {
        s.flights.slower();
    }
    if !again.is_empty() {
        s.owed.get_or_insert(now);
    }
    let publish = |(key, lane)| Output::Publish { key, lane };
    out.extend(again.into_iter().map(publish));
    first(s, now, out);
}

/// One batch at a time asks: one that was not sent yet, else the one sent longest ago.
fn ask(s: &mut State, now: i64, out: &mut Vec<Output>) {
    if s.asks.is_some_and(|asks| asks.asked && now < asks.next) {
        return;
    }
    let next = now + s.flights.pause(s.part(now));
    s.asks = Some(Asks { asked: false, next });
    let mut asked = first(s, now, out) > 0;
    // What the buffer tells now, if anything, goes before what was sent.
    if !asked
        && !s.live.asked
        && let Some((key, lane)) = s.flights.ask(now, next)
    {
        out.push(Output::Publish { key, lane });
        asked = true;
    }
    if asked {
        s.window.silent();
    }
    s.asks = Some(Asks { asked, next });
}

/// Sends what was not sent yet, or into a silence one batch of it; how many went.
fn first(s: &mut State, now: i64, out: &mut Vec<Output>) -> usize {
    let rate = i64::try_from(s.settings.backlog_bytes_per_s).unwrap_or(i64::MAX);
    let earned = (now - s.budget_at).max(0).saturating_mul(rate) / 1_000;
    if earned > 0 {
        s.budget = s.budget.saturating_add(earned).min(rate);
        s.budget_at = now;
    }
    let room = (PAGE / 2).saturating_sub(s.backlog.waiting.len());
    s.backlog.waiting.extend(s.aside.take(room, now));
    let mut went = 0;
    // P7: live before backlog.
    for lane in [Lane::Live, Lane::Backlog] {
        let limit = match lane {
            Lane::Live => s.settings.live_inflight,
            Lane::Backlog => s.settings.backlog_inflight,
        };
        let window = match s.asks {
            Some(_) => 1_usize.saturating_sub(went),
            None => (s.window.size()).saturating_sub(s.flights.fresh(lane, now)),
        };
        let room = window.min(limit.saturating_sub(s.flights.on(lane)));
        let mut used = 0;
        let mut contested = s.flights.any_contested();
        let queue = match lane {
            Lane::Live => &mut s.live,
            Lane::Backlog => &mut s.backlog,
        };
        while used < room && (lane == Lane::Live || s.budget > 0) {
            // P4: of contested batches one at a time, so that an ack can name it.
            let Some(at) = queue
                .waiting
                .iter()
                .position(|b| !(b.contested && contested))
            else {
                break;
            };
            let Some(b) = queue.waiting.remove(at) else {
                break;
            };
            if s.flights.holds(&b.key) {
                continue;
            }
            contested |= b.contested;
            if lane == Lane::Backlog {
                s.budget -= i64::try_from(b.bytes).unwrap_or(i64::MAX);
            }
            out.push(Output::Publish { key: b.key, lane });
            s.flights.add(lane, b, now);
            s.owed.get_or_insert(now);
            used += 1;
        }
        went += used;
        if queue.wants() && now >= queue.again_at {
            (queue.asked, queue.again_at) = (true, 0);
            out.push(Output::Page {
                lane,
                after: queue.after,
                limit: PAGE,
            });
        }
    }
    went
}
