//! The subcommands that have a file of their own.

pub mod check;
pub mod corpus;
pub mod enumerate;
pub mod export;
pub mod golden;
pub mod repro;
pub mod serve;
pub mod shrink;
pub mod storage;
pub mod sweep;
pub mod travel;
pub mod view;

use crate::terminal::Output;
use crate::{Stop, USAGE, clock};
use sim::plan::Plan;
use sim::{Scenario, World};
use std::panic::{self, PanicHookInfo};

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static>;

/// While it lives, a panic prints nothing: the same run is made again and again, and its assertion
/// was told the first time.
pub struct Quiet(Option<Hook>);

impl Quiet {
    /// From now on.
    pub fn begin() -> Quiet {
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        Quiet(Some(hook))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // While a thread panics no hook can be set.
        if let Some(hook) = self.0.take()
            && !std::thread::panicking()
        {
            panic::set_hook(hook);
        }
    }
}

/// What a file repeats, if this build's randomness is the one that it was made with.
fn repeats(name: &str, repeats: Option<&sim::Repeats>) -> Result<Option<sim::Repeats>, Stop> {
    let Some(repeats) = repeats.cloned() else { return Ok(None) };
    same_derivation(name, repeats.derivation)?;
    Ok(Some(repeats))
}

/// A seed means something only to the derivation that it was drawn with.
fn same_derivation(name: &str, derivation: u32) -> Result<(), Stop> {
    let ours = base::prng::DERIVATION_VERSION;
    if derivation == ours {
        return Ok(());
    }
    let report = miette::miette!(
        help = "repeat it with the build that wrote it, or look for it anew with this one",
        "{name} was made with version {derivation} of the randomness, this build has version {ours}: \
         its seed means another run here"
    );
    Err(Stop { code: USAGE, report })
}

/// Measures how long a copy of a world takes that is in the thick of it.
pub fn copies(scenario: &Scenario, out: &mut Output) {
    let plan = Plan::generate(scenario, 1);
    let mut world = World::new(scenario, 1, plan, sim::judge::all(scenario));
    for events in [100_000, 400_000] {
        let _ = world.run_to(events);
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let watch = clock::Watch::start();
                let copy = world.clone();
                let time = watch.cpu().as_secs_f64() * 1e3;
                assert_eq!(copy.hash(), world.hash(), "a copy is the same world");
                time
            })
            .collect();
        times.sort_by(f64::total_cmp);
        out.line(format_args!(
            "a copy of the world behind event {}: {:.1} ms of processor time",
            world.moment().event,
            times[times.len() / 2]
        ));
    }
}
