//! Equality with SciPy, Evidently and River on stored cases, or on those of the file that `FIELDCAST_PEERS` names; see
//! `cargo xtask conformance drift`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

#[path = "peers/cases.rs"]
mod cases;
#[path = "support/mmix.rs"]
mod mmix;
#[path = "peers/python.rs"]
mod python;

use fieldcast_drift::preset::layout::report;
use fieldcast_drift::preset::{Version, decide};
use fieldcast_drift::stream::{Adwin, Ddm, Eddm, HddmA, HddmW, Kswin, PageHinkley};
use fieldcast_drift::two_sample::{
    anderson_darling, chi_square, cramer_von_mises, energy, hellinger, js, kl, ks, psi,
    two_proportion_z, wasserstein, wasserstein_plain,
};
use md5::Digest as _;
use python::Python;
use serde_json::Value;

fn peers() -> Value {
    match std::env::var_os("FIELDCAST_PEERS") {
        Some(file) => serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(),
        None => serde_json::from_str(include_str!("golden/peers.json")).unwrap(),
    }
}

/// The largest distance that was seen, and where.
#[derive(Default)]
struct Worst {
    count: usize,
    by: f64,
    at: String,
    far: Vec<String>,
}

impl Worst {
    /// Relative distance, where the peer's own rounding (`floor`, absolute) does not explain the difference.
    fn take(&mut self, name: &str, ours: f64, peer: f64, floor: f64) {
        self.count += 1;
        if ours == peer || (ours - peer).abs() <= floor {
            return;
        }
        let by = (ours - peer).abs() / peer.abs();
        let bar = if peer.abs() < 1e-30 { 1e-6 } else { 1e-9 };
        if by.is_nan() || by > bar {
            self.far
                .push(format!("{name}: ours {ours:e}, theirs {peer:e}"));
        }
        if by > self.by && bar < 1e-6 {
            self.by = by;
            self.at = format!("{name}: ours {ours:e}, theirs {peer:e}");
        }
    }

    fn end(self, what: &str) {
        println!(
            "{what}: {} numbers, worst relative distance {:.1e} ({})",
            self.count, self.by, self.at
        );
        assert!(
            self.far.is_empty(),
            "{what}: {} differ:\n{}",
            self.far.len(),
            self.far.join("\n")
        );
    }
}

fn tally(reference: &[f64], current: &[f64]) -> (Vec<u64>, Vec<u64>) {
    let mut all: Vec<f64> = reference.iter().chain(current).copied().collect();
    all.sort_by(f64::total_cmp);
    all.dedup();
    let count = |of: &[f64]| {
        let one = |v: &f64| of.iter().filter(|o| *o == v).count() as u64;
        all.iter().map(one).collect()
    };
    (count(reference), count(current))
}

#[test]
fn two_samples() {
    let peers = peers();
    let mut worst = Worst::default();
    let cases = peers["two_sample"].as_array().unwrap();
    for case in cases {
        let (r, c) = cases::pair(case);
        let label = |key: &str| format!("{key} of seed {} ({})", case["seed"], case["shape"]);
        let mut plain = |key: &str, ours: f64, floor: f64| {
            worst.take(&label(key), ours, case[key].as_f64().unwrap(), floor);
        };
        plain("energy", energy(&r, &c).unwrap(), 0.0);
        plain("wasserstein_plain", wasserstein_plain(&r, &c).unwrap(), 0.0);
        plain("wasserstein", wasserstein(&r, &c).unwrap(), 0.0);
        plain("psi", psi(&r, &c).unwrap(), 1e-15);
        plain("kl", kl(&r, &c).unwrap(), 1e-15);
        // What is under the root of these two is a difference of sums near one.
        for (key, ours) in [("js", js(&r, &c)), ("hellinger", hellinger(&r, &c))] {
            let (ours, peer) = (ours.unwrap(), case[key].as_f64().unwrap());
            if (ours * ours - peer * peer).abs() > 4e-15 {
                plain(key, ours, 0.0);
            }
        }
        if !case["chi_square"].is_null() {
            let (a, b) = tally(&r, &c);
            plain("chi_square", chi_square(&a, &b).unwrap(), 0.0);
            if !case["z"].is_null() {
                let z = two_proportion_z([a[0], a[1]], [b[0], b[1]]);
                plain("z", z.unwrap(), 4e-16);
            }
        }
        let mut both = |key: &str, statistic: f64, p: f64, floor: f64| {
            let peer = |i: usize| case[key][i].as_f64().unwrap();
            worst.take(&label(key), statistic, peer(0), 1e-14);
            worst.take(&format!("p of {}", label(key)), p, peer(1), floor);
        };
        let k = ks(&r, &c).unwrap();
        both("ks", k.d, k.p, 1e-300);
        let t = cramer_von_mises(&r, &c).unwrap();
        // One minus a sum near one whose terms hold some 14 digits.
        both("cvm", t.statistic, t.p, 5e-15);
        match anderson_darling(&r, &c) {
            Ok(t) => both("ad", t.statistic, t.p, 0.0),
            Err(error) => assert!(case["ad"].is_null(), "{error}"),
        }
    }
    assert!(!cases.is_empty());
    worst.end(&format!("{} pairs of samples", cases.len()));
}

