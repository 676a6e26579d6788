//! One turn of `cargo xtask bench train`: trains the plain model on windows of a given size and prints what an epoch cost.
//!
//! `epoch N STEPS INPUT HIDDEN OUTPUT BATCH THREADS EPOCHS` prints `{"cpu_s": [...], "wall_s": [...], "loss": ...}`, an
//! entry an epoch.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fieldcast_kernel::{AdamConfig, Linear, Lstm, Rng};
use fieldcast_train::plain::{Plain, PlainTrainer, Windows};
use rustix::time::{ClockId, clock_gettime};

fn main() -> Result<()> {
    let arguments: Vec<usize> = std::env::args()
        .skip(1)
        .map(|a| a.parse().with_context(|| format!("read `{a}` as a number")))
        .collect::<Result<_>>()?;
    let [n, steps, input, hidden, output, batch, threads, epochs] = arguments[..] else {
        anyhow::bail!("give N STEPS INPUT HIDDEN OUTPUT BATCH THREADS EPOCHS");
    };
    ensure!(n > 0 && epochs > 0, "N and EPOCHS are at least 1");
    let mut rng = Rng::new(1);
    let x = rng.symmetric(n * steps * input, 1.0);
    let y = rng.symmetric(n * output, 1.0);
    let mut model = Plain {
        lstm: Lstm::random(input, hidden, &mut rng),
        head: Linear::random(hidden, output, &mut rng),
    };
    let adam = AdamConfig {
        learning_rate: 0.01,
        ..AdamConfig::default()
    };
    let mut trainer = PlainTrainer::new(&model, adam, threads);
    let windows = Windows {
        steps,
        x: &x,
        y: &y,
        weight: &[],
    };
    let mut order: Vec<usize> = (0..n).collect();
    let (mut cpu, mut wall, mut loss) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..epochs {
        let (began, spent) = (Instant::now(), cpu_seconds());
        rng.shuffle(&mut order);
        loss = trainer.epoch(&mut model, windows, &order, batch);
        cpu.push(cpu_seconds() - spent);
        wall.push(began.elapsed().as_secs_f64());
    }
    let facts = serde_json::json!({"cpu_s": cpu, "wall_s": wall, "loss": loss});
    println!("{facts}");
    Ok(())
}

fn cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
