//! `cargo xtask sim canary`: plants one bug at a time into a copy of the sources, builds the simulator
//! from it, and looks for a seed that objects. A simulator that never objects is not evidence.
//!
//! Nothing in the production crates knows of this: a canary is a text to be replaced, and one that no
//! longer fits its file is an error, not a pass.

use crate::run::{AS_TESTS_BUILD, INFRASTRUCTURE, USAGE, cargo, root, target};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// One bug to plant.
struct Canary {
    name: &'static str,
    /// What it breaks, for the table.
    breaks: &'static str,
    file: &'static str,
    find: &'static str,
    replace: &'static str,
}

const CANARIES: &[Canary] = include!("canaries.in");

/// A bug of the storage network, and the worlds that have to find it: how the simulator is called.
struct Stored {
    canary: Canary,
    worlds: &'static [&'static str],
}

const SMALL: &[&str] = &["storage", "--no-shrink"];
const HOSTILE: &[&str] = &["storage", "--no-shrink", "--hostile"];
const COME_BACK: &[&str] = &["sim-scenarios/storage/keepers-come-back.toml", "--no-shrink"];
const REBALANCE: &[&str] = &["sim-scenarios/storage/rebalance.toml", "--no-shrink"];

const STORED: &[Stored] = include!("storage_canaries.in");

/// Every bug that seeds find, and how the simulator is called for it.
fn seeded() -> impl Iterator<Item = (&'static Canary, &'static [&'static str])> {
    let stored = STORED.iter().map(|Stored { canary, worlds }| (canary, *worlds));
    CANARIES.iter().map(|canary| (canary, PLAIN)).chain(stored)
}

/// Every bug there is, each with a name of its own.
fn every() -> impl Iterator<Item = &'static Canary> {
    seeded().map(|(canary, _)| canary).chain(DISORDERS)
}

/// How many seeds worlds get that are called so: those of a scenario file are large, and each is much alike.
fn seeds_of(worlds: &[&str], seeds: u32) -> u32 {
    if worlds.iter().any(|word| word.ends_with(".toml")) { seeds.min(20) } else { seeds }
}

const PLAIN: &[&str] = &["random", "--no-shrink"];
const ENUMERATED: &[&str] =
    &["enumerate", "--depth", "2", "--cuts", "2", "--every", "3", "--first"];

/// What a planted bug takes besides, of the same name: two places guard against it, and each alone is
/// enough.
const BESIDES: &[Canary] = &[Canary {
    name: "unknown-fails-a-pivot",
    breaks: "the engine gives a pivot up that does not answer",
    file: "crates/coordinator/src/engine/sagas.rs",
    find: "let may_fail = terms.kind.fails_unanswered() && machine.past_pivot().is_none();",
    replace: "let may_fail = terms.kind.fails_unanswered() || terms.kind == saga::StepKind::Pivot;",
}];

/// What makes a run another one in the other queue or the other process. No judge objects to it: it is
/// for `check` to find.
const DISORDERS: &[Canary] = &[
    Canary {
        name: "events-of-a-moment-in-any-order",
        breaks: "the heap gives events of the same moment in the order of their targets",
        file: "crates/sim/src/queue.rs",
        find: "u128::from(self.at.as_nanos()) << 64 | u128::from(self.tie)",
        replace: "u128::from(self.at.as_nanos()) << 64 | u128::from(u64::from(self.target) << 44 | self.tie)",
    },
    Canary {
        name: "a-process-in-a-draw",
        breaks: "how long the ninth sync takes depends on the number of the process",
        file: "crates/sim/src/world/disks.rs",
        find: "let draw = self.disk_key.draw(u64::from(node) << 1 | slot as u64, *syncs);",
        replace: "let other = if *syncs == 9 { u64::from(std::process::id()) << 32 } else { 0 };\n                let draw = self.disk_key.draw(u64::from(node) << 1 | slot as u64, *syncs + other);",
    },
];

/// The seeds that each canary gets, and that the clean build must pass.
const SEEDS: u32 = 1_000;

