//! What the agent shows of itself on its local port; never changes anything.

pub mod board;
