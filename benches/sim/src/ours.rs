//! Trinity's own worlds: the nodes of production, their logs on simulated disks, every judge.

use sim::{Scenario, Verdict};

use crate::protocol::Workload;

/// The same workload as the peers', as a scenario file.
fn scenario(workload: &Workload) -> Scenario {
    let Workload { nodes, coordinators, transactions, participants, .. } = workload;
    let mut text = format!(
        "format = 1\nname = \"bench\"\n\
         [cluster]\nnodes = {nodes}\ncoordinators = {coordinators}\n\
         [workload]\nkind = \"twopc\"\noperations = {transactions}\n\
         participants = {participants}\nin_flight = {transactions}\ncells = 1_000_000\n\
         [network]\nlatency = \"1ms..10ms\"\nloss = \"1%\"\n"
    );
    for crash in 0..workload.crashes {
        let at = workload.first_crash_ms + workload.every_crash_ms * u64::from(crash);
        let down = crate::protocol::DOWN_MS;
        text += &format!(
            "[[fault]]\nat = \"{at}ms\"\nkind = \"power-loss\"\nnode = {crash}\ndown = \"{down}ms\"\n"
        );
    }
    Scenario::parse("bench", &text).expect("the workloads are scenarios: a test parses each")
}

/// Worlds of one workload.
pub struct Ours {
    scenario: Scenario,
}

impl Ours {
    pub fn new(workload: &Workload) -> Ours {
        Ours { scenario: scenario(workload) }
    }

    /// Runs a world; returns how many messages arrived.
    pub fn run(&self, seed: u64) -> u64 {
        let report = sim::run(&self.scenario, seed);
        assert!(matches!(report.verdict, Verdict::Clean), "seed {seed}: {:?}", report.verdict);
        report.counters.delivered
    }
}

#[cfg(test)]
use crate::protocol::{LARGE, START, TINY};

#[test]
fn every_workload_is_a_scenario_that_ends_well() {
    for workload in [&START, &TINY] {
        assert!(Ours::new(workload).run(1) > 30);
    }
    assert_eq!(*scenario(&LARGE).cluster.nodes.get_ref(), LARGE.nodes);
}
