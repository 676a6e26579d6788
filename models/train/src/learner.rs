//! Work divided over threads: owns how items are shared out, never what is done to them.

use std::thread;

/// Most shares of a batch, and so most threads that it can use.
pub(crate) const SHARES: usize = 4;

/// Calls `act` on every item, on at most `threads` threads, each with a fixed part of them.
pub(crate) fn in_parallel<T: Send>(threads: usize, items: &mut [T], act: impl Fn(&mut T) + Sync) {
    let each = items.len().div_ceil(threads.max(1)).max(1);
    let mut parts = items.chunks_mut(each);
    let own = parts.next();
    thread::scope(|scope| {
        for part in parts {
            let act = &act;
            scope.spawn(move || part.iter_mut().for_each(act));
        }
        own.into_iter().flatten().for_each(&act);
    });
}