/// Those that `cargo xtask test` plants: one of the log, of the gate and of each protocol.
const FEW: &[&str] =
    &["kept-tail-not-rewritten", "act-before-durable", "forget-after-first-ack", "no-tombstone"];

const HELP: &str = "\
cargo xtask sim canary [NAME…] [--seeds N] [--shrink | --by-enumerate] [--list]

Plants one bug at a time (default: all) into a copy of the sources under the target folder, builds the
simulator from it, and runs random fault plans on 3 to 9 nodes, seeds 0 to N-1 (default 1000), until one
objects; for bugs of the storage network, worlds of storage nodes. The clean build has to pass the same seeds. With --shrink, the first seed that objects is shrunk
too, and what is left is printed: its plan must have at most 5 entries in the median, each within 10
seconds, and its file must repeat the failure. With --by-enumerate the scenarios of sim-scenarios/enumerate/
are crashed at each of their steps instead, once and again on the way back; bugs that need another fault
than a crash are missed then. Two more are not for seeds: they change the order of
events, and `sim check` has to name the first event that differs (default: they are planted too). Exit
codes: 0 each was found and the clean build
passes · 1 one was missed, or the clean build failed · 4 usage, or a bug that no longer fits the sources ·
5 a build failed.
";

/// `cargo xtask sim canary …`
pub fn main(arguments: &[String]) -> ExitCode {
    let (mut names, mut seeds, mut shrink) = (Vec::new(), SEEDS, false);
    let mut by_enumerate = false;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--help" | "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            "--shrink" => shrink = true,
            "--list" => {
                for canary in every() {
                    println!("{:36} {}", canary.name, canary.breaks);
                }
                return ExitCode::SUCCESS;
            }
            "--by-enumerate" => by_enumerate = true,
            "--seeds" => match rest.next().and_then(|n| n.parse().ok()) {
                Some(n) if n > 0 => seeds = n,
                _ => return usage("--seeds takes a number above 0"),
            },
            name if every().any(|canary| canary.name == name) => {
                names.push(name);
            }
            other => return usage(&format!("no canary is called {other}; --list names them")),
        }
    }
    if names.is_empty() {
        names = every().map(|canary| canary.name).collect();
    }
    let hunted = if by_enumerate { enumerate(&names) } else { hunt(&names, seeds, shrink) };
    match hunted {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Missed(error)) => {
            eprintln!("canary: {error}");
            ExitCode::FAILURE
        }
        Err(Failure::Stale(error)) => usage(&error),
        Err(Failure::Infrastructure(error)) => {
            eprintln!("canary: {error}");
            ExitCode::from(INFRASTRUCTURE)
        }
    }
}

/// The small version that CI runs.
pub fn few() -> Result<(), String> {
    hunt(FEW, SEEDS, true).map_err(|failure| match failure {
        Failure::Missed(error) | Failure::Stale(error) | Failure::Infrastructure(error) => error,
    })
}

fn usage(error: &str) -> ExitCode {
    eprintln!("canary: {error}\n\n{HELP}");
    ExitCode::from(USAGE)
}

enum Failure {
    Missed(String),
    Stale(String),
    Infrastructure(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Infrastructure(error.to_string())
    }
}

