//! PostgreSQL: the only crate that names sqlx. One file a table; owns rows and SQL, never a decision.

pub mod alarms;
pub mod bundles;
pub mod clocks;
pub mod connect;
pub mod decisions;
pub mod desired;
pub mod devices;
pub mod drift_reports;
pub mod error;
pub mod forecasters;
pub mod forecasts;
pub mod gaps;
pub mod gauges;
pub mod imports;
pub mod jobs;
pub mod leadership;
pub mod ledger;
pub mod listing;
pub mod means;
pub mod meta;
pub mod model_versions;
pub mod paired_losses;
pub mod partitions;
pub mod quarantine;
pub mod readings;
pub mod records;
pub mod rollouts;
pub mod sensors;
pub mod sketches;
pub mod states;
pub mod time;
pub mod training_runs;

pub use connect::{Store, Target};
pub use error::{Result, StoreError};
pub use sqlx::PgPool;
