//! Times for `cargo xtask bench drift`: owns what is run between two looks at the clock, never a goal.
#![allow(clippy::expect_used, reason = "a program for measuring")]

#[path = "../tests/support/mmix.rs"]
mod mmix;

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::Instant;

use fieldcast_drift::preset::layout::report;
use fieldcast_drift::preset::{Column, Values, Version, decide};
use fieldcast_drift::stream::{Adwin, ErrorGlr, Kswin, PageHinkley};
use fieldcast_drift::window::{Grid, Options, check};
use mmix::Random;

fn tables(rows: usize, current: usize, columns: usize) -> [Vec<Vec<f64>>; 2] {
    let mut random = Random::new(1);
    [rows, current].map(|n| {
        (0..columns)
            .map(|_| (0..n).map(|_| random.normal()).collect())
            .collect()
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| args[i].parse().expect("a number");
    match args[0].as_str() {
        "detectors" => detectors(),
        "check" => check_times(&tables(number(1), number(2), number(3))),
        _ => write(&tables(number(1), number(2), number(3)), &args[4]),
    }
}

fn write(tables: &[Vec<Vec<f64>>; 2], dir: &str) {
    for (name, table) in ["reference", "current"].iter().zip(tables) {
        let names: Vec<_> = (0..table.len()).map(|k| format!("c{k}")).collect();
        let mut text = names.join(",") + "\n";
        for row in 0..table[0].len() {
            let cells: Vec<_> = table.iter().map(|c| c[row].to_string()).collect();
            let _ = writeln!(text, "{}", cells.join(","));
        }
        std::fs::write(format!("{dir}/{name}.csv"), text).expect("write a table");
    }
}

/// Seconds of the preset with its report as JSON, and of the default policy: medians of 51 runs.
fn check_times([reference, current]: &[Vec<Vec<f64>>; 2]) {
    let numbers = |values: &Vec<f64>| Values::Numbers {
        values: values.clone(),
        whole: false,
    };
    let columns: Vec<Column> = reference
        .iter()
        .zip(current)
        .enumerate()
        .map(|(k, (r, c))| Column {
            name: format!("c{k}"),
            reference: numbers(r),
            current: numbers(c),
        })
        .collect();
    let none = Grid::default();
    let preset = || {
        let decision = decide(&columns, Version::V04).expect("a decision");
        serde_json::to_string(&report(&decision, &columns, |_| String::new())).expect("a report")
    };
    let policy = || {
        let done = check(&columns, &none, &none, Options::default()).expect("a verdict");
        serde_json::to_string(&done).expect("a report")
    };
    println!("{} {}", median(preset), median(policy));
}

fn median(run: impl Fn() -> String) -> f64 {
    let mut times: Vec<f64> = (0..51)
        .map(|_| {
            let began = Instant::now();
            black_box(run());
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[25]
}

/// Nanoseconds an update and bytes of state after a million values without a change.
fn detectors() {
    let mut random = Random(7);
    let values: Vec<f64> = (0..1_000_000).map(|_| random.normal()).collect();
    let time = |update: &mut dyn FnMut(f64) -> bool| {
        let began = Instant::now();
        for v in &values {
            black_box(update(*v));
        }
        began.elapsed().as_secs_f64() * 1e9 / values.len() as f64
    };
    let (mut page_hinkley, mut adwin, mut kswin) =
        (PageHinkley::default(), Adwin::default(), Kswin::seeded(1));
    let mut glr = ErrorGlr::default();
    let times = [
        time(&mut |x| page_hinkley.update(x)),
        time(&mut |x| adwin.update(x)),
        time(&mut |x| kswin.update(x)),
        // One of five is an error.
        time(&mut |x| glr.update(f64::from(x > 0.84))),
    ];
    let bytes = [
        size_of::<PageHinkley>(),
        adwin.bytes(),
        size_of::<Kswin>() + 100 * size_of::<f64>(),
        glr.bytes(),
    ];
    for (name, (time, bytes)) in ["page_hinkley", "adwin", "kswin", "glr"]
        .iter()
        .zip(times.iter().zip(bytes))
    {
        println!("{name} {time:.2} {bytes}");
    }
}
