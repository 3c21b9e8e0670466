//! A saga and its participants under loss, duplication, reordering and crashes, with a log whose
//! tail is not durable until it is synced. What is judged is what happened at the participants, not
//! what the machine says of itself.
//!
//! An effect leaves once the record that it names is durable, and a crash takes any part of the log
//! behind the last sync. So an effect that names too early a record is found here: the record that
//! it should have waited for is lost, and the next start acts as if it had never been.

use crate::{ID, admission_of_kinds};
use base::{Epoch, Sequence};
use proptest::prelude::*;
use saga::{Direction, Effect, End, Event, Input, Order, Outcome, Phase, Saga, StepKind, What};

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
    /// An operator has undone it by hand, and the participant is told so.
    marked: bool,
    /// It is put off rather than refused.
    cannot_fail: bool,
}

struct World {
    graph: Vec<Vec<u32>>,
    kinds: Vec<StepKind>,
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
    fn new((graph, kinds): (Vec<Vec<u32>>, Vec<StepKind>)) -> World {
        let log = admission_of_kinds(&graph, &kinds);
        let sites = vec![Site::Untouched; graph.len()];
        let mut world = World {
            graph,
            kinds,
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
                let cannot_fail = self.saga.as_ref().is_some_and(|saga| saga.cannot_fail(step));
                let (direction, marked) = (Direction::Forward, false);
                self.calls.push(Call { step, direction, marked, cannot_fail });
            }
            Effect::Compensate { step, .. } | Effect::MarkDone { step, .. } => {
                assert_eq!(
                    self.kinds[step as usize],
                    StepKind::Compensatable,
                    "{step} has no undo"
                );
                // A participant would know its token; but the order of the calls, too, is promised.
                for on in self.ancestors(step) {
                    let found = self.sites[on as usize];
                    assert_ne!(found, Site::Undone, "{step} is to be undone after {on}");
                }
                let marked = matches!(effect, Effect::MarkDone { .. });
                let (direction, cannot_fail) = (Direction::Backward, false);
                self.calls.push(Call { step, direction, marked, cannot_fail });
            }
            Effect::Tell { end, .. } => {
                assert!(
                    self.told.is_none_or(|told| told == end),
                    "told {:?} and {end:?}",
                    self.told
                );
                self.told = Some(end);
                let remains = |(site, kind): (&Site, &StepKind)| {
                    *site == Site::Applied && *kind != StepKind::ReadOnly
                };
                let mut sites = self.sites.iter().zip(&self.kinds);
                let right = match end {
                    End::Completed => self.sites.iter().all(|site| *site == Site::Applied),
                    End::Compensated | End::Aborted => !sites.any(remains),
                };
                assert!(right, "told {end:?}: {:?} {:?}", self.sites, self.kinds);
            }
        }
    }

    /// Everything that a step depends on, be it through others.
    fn ancestors(&self, step: u32) -> Vec<u32> {
        let mut found = self.graph[step as usize].clone();
        let mut at = 0;
        while let Some(&on) = found.get(at) {
            found.extend(self.graph[on as usize].clone());
            at += 1;
        }
        found
    }

    /// A participant handles a call; `well` says whether it does what it is asked.
    fn deliver(&mut self, Call { step, direction, marked, cannot_fail }: Call, well: bool) {
        let site = self.sites[step as usize];
        if site == Site::Untouched && cannot_fail && !well {
            return;
        }
        let refused = Outcome::Refused { code: 9 };
        let (site, outcome) = match (direction, site) {
            (Direction::Forward, Site::Untouched) if well => {
                // A read-only step leaves no tombstone, for it has no effect: a call of it that comes
                // when its saga has turned back looks at whatever is there, and is worth nothing.
                let effect = self.kinds[step as usize] != StepKind::ReadOnly;
                for &on in self.graph[step as usize].iter().filter(|_| effect) {
                    let found = self.sites[on as usize];
                    assert_eq!(found, Site::Applied, "{step} runs, and {on} is not there");
                }
                (Site::Applied, Outcome::Done)
            }
            (Direction::Forward, Site::Untouched | Site::Refused) => (Site::Refused, refused),
            (Direction::Forward, Site::Applied | Site::Undone) => (site, Outcome::Done),
            (Direction::Backward, _) if !well && !marked => (site, refused),
            (Direction::Backward, Site::Untouched | Site::Refused) => {
                (Site::Refused, Outcome::Done)
            }
            (Direction::Backward, Site::Applied | Site::Undone) => {
                for later in 0..self.graph.len() {
                    let remains = self.sites[later] == Site::Applied
                        && self.kinds[later] != StepKind::ReadOnly
                        && self.ancestors(later as u32).contains(&step);
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
            62 => self.input(&Input::GiveUpUndo { step: (which % self.graph.len()) as u32 }),
            63 if which % 4 == 0 => {
                let what = if which % 8 == 0 { What::RetryNow } else { What::MarkDone };
                self.order((which % self.graph.len()) as u32, what);
            }
            63 if !self.calls.is_empty() => {
                self.calls.swap_remove(which % self.calls.len());
            }
            _ => {}
        }
    }

    fn order(&mut self, step: u32, what: What) {
        let (who, why) = ("somebody".into(), "because".into());
        let order = Box::new(Order { who, why, what });
        self.input(&Input::Ordered { step, order });
    }

    /// The faults stop, and operators see to what waits for them: everything that is owed is done until nothing is.
    fn heal(&mut self) {
        for _round in 0..4 * self.graph.len() + 4 {
            let parked = self.saga.as_ref().map_or(Vec::new(), |saga| saga.parked().collect());
            parked.into_iter().for_each(|step| self.order(step, What::RetryNow));
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

/// Graphs of compensatable steps, and such as have a pivot, all of their steps before or behind it.
fn sagas() -> impl Strategy<Value = (Vec<Vec<u32>>, Vec<StepKind>)> {
    let kinds = proptest::option::of((any::<u8>(), any::<u8>()));
    (graphs(), kinds).prop_map(|(mut graph, kinds)| {
        let Some((pivot, read_only)) = kinds else {
            let kinds = vec![StepKind::Compensatable; graph.len()];
            return (graph, kinds);
        };
        let pivot = usize::from(pivot) % (graph.len() + 1);
        let mut kinds = Vec::new();
        for at in 0..graph.len() {
            let read_only = read_only >> at & 1 == 1;
            kinds.push(match at {
                _ if at == pivot => StepKind::Pivot,
                _ if read_only => StepKind::ReadOnly,
                _ if at > pivot => StepKind::Retriable,
                _ => StepKind::Compensatable,
            });
            if at == pivot {
                let last = |on: &u32| !graph[..at].iter().any(|needs| needs.contains(on));
                let more: Vec<u32> = (0..at as u32).filter(last).collect();
                graph[at].extend(more);
            } else if at > pivot && graph[at].iter().all(|on| (*on as usize) < pivot) {
                graph[at].push(pivot as u32);
            }
            graph[at].sort_unstable();
            graph[at].dedup();
        }
        (graph, kinds)
    })
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
        saga in sagas(),
        moves in proptest::collection::vec((0..64u8, any::<u8>()), 0..160),
    ) {
        let mut world = World::new(saga);
        for step in moves {
            world.go(step);
        }
        world.heal();
    }
}
