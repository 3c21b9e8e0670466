//! What the log promises, tested at its boundary.

mod basics;
mod crash;
mod damage;
mod files;
mod support;
mod take_over;
