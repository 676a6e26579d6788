//! Table ledger.
