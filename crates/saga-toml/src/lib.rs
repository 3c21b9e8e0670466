//! Definitions of sagas as TOML files: checked with the places of every mistake, drawn as a graph, and
//! made into Rust in which every step is a typed function.
//!
//! A file says which steps there are, what becomes of each, what depends on what, and what flows from
//! step to step; where steps run and what they are asked is for each saga to say. So a file and the
//! [`saga::Definition`] made of it are checked by the same rules, those of [`saga::Builder::build`], and
//! this crate adds those that only names need: each is known, none is used twice, no circle of steps
//! waits for itself.
//!
//! It is a crate of its own because the machine needs none of it, nor the libraries that it needs.
//!
//! ```
//! use saga_toml::SagaFile;
//!
//! let file = SagaFile::parse(
//!     "order.toml",
//!     r#"
//!     format = 1
//!     name = "order"
//!     version = 1
//!
//!     [[step]]
//!     name = "reserve"
//!     undo = "release"
//!     gives = "u64"
//!
//!     [[step]]
//!     name = "charge"
//!     kind = "pivot"
//!     after = ["reserve"]
//!     takes = ["reserve"]
//!     "#,
//! )?;
//! let node = base::NodeName::numbered(1);
//! let definition = file.definition(|step| (node, step.name.as_str().as_bytes().into()));
//! assert_eq!(definition.steps()[1].kind, saga::StepKind::Pivot);
//! assert!(file.dot().contains("\"reserve\" -> \"charge\""));
//! # Ok::<(), saga_toml::Mistakes>(())
//! ```

//!
//! A step may be a transaction of the participants that it names, or a saga of the same file:
//!
//! ```
//! use saga_toml::{FilePerformer, SagaFile};
//!
//! let file = SagaFile::parse(
//!     "order.toml",
//!     r#"
//!     format = 1
//!     name = "order"
//!     version = 1
//!
//!     [[step]]
//!     name = "pay"
//!     transaction = ["buyer", "seller"]
//!     undo-transaction = ["buyer", "seller"]    # or an action: undo = "refund"
//!
//!     [[step]]
//!     name = "deliver"
//!     saga = "delivery"                         # undone by its own compensations
//!     after = ["pay"]
//!
//!     [[saga]]
//!     name = "delivery"
//!     version = 2
//!
//!     [[saga.step]]
//!     name = "pack"
//!     undo = "unpack"
//!     "#,
//! )?;
//! let FilePerformer::Saga(delivery) = &file.steps[1].performer else { panic!("a saga") };
//! assert_eq!(delivery.version, 2);
//! assert_eq!(file.bare().depth(), 2);
//! # Ok::<(), saga_toml::Mistakes>(())
//! ```

mod file;
mod generate;
mod graph;
mod nested;

pub use file::{FORMAT, FilePerformer, FileStep, Mistake, Mistakes, Places, SagaFile};
