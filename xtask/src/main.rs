//! The project's own automation, as `cargo xtask COMMAND`. It depends on nothing, so that it starts at
//! once, and runs what cargo built.

mod bench;
mod canary;
mod edges;
mod heavy;
mod model;
mod run;
mod schedules;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  sim [SCENARIO…] [OPTIONS]   run scenario files in the simulator (default: the showcase at 600 nodes);
                              `cargo xtask sim --help` lists its options and subcommands
  sim canary [NAME…]          plant one bug at a time and see that the simulator finds each;
                              `cargo xtask sim canary --help`
  test [STEP…]                everything that CI runs, or some of it: format, lints, edges, build, tests,
                              schedules, fuzz, docs, worlds, canaries, hashes
  schedules [N]               run the log's commit path under N schedules of its threads (default: 5000)
  bench [NAME] [OPTIONS]      measure ours beside its peers; without a name: what there is
  crash wal [--rounds N]      kill imports, fail disks and rebuild crash states of the log (default 2000
                              rounds)
  crash examples [--rounds N] kill the embedder's examples, with 64 operations in flight (default 500
                              rounds of each)
  crash cluster [--rounds N]  kill nodes of a group of three processes (default 500 rounds)
  damage wal [--rounds N]     damage a log of a thousand records in every way, and flip two of its bits
                              (default 1000000 times)
  fuzz wal [--rounds N]       read random, mutated and forged logs (default 1000000)
  model [--heavy]             check two-phase commit's machines in every world of a few crashes; --heavy: in
                              the large ones too (15 minutes, 2 GiB)
  recovery erasure [--rounds N]  recover from every combination of losses of small schemes, and from N random
                              ones of large schemes (default 10000)
  memory node [--rounds N]    run N operations of every kind through one node, and print what is allocated
                              (default 1000000)
  edges                       check which crate may depend on which

Exit codes of sim: 0 clean · 1 an invariant or expectation failed · 2 no progress after faults healed ·
3 not deterministic · 4 usage or scenario error · 5 infrastructure. Of bench: 0 measured · 1 ours failed ·
4 usage · 5 infrastructure. Of the others: 0 or 1; 4 usage.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest = arguments.get(1..).unwrap_or_default();
    match arguments.first().map(String::as_str) {
        Some("sim") if rest.first().is_some_and(|first| first == "canary") => {
            canary::main(&rest[1..])
        }
        Some("sim") => run::sim(rest),
        Some("test") => test::main(rest),
        Some("schedules") => schedules::main(rest),
        Some("bench") => bench::main(rest),
        Some(name @ ("crash" | "damage" | "fuzz" | "memory" | "recovery")) => {
            heavy::main(name, rest)
        }
        Some("model") => model::main(rest),
        Some("edges") => edges::main(),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("xtask: no such command: {other}\n\n{HELP}");
            ExitCode::from(run::USAGE)
        }
    }
}
