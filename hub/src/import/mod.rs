//! Import of history: owns how a CSV becomes committed chunks, exactly once however often it is run.

mod chunk;
mod table;

pub use chunk::{Imported, import};
pub use table::{Options, Row, Table};
