//! Drift streams for `cargo xtask bench drift`: owns the learner, the streams made here and the score, never a detector.
//!
//! `streams data [DIRECTORY]` judges the two published streams of `FIELDCAST_DATA` and can write each detector's error
//! stream and alarms into a directory; `streams made N` judges N streams of each kind that are made here, and ours also
//! at the run length that gives it about as many false alarms as each other detector has.

#[path = "../src/window/random.rs"]
mod splitmix;

use std::path::Path;
use std::process::ExitCode;

use fieldcast_drift::stream::{Adwin, Ddm, Eddm, ErrorGlr, HddmA, HddmW, Kswin, PageHinkley};
use splitmix::Random;

/// Rows after a drift in which its first alarm finds it.
const SINE_WINDOW: usize = 250;
const SEA_WINDOW: usize = 2_000;

/// Rows of features with a class, and the rows at which the concept changes.
struct Stream {
    rows: Vec<(Vec<f64>, bool)>,
    drifts: Vec<usize>,
    window: usize,
}

/// Gaussian naive Bayes of two classes, one row at a time.
#[derive(Default)]
struct Bayes {
    classes: [Moments; 2],
}

#[derive(Default)]
struct Moments {
    n: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Moments {
    fn learn(&mut self, row: &[f64]) {
        self.n += 1.0;
        self.mean.resize(row.len(), 0.0);
        self.squares.resize(row.len(), 0.0);
        for ((mean, squares), x) in self.mean.iter_mut().zip(&mut self.squares).zip(row) {
            let apart = x - *mean;
            *mean += apart / self.n;
            *squares += apart * (x - *mean);
        }
    }

    fn log_likelihood(&self, row: &[f64]) -> f64 {
        let freedom = (self.n - 1.0).max(1.0);
        let each = self.mean.iter().zip(&self.squares).zip(row);
        let sum: f64 = each
            .map(|((mean, squares), x)| {
                let variance = (squares / freedom).max(1e-9);
                -0.5 * (variance.ln() + (x - mean).powi(2) / variance)
            })
            .sum();
        self.n.ln() + sum
    }
}

impl Bayes {
    /// A class that was never seen is not predicted; before any, it is the first one.
    fn predict(&self, row: &[f64]) -> bool {
        let of = |class: &Moments| {
            if class.n > 0.0 {
                class.log_likelihood(row)
            } else {
                f64::NEG_INFINITY
            }
        };
        of(&self.classes[1]) > of(&self.classes[0])
    }

    fn learn(&mut self, row: &[f64], class: bool) {
        self.classes[usize::from(class)].learn(row);
    }
}

/// The name of our detector.
const OURS: &str = "glr";
/// Run lengths at which it is compared with detectors that have as many false alarms.
const RUN_LENGTHS: [f64; 15] = [
    500.0, 1e3, 2e3, 3e3, 4e3, 5e3, 6e3, 7e3, 1e4, 2e4, 3e4, 5e4, 1e5, 2e5, 5e5,
];

type Update = Box<dyn FnMut(f64) -> bool>;

/// Ours first, then River's seven at their defaults.
fn detectors() -> Vec<(&'static str, Update)> {
    let (mut glr, mut adwin, mut page_hinkley) = (
        ErrorGlr::default(),
        Adwin::default(),
        PageHinkley::default(),
    );
    let (mut kswin, mut ddm, mut eddm) = (Kswin::seeded(1), Ddm::default(), Eddm::default());
    let (mut hddm_a, mut hddm_w) = (HddmA::default(), HddmW::default());
    vec![
        (OURS, Box::new(move |x| glr.update(x))),
        ("adwin", Box::new(move |x| adwin.update(x))),
        ("page_hinkley", Box::new(move |x| page_hinkley.update(x))),
        ("kswin", Box::new(move |x| kswin.update(x))),
        ("ddm", Box::new(move |x| ddm.update(x))),
        ("eddm", Box::new(move |x| eddm.update(x))),
        ("hddm_a", Box::new(move |x| hddm_a.update(x))),
        ("hddm_w", Box::new(move |x| hddm_w.update(x))),
    ]
}

/// Tests each row, then trains on it; begins anew at each alarm. Errors and the rows of the alarms.
fn test_then_train(stream: &Stream, update: &mut Update) -> (Vec<f64>, Vec<usize>) {
    let mut model = Bayes::default();
    let (mut errors, mut alarms) = (Vec::new(), Vec::new());
    for (i, (row, class)) in stream.rows.iter().enumerate() {
        let error = f64::from(model.predict(row) != *class);
        errors.push(error);
        model.learn(row, *class);
        if update(error) {
            alarms.push(i);
            model = Bayes::default();
        }
    }
    (errors, alarms)
}

/// Drifts without an alarm in their window, alarms that found none, and the rows until those that did.
#[derive(Default, Clone)]
struct Score {
    drifts: usize,
    misses: usize,
    false_alarms: usize,
    delays: Vec<usize>,
}

impl Score {
    fn add(&mut self, stream: &Stream, alarms: &[usize]) {
        let mut found = 0;
        for drift in &stream.drifts {
            let first = alarms
                .iter()
                .find(|a| (*drift..drift + stream.window).contains(*a));
            if let Some(alarm) = first {
                self.delays.push(alarm - drift);
                found += 1;
            }
        }
        self.drifts += stream.drifts.len();
        self.misses += stream.drifts.len() - found;
        self.false_alarms += alarms.len() - found;
    }

