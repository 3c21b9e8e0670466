//! wal-core
