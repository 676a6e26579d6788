//! The numbers of SciPy, Evidently and River, as computed by running them; see `golden/drift.json`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests"
)]

use fieldcast_drift::ks::asymptotic;
use fieldcast_drift::stream::{Adwin, Ddm, Eddm, HddmA, HddmW, Kswin, PageHinkley};
use fieldcast_drift::two_sample::{
    category_shares, chi_square, hellinger, js, js_shares, kl, kl_shares, ks, psi, psi_shares,
    two_proportion_z, wasserstein,
};
use serde_json::Value;

#[path = "peers/python.rs"]
mod python;
use python::Python;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/drift.json")).unwrap()
}

fn weyl(factor: f64, n: usize) -> Vec<f64> {
    (1..=n).map(|i| (i as f64 * factor).fract()).collect()
}
fn phi(n: usize) -> Vec<f64> {
    weyl(0.618_033_988_749_894_9, n)
}
fn psi_series(n: usize) -> Vec<f64> {
    weyl(0.754_877_666_246_692_7, n)
}

fn near(name: &str, ours: f64, golden: &Value) {
    let golden = golden.as_f64().unwrap();
    assert!(
        (ours - golden).abs() <= 1e-9 * golden.abs().max(1e-3),
        "{name}: {ours} against {golden}"
    );
}

#[test]
fn two_samples() {
    let g = golden();
    let cases = [
        (
            phi(500),
            psi_series(400).iter().map(|v| 0.02 + v).collect::<Vec<_>>(),
        ),
        (
            phi(2_000),
            psi_series(1_500).iter().map(|v| 0.1 + 1.2 * v).collect(),
        ),
    ];
    for ((r, c), g) in cases.iter().zip(g["two_sample"].as_array().unwrap()) {
        let p = ks(r, c).unwrap().p;
        let golden_p = g["ks_p"].as_f64().unwrap();
        assert!((p / golden_p - 1.0).abs() < 1e-9, "ks {p} {golden_p}");
        near(
            "wasserstein",
            wasserstein(r, c).unwrap(),
            &g["wasserstein_norm"],
        );
        near("psi", psi(r, c).unwrap(), &g["psi"]);
        near("kl", kl(r, c).unwrap(), &g["kl"]);
        near("js", js(r, c).unwrap(), &g["js"]);
        near("hellinger", hellinger(r, c).unwrap(), &g["hellinger"]);
    }
}

#[test]
fn ks_exact_and_asymptotic() {
    let g = &golden()["ks_exact_vs_asymptotic"];
    let c: Vec<f64> = psi_series(400).iter().map(|v| 0.05 + 1.05 * v).collect();
    let r = ks(&phi(500), &c).unwrap();
    near("d", r.d, &g["d"]);
    near("exact", r.p, &g["p_exact"]);
    near("asymptotic", asymptotic(500, 400, r.d), &g["p_asymptotic"]);
}

#[test]
fn categories() {
    let g = &golden()["categorical"];
    let (r, c) = ([50, 30, 20], [40, 35, 15]);
    near("chi2", chi_square(&r, &c).unwrap(), &g["chi2_p"]);
    let (r, c) = category_shares(&r, &c).unwrap();
    near("psi", psi_shares(&r, &c), &g["psi"]);
    near("kl", kl_shares(&r, &c), &g["kl"]);
    near("js", js_shares(&r, &c), &g["js"]);
    near(
        "z",
        two_proportion_z([70, 30], [50, 40]).unwrap(),
        &golden()["two_proportion_z"]["p"],
    );
}

fn stream() -> Vec<f64> {
    phi(2_000)
        .iter()
        .enumerate()
        .map(|(i, v)| if i >= 1_000 { v + 0.5 } else { *v })
        .collect()
}

fn first(mut update: impl FnMut(f64) -> bool, xs: &[f64]) -> Value {
    xs.iter().position(|x| update(*x)).into()
}

#[test]
fn adwin() {
    let g = &golden()["stream"]["adwin"];
    let mut d = Adwin::default();
    let mut alarm = None;
    for (i, x) in stream().iter().enumerate() {
        if d.update(*x) {
            alarm.get_or_insert(i);
        }
    }
    assert_eq!(Value::from(alarm), g["first_alarm"]);
    near("width", d.width(), &g["end_width"]);
    near("mean", d.mean(), &g["end_mean"]);
    near("variance", d.variance_sum(), &g["end_variance_sum"]);
}

#[test]
fn page_hinkley() {
    let mut d = PageHinkley::default();
    assert_eq!(
        first(|x| d.update(x), &stream()),
        golden()["stream"]["page_hinkley"]["first_alarm"]
    );
}

#[test]
fn kswin_with_pythons_sampling() {
    let mut d = Kswin::seeded(0);
    let mut python = Python::seeded(42);
    let found = first(
        |x| d.update_with(x, |population, count| python.sample(population, count)),
        &stream(),
    );
    assert_eq!(found, golden()["stream"]["kswin_seed42"]["first_alarm"]);
    let mut own = Kswin::seeded(1);
    let at = first(|x| own.update(x), &stream()).as_u64().unwrap();
    assert!((1_000..1_060).contains(&at), "{at}");
}

#[test]
fn binary_detectors() {
    let g = &golden()["stream_binary"];
    let xs: Vec<f64> = stream()
        .iter()
        .map(|v| f64::from(u8::from(*v > 0.9)))
        .collect();
    let (mut a, mut w, mut ddm, mut eddm) = (
        HddmA::default(),
        HddmW::default(),
        Ddm::default(),
        Eddm::default(),
    );
    assert_eq!(first(|x| ddm.update(x), &xs), g["ddm"], "ddm");
    assert_eq!(first(|x| a.update(x), &xs), g["hddm_a"], "hddm_a");
    assert_eq!(first(|x| w.update(x), &xs), g["hddm_w"], "hddm_w");
    assert_eq!(first(|x| eddm.update(x), &xs), g["eddm"], "eddm");
}

#[test]
fn every_state_survives_a_restart() {
    fn check<D: serde::Serialize + serde::de::DeserializeOwned>(
        mut d: D,
        update: fn(&mut D, f64) -> bool,
    ) {
        let xs: Vec<f64> = stream().iter().map(|v| v / 1.5).collect();
        let mut other: D = serde_json::from_str(&serde_json::to_string(&d).unwrap()).unwrap();
        for (i, x) in xs.iter().enumerate() {
            if i % 97 == 0 {
                other = serde_json::from_str(&serde_json::to_string(&d).unwrap()).unwrap();
            }
            assert_eq!(update(&mut d, *x), update(&mut other, *x), "{i}");
            assert!(!update(&mut d, f64::NAN) && !update(&mut other, f64::INFINITY));
        }
    }
    check(Adwin::default(), Adwin::update);
    check(PageHinkley::default(), PageHinkley::update);
    check(Kswin::seeded(3), Kswin::update);
    check(Ddm::default(), Ddm::update);
    check(Eddm::default(), Eddm::update);
    check(HddmA::default(), HddmA::update);
    check(HddmW::default(), HddmW::update);
}
