//! Spawn, signals, daemonize, locks, becoming a user: the only unsafe code there is.
