//! What the parts of placement do together with many of their kind, and the faults of others, one test
//! each.

mod lookup;
mod membership;
mod moves;
mod routes;
