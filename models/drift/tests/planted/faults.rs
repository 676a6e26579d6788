//! Planted sensor faults on ETTh1: owns the faults, how they are planted and what the monitors say, no product code.

use fieldcast_drift::SensorMonitor;
use fieldcast_drift::days::{Day, DayFold, DayReference, DayScale};
use fieldcast_drift::inputs::{Aspect, InputMonitor};
use fieldcast_drift::run::RunReference;
use fieldcast_drift::run::channel::{self, RowWatch};
use fieldcast_drift::sensor::{Fault, SensorEvent, SensorLimits, Worth};

pub(crate) const HOUR_MS: i64 = 3_600_000;
/// 2016-07-01, the first row of ETTh1.
pub(crate) const START: i64 = 1_467_331_200_000;
/// Rows of a year, which the reference is learnt from.
const YEAR: usize = 8_760;
/// Rows that a monitor sees before a fault.
const WARM: usize = 60 * 24;
/// Rows of a fault, and of the quiet time behind it.
const FAULT: usize = 3 * 24;
const AFTER: usize = 14 * 24;
/// Faults of each kind in each column.
const EACH: usize = 12;

/// A small generator, so that the plan is the same everywhere.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() - 6.0
    }
}

/// ETTh1's columns, or none without the data.
pub(crate) fn columns() -> Option<Vec<(String, Vec<f64>)>> {
    read("ETTh1.csv", 1)
}

