//! Which crate may depend on which: the architecture's arrows, as data. A new arrow is a decision, not
//! an accident.

use crate::run::root;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

/// Every crate, and all that its code may use of ours and of others'. Development dependencies are
/// free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("base", &["rand", "rand_chacha"]),
    (
        "wal-core",
        &[
            "atomic-wait",
            "base",
            "crc-fast",
            "crc32c",
            "crc32fast",
            "rustix",
            "shuttle",
            "thiserror",
            "tracing",
        ],
    ),
    ("saga", &["base", "thiserror"]),
    ("saga-toml", &["base", "saga", "miette", "serde", "strsim", "thiserror", "toml"]),
    ("twopc", &["base"]),
    ("incentives", &["base", "thiserror"]),
    ("locks", &["base", "thiserror"]),
    ("placement", &["base", "thiserror"]),
    ("coordinator", &["base", "wal-core", "saga", "twopc"]),
    ("node", &["base", "wal-core", "saga", "twopc", "coordinator"]),
    (
        "network",
        &[
            "base",
            "wal-core",
            "saga",
            "twopc",
            "coordinator",
            "node",
            "erasure",
            "store",
            "repair",
            "placement",
            "locks",
            "incentives",
            "thiserror",
        ],
    ),
    (
        "runtime",
        &[
            "base",
            "wal-core",
            "saga",
            "twopc",
            "coordinator",
            "node",
            "crc32c",
            "getrandom",
            "thiserror",
            "tokio",
            "tracing",
        ],
    ),
    ("server", &["base", "runtime", "axum", "prometheus-client", "thiserror", "tokio"]),
    (
        "sim",
        &[
            "base",
            "wal-core",
            "saga",
            "twopc",
            "coordinator",
            "node",
            "network",
            "erasure",
            "store",
            "repair",
            "placement",
            "locks",
            "incentives",
            "clap",
            "crc32c",
            "crc32fast",
            "indicatif",
            "miette",
            "mimalloc",
            "rustix",
            "serde",
            "serde_json",
            // Its program's `--serve` alone: worlds are looked at from outside, and know nothing of it.
            "server",
            "sha2",
            "strsim",
            "thiserror",
            "tokio",
            "toml",
        ],
    ),
    ("erasure", &["base", "reed-solomon-simd", "thiserror"]),
    ("store", &["base", "erasure", "aes-gcm", "hmac", "sha2", "thiserror", "zstd"]),
    ("repair", &["base", "erasure", "store", "thiserror"]),
    (
        "trinity",
        &[
            "base",
            "wal-core",
            "saga",
            "saga-toml",
            "twopc",
            "coordinator",
            "clap",
            "miette",
            "serde",
            "serde_json",
            "strsim",
            "thiserror",
        ],
    ),
];

/// `cargo xtask edges`
pub fn main() -> ExitCode {
    match violations(&root()) {
        Ok(found) if found.is_empty() => ExitCode::SUCCESS,
        Ok(found) => {
            for line in found {
                eprintln!("edges: {line}");
            }
            ExitCode::FAILURE
        }
        Err(error) => crate::run::infrastructure(&error),
    }
}

fn violations(root: &Path) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let crates = std::fs::read_dir(root.join("crates")).map_err(|error| error.to_string())?;
    let mut names: Vec<String> =
        crates.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let path = root.join("crates").join(&name).join("Cargo.toml");
        let Ok(manifest) = std::fs::read_to_string(&path) else { continue };
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            found.push(format!("crate {name} is not in the table of xtask/src/edges.rs"));
            continue;
        };
        for dependency in dependencies(&manifest) {
            if !allowed.contains(&dependency.as_str()) {
                found.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    Ok(found)
}

/// The names under `[dependencies]` and its sub-tables.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table == "dependencies" || table.ends_with(".dependencies");
            if let Some((_, name)) = table.split_once("dependencies.")
                && !table.contains("dev-dependencies")
            {
                names.insert(name.to_owned());
            }
        } else if inside
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(['.', '=', ' '])
        {
            names.insert(name.trim().to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_crate_depends_on_what_it_must_not() {
        assert_eq!(violations(&root()), Ok(vec![]));
    }

    #[test]
    fn every_way_of_writing_a_dependency_is_seen() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = \"1\"\n\
                        # c = \"1\"\n[dependencies.d]\nversion = \"1\"\n[dev-dependencies]\ne = \"1\"\n\
                        [target.'cfg(unix)'.dependencies]\nf = { path = \"y\" }\n";
        let names: Vec<String> = dependencies(manifest).into_iter().collect();
        assert_eq!(names, ["a", "b", "d", "f"]);
    }
}
