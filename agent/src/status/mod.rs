//! What the agent shows of itself on its local port; never changes anything.

pub mod board;
pub mod metrics;
pub mod page;
pub mod server;
pub mod words;