    fn print(&self, stream: &str, detector: &str) {
        let delay = self.delays.iter().sum::<usize>() as f64 / self.delays.len() as f64;
        println!(
            "{stream} {detector} {} {} {delay:.1} {}",
            self.misses, self.false_alarms, self.drifts
        );
    }
}

fn read(dir: &Path, name: &str, window: usize, drifts: &[usize]) -> Result<Stream, String> {
    let path = dir.join(name);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        format!(
            "read {}: {e}; set FIELDCAST_DATA to the directory with the drift streams",
            path.display()
        )
    })?;
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().skip(1) {
        let (features, class) = line.rsplit_once(',').unwrap_or(("", line));
        let values: Result<Vec<f64>, _> = features.split(',').map(|f| f.trim().parse()).collect();
        let class = match class.trim() {
            "p" | "1.0" | "1" => Some(true),
            "n" | "0.0" | "0" => Some(false),
            _ => None,
        };
        let (Ok(values), Some(class)) = (values, class) else {
            return Err(format!(
                "read {}: line {} is no row of a drift stream; fetch the file anew",
                path.display(),
                i + 1
            ));
        };
        rows.push((values, class));
    }
    Ok(Stream {
        rows,
        drifts: drifts.to_vec(),
        window,
    })
}

fn data(errors_to: Option<&Path>) -> Result<(), String> {
    let dir = std::env::var_os("FIELDCAST_DATA").ok_or(
        "read the drift streams: FIELDCAST_DATA is not set; let it name the directory with \
         drift_sine1_w50_n10.csv and drift_sea_0123_abrupt_n20.csv",
    )?;
    let dir = Path::new(&dir);
    let sine = [20_000, 40_000, 60_000, 80_000];
    let sea = [10_000, 20_000, 30_000];
    for (kind, stream) in [
        (
            "sine1",
            read(dir, "drift_sine1_w50_n10.csv", SINE_WINDOW, &sine)?,
        ),
        (
            "sea",
            read(dir, "drift_sea_0123_abrupt_n20.csv", SEA_WINDOW, &sea)?,
        ),
    ] {
        for (name, mut update) in detectors() {
            let (errors, alarms) = test_then_train(&stream, &mut update);
            let mut score = Score::default();
            score.add(&stream, &alarms);
            score.print(kind, name);
            if let Some(dir) = errors_to {
                let path = dir.join(format!("{kind}_{name}.json"));
                let text = format!("{{\"errors\": {errors:?}, \"alarms\": {alarms:?}}}");
                std::fs::write(&path, text).map_err(|e| {
                    format!("write {}: {e}; name another directory", path.display())
                })?;
            }
        }
    }
    Ok(())
}

fn flip(random: &mut Random, class: bool, noise: f64) -> bool {
    class ^ (random.unit() < noise)
}

/// Circles, whose inside and outside change places: the size of change that SINE1 has, with another concept.
fn circles(random: &mut Random) -> Stream {
    let (each, width) = (5_000, 50.0);
    let radius = 0.25 + 0.15 * random.unit();
    let rows = (0..4 * each).map(|i| {
        let (x, y) = (random.unit(), random.unit());
        let inside = (x - 0.5).hypot(y - 0.5) < radius;
        let (concept, after) = (i / each, (i % each) as f64);
        // For the first rows of a concept the one before still turns up.
        let old = concept > 0 && random.unit() > after / width;
        let reversed = (concept + usize::from(old)) % 2 == 1;
        (vec![x, y], flip(random, inside ^ reversed, 0.1))
    });
    Stream {
        rows: rows.collect(),
        drifts: (1..4).map(|k| k * each).collect(),
        window: SINE_WINDOW,
    }
}

