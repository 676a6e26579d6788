//! The data of the comparisons: owns the formulas that `cases.py` beside this file repeats bit for bit, never an expectation.

use fieldcast_drift::preset::{Column, Values};
use serde_json::Value;

use super::mmix::Random;

fn values(random: &mut Random, shape: &str, n: usize, current: bool) -> Vec<f64> {
    let either = |current_value: f64, reference_value: f64| {
        if current {
            current_value
        } else {
            reference_value
        }
    };
    let mut level = 0.0;
    let one = |i: usize| match shape {
        "uniform" => random.unit(),
        "shift" => random.normal() + either(0.3, 0.0),
        "scale" => random.normal() * either(1.5, 1.0),
        "ties" => (random.unit() * 8.0).floor(),
        "quarters" => (random.unit() * either(44.0, 40.0)).floor() / 4.0,
        "few" => (random.unit() * 3.0).floor(),
        "two" => f64::from(u8::from(random.unit() < either(0.6, 0.5))),
        "constant" => 2.5,
        "constants" => either(2.75, 2.5),
        "heavy" => 1.0 / (random.unit() + 0.001),
        "offset" => 1e6 + random.unit(),
        "tiny" => 1e-9 * random.unit(),
        "holes" => {
            let v = random.normal();
            match i {
                i if i % 7 == 3 => f64::NAN,
                i if i % 11 == 5 => f64::INFINITY,
                i if i % 13 == 6 => f64::NEG_INFINITY,
                _ => v,
            }
        }
        "apart" => random.unit() + either(0.9, 0.0),
        "walk" => {
            level += random.unit() - 0.5;
            level
        }
        "counts" => (random.unit() * either(13.0, 12.0)).floor(),
        other => panic!("no shape `{other}`"),
    };
    (0..n).map(one).collect()
}

fn number(case: &Value, key: &str) -> u64 {
    case[key].as_u64().unwrap()
}

/// The two samples of a case.
pub(crate) fn pair(case: &Value) -> (Vec<f64>, Vec<f64>) {
    let mut random = Random::new(number(case, "seed"));
    let shape = case["shape"].as_str().unwrap();
    let reference = values(&mut random, shape, number(case, "n") as usize, false);
    let current = values(&mut random, shape, number(case, "m") as usize, true);
    (reference, current)
}

/// The stream of a case, changed from its second half on.
pub(crate) fn stream(case: &Value) -> Vec<f64> {
    let mut random = Random::new(number(case, "seed"));
    let n = number(case, "n");
    let late = |i: u64, yes: f64, no: f64| if 2 * i >= n { yes } else { no };
    let one = |i: u64| match case["kind"].as_str().unwrap() {
        "step" => random.normal() + late(i, 1.0, 0.0),
        "quiet" => random.normal(),
        "ramp" => random.unit() + i as f64 / n as f64,
        "noise" => random.normal() * late(i, 3.0, 1.0),
        "errors" => f64::from(u8::from(random.unit() < late(i, 0.5, 0.2))),
        "fewer" => f64::from(u8::from(random.unit() < late(i, 0.1, 0.4))),
        _ => random.unit() * late(i, 1.0, 0.7),
    };
    (0..n).map(one).collect()
}

/// The columns of a case's two tables.
pub(crate) fn table(case: &Value) -> Vec<Column> {
    let columns = case["columns"].as_array().unwrap();
    let one = |(index, column): (usize, &Value)| {
        let [name, kind, shape] = [0, 1, 2].map(|i| column[i].as_str().unwrap());
        let mut random = Random::new(number(case, "seed") * 1_000 + index as u64);
        let mut side = |n: &str, current| {
            let drawn = values(&mut random, shape, number(case, n) as usize, current);
            if kind == "str" {
                Values::Words(drawn.iter().map(|v| Some(format!("k{v}"))).collect())
            } else {
                Values::Numbers {
                    values: drawn,
                    whole: kind == "int",
                }
            }
        };
        Column {
            name: name.to_owned(),
            reference: side("n", false),
            current: side("m", true),
        }
    };
    columns.iter().enumerate().map(one).collect()
}
