//! `sim FILE` of a world of storage nodes, and `sim storage`: random ones.

use crate::clock::Watch;
use crate::terminal::{Output, say};
use crate::{SeedArgs, Stop};
use clap::Args;
use sim::storage::{Report, Scenario, hostile, large, run, small};
use std::fs;
use std::time::Duration;

#[derive(Args)]
pub struct StorageArgs {
    #[command(flatten)]
    seeds: SeedArgs,
    /// Nodes lie, are cut off for long and have slow disks too, locks are fought for, claims are forged
    #[arg(long)]
    hostile: bool,
    /// 600 nodes, with faults of all kinds
    #[arg(long, conflicts_with = "hostile")]
    large: bool,
}

/// The scenario of a text.
fn scenario(name: &str, text: &str) -> Result<Scenario, Stop> {
    Scenario::parse(text).map_err(|error| Stop::usage(miette::miette!("{name}: {error}")))
}

/// Runs a file's scenario with each seed.
pub fn file(name: &str, text: &str, args: &SeedArgs, out: &mut Output) -> Result<u8, Stop> {
    let scenario = scenario(name, text)?;
    let mut worst = 0;
    for seed in args.seeds(scenario.seed).iter() {
        say(format_args!("{}: seed {seed}", scenario.name));
        let watch = Watch::start();
        let report = run(&scenario, seed);
        worst = worst.max(tell(&report, watch.cpu(), args, out));
        if worst > 0 && args.first || out.is_closed() {
            break;
        }
    }
    Ok(worst)
}

fn tell(report: &Report, cpu: Duration, args: &SeedArgs, out: &mut Output) -> u8 {
    if args.json {
        out.line(format_args!("{}", report.json()));
    } else {
        out.write(format_args!("{}", report.table(cpu)));
    }
    report.exit_code()
}

/// Runs random worlds of storage nodes.
pub fn random(args: &StorageArgs, out: &mut Output) -> Result<u8, Stop> {
    let (kind, text_of): (_, fn(u64) -> String) = match args {
        StorageArgs { hostile: true, .. } => ("hostile", hostile),
        StorageArgs { large: true, .. } => ("large", large),
        _ => ("small", small),
    };
    let args = &args.seeds;
    let (mut worst, mut runs, mut clean) = (0, 0u64, 0u64);
    let mut failed = Vec::new();
    let watch = Watch::start();
    let (mut crashes, mut repaired, mut stored) = (0, 0, 0);
    for seed in args.seeds(1).iter() {
        if args.within.is_some_and(|within| watch.wall() > within) || out.is_closed() {
            break;
        }
        let text = text_of(seed);
        let report = run(&scenario(kind, &text)?, seed);
        runs += 1;
        clean += u64::from(report.exit_code() == 0);
        crashes += report.totals.crashes;
        repaired += report.totals.repaired.0;
        stored += report.totals.files.0;
        worst = worst.max(report.exit_code());
        if args.json {
            out.line(format_args!("{}", report.json()));
        }
        if report.exit_code() > 0 {
            failed.push(seed);
            let file = args.out.join(format!("{kind}-storage-{seed}.toml"));
            let kept = fs::create_dir_all(&args.out).and_then(|()| fs::write(&file, &text));
            kept.map_err(|error| {
                Stop::infrastructure(miette::miette!("cannot write {}: {error}", file.display()))
            })?;
            say(format_args!(
                "seed {seed}: {}: {}\nto repeat it: cargo xtask sim {}",
                report.verdict(),
                report.what(),
                file.display()
            ));
            if args.first {
                break;
            }
        }
    }
    if !args.json {
        out.line(format_args!(
            "{kind} storage worlds: {clean} of {runs} clean; {stored} files stored, {crashes} crashes, {repaired} \
             shards repaired; {:.1} s of processor time{}",
            watch.cpu().as_secs_f64(),
            if failed.is_empty() { String::new() } else { format!("; failed: {failed:?}") }
        ));
    }
    Ok(worst)
}
