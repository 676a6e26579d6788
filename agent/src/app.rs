//! Wires the agent's tasks and channels; decides nothing itself.
