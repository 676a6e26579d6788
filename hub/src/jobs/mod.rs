//! The job queue and its workers: owns claiming, leases and retries, never what a job does.