fn hunt(names: &[&str], seeds: u32, shrink: bool) -> Result<(), Failure> {
    let cage = Cage::open()?;
    println!("{:36} {:>9}  found by", "planted bug", "seeds");
    let mut missed = Vec::new();
    let mut taken = Vec::new();
    let mut smaller = Vec::new();
    let mut called: Vec<&[&str]> = Vec::new();
    for (canary, worlds) in seeded().filter(|(canary, _)| names.contains(&canary.name)) {
        if !called.contains(&worlds) {
            called.push(worlds);
        }
        let found = {
            let _planted = cage.plant_all(canary)?;
            cage.build(worlds)?;
            let found = cage.first_objection(worlds, seeds)?;
            if let (true, Some(objection)) = (shrink, &found) {
                smaller.push((canary.name, cage.shrink(worlds, objection.seed)?));
            }
            found
        };
        match found {
            Some(Objection { seed, what }) => {
                let short: String = what.chars().take(110).collect();
                println!("{:36} {:>9}  {short}", canary.name, seed + 1);
                if let Some((_, smaller)) = smaller.last().filter(|_| shrink) {
                    println!("{:36} {:>9}  {smaller}", "", "shrunk");
                }
                taken.push(seed + 1);
            }
            None => {
                println!("{:36} {:>9}  MISSED: {}", canary.name, "-", canary.breaks);
                missed.push(canary.name);
            }
        }
    }
    let mut named = 0;
    for disorder in DISORDERS.iter().filter(|disorder| names.contains(&disorder.name)) {
        let found = {
            let _planted = cage.plant(disorder)?;
            cage.build(PLAIN)?;
            cage.first_difference(seeds)?
        };
        match found {
            Some(line) => {
                println!("{:36} {:>9}  {line}", disorder.name, "check");
                named += 1;
            }
            None => {
                println!("{:36} {:>9}  MISSED: {}", disorder.name, "-", disorder.breaks);
                missed.push(disorder.name);
            }
        }
    }
    taken.sort_unstable();
    let found = taken.len() + named;
    match taken.get(taken.len() / 2) {
        Some(median) => println!("{found} of {} found; median {median} seeds", names.len()),
        None => println!("{found} of {} found", names.len()),
    }
    if called.is_empty() {
        called.push(PLAIN);
    }
    for worlds in called {
        cage.build(worlds)?;
        let shown = worlds.join(" ");
        if let Some(Objection { seed, what }) = cage.first_objection(worlds, seeds)? {
            let error = format!("the clean build fails at seed {seed} of sim {shown}: {what}");
            return Err(Failure::Missed(error));
        }
        let seeds = seeds_of(worlds, seeds);
        println!("the clean build passes the same {seeds} seeds of sim {shown}");
    }
    if let Some(large) = too_large(&smaller) {
        return Err(Failure::Missed(large));
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(Failure::Missed(format!("missed: {}", missed.join(", "))))
    }
}

/// What shrinking may leave in the median, and how long each may take.
const ENTRIES: u32 = 5;
const MILLISECONDS: u32 = 10_000;

/// What is wrong with how failures were shrunk, if anything is; prints the median.
fn too_large(smaller: &[(&str, Smaller)]) -> Option<String> {
    let mut entries: Vec<u32> = smaller.iter().map(|(_, smaller)| smaller.after.entries).collect();
    entries.sort_unstable();
    let median = *entries.get(entries.len() / 2)?;
    let longest = smaller.iter().max_by_key(|(_, smaller)| smaller.milliseconds)?;
    let (name, Smaller { milliseconds, .. }) = longest;
    println!(
        "shrunk {} failures: median {median} plan entries, the longest in {:.1} s",
        entries.len(),
        f64::from(*milliseconds) / 1000.0
    );
    if *milliseconds > MILLISECONDS {
        return Some(format!("{name} took {milliseconds} ms to shrink: more than {MILLISECONDS}"));
    }
    if let Some((name, _)) = smaller.iter().find(|(_, smaller)| !smaller.repeats) {
        return Some(format!("what {name} was shrunk to does not repeat its failure"));
    }
    (median > ENTRIES)
        .then(|| format!("shrunk to {median} plan entries in the median, not {ENTRIES}"))
}

/// How large a failing run is.
struct Size {
    entries: u32,
    operations: u32,
    nodes: u32,
}

/// What a failure was shrunk to.
struct Smaller {
    before: Size,
    after: Size,
    milliseconds: u32,
    runs: u32,
    repeats: bool,
}

impl std::fmt::Display for Smaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Smaller { before, after, milliseconds, runs, repeats } = self;
        write!(
            f,
            "{} plan entries to {}, {} operations to {}, {} nodes to {}, in {:.2} s and {runs} runs{}",
            before.entries,
            after.entries,
            before.operations,
            after.operations,
            before.nodes,
            after.nodes,
            f64::from(*milliseconds) / 1000.0,
            if *repeats { "" } else { ": NOT REPEATED" }
        )
    }
}