fn decisions(key: &str, version: Version) {
    let peers = peers();
    let tables = peers[key].as_array().unwrap();
    let mut worst = Worst::default();
    for case in tables {
        let columns = cases::table(case);
        let ours = decide(&columns, version).unwrap();
        let seed = &case["seed"];
        let order: Vec<&str> = ours.columns.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(Value::from(order), case["order"], "order, seed {seed}");
        for column in &ours.columns {
            let theirs = &case["decisions"][&column.name];
            let label = format!("{} of seed {seed}", column.name);
            assert_eq!(theirs[0], column.test.name(), "{label}");
            assert_eq!(theirs[1], column.test.threshold(), "{label}");
            assert_eq!(theirs[3], column.drifted, "{label}");
            worst.take(&label, column.score, theirs[2].as_f64().unwrap(), 4e-16);
        }
        assert_eq!(case["data"][0].as_f64(), Some(ours.drifted as f64));
        assert_eq!(case["data"][1], ours.share, "share, seed {seed}");
        assert_eq!(case["data"][2], ours.drift, "verdict, seed {seed}");
        if !case["report"].is_null() {
            let written = serde_json::to_value(report(&ours, &columns, md5)).unwrap();
            same(&case["report"], &written, "report", &mut worst);
        }
    }
    assert!(!tables.is_empty());
    worst.end(&format!("{} tables by {key}", tables.len()));
}

/// Every key and every number of a report.
fn same(theirs: &Value, ours: &Value, at: &str, worst: &mut Worst) {
    match (theirs, ours) {
        (Value::Object(t), Value::Object(o)) => {
            let keys: Vec<_> = t.keys().collect();
            assert_eq!(keys, o.keys().collect::<Vec<_>>(), "{at}");
            for (key, t) in t {
                same(t, &o[key], &format!("{at}.{key}"), worst);
            }
        }
        (Value::Array(t), Value::Array(o)) => {
            assert_eq!(t.len(), o.len(), "{at}");
            for (i, (t, o)) in t.iter().zip(o).enumerate() {
                same(t, o, &format!("{at}[{i}]"), worst);
            }
        }
        (Value::Number(t), Value::Number(o)) => {
            assert_eq!(t.is_f64(), o.is_f64(), "{at}: {t} {o}");
            worst.take(at, o.as_f64().unwrap(), t.as_f64().unwrap(), 1e-15);
        }
        (t, o) => assert_eq!(t, o, "{at}"),
    }
}

#[test]
fn evidently_04() {
    decisions("evidently_04", Version::V04);
}

#[test]
fn evidently_07() {
    decisions("evidently_07", Version::V07);
}

#[test]
fn river() {
    let peers = peers();
    let streams = peers["river"].as_array().unwrap();
    let mut count = 0;
    for case in streams {
        let xs = cases::stream(case);
        for (name, theirs) in case["alarms"].as_object().unwrap() {
            let mut update: Box<dyn FnMut(f64) -> bool> = match name.as_str() {
                "adwin" => boxed(Adwin::default(), Adwin::update),
                "page_hinkley" => boxed(PageHinkley::default(), PageHinkley::update),
                "ddm" => boxed(Ddm::default(), Ddm::update),
                "eddm" => boxed(Eddm::default(), Eddm::update),
                "hddm_a" => boxed(HddmA::default(), HddmA::update),
                "hddm_w" => boxed(HddmW::default(), HddmW::update),
                _ => {
                    let (mut kswin, mut python) = (Kswin::seeded(0), Python::seeded(42));
                    Box::new(move |x| {
                        let fired = kswin.update_with(x, |n, k| python.sample(n, k));
                        // River sows again after an alarm.
                        if fired {
                            python = Python::seeded(42);
                        }
                        fired
                    })
                }
            };
            let ours: Vec<usize> = (0..xs.len()).filter(|i| update(xs[*i])).collect();
            assert_eq!(
                Value::from(ours),
                *theirs,
                "{name} on {} of seed {}",
                case["kind"],
                case["seed"]
            );
            count += 1;
        }
    }
    println!(
        "{} streams, {count} lists of alarms, all equal",
        streams.len()
    );
    assert!(count > 0);
}

fn boxed<D: 'static>(
    mut detector: D,
    update: fn(&mut D, f64) -> bool,
) -> Box<dyn FnMut(f64) -> bool> {
    Box::new(move |x| update(&mut detector, x))
}

/// MD5 in hexadecimal, by which Evidently names metrics.
fn md5(text: &str) -> String {
    let digest = md5::Md5::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
