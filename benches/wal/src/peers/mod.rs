//! Other logs, each as its own documentation says to use it, with the settings that it comes with
//! unless its file says otherwise.

pub mod commit_log;
pub mod okay_wal;
pub mod raft;
pub mod sqlite;

#[cfg(feature = "spacetimedb")]
pub mod spacetime;

#[cfg(not(feature = "spacetimedb"))]
pub mod spacetime {
    //! Left out of this build.

    use crate::log::{Buffered, Trouble};
    use crate::replay::Seen;
    use std::path::Path;

    const WITHOUT: &str = "built without the feature `spacetimedb`";

    pub fn buffered(_: &Path) -> Result<Box<dyn Buffered>, Trouble> {
        Err(WITHOUT.into())
    }

    pub fn build(_: &Path, _: u64) -> Result<(), Trouble> {
        Err(WITHOUT.into())
    }

    pub fn replay(_: &Path) -> Result<Seen, Trouble> {
        Err(WITHOUT.into())
    }
}
