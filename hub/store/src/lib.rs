//! PostgreSQL: the only crate that names sqlx. One file a table; owns rows and SQL, never a decision.

pub mod alarms;
pub mod bundles;
pub mod connect;
pub mod desired;
pub mod devices;
pub mod decisions;
pub mod drift_reports;
pub mod forecasters;
pub mod jobs;
pub mod model_versions;
pub mod rollouts;
pub mod training_runs;
pub mod forecasts;
pub mod error;
pub mod features;
pub mod leadership;
pub mod imports;
pub mod ledger;
pub mod meta;
pub mod partitions;
pub mod readings;
pub mod records;
pub mod sensors;
pub mod states;
pub mod time;

pub use connect::{Store, Target};
pub use error::{Result, StoreError};
pub use sqlx::PgPool;
