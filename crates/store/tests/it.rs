//! What the store crate promises, from outside.

#[path = "it/files.rs"]
mod files;
#[path = "it/holders.rs"]
mod holders;
