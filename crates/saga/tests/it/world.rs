//! A saga and its participants under loss, duplication, reordering and crashes, with a log whose
//! tail is not durable until it is synced. What is judged is what happened at the participants, not
//! what the machine says of itself.
//!
//! An effect leaves once the record that it names is durable, and a crash takes any part of the log
//! behind the last sync. So an effect that names too early a record is found here: the record that
//! it should have waited for is lost, and the next start acts as if it had never been.

use crate::{ID, admission};
use base::{Epoch, Sequence};
use proptest::prelude::*;
use saga::{Direction, Effect, End, Event, Input, Outcome, Phase, Saga};

/// What a participant knows under a step's tokens. It never forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Site {
    Untouched,
    Applied,
    /// Refused for good before it had an effect, or by a compensation that came first.
    Refused,
    Undone,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    step: u32,
    direction: Direction,
}

struct World {
    graph: Vec<Vec<u32>>,
    log: Vec<Event>,
    durable: usize,
    /// `None`: the crash took all of the log.
    saga: Option<Saga>,
    sites: Vec<Site>,
    calls: Vec<Call>,
    replies: Vec<Input>,
    told: Option<End>,
    epoch: u32,
}

impl World {
    fn new(graph: Vec<Vec<u32>>) -> World {
        let log = admission(&graph);
        let sites = vec![Site::Untouched; graph.len()];
        let mut world = World {
            graph,
            log,
            durable: 0,
            saga: None,
            sites,
            calls: vec![],
            replies: vec![],
            told: None,
            epoch: 1,
        };
        world.rebuild();
        world
    }

    fn rebuild(&mut self) {
        self.saga = self.log.first().map(|first| {
            let mut saga = Saga::created(ID, Sequence(1), first).unwrap();
            for (sequence, event) in (2..).zip(&self.log[1..]) {
                saga.apply(Sequence(sequence), event).unwrap();
            }
            saga
        });
    }

    fn input(&mut self, input: &Input) {
        let Some(saga) = &mut self.saga else { return };
        let mut next = saga.decide(input);
        while let Some(event) = next {
            self.log.push(event);
            let (sequence, event) =
                (Sequence(self.log.len() as u64), &self.log[self.log.len() - 1]);
            saga.apply(sequence, event).expect("decided");
            next = saga.settle();
        }
    }

    fn sync(&mut self) {
        self.durable = self.log.len();
    }

    /// Keeps `keep` of the records behind the last sync (as many as there are), and starts anew.
    fn crash(&mut self, keep: usize) {
        self.log.truncate(self.durable + keep);
        self.rebuild();
        self.sync();
        self.epoch += 1;
        self.input(&Input::Restarted { epoch: Epoch::new(self.epoch) });
        if let Some(settled) = self.saga.as_ref().and_then(Saga::settle) {
            self.log.push(settled);
            self.rebuild();
        }
    }

    fn open_effects(&self) -> Vec<Effect> {
        let mut pending = Vec::new();
        self.saga.iter().for_each(|saga| saga.pending(&mut pending));
        pending.retain(|effect| effect.after().0 <= self.durable as u64);
        pending
    }

    fn send(&mut self, effect: &Effect) {
        match *effect {
            Effect::Run { step, .. } => {
                self.calls.push(Call { step, direction: Direction::Forward });
            }
            Effect::Compensate { step, .. } => {
                // A participant would know its token; but the order of the calls, too, is promised.
                for &on in &self.graph[step as usize] {
                    let found = self.sites[on as usize];
                    assert_ne!(found, Site::Undone, "{step} is to be undone after {on}");
                }
                self.calls.push(Call { step, direction: Direction::Backward });
            }
            Effect::MarkDone { .. } => unreachable!("nobody orders anything here"),
            Effect::Tell { end, .. } => {
                assert!(
                    self.told.is_none_or(|told| told == end),
                    "told {:?} and {end:?}",
                    self.told
                );
                self.told = Some(end);
                let wanted = match end {
                    End::Completed => |site: &Site| *site == Site::Applied,
                    End::Compensated | End::Aborted => |site: &Site| *site != Site::Applied,
                };
                assert!(self.sites.iter().all(wanted), "told {end:?}: {:?}", self.sites);
            }
        }
    }

