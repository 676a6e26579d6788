//! Import of history: owns how a CSV becomes committed chunks, exactly once however often it is run.

mod chunk;
mod grade;
mod table;

pub use chunk::{Imported, import};
pub use grade::Findings;
pub use table::{Options, Row, Table};