/// Looks for planted bugs at every crash point instead of with seeds.
fn enumerate(names: &[&str]) -> Result<(), Failure> {
    let cage = Cage::open()?;
    println!("{:36} found by", "planted bug");
    let mut missed = Vec::new();
    for canary in CANARIES.iter().filter(|canary| names.contains(&canary.name)) {
        let found = {
            let _planted = cage.plant_all(canary)?;
            cage.build(ENUMERATED)?;
            cage.first_crash_point()?
        };
        match found {
            Some(what) => println!("{:36} {what}", canary.name),
            None => {
                println!("{:36} MISSED: {}", canary.name, canary.breaks);
                missed.push(canary.name);
            }
        }
    }
    cage.build(ENUMERATED)?;
    if let Some(what) = cage.first_crash_point()? {
        return Err(Failure::Missed(format!("the clean build fails: {what}")));
    }
    println!("the clean build passes the same crash points");
    if missed.is_empty() {
        Ok(())
    } else {
        Err(Failure::Missed(format!("missed: {}", missed.join(", "))))
    }
}

struct Objection {
    seed: u32,
    what: String,
}

/// A copy of the sources.
struct Cage {
    sources: PathBuf,
}

/// Puts the file back as it was.
struct Planted {
    file: PathBuf,
    clean: String,
}

impl Drop for Planted {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, &self.clean) {
            eprintln!("canary: cannot restore {}: {error}", self.file.display());
        }
    }
}

impl Cage {
    fn open() -> Result<Cage, Failure> {
        let cage = Cage { sources: target().join("canary") };
        for part in
            ["Cargo.toml", "Cargo.lock", "clippy.toml", "crates", "tests", "xtask", "sim-scenarios"]
        {
            mirror(&root().join(part), &cage.sources.join(part))?;
        }
        let built = cage.built();
        if !built.exists()
            && take_over_dependencies(&target().join("debug"), &built.join("debug")).is_err()
        {
            // Cargo builds them then.
            fs::remove_dir_all(&built)?;
        }
        Ok(cage)
    }

    /// Plants a bug with what it takes besides.
    fn plant_all(&self, canary: &Canary) -> Result<Vec<Planted>, Failure> {
        let besides = BESIDES.iter().filter(|besides| besides.name == canary.name);
        std::iter::once(canary).chain(besides).map(|canary| self.plant(canary)).collect()
    }

    fn plant(&self, canary: &Canary) -> Result<Planted, Failure> {
        let file = self.sources.join(canary.file);
        let clean = fs::read_to_string(&file)?;
        let places = clean.matches(canary.find).count();
        if places != 1 {
            return Err(Failure::Stale(format!(
                "{} no longer fits: its text stands {places} times in {}, not once; \
                 mend it in xtask/src/",
                canary.name, canary.file
            )));
        }
        fs::write(&file, clean.replacen(canary.find, canary.replace, 1))?;
        Ok(Planted { file, clean })
    }

