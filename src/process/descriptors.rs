//! This process's limit of open descriptors: raised for its own connections, and remembered as it was for the commands
//! that it starts.
//! Must not know: who needs descriptors.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The soft limit before [`raise_limit`].
static INHERITED: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit to the hard one and says how many there may be.
pub fn raise_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    INHERITED.get_or_init(|| limit.current);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            log::warn!(
                "cannot raise the limit of open descriptors: {error}; fewer machines can be connected"
            );
        }
    }
    // None: unlimited
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |current| current as usize)
}

/// The soft limit that this process was started with, where it has been raised since.
pub fn inherited_limit() -> Option<u64> {
    INHERITED.get().copied().flatten()
}
