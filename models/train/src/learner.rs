//! One batch's gradient by several threads: owns how a batch is divided and its parts are added up, never the model.
//!
//! A batch falls into at most [`SHARES`] shares, whatever the number of threads, and their gradients are added in their
//! order: the result depends on the data and the processor's vectors alone.

use std::thread;

use fieldcast_kernel::{Adam, Lstm, clip_global_norm};

use crate::batch::{Batch, Batcher};
use crate::network::{Grads, Network, Workspace};
use crate::samples::Sample;

/// Most shares of a batch, and so most threads that it can use.
pub(crate) const SHARES: usize = 4;
/// Gradients longer than this are shortened to it.
const CLIP: f32 = 1.0;

/// A share's buffers.
#[derive(Debug)]
struct Share {
    batch: Batch,
    work: Workspace,
    grads: Grads,
    loss: f64,
}

/// Buffers and optimisers of a training run.
#[derive(Debug)]
pub(crate) struct Learner {
    shares: Vec<Share>,
    threads: usize,
    /// Moves the LSTM.
    pub(crate) fast: Adam,
    /// Moves the highway, where it moves.
    pub(crate) slow: Option<Adam>,
}

impl Learner {
    pub(crate) fn new(network: &Network, fast: Adam, slow: Option<Adam>, threads: usize) -> Self {
        let share = || Share {
            batch: Batch::default(),
            work: Workspace::default(),
            grads: network.grads(),
            loss: 0.0,
        };
        Self {
            shares: std::iter::repeat_with(share).take(SHARES).collect(),
            threads,
            fast,
            slow,
        }
    }

    /// One optimiser step on `samples`; returns their mean loss.
    pub(crate) fn learn(
        &mut self,
        network: &mut Network,
        batcher: &Batcher<'_>,
        samples: &[Sample],
    ) -> f64 {
        let loss = self.gradient(network, batcher, samples);
        let Some(sum) = self.shares.first_mut() else {
            return loss;
        };
        let mut all = network.parameters(&mut sum.grads);
        let (highway, lstm) = all.split_at_mut(3);
        if !lstm.is_empty() && clip_global_norm(lstm, CLIP).is_finite() {
            self.fast.step(lstm);
        }
        if let Some(slow) = &mut self.slow
            && clip_global_norm(highway, CLIP).is_finite()
        {
            slow.step(highway);
        }
        loss
    }

    /// Leaves the gradient of the mean loss of `samples` in the first share and returns that loss.
    fn gradient(&mut self, network: &Network, batcher: &Batcher<'_>, samples: &[Sample]) -> f64 {
        let pass = Lstm::pass_rows();
        let size = samples.len().div_ceil(SHARES).next_multiple_of(pass);
        let mass: f32 = samples.iter().map(|s| s.weight).sum();
        let highway = self.slow.is_some();
        let mut work: Vec<_> = self.shares.iter_mut().zip(samples.chunks(size)).collect();
        let count = work.len();
        in_parallel(self.threads, &mut work, |(share, samples)| {
            share.run(network, batcher, (samples, mass), highway);
        });
        let Some((first, rest)) = self.shares.split_first_mut() else {
            return 0.0;
        };
        for share in &rest[..count.saturating_sub(1)] {
            first.grads.add(&share.grads);
            first.loss += share.loss;
        }
        first.loss
    }
}

impl Share {
    fn run(
        &mut self,
        network: &Network,
        batcher: &Batcher<'_>,
        (samples, mass): (&[Sample], f32),
        highway: bool,
    ) {
        let Self {
            batch,
            work,
            grads,
            loss,
        } = self;
        grads.clear();
        *loss = 0.0;
        for samples in samples.chunks(Lstm::pass_rows()) {
            batcher.fill(samples, batch);
            network.forward(batch, work);
            *loss += network.loss(batch, work, mass);
            network.backward(batch, work, grads, highway);
        }
    }
}

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