/// SINE1 as its authors' generator makes it, with other seeds: below a sine or not, both classes as frequent, the classes
/// reversed at each drift by a sigmoid over 50 rows, 10 % of noise.
fn sines(random: &mut Random) -> Stream {
    let (each, width) = (20_000, 50.0);
    let rows = (0..5 * each).map(|i| {
        let (concept, after) = (i / each, (i % each) as f64);
        let arrived = 1.0 / (1.0 + (2.0 - 4.0 * after / width).exp());
        let old = concept > 0 && after < width && random.unit() >= arrived;
        let reversed = (concept + usize::from(old)) % 2 == 1;
        let wanted = random.unit() < 0.5;
        loop {
            let (x, y) = (random.unit(), random.unit());
            if (y <= x.sin()) == wanted {
                return (vec![x, y], flip(random, wanted ^ reversed, 0.1));
            }
        }
    });
    Stream {
        rows: rows.collect(),
        drifts: (1..5).map(|k| k * each).collect(),
        window: SINE_WINDOW,
    }
}

/// SEA with its authors' thresholds in their order (Street and Kim, 2001), both classes as frequent.
fn seas(random: &mut Random) -> Stream {
    sea(random, &[8.0, 9.0, 7.0, 9.5])
}

/// SEA with thresholds drawn 1 to 2.5 apart.
fn sums(random: &mut Random) -> Stream {
    let mut thresholds = vec![7.0 + 2.5 * random.unit()];
    while thresholds.len() < 4 {
        let last = thresholds[thresholds.len() - 1];
        let next = 7.0 + 2.5 * random.unit();
        if (next - last).abs() >= 1.0 {
            thresholds.push(next);
        }
    }
    sea(random, &thresholds)
}

/// A sum of two of three features against thresholds, both classes as frequent, 20 % of noise.
fn sea(random: &mut Random, thresholds: &[f64]) -> Stream {
    let each = 10_000;
    let rows = (0..thresholds.len() * each).map(|i| {
        let wanted = i % 2 == 0;
        loop {
            let x: Vec<f64> = (0..3).map(|_| 10.0 * random.unit()).collect();
            if (x[0] + x[1] <= thresholds[i / each]) == wanted {
                return (x, flip(random, wanted, 0.2));
            }
        }
    });
    Stream {
        rows: rows.collect(),
        drifts: (1..thresholds.len()).map(|k| k * each).collect(),
        window: SEA_WINDOW,
    }
}

fn made(count: u64) {
    type Make = fn(&mut Random) -> Stream;
    let at = |run_length: f64| -> Option<Update> {
        let mut glr = ErrorGlr::new(run_length).ok()?;
        Some(Box::new(move |x| glr.update(x)))
    };
    let kinds: [(&str, Make); 4] = [
        ("sines", sines),
        ("seas", seas),
        ("circles", circles),
        ("sums", sums),
    ];
    for (kind, make) in kinds {
        let mut scores = vec![Score::default(); detectors().len()];
        let mut ours = vec![Score::default(); RUN_LENGTHS.len()];
        for seed in 0..count {
            let stream = make(&mut Random(
                seed.wrapping_mul(0x1234_5678_9ABC_DEF1) ^ 0x5_EED5,
            ));
            let others = detectors().into_iter().map(|(_, update)| update);
            let all = others.chain(RUN_LENGTHS.iter().filter_map(|r| at(*r)));
            for (score, mut update) in scores.iter_mut().chain(&mut ours).zip(all) {
                let (_, alarms) = test_then_train(&stream, &mut update);
                score.add(&stream, &alarms);
            }
        }
        for (score, (name, _)) in scores.iter().zip(detectors()) {
            score.print(kind, name);
        }
        for (score, (name, _)) in scores.iter().zip(detectors()).skip(1) {
            let as_many = ours.iter().find(|o| o.false_alarms <= score.false_alarms);
            if let Some(as_many) = as_many {
                as_many.print(&format!("{kind}_equal"), name);
            }
        }
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["data"] => data(None),
        ["data", dir] => data(Some(Path::new(dir))),
        ["made", count] if count.parse::<u64>().is_ok() => {
            made(count.parse().unwrap_or(1));
            Ok(())
        }
        _ => Err("streams data [DIRECTORY] | streams made COUNT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
