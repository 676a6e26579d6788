//! How much an encoded batch body would unfold to: owns counting before decoding, never decodes a record.

use prost::encoding::{WireType, decode_key, decode_varint};

/// Refuses a body that holds more records than announced: an empty record takes two bytes on the wire and hundreds in
/// memory, and a step of a column one byte and eight.
pub(crate) fn check(body: &[u8], announced: u64) -> Result<(), String> {
    let (mut records, mut steps) = (0_u64, 0_u64);
    for field in Fields(body) {
        let (number, content) = field?;
        match (number, content) {
            (1, Content::Bytes(column)) => {
                let before = steps;
                let (mut times, mut runs) = (0, 0);
                for field in Fields(column) {
                    match field? {
                        (3, content) => steps += content.numbers(),
                        (4, content) => times += content.numbers(),
                        (6, content) => runs += content.numbers(),
                        _ => {}
                    }
                }
                let readings = steps - before;
                if readings == 0 || times > readings || runs > readings.saturating_mul(2) {
                    return Err("columns of a sensor are empty or differ in length".into());
                }
            }
            (2..=10, _) => records += 1,
            _ => {}
        }
        if records.saturating_add(steps) > announced {
            return Err(format!("more records than the {announced} announced"));
        }
    }
    Ok(())
}

/// How often a message has a field.
pub(crate) fn count(message: &[u8], field: u32) -> Result<usize, String> {
    let mut found = 0;
    for read in Fields(message) {
        found += usize::from(read?.0 == field);
    }
    Ok(found)
}

enum Content<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl Content<'_> {
    /// Varints in it, packed or single.
    fn numbers(&self) -> u64 {
        match self {
            Self::Number => 1,
            Self::Bytes(packed) => packed.iter().filter(|b| **b < 0x80).count() as u64,
        }
    }
}

/// Fields of a message, in the order of their bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u32, Content<'a>), String> {
        let odd = |e: prost::DecodeError| e.to_string();
        let (number, kind) = decode_key(&mut self.0).map_err(odd)?;
        let len = match kind {
            WireType::Varint => {
                decode_varint(&mut self.0).map_err(odd)?;
                return Ok((number, Content::Number));
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => decode_varint(&mut self.0).map_err(odd)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err("a group, which no version writes".into());
            }
        };
        let split = usize::try_from(len)
            .ok()
            .and_then(|len| self.0.split_at_checked(len));
        let (content, rest) = split.ok_or("a field beyond the end")?;
        self.0 = rest;
        Ok((number, Content::Bytes(content)))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Content<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}
