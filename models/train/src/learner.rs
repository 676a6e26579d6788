//! Work divided over threads: owns how items are shared out, never what is done to them.

use std::thread;

/// Most shares of a batch, and so most threads that it can use.
pub(crate) const SHARES: usize = 4;

/// Calls `act` on every item, on one thread a worker, each with a fixed part of the items.
///
/// A worker is what a thread has for itself: memory that it uses for one item after another is still in its cache, where
/// each item's own would not be.
pub(crate) fn in_parallel<W: Send, T: Send>(
    workers: &mut [W],
    items: &mut [T],
    act: impl Fn(&mut W, &mut T) + Sync,
) {
    let each = items.len().div_ceil(workers.len().max(1)).max(1);
    let mut parts = workers.iter_mut().zip(items.chunks_mut(each));
    let own = parts.next();
    thread::scope(|scope| {
        for (worker, part) in parts {
            let act = &act;
            scope.spawn(move || part.iter_mut().for_each(|item| act(worker, item)));
        }
        if let Some((worker, part)) = own {
            part.iter_mut().for_each(|item| act(worker, item));
        }
    });
}
