//! What the log promises, tested at its boundary.

// A test's helpers may unwrap as its tests do: a failure is a failed test.
#![allow(clippy::unwrap_used)]

mod basics;
mod commit_path;
mod compact;
mod crash;
mod damage;
mod faults;
mod files;
mod forge;
mod format;
mod golden;
mod group_commit;
mod scrub;
mod seals;
mod sectors;
mod segment_ahead;
mod streams;
mod support;
mod take_over;
mod thousand;
