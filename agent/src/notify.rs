//! Tells systemd that the agent is ready and alive; never fails the agent.
