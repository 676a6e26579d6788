//! Layouts of a column's values: owns how doubles become few bytes, bit for bit, and which layout is taken; never their times.
//!
//! Three things are true of many sensors: their values have few decimal places (from a sensor's register, or a float
//! that became a double), they move little from one reading to the next, and they come back. A column is laid out by what holds
//! for it, and plainly where nothing does.

use std::io;

use zstd::bulk::Compressor;

use crate::pb::{Decimals, ReadingColumn};

/// Powers of ten up to the most decimal places, each exact.
const POWERS: [f64; 10] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Numbers up to here are exact as doubles: 2^53.
const MOST: f64 = 9_007_199_254_740_992.0;
/// How many doubles a value may lie from its decimal: what sums and shortened texts of the same number do.
const NEAR: u64 = 15;

/// The layout of these values that compresses best, as the fields of a column that hold it.
///
/// # Errors
/// Compression that fails.
pub(crate) fn pack(values: &[f64], trial: &mut Compressor<'_>) -> io::Result<ReadingColumn> {
    let mut layouts = vec![plain(values)];
    layouts.extend(decimals(values));
    let mut distinct = values.to_vec();
    distinct.sort_unstable_by(f64::total_cmp);
    distinct.dedup_by_key(|v| v.to_bits());
    if distinct.len() < values.len() {
        let place = |v: &f64| distinct.binary_search_by(|d| d.total_cmp(v)).unwrap_or(0) as i64;
        layouts.push(ReadingColumn {
            distinct: u32::try_from(distinct.len()).unwrap_or(u32::MAX),
            picks: planes(&steps(values.iter().map(place))),
            ..decimals(&distinct).unwrap_or_else(|| plain(&distinct))
        });
    }
    let mut best = (usize::MAX, ReadingColumn::default());
    for layout in layouts {
        let size = trial
            .compress(&prost::Message::encode_to_vec(&layout))?
            .len();
        if size < best.0 {
            best = (size, layout);
        }
    }
    Ok(best.1)
}

/// The values of a column of `count` readings; allocates no more than so many values.
///
/// # Errors
/// What does not fit together.
pub(crate) fn unpack(column: &ReadingColumn, count: usize) -> Result<Vec<f64>, String> {
    let distinct = match column.distinct as usize {
        0 => None,
        n if n <= count => Some(n),
        n => return Err(format!("{n} different values of {count} readings")),
    };
    let stored = distinct.unwrap_or(count);
    let values = match &column.decimals {
        Some(decimals) if column.values.is_empty() => undecimals(decimals, stored)?,
        None if column.values.len() == stored * 8 => {
            whole(&column.values, stored).map(f64::from_bits).collect()
        }
        _ => return Err("columns that differ in length".into()),
    };
    if distinct.is_none() {
        return Ok(values);
    }
    sums(&column.picks, count)?
        .map(|at| {
            usize::try_from(at)
                .ok()
                .and_then(|at| values.get(at).copied())
        })
        .collect::<Option<_>>()
        .ok_or_else(|| "a pick beyond the different values".into())
}

fn plain(values: &[f64]) -> ReadingColumn {
    ReadingColumn {
        values: spread(values.iter().map(|v| v.to_bits()), 8),
        ..ReadingColumn::default()
    }
}

/// As numbers over the lowest power of ten that fits all; none where none does.
fn decimals(values: &[f64]) -> Option<ReadingColumn> {
    let fit = |single, places| {
        let of = |v: &f64| number(*v, places, single);
        values.iter().map(of).collect::<Option<(Vec<_>, Vec<_>)>>()
    };
    let (single, places, (numbers, ulps)) = [false, true]
        .into_iter()
        .flat_map(|single| (0..POWERS.len()).map(move |places| (single, places)))
        .find_map(|(single, places)| Some((single, places, fit(single, places)?)))?;
    let exact = ulps.iter().all(|u| *u == 0);
    Some(ReadingColumn {
        decimals: Some(Decimals {
            places: u32::try_from(places).ok()?,
            single,
            numbers: planes(&steps(numbers.into_iter())),
            ulps: if exact { Vec::new() } else { planes(&ulps) },
        }),
        ..ReadingColumn::default()
    })
}

/// The number whose quotient is nearest, and how many doubles the value lies above it; none where that is far.
fn number(value: f64, places: usize, single: bool) -> Option<(i64, i64)> {
    let number = (value * POWERS[places]).round();
    if !(-MOST..=MOST).contains(&number) {
        return None;
    }
    let number = number as i64;
    let above = value
        .to_bits()
        .wrapping_sub(quotient(number, POWERS[places], single).to_bits()) as i64;
    (above.unsigned_abs() <= NEAR).then_some((number, above))
}

fn quotient(number: i64, power: f64, single: bool) -> f64 {
    let exact = number as f64 / power;
    if single {
        f64::from(exact as f32)
    } else {
        exact
    }
}

fn undecimals(m: &Decimals, count: usize) -> Result<Vec<f64>, String> {
    let power = POWERS
        .get(m.places as usize)
        .ok_or_else(|| format!("{} decimal places", m.places))?;
    let near = sums(&m.numbers, count)?.map(|n| quotient(n, *power, m.single));
    if m.ulps.is_empty() {
        return Ok(near.collect());
    }
    let moved =
        |(near, above): (f64, i64)| f64::from_bits(near.to_bits().wrapping_add(above as u64));
    Ok(near.zip(numbers(&m.ulps, count)?).map(moved).collect())
}

