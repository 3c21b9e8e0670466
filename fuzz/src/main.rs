//! Reads each file that is named, or standard input, as the tests of `wal-core` read what they make up:
//! by its first byte a record, a raw stream, or a log. What must not be is a panic.

#[path = "../../crates/wal-core/tests/fuzz/target.rs"]
mod target;

use std::io::{self, Read};

fn main() -> io::Result<()> {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    for file in &files {
        println!("{:?}: {}", target::target(&std::fs::read(file)?), file.to_string_lossy());
    }
    if files.is_empty() {
        let mut input = Vec::new();
        io::stdin().read_to_end(&mut input)?;
        println!("{:?}", target::target(&input));
    }
    Ok(())
}
