//! The subcommands that have a file of their own.

pub mod enumerate;
pub mod export;
pub mod sweep;
pub mod view;
