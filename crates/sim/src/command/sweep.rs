//! `sim sweep` and `sim merge`: many seeds on many machines, without anybody in the middle.
//!
//! A sweep runs its shard of a range of seeds and leaves one file: a header that says what was run and
//! by which sources, a line per seed, a footer with the count and a checksum. It appears under its name
//! only when it is whole and on the disk. A merge takes the files of all shards, and refuses what does
//! not add up to the whole range, once, by one build.

use crate::clock::processors;
use crate::junit::Junit;
use crate::terminal::{Output, say};
use crate::{EXIT_CODES, Seeds, Stop, failure, parallel, parse_range, parse_shard, progress, read};
use clap::Args;
use serde::{Deserialize, Serialize};
use sim::{Report, Scenario, Verdict};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The version of the files.
const FORMAT: u32 = 1;
/// What is swept if no scenario is.
const SMALL: &str = "random";

/// What `sweep` is told.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct SweepArgs {
    /// A scenario's file or name, or `random` for random small worlds
    #[arg(default_value = SMALL)]
    scenario: String,
    /// Seeds from the first to before the last, such as 0..1000
    #[arg(long, value_parser = parse_range)]
    seeds: Range<u64>,
    /// Only a part of them: the i-th of n, such as 0/4
    #[arg(long, value_parser = parse_shard, default_value = "0/1")]
    shard: (u32, u32),
    /// The file of results, for `merge`
    #[arg(long)]
    out: PathBuf,
    /// How many seeds to run at once, 1 to 64 [default: one per processor]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Also a report for CI, in JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Where the first failure's file goes
    #[arg(long, default_value = "out", value_name = "DIR")]
    failures: PathBuf,
}

/// What `merge` is told.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct MergeArgs {
    /// The files of all shards of one sweep, in any order
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// One line of JSON, on standard output
    #[arg(long)]
    json: bool,
}

/// What a file is about.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Header {
    sweep: u32,
    /// Of the simulator's sources: see `build.rs`.
    build: String,
    scenario: String,
    /// Of the scenario's text.
    scenario_hash: String,
    from: u64,
    to: u64,
    shard: u32,
    of: u32,
}

/// What came of one seed.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Line {
    seed: u64,
    verdict: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    signature: String,
    code: u8,
    events: u64,
    hash: String,
}

/// The end of a file that is whole.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Footer {
    end: bool,
    build: String,
    scenario_hash: String,
    count: u64,
    /// CRC-32C of every byte before this line.
    checksum: String,
}

/// The sources that this binary was built of.
fn build() -> &'static str {
    env!("SIM_SOURCES")
}

/// What the scenario's text is, in 128 bits.
fn hash_of(text: &str) -> String {
    let mut trace = sim::Trace::default();
    for chunk in text.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        trace.word(u64::from_le_bytes(word));
    }
    trace.word(text.len() as u64);
    format!("{:032x}", trace.hash())
}

/// Runs a shard.
pub fn sweep(args: &SweepArgs, out: &mut Output) -> Result<u8, Stop> {
    let source = match args.scenario.as_str() {
        SMALL => None,
        name => Some(read(name)?),
    };
    let (part, of) = args.shard;
    let seeds = Seeds::of(&args.seeds, args.shard);
    let header = Header {
        sweep: FORMAT,
        build: build().to_owned(),
        scenario: source.as_ref().map_or(SMALL, |source| &source.scenario.name).to_owned(),
        scenario_hash: hash_of(source.as_ref().map_or("", |source| &source.text)),
        from: args.seeds.start,
        to: args.seeds.end,
        shard: part,
        of,
    };
    let make = |seed: u64| match &source {
        Some(source) => Ok((source.scenario.clone(), source.text.clone())),
        None => {
            let text = sim::small(seed);
            let scenario = Scenario::parse("small", &text).map_err(Stop::usage)?;
            Ok((scenario, text))
        }
    };
    let range = format!("{}..{}", header.from, header.to);
    let name = &header.scenario;
    out.line(format_args!("{name}: seeds {range}, shard {part}/{of}: {} seeds", seeds.len()));
    let bar = progress(seeds.len());
    let jobs = args.jobs.map_or_else(processors, usize::from).clamp(1, 64);
    let mut body = String::new();
    line(&mut body, &header)?;
    let (mut left, mut code, mut count) = (seeds.iter(), 0, 0);
    let mut failed: Option<(Report, String)> = None;
    let mut junit = args.junit.as_ref().map(|_| Junit::new(name));
    loop {
        let round: Vec<u64> = left.by_ref().take(jobs * 32).collect();
        if round.is_empty() {
            break;
        }
        for (report, text) in parallel(&round, jobs, &make)? {
            bar.inc(1);
            count += 1;
            line(&mut body, &line_of(&report))?;
            code = code.max(report.verdict.exit_code());
            if let Some(junit) = &mut junit {
                junit.add(&report);
            }
            if report.verdict != Verdict::Clean && failed.is_none() {
                failed = Some((report, text));
            }
        }
    }
    bar.finish_and_clear();
    let checksum = format!("{:08x}", crc32c::crc32c(body.as_bytes()));
    let Header { build, scenario_hash, .. } = header;
    line(&mut body, &Footer { end: true, build, scenario_hash, count, checksum })?;
    whole(&args.out, body.as_bytes())?;
    if let (Some(junit), Some(file)) = (&junit, &args.junit) {
        whole(file, junit.xml().as_bytes())?;
    }
    out.line(format_args!("{count} seeds in {}", args.out.display()));
    if let Some((report, text)) = failed {
        let failure::Kept { file, report, .. } = failure::keep(&args.failures, report, text)?;
        let (verdict, what) = (report.verdict.name(), report.verdict.what());
        let repeat = failure::command(&file);
        out.line(format_args!("\n{verdict}: {what}\n\nto repeat it:\n{repeat}"));
    }
    Ok(code)
}