    /// For small worlds our own crates are built without optimisation: that takes seconds where it took two
    /// minutes, and most bugs are found after few seeds. Worlds of storage nodes take longer than a build.
    fn build(&self, worlds: &[&str]) -> Result<(), Failure> {
        let mut build = cargo(&["build", "--quiet"]);
        build.args(AS_TESTS_BUILD);
        if worlds == PLAIN {
            for package in our_packages()? {
                build.arg("--config").arg(format!("profile.dev.package.{package}.opt-level=0"));
            }
        }
        let built = build
            .current_dir(&self.sources)
            .env("CARGO_TARGET_DIR", self.built())
            // From one planted bug to the next nearly nothing changes, whatever CI says of its other builds.
            .env("CARGO_INCREMENTAL", "1")
            .stderr(std::process::Stdio::piped())
            .output()?;
        if built.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&built.stderr);
        Err(Failure::Infrastructure(format!(
            "the simulator with the planted bug does not build\n{errors}"
        )))
    }

    /// Where what is built of it goes: nowhere near the workspace's own builds. Cargo names both alike, and
    /// would take a planted bug that was left there for the user's code.
    fn built(&self) -> PathBuf {
        self.sources.with_file_name("canary-target")
    }

    fn sim(&self) -> Command {
        let name = format!("sim{}", std::env::consts::EXE_SUFFIX);
        let mut command = Command::new(self.built().join("debug").join(name));
        command.current_dir(&self.sources);
        command
    }

    /// Shrinks the failure of a seed, and runs what is left in a process of its own.
    fn shrink(&self, worlds: &[&str], seed: u32) -> Result<Smaller, Failure> {
        let broken = |what: &[u8]| {
            let what = String::from_utf8_lossy(what).into_owned();
            Failure::Infrastructure(format!("seed {seed} is not shrunk: {what}"))
        };
        let seed = seed.to_string();
        let kept = self.sim().args(worlds).args(["--seed", &seed]).output()?;
        let file = match worlds {
            HOSTILE => format!("out/hostile-storage-{seed}.toml"),
            SMALL => format!("out/small-storage-{seed}.toml"),
            [file] if file.ends_with(".toml") => {
                let name = Path::new(file).file_stem().unwrap_or_default();
                format!("out/{}-{seed}.toml", name.to_string_lossy())
            }
            _ => format!("out/small-{seed}-{seed}.toml"),
        };
        let shrunk = self.sim().args(["shrink", &file, "--for", "9s", "--json"]).output()?;
        let text = String::from_utf8_lossy(&shrunk.stdout);
        let size = |of: &str| {
            let (_, part) = text.split_once(of)?;
            let number = |key: &str| field(part, key)?.parse().ok();
            Some(Size {
                entries: number("\"entries\":")?,
                operations: number("\"operations\":")?,
                nodes: number("\"nodes\":")?,
            })
        };
        let number = |key: &str| field(&text, key).and_then(|number| number.parse().ok());
        let (Some(before), Some(after), Some(milliseconds), Some(runs), Some(smaller)) = (
            size("\"before\":"),
            size("\"after\":"),
            number("\"milliseconds\":"),
            number("\"runs\":"),
            field(&text, "\"file\":\""),
        ) else {
            let why = if shrunk.stderr.is_empty() { &kept.stderr } else { &shrunk.stderr };
            return Err(broken(why));
        };
        let again = self.sim().args(["repro", &smaller, "--json"]).output()?;
        let repeats = String::from_utf8_lossy(&again.stdout).contains("\"fails_as_it_did\":true");
        Ok(Smaller { before, after, milliseconds, runs, repeats })
    }

    /// What `check` says of the first event that differs, if it finds one within the seeds.
    fn first_difference(&self, seeds: u32) -> Result<Option<String>, Failure> {
        let output = self.sim().args(["check", "--random", &format!("0..{seeds}")]).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => Ok(None),
            Some(3) => Ok(text
                .lines()
                .find(|line| line.starts_with("the first event that differs is event "))
                .map(str::to_owned)),
            _ => Err(Failure::Infrastructure(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    /// The first seed at which the simulator exits with a verdict against the code, or dies.
    fn first_objection(&self, worlds: &[&str], seeds: u32) -> Result<Option<Objection>, Failure> {
        let range = format!("0..{}", seeds_of(worlds, seeds));
        let looking = ["--seeds", &range, "--first", "--json"];
        let output = self.sim().args(worlds).args(looking).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => return Ok(None),
            Some(1..=3 | 101) | None => {}
            Some(_) => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Failure::Infrastructure(error));
            }
        }
        let last = text.lines().rev().find(|line| line.contains("\"seed\":")).unwrap_or("");
        let seed = field(last, "\"seed\":").and_then(|seed| seed.parse().ok()).unwrap_or(0);
        let what = field(last, "\"violation\":\"").unwrap_or_else(|| "a panic".to_owned());
        Ok(Some(Objection { seed, what }))
    }
}

