//! When a job is due (schedule.md).