    /// A participant handles a call; `well` says whether it does what it is asked.
    fn deliver(&mut self, Call { step, direction }: Call, well: bool) {
        let site = self.sites[step as usize];
        let refused = Outcome::Refused { code: 9 };
        let (site, outcome) = match (direction, site) {
            (Direction::Forward, Site::Untouched) if well => {
                for &on in &self.graph[step as usize] {
                    let found = self.sites[on as usize];
                    assert_eq!(found, Site::Applied, "{step} runs, and {on} is not there");
                }
                (Site::Applied, Outcome::Done)
            }
            (Direction::Forward, Site::Untouched | Site::Refused) => (Site::Refused, refused),
            (Direction::Forward, Site::Applied | Site::Undone) => (site, Outcome::Done),
            (Direction::Backward, _) if !well => (site, refused),
            (Direction::Backward, Site::Untouched | Site::Refused) => {
                (Site::Refused, Outcome::Done)
            }
            (Direction::Backward, Site::Applied | Site::Undone) => {
                for later in 0..self.graph.len() {
                    let remains =
                        self.sites[later] == Site::Applied && self.graph[later].contains(&step);
                    assert!(!remains, "{step} is undone before {later}");
                }
                (Site::Undone, Outcome::Done)
            }
        };
        self.sites[step as usize] = site;
        self.replies.push(Input::Outcome { step, direction, outcome });
    }

    /// One move of the world; `which` picks among what it can be about.
    fn go(&mut self, (what, which): (u8, u8)) {
        let which = usize::from(which);
        match what {
            0..=7 => self.sync(),
            8..=27 => {
                let open = self.open_effects();
                if let Some(effect) = open.get(which % open.len().max(1)) {
                    self.send(effect);
                }
            }
            28..=43 if !self.calls.is_empty() => {
                let at = which % self.calls.len();
                // A quarter of the calls stay on the way: duplicates, some of them very late.
                let call = if what % 4 == 0 { self.calls[at] } else { self.calls.swap_remove(at) };
                self.deliver(call, what != 29);
            }
            44..=59 if !self.replies.is_empty() => {
                let at = which % self.replies.len();
                let late = what % 4 == 0;
                let reply =
                    if late { self.replies[at].clone() } else { self.replies.swap_remove(at) };
                self.input(&reply);
            }
            60 => self.crash(which % 5),
            61 => self.input(&Input::StepTimedOut { step: (which % self.graph.len()) as u32 }),
            62 if which % 4 == 0 => self.input(&Input::Cancel),
            63 if !self.calls.is_empty() => {
                self.calls.swap_remove(which % self.calls.len());
            }
            _ => {}
        }
    }

    /// The faults stop: everything that is owed is done until nothing is.
    fn heal(&mut self) {
        for _round in 0..4 * self.graph.len() + 4 {
            self.sync();
            for effect in self.open_effects() {
                self.send(&effect);
            }
            for call in std::mem::take(&mut self.calls) {
                self.deliver(call, true);
            }
            for reply in std::mem::take(&mut self.replies) {
                self.input(&reply);
            }
        }
        match &self.saga {
            None => assert!(self.sites.iter().all(|site| *site == Site::Untouched)),
            Some(saga) => {
                assert!(self.told.is_some(), "never ends: {saga:?} {:?}", self.sites);
                assert_eq!(saga.phase(), Phase::Ended(self.told.expect("just seen")));
            }
        }
    }
}

fn graphs() -> impl Strategy<Value = Vec<Vec<u32>>> {
    proptest::collection::vec(any::<(u8, bool)>(), 1..6).prop_map(|steps| {
        let depends_on = |(at, (set, row)): (usize, (u8, bool))| {
            let in_a_row = |on: usize| row && on + 1 == at;
            let on = (0..at).filter(|&on| in_a_row(on) || set >> on & 1 == 1);
            on.map(|on| on as u32).collect()
        };
        steps.into_iter().enumerate().map(depends_on).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn effects_follow_the_graph_and_one_end_is_told(
        graph in graphs(),
        moves in proptest::collection::vec((0..64u8, any::<u8>()), 0..160),
    ) {
        let mut world = World::new(graph);
        for step in moves {
            world.go(step);
        }
        world.heal();
    }
}