impl Cage {
    /// What the simulator says against the first crash point that ends badly, at one of each three.
    fn first_crash_point(&self) -> Result<Option<String>, Failure> {
        let output = self.sim().args(ENUMERATED).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => return Ok(None),
            Some(1 | 2 | 101) | None => {}
            Some(_) => {
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(Failure::Infrastructure(error));
            }
        }
        let verdict = |line: &&str| {
            ["violation: ", "no progress: ", "expectation: "]
                .iter()
                .any(|word| line.starts_with(word))
        };
        let what = text.lines().rev().find(verdict).unwrap_or("a panic");
        Ok(Some(what.chars().take(130).collect()))
    }
}

/// The packages under `crates/`, each called as its folder.
fn our_packages() -> std::io::Result<BTreeSet<String>> {
    let folders = fs::read_dir(root().join("crates"))?;
    folders.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Copies what cargo has built of other people's packages, with its times, so that they are not built again.
/// What is not there, or not as cargo wants it, cargo builds.
fn take_over_dependencies(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut ours = BTreeSet::from(["tests".to_owned(), "xtask".to_owned()]);
    ours.extend(our_packages()?.iter().map(|name| name.replace('-', "_")));
    // `lib<name>-<hash>.rlib`, `<name>-<hash>/`: the hash has 16 digits.
    let is_theirs = |name: &str| {
        let (stem, _) = name.split_once('.').unwrap_or((name, ""));
        stem.rsplit_once('-').is_some_and(|(package, hash)| {
            let package = package.replace('-', "_");
            let bare = package.strip_prefix("lib").unwrap_or(&package);
            hash.len() == 16 && !ours.contains(&package) && !ours.contains(bare)
        })
    };
    for part in [".fingerprint", "build", "deps"] {
        let Ok(entries) = fs::read_dir(from.join(part)) else { continue };
        fs::create_dir_all(to.join(part))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_library = part != "deps" || entry.path().extension().is_some();
            if is_library && name.to_str().is_some_and(is_theirs) {
                copy_with_times(&entry.path(), &to.join(part).join(name))?;
            }
        }
    }
    Ok(())
}

fn copy_with_times(from: &Path, to: &Path) -> std::io::Result<()> {
    let metadata = fs::metadata(from)?;
    if metadata.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_with_times(&from.join(&name), &to.join(&name))?;
        }
        return Ok(());
    }
    fs::copy(from, to)?;
    fs::OpenOptions::new().append(true).open(to)?.set_modified(metadata.modified()?)
}

/// The value behind `key` in a line of JSON, up to the next quote, comma or brace.
fn field(line: &str, key: &str) -> Option<String> {
    let (_, value) = line.split_once(key)?;
    let end = if key.ends_with('"') { &['"'][..] } else { &[',', '}'][..] };
    value.split(end).next().map(str::to_owned)
}

/// Makes `to` a copy of `from`: writes only what differs, so that builds stay incremental, and removes
/// what is gone.
fn mirror(from: &Path, to: &Path) -> Result<(), Failure> {
    if !from.is_dir() {
        let bytes = fs::read(from)?;
        if fs::read(to).ok().as_ref() != Some(&bytes) {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(to, bytes)?;
        }
        return Ok(());
    }
    fs::create_dir_all(to)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        mirror(&from.join(&name), &to.join(&name))?;
        names.insert(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) {
            if entry.path().is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_canary_fits_its_file_and_has_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        let named = every().map(|canary| (canary, true));
        for (canary, own) in named.chain(BESIDES.iter().map(|besides| (besides, false))) {
            let text = fs::read_to_string(root().join(canary.file)).expect(canary.file);
            assert_eq!(text.matches(canary.find).count(), 1, "{}", canary.name);
            assert_ne!(canary.find, canary.replace, "{}", canary.name);
            assert_eq!(names.insert(canary.name), own, "{}", canary.name);
        }
        assert!(FEW.iter().all(|name| names.contains(name)));
    }
}
