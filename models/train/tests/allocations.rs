//! What a batch costs in allocations once the first has been learnt from: alone in its process, as all of it counts.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::alloc::System;
use std::ops::ControlFlow;

use fieldcast_features::{FeatureRow, ForecasterSpec};
use fieldcast_kernel::{AdamConfig, Layout, Linear, Lstm, Rng, gemm};
use fieldcast_train::plain::{Plain, PlainTrainer, Windows};
use fieldcast_train::{Series, TrainConfig, TrainingData, fit};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static MEMORY: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const HOUR_MS: i64 = 3_600_000;

/// Allocations, those that a longer buffer asks for among them.
fn allocations(act: impl FnOnce()) -> usize {
    let region = Region::new(MEMORY);
    act();
    let change = region.change();
    change.allocations + change.reallocations
}

/// What the library that multiplies matrices takes for itself in one product: it packs its operands into memory of its own.
fn of_a_product() -> usize {
    let (a, b, mut c) = ([1.0; 32 * 16], [1.0; 16 * 12], [0.0; 32 * 12]);
    allocations(|| {
        let (a, b) = ((&a[..], Layout::Plain), (&b[..], Layout::Plain));
        gemm((32, 16, 12), a, b, &mut c, false);
    })
}

/// Batches of 256 of a plain LSTM, and a last one of 100, on so many threads.
fn plain(batches: usize, threads: usize) -> usize {
    let (steps, n) = (8, 256 * batches + 100);
    let mut rng = Rng::new(1);
    let mut model = Plain {
        lstm: Lstm::random(2, 10, &mut rng),
        head: Linear::random(10, 9, &mut rng),
    };
    let (x, y) = (rng.symmetric(n * steps * 2, 1.0), rng.symmetric(n * 9, 1.0));
    let windows = Windows {
        steps,
        x: &x,
        y: &y,
        weight: &[],
    };
    let order: Vec<usize> = (0..n).collect();
    let mut trainer = PlainTrainer::new(&model, AdamConfig::default(), threads);
    trainer.epoch(&mut model, windows, &order[..356], 256);
    allocations(|| {
        trainer.epoch(&mut model, windows, &order, 256);
    })
}

/// A whole training whose heads see so many batches of 128 an epoch, the last of them short, at a rate of 0: all but these batches is then the
/// same.
fn heads(batches: usize) -> usize {
    let spec: ForecasterSpec = serde_json::from_str(
        r#"{"name": "load", "target": "load", "inputs": ["load", "heat"], "period": "1h", "lookback": 48, "horizon": 9}"#,
    )
    .unwrap();
    let mut rng = Rng::new(2);
    let row = |hour: i64| FeatureRow {
        time: hour * HOUR_MS,
        values: vec![
            (hour % 24) as f64 + f64::from(rng.normal()),
            f64::from(rng.normal()),
        ],
    };
    let data = TrainingData {
        series: vec![Series {
            device: "one".into(),
            rows: (0..3_000).map(row).collect(),
            weight_from: None,
        }],
    };
    let config = TrainConfig {
        seeds: 1,
        threads: Some(1),
        max_epochs: EPOCHS,
        patience: EPOCHS,
        learning_rate: 0.0,
        batch: 128,
        epoch_windows: 128 * batches - 70,
        hidden: 10,
        units: 9,
        dropout: 0.2,
        forest: false,
        ..TrainConfig::default()
    };
    allocations(|| {
        fit(&spec, &data, &config, &mut |_| ControlFlow::Continue(())).unwrap();
    })
}

const EPOCHS: usize = 3;

#[test]
fn a_batch_takes_no_memory_but_what_products_of_matrices_take_themselves() {
    let product = of_a_product();
    assert_eq!(product, 1);
    for threads in [1, 2] {
        // A share's forecast, and of its error the part of the weights and that of the state; on vectors of any width.
        let passes = 256 / Lstm::pass_rows();
        assert_eq!(
            plain(12, threads) - plain(4, threads),
            8 * passes * 3 * product,
            "{threads} threads"
        );
    }
    // Of ridge one; of the head's state and its local layer one each, and on the way back two and one. The channel that tells
    // of epochs takes some once, when a thread first waits at it: less than one a batch is that.
    let (more, batches) = (heads(14) - heads(6), EPOCHS * 8);
    assert!(
        more.abs_diff(batches * 6 * product) < batches / 2,
        "{more} in {batches} batches"
    );
}
