//! Work divided over threads: owns who waits for whom, never what is done.

use std::sync::Barrier;
use std::thread;

/// Most shares of a batch, and so most threads that it can use.
pub(crate) const SHARES: usize = 4;

/// Round after round, calls `part` for every worker, each on a thread of its own that lasts for all of them, then `between` on
/// the caller's while the others wait. Neither may panic: the others would wait for ever.
pub(crate) fn in_rounds<W: Send>(
    workers: &mut [W],
    rounds: usize,
    part: impl Fn(usize, usize, &mut W) + Sync,
    mut between: impl FnMut(usize),
) {
    let meet = Barrier::new(workers.len());
    let Some((own, others)) = workers.split_first_mut() else {
        return;
    };
    let (meet, part) = (&meet, &part);
    thread::scope(|scope| {
        for (i, worker) in others.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..rounds {
                    part(round, i + 1, worker);
                    meet.wait();
                    meet.wait();
                }
            });
        }
        for round in 0..rounds {
            part(round, 0, own);
            meet.wait();
            between(round);
            meet.wait();
        }
    });
}