/// A file's columns from the one at `first` on, or none without the data.
pub(crate) fn read(file: &str, first: usize) -> Option<Vec<(String, Vec<f64>)>> {
    let Some(dir) = std::env::var_os("FIELDCAST_DATA") else {
        eprintln!("skipped: FIELDCAST_DATA does not name the directory with {file}");
        return None;
    };
    let path = std::path::Path::new(&dir).join(file);
    let text = std::fs::read_to_string(&path).expect("read the data");
    let mut lines = text.lines();
    let names = lines.next().unwrap().split(',').skip(first);
    let mut columns: Vec<(String, Vec<f64>)> = names.map(|n| (n.to_owned(), vec![])).collect();
    for line in lines {
        for ((_, column), field) in columns.iter_mut().zip(line.split(',').skip(first)) {
            column.push(field.trim().parse().unwrap());
        }
    }
    Some(columns)
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// The reading as a broken sensor gives it.
fn broken(fault: Fault, values: &[f64], at: usize, i: usize, rng: &mut Lcg) -> f64 {
    let value = values[i];
    // Of what the channel does within days, not over the year.
    let scatter = deviation(&values[at - 14 * 24..at]);
    match fault {
        Fault::Stuck => values[at],
        Fault::Spike if (i - at) % 8 == 3 => value + 10.0 * scatter * (rng.next() - 0.5).signum(),
        Fault::Unit => {
            let (factor, offset) = [(1.8, 32.0), (10.0, 0.0), (0.001, 0.0), (3.6, 0.0)][at % 4];
            factor * value + offset
        }
        Fault::Noise => value + 2.0 * scatter * rng.normal(),
        _ => value,
    }
}

#[derive(Default)]
struct Outcome {
    found: bool,
    drift: bool,
    /// A sudden shift of rows was told.
    told: bool,
    spoilt: usize,
    learnt: usize,
}

/// What of a sensor's readings is left to learn from: those that are not graded bad, and lie in no span of a fault that its events tell.
#[derive(Default)]
pub(crate) struct Learnt {
    times: Vec<i64>,
    spans: Vec<(i64, i64)>,
}

impl Learnt {
    pub(crate) fn take(&mut self, time: i64, (worth, events): &(Worth, Vec<SensorEvent>)) {
        if *worth != Worth::Bad {
            self.times.push(time);
        }
        self.spans.extend(events.iter().map(|e| (e.onset, e.time)));
    }

    /// Times of what is left, and of how many readings not graded bad they are.
    pub(crate) fn left(self) -> (Vec<i64>, usize) {
        let all = self.times.len();
        let out = |t: &i64| self.spans.iter().any(|(from, to)| (*from..*to).contains(t));
        let times = self.times.iter().copied().filter(|t| !out(t));
        (times.collect(), all)
    }
}

/// A channel's rows, the days that they are deviations from, and the device's scale.
type Rows = (RunReference, DayReference, DayScale);

/// What the first year's rows are like.
fn rows(values: &[f64]) -> Option<Rows> {
    let rows = values.iter().enumerate().take(YEAR);
    let rows: Vec<(i64, f64)> = rows
        .map(|(i, v)| (START + i as i64 * HOUR_MS, *v))
        .collect();
    let mut fold = DayFold::default();
    let days = rows.iter().filter_map(|(t, v)| fold.push(HOUR_MS, *t, *v));
    let series = [("etth1", days.map(|d| (d.day, d.mean)).collect::<Vec<_>>())];
    let days = DayReference::fit(&series)?;
    let scale = *days.devices.get("etth1")?;
    let run = channel::learn(HOUR_MS, &days, &[("etth1", rows)], 1)?;
    Some((run, days, scale))
}

/// Runs the monitors over 60 days, the fault and two weeks; none where drift is signalled without a fault.
fn run(
    fault: Option<Fault>,
    values: &[f64],
    at: usize,
    rng: &mut Lcg,
    rows: Option<&Rows>,
) -> Outcome {
    let time = |i: usize| START + i as i64 * HOUR_MS;
    let days = |upto: usize| -> Vec<Day> {
        let mut fold = DayFold::default();
        let rows = values.iter().enumerate().take(upto).skip(upto - YEAR);
        rows.filter_map(|(i, v)| fold.push(HOUR_MS, time(i), *v))
            .collect()
    };
    let learnt = days(at - WARM);
    let mut sensor = SensorMonitor::new(SensorLimits::default()).unwrap();
    let mut watch: Vec<_> = Aspect::ALL
        .iter()
        .filter_map(|aspect| {
            let of = |d: &Day| Some((d.day, aspect.of(d)?));
            let series = [("etth1", learnt.iter().filter_map(of).collect())];
            let reference = DayReference::fit(&series)?;
            let scale = reference.devices.get("etth1").copied();
            Some((*aspect, reference, scale, InputMonitor::default()))
        })
        .collect();
    let mut rows = rows.map(|rows| (rows, RowWatch::default()));
    let mut fold = DayFold::default();
    let mut outcome = Outcome::default();
    let mut learnt = Learnt::default();
    let mut spoilt = std::collections::BTreeSet::new();
    for i in at - WARM..at + FAULT + AFTER {
        let within = (at..at + FAULT).contains(&i);
        let value = match fault {
            Some(fault) if within => broken(fault, values, at, i, rng),
            _ => values[i],
        };
        if value != values[i] {
            spoilt.insert(time(i));
        }
        let said = sensor.update(time(i), value);
        learnt.take(time(i), &said);
        let worth = said.0;
        let named = |f: &Fault| fault == Some(*f);
        outcome.found |= within && sensor.active().iter().any(named);
        let usable = if worth == Worth::Bad { f64::NAN } else { value };
        if let Some((known, watch)) = &mut rows {
            let known = (&known.0, &known.1, known.2);
            let event = watch.update(known, HOUR_MS, time(i), usable);
            let told = event.filter(|e| e.raised);
            outcome.told |= i >= at
                && told.is_some_and(|e| !sensor.was_faulty_since(e.onset - channel::BEFORE_MS));
        }
        let Some(day) = fold.push(HOUR_MS, time(i), usable) else {
            continue;
        };
        for (aspect, reference, scale, monitor) in &mut watch {
            if let Some(value) = aspect.of(&day) {
                monitor.update(reference, *scale, day.day, value);
            }
            outcome.drift |= i >= at && monitor.is_raised();
        }
    }
    outcome.spoilt = spoilt.len();
    let left = learnt.left().0;
    outcome.learnt = left.iter().filter(|t| spoilt.contains(t)).count();
    outcome
}

/// What was found of a kind of fault.
pub(crate) struct Count {
    pub(crate) fault: Fault,
    pub(crate) planted: usize,
    pub(crate) found: usize,
    /// Drift that there was without the fault is none of its.
    pub(crate) drift: usize,
    /// The same places without a fault, where drift was signalled.
    pub(crate) drift_anyway: usize,
    /// The same of sudden shifts of rows.
    pub(crate) told: usize,
    pub(crate) told_anyway: usize,
    /// Readings that the faults which were found had spoilt, and those of them that are left to learn from.
    pub(crate) spoilt: usize,
    pub(crate) learnt: usize,
}

/// Plants every kind of fault in every column.
pub(crate) fn plant(columns: &[(String, Vec<f64>)]) -> Vec<Count> {
    let mut rng = Lcg(4);
    let mut counts = Vec::new();
    let known: Vec<Option<Rows>> = columns.iter().map(|(_, values)| rows(values)).collect();
    for fault in [Fault::Stuck, Fault::Spike, Fault::Unit, Fault::Noise] {
        let mut count = Count {
            fault,
            planted: 0,
            found: 0,
            drift: 0,
            drift_anyway: 0,
            told: 0,
            told_anyway: 0,
            spoilt: 0,
            learnt: 0,
        };
        for ((_, values), known) in columns.iter().zip(&known) {
            let last = values.len() - FAULT - AFTER - 1;
            for _ in 0..EACH {
                let at = YEAR + WARM + (rng.next() * (last - YEAR - WARM) as f64) as usize;
                let control = run(None, values, at, &mut rng, known.as_ref());
                let outcome = run(Some(fault), values, at, &mut rng, known.as_ref());
                count.planted += 1;
                count.found += usize::from(outcome.found);
                count.drift += usize::from(outcome.drift && !control.drift);
                count.told += usize::from(outcome.told && !control.told);
                count.told_anyway += usize::from(control.told);
                count.drift_anyway += usize::from(control.drift);
                if outcome.found {
                    count.spoilt += outcome.spoilt;
                    count.learnt += outcome.learnt;
                }
            }
        }
        counts.push(count);
    }
    counts
}
