//! What the front pages say is so: their example runs, their scenario is clean, their links lead
//! somewhere, and their tables name the crates that are there.

#[path = "../../crates/runtime/examples/embed.rs"]
mod embed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).expect(page)
}

/// The text of a page's first block of code in this language.
fn block(page: &str, language: &str) -> String {
    let (_, rest) = page.split_once(&format!("\n```{language}\n")).expect(language);
    let (block, _) = rest.split_once("```").expect("a block ends");
    block.to_owned()
}

/// Each crate's dependencies within the workspace, by its manifest.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let entries = fs::read_dir(root().join("crates")).expect("the folder is there");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let names: BTreeSet<String> = entries.flatten().map(name).collect();
    let dependencies = |name: &String| {
        let manifest = read(&format!("crates/{name}/Cargo.toml"));
        let (_, table) = manifest.split_once("[dependencies]").expect("every crate uses another");
        let lines = table.lines().skip(1).take_while(|line| !line.starts_with('['));
        let used = lines.filter_map(|line| line.split_once('.').map(|(used, _)| used.to_owned()));
        used.filter(|used| names.contains(used)).collect()
    };
    names.iter().map(|name| (name.clone(), dependencies(name))).collect()
}

/// The rows of a page's tables whose first cell is a crate's name: the name, and the other cells.
fn rows(page: &str) -> BTreeMap<String, Vec<String>> {
    let names = manifests();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows = page.lines().filter(|line| line.starts_with("| `")).map(cells);
    let named = rows.map(|cells| (cells[0].trim_matches('`').to_owned(), cells[1..].to_vec()));
    named.filter(|(name, _)| names.contains_key(name)).collect()
}

#[test]
fn the_example_is_the_one_that_is_built_and_it_runs() {
    let example = read("crates/runtime/examples/embed.rs");
    assert_eq!(block(&read("README.md"), "rust"), example);
    embed::main().expect("it runs to its end");
}

#[test]
fn the_scenario_is_one_and_runs_clean() {
    let text = block(&read("README.md"), "toml");
    let scenario = sim::Scenario::parse("README.md", &text).expect("it is one");
    let report = sim::run(&scenario, scenario.seed);
    assert_eq!(report.verdict, sim::Verdict::Clean, "{}", report.verdict.what());
}

#[test]
fn every_link_leads_to_a_file() {
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = read(page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        for (link, _) in links {
            let (file, _) = link.split_once('#').unwrap_or((link, ""));
            assert!(root().join(file).exists(), "{page} links to {link}");
        }
    }
}

#[test]
fn the_tables_name_every_crate_and_every_edge() {
    let crates = manifests();
    let names: Vec<&String> = crates.keys().collect();
    assert_eq!(rows(&read("README.md")).keys().collect::<Vec<_>>(), names);
    let said: BTreeMap<String, BTreeSet<String>> = rows(&read("ARCHITECTURE.md"))
        .into_iter()
        .map(|(name, cells)| {
            let edges = cells[1].split(',').map(|edge| edge.trim().trim_matches('`').to_owned());
            (name, edges.filter(|edge| crates.contains_key(edge)).collect())
        })
        .collect();
    assert_eq!(said, crates);
}
