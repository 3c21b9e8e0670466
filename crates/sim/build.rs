//! Tells the simulator which sources it is built of: a number over every file that its runs depend on,
//! the same on every machine, in every folder and build profile.

use std::fs;
use std::path::{Path, PathBuf};

/// The crates whose code decides what a run is.
const CRATES: [&str; 7] = ["base", "coordinator", "node", "saga", "sim", "twopc", "wal-core"];

fn main() -> std::io::Result<()> {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let crates = here.parent().unwrap_or(&here).to_path_buf();
    let mut files = vec![crates.join("../Cargo.lock")];
    for name in CRATES {
        collect(&crates.join(name).join("src"), &mut files)?;
        files.push(crates.join(name).join("Cargo.toml"));
    }
    files.sort();
    // FNV-1a of 128 bits, over names and contents, each with its length.
    let mut hash = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D_u128;
    let mut mix = |bytes: &[u8]| {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013B);
        }
    };
    for file in files {
        println!("cargo::rerun-if-changed={}", file.display());
        let Ok(bytes) = fs::read(&file) else { continue };
        let name = file.strip_prefix(&crates).unwrap_or(&file);
        mix(name.to_string_lossy().replace('\\', "/").as_bytes());
        mix(&bytes);
    }
    println!("cargo::rustc-env=SIM_SOURCES={hash:032x}");
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    // A file that comes or goes counts as well.
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