/// Differences from one number to the next, the first from 0; wraps.
fn steps(numbers: impl Iterator<Item = i64>) -> Vec<i64> {
    let mut last = 0_i64;
    numbers
        .map(|n| n.wrapping_sub(std::mem::replace(&mut last, n)))
        .collect()
}

/// Inverse of [`planes`] of [`steps`].
fn sums(bytes: &[u8], count: usize) -> Result<impl Iterator<Item = i64>, String> {
    Ok(numbers(bytes, count)?.scan(0_i64, |last, step| {
        *last = last.wrapping_add(step);
        Some(*last)
    }))
}

/// Zigzag form, in as many bytes as the largest needs; all first bytes first.
fn planes(numbers: &[i64]) -> Vec<u8> {
    let zigzag = || numbers.iter().map(|n| ((n << 1) ^ (n >> 63)) as u64);
    let bits = 64 - zigzag().max().unwrap_or(0).leading_zeros();
    spread(zigzag(), bits.div_ceil(8).max(1) as usize)
}

/// Inverse of [`planes`].
fn numbers(bytes: &[u8], count: usize) -> Result<impl Iterator<Item = i64> + '_, String> {
    let width = bytes.len() / count.max(1);
    if bytes.len() != width * count || !(1..=8).contains(&width) {
        return Err("columns that differ in length".into());
    }
    Ok(whole(bytes, count).map(|z| (z >> 1) as i64 ^ -((z & 1) as i64)))
}

/// The lower `width` bytes of each number, all first bytes first: bytes that are alike come to lie side by side.
fn spread(numbers: impl ExactSizeIterator<Item = u64>, width: usize) -> Vec<u8> {
    let count = numbers.len();
    let mut out = vec![0; count * width];
    for (i, number) in numbers.enumerate() {
        for (plane, byte) in number.to_le_bytes().into_iter().take(width).enumerate() {
            out[plane * count + i] = byte;
        }
    }
    out
}

/// Inverse of [`spread`]; the width is what so many numbers share.
fn whole(bytes: &[u8], count: usize) -> impl Iterator<Item = u64> + '_ {
    let byte = |at: usize| u64::from(bytes[at]);
    let width = bytes.len() / count.max(1);
    (0..count)
        .map(move |i| (0..width).fold(0, |n, plane| n | byte(plane * count + i) << (8 * plane)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn taken(values: &[f64]) -> ReadingColumn {
        let column = pack(values, &mut Compressor::new(1).unwrap()).unwrap();
        let back = unpack(&column, values.len()).unwrap();
        let bits = |v: &[f64]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(values));
        column
    }

    fn walk(n: u32, scale: f64) -> Vec<f64> {
        let numbers = (0..n).map(|i| f64::from(2_000 + (i * i * 7_919) % 613 + i / 3));
        numbers.map(|k| k / scale).collect()
    }

    #[test]
    fn decimals_of_doubles_and_floats_are_found() {
        for (scale, places) in [(1.0, 0), (10.0, 1), (1e4, 4)] {
            let found = taken(&walk(300, scale)).decimals.unwrap();
            assert_eq!((found.places, found.single), (places, false));
            assert!(found.ulps.is_empty());
        }
        let floats: Vec<f64> = walk(300, 1e3)
            .iter()
            .map(|v| f64::from(*v as f32))
            .collect();
        let found = taken(&floats).decimals.unwrap();
        assert_eq!((found.places, found.single), (3, true));
        // The same floats, written with 16 digits and read again.
        let texts: Vec<f64> = floats
            .iter()
            .map(|v| format!("{v:.15e}").parse().unwrap())
            .collect();
        assert_ne!(texts, floats);
        let found = taken(&texts).decimals.unwrap();
        assert_eq!((found.places, found.single), (3, true));
        assert!(!found.ulps.is_empty());
    }

    #[test]
    fn values_that_come_back_are_told_once() {
        let odd = [0.1234567891234, 1e-300, -7e77, std::f64::consts::PI];
        let column = taken(&odd.repeat(50));
        assert_eq!((column.distinct, column.values.len()), (4, 32));
    }

    #[test]
    fn what_is_no_number_of_ten_survives_bit_for_bit() {
        let nans = [f64::NAN, f64::from_bits(0x7ff8_dead_beef_0001), -f64::NAN];
        let ends = [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 5e-324];
        for odd in [&[0.0, -0.0][..], &nans, &ends, &[MOST, -MOST, MOST + 2.0]] {
            taken(odd);
            taken(&[&walk(99, 10.0), odd, odd].concat());
            taken(&odd.repeat(30));
        }
    }

    #[test]
    fn columns_that_do_not_fit_together_are_refused() {
        let mut seed = 1_u32;
        let draw = |_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from((seed >> 27).pow(3)) / 10.0
        };
        let good = taken(&(0..600).map(draw).collect::<Vec<_>>());
        let odd: [fn(&mut ReadingColumn); 7] = [
            |c| c.distinct = 601,
            |c| c.distinct += 1,
            |c| c.picks.push(0),
            |c| c.picks[0] = 0xff,
            |c| c.decimals.as_mut().unwrap().places = 10,
            |c| c.decimals.as_mut().unwrap().numbers.clear(),
            |c| c.values = vec![0; 8],
        ];
        assert!(good.distinct > 0 && good.decimals.is_some());
        for change in odd {
            let mut column = good.clone();
            change(&mut column);
            assert!(unpack(&column, 600).is_err(), "{column:?}");
        }
    }
}