fn line_of(report: &Report) -> Line {
    let clean = report.verdict == Verdict::Clean;
    Line {
        seed: report.seed,
        verdict: report.verdict.name().to_owned(),
        signature: if clean { String::new() } else { report.verdict.signature().to_owned() },
        code: report.verdict.exit_code(),
        events: report.counters.events,
        hash: format!("{:032x}", report.hash),
    }
}

fn line(body: &mut String, what: &impl Serialize) -> Result<(), Stop> {
    let text = serde_json::to_string(what)
        .map_err(|error| Stop::infrastructure(miette::miette!("a result is no JSON: {error}")))?;
    body.push_str(&text);
    body.push('\n');
    Ok(())
}

/// Writes a file that is whole or not there: under another name first, synced, then renamed.
pub fn whole(path: &Path, bytes: &[u8]) -> Result<(), Stop> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let written = || -> std::io::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        // The name, too. Not every system lets a folder be opened; then the name is as good as it gets.
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            folder.sync_all()?;
        }
        Ok(())
    };
    written().map_err(|error| {
        let _ = std::fs::remove_file(&draft);
        let shown = path.display();
        Stop::infrastructure(miette::miette!("cannot write {shown}: {error}"))
    })
}

/// A file that was read and is whole.
struct Shard {
    path: String,
    header: Header,
    lines: Vec<Line>,
}

/// Why a set of files is no sweep.
fn refuse(help: &str, what: String) -> Stop {
    Stop::infrastructure(miette::miette!(help = help.to_owned(), "{what}"))
}

const AGAIN: &str = "run that shard again";

fn load(path: &Path) -> Result<Shard, Stop> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path)
        .map_err(|error| refuse(AGAIN, format!("cannot read {shown}: {error}")))?;
    let no_result = || {
        let help = "`cargo xtask sim sweep … --out FILE` writes such files";
        Stop::usage(miette::miette!(help = help, "{shown} is no result of a sweep"))
    };
    let text = String::from_utf8(bytes).map_err(|_| no_result())?;
    let cut = |what: &str| refuse(AGAIN, format!("{shown} is cut or damaged: {what}"));
    let mut rows: Vec<&str> = text.split_inclusive('\n').collect();
    let first: serde_json::Value =
        rows.first().and_then(|row| serde_json::from_str(row).ok()).ok_or_else(no_result)?;
    match first.get("sweep").and_then(serde_json::Value::as_u64) {
        None => return Err(no_result()),
        Some(format) if format != u64::from(FORMAT) => {
            let help = "merge it with the version that wrote it";
            let what = format!("{shown} has format {format}, this version reads {FORMAT}");
            return Err(Stop::usage(miette::miette!(help = help, "{what}")));
        }
        Some(_) => {}
    }
    let header: Header = serde_json::from_value(first).map_err(|e| cut(&format!("line 1: {e}")))?;
    let last = rows.pop().unwrap_or_default();
    let footer = serde_json::from_str::<Footer>(last).ok();
    let footer = footer.filter(|_| last.ends_with('\n')).ok_or_else(|| cut("it has no footer"))?;
    let before = text.len() - last.len();
    let checksum = format!("{:08x}", crc32c::crc32c(&text.as_bytes()[..before]));
    if checksum != footer.checksum {
        return Err(cut("its checksum is another one"));
    }
    if (&footer.build, &footer.scenario_hash) != (&header.build, &header.scenario_hash) {
        return Err(cut("its footer is of another run than its header"));
    }
    let parse = |(at, row): (usize, &&str)| {
        serde_json::from_str::<Line>(row).map_err(|error| cut(&format!("line {}: {error}", at + 2)))
    };
    let lines = rows[1..].iter().enumerate().map(parse).collect::<Result<Vec<Line>, Stop>>()?;
    if lines.len() as u64 != footer.count {
        return Err(cut(&format!("{} seeds of {}", lines.len(), footer.count)));
    }
    Ok(Shard { path: shown, header, lines })
}

/// Puts shards together.
pub fn merge(args: &MergeArgs, out: &mut Output) -> Result<u8, Stop> {
    let shards = args.files.iter().map(|path| load(path)).collect::<Result<Vec<Shard>, Stop>>()?;
    let Some(first) = shards.first() else {
        return Err(refuse(AGAIN, "there is nothing to merge".into()));
    };
    for shard in &shards {
        same(first, shard)?;
    }
    let mut seen: BTreeMap<u64, (&str, &Line)> = BTreeMap::new();
    for shard in &shards {
        for line in &shard.lines {
            if let Some((before, _)) = seen.insert(line.seed, (&shard.path, line)) {
                let what = format!("seed {} is in {before} and in {}", line.seed, shard.path);
                return Err(refuse("name each shard's file once", what));
            }
        }
    }
    let Header { from, to, of, .. } = first.header;
    let all = from..to;
    if let Some((seed, (path, _))) = seen.iter().find(|(seed, _)| !all.contains(seed)) {
        let what = format!("{path} has seed {seed}, which is not in {from}..{to}");
        return Err(refuse(AGAIN, what));
    }
    if let Some(gap) = all.clone().find(|seed| !seen.contains_key(seed)) {
        let missing = to - from - seen.len() as u64;
        let what = format!(
            "{missing} seeds of {from}..{to} are missing, the first is {gap}, of shard {}/{of}",
            gap % u64::from(of)
        );
        return Err(refuse("add the files of the shards that are missing", what));
    }
    let (mut digest, mut events, mut code) = (0u128, 0, 0);
    let mut verdicts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for (path, line) in seen.values() {
        let hash = u128::from_str_radix(&line.hash, 16)
            .map_err(|_| refuse(AGAIN, format!("{path}: seed {}: no hash", line.seed)))?;
        // A sum does not depend on the order; the seed is in it, so that runs cannot change places.
        let mut trace = sim::Trace::default();
        trace.word(line.seed);
        trace.word(u64::from(line.code));
        trace.word((hash >> 64) as u64);
        trace.word(hash as u64);
        digest = digest.wrapping_add(trace.hash());
        events += line.events;
        code = code.max(line.code);
        *verdicts.entry(&line.verdict).or_default() += 1;
        if line.code > 0 {
            failed.push(*line);
        }
    }
    let Header { scenario, build, .. } = &first.header;
    if args.json {
        let failed: Vec<_> =
            failed.iter().map(|l| serde_json::json!([l.seed, l.verdict, l.signature])).collect();
        out.line(format_args!(
            "{}",
            serde_json::json!({
                "scenario": scenario, "build": build, "from": from, "to": to, "shards": shards.len(),
                "events": events, "verdicts": verdicts, "digest": format!("{digest:032x}"),
                "failed": failed,
            })
        ));
    } else {
        let verdicts: Vec<String> =
            verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
        out.line(format_args!(
            "{scenario}: seeds {from}..{to} in {} files, {events} events\nverdict  {}\nbuild    \
             {build}\ndigest   {digest:032x}",
            shards.len(),
            verdicts.join(", ")
        ));
        for line in failed.iter().take(20) {
            out.line(format_args!("seed {}: {} {}", line.seed, line.verdict, line.signature));
        }
    }
    if let Some(line) = failed.first() {
        let seed = line.seed;
        let repeat = match scenario.as_str() {
            SMALL => format!("cargo xtask sim random --seed {seed}"),
            name => format!("cargo xtask sim {} --seed {seed}", failure::quoted(name)),
        };
        if args.json {
            say(format_args!("to repeat the first failure:\n{repeat}"));
        } else {
            out.line(format_args!("\nto repeat the first failure:\n{repeat}"));
        }
    }
    Ok(code)
}

/// Two files are of one sweep.
fn same(first: &Shard, other: &Shard) -> Result<(), Stop> {
    let (a, b) = (&first.header, &other.header);
    let of = |header: &Header| format!("shards of {}", header.of);
    let range = |header: &Header| format!("seeds {}..{}", header.from, header.to);
    for (what, one, two) in [
        ("build", a.build.clone(), b.build.clone()),
        ("scenario", a.scenario.clone(), b.scenario.clone()),
        ("text of the scenario", a.scenario_hash.clone(), b.scenario_hash.clone()),
        ("range", range(a), range(b)),
        ("number of shards", of(a), of(b)),
    ] {
        if one != two {
            let (first, other) = (&first.path, &other.path);
            let what = format!("not one {what}: {first} has {one}, {other} has {two}");
            return Err(refuse("merge only what one sweep has made", what));
        }
    }
    Ok(())
}
