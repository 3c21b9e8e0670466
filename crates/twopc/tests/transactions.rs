//! Histories of a transaction at random, legal or not, beside a plain model: after each event, whether it
//! was allowed, and everything that can be seen of the transaction.
//!
//! The model keeps what was applied as a list, and reads each answer from it.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

use base::prng::{Key, Stream};
use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, ParentStep, RequestKey};
use base::{Sequence, ShardId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use twopc::coordinator::{AdmissionError, Decision, Effect, Event, Input, MEMBERS_MAX, Member};
use twopc::{Audit, ForceRefusal, IllegalTransition, Peer, Transaction, Vote};

const ID: OperationId = OperationId(1 << 40 | 9);
const COORDINATOR: CoordinatorId = CoordinatorId::numbered(5);
/// One more than ever join by themselves: decisions may name it.
const SHARDS: u64 = 4;
const VOTES: [Vote; 3] = [Vote::Commit, Vote::Abort, Vote::ReadOnly];

fn shard(number: u64) -> ShardId {
    ShardId::numbered(number)
}

fn member(number: u64, store: u64) -> Member {
    let (shard, node) = (shard(number), NodeName::numbered(number));
    match store {
        0 => Member::new(shard, node),
        _ => Member::at(Peer { shard, node, store: StoreId(store), boot: BootCount(1) }),
    }
}

fn audit() -> Arc<Audit> {
    Arc::new(Audit { at_ms: 3, who: "eva".into(), why: "its site is gone".into() })
}

/// What was applied, and who has acknowledged.
struct Plain {
    log: Vec<(Sequence, Event)>,
    acknowledged: BTreeSet<ShardId>,
}

impl Plain {
    fn first(&self, is: impl Fn(&Event) -> bool) -> Option<Sequence> {
        self.log.iter().find(|(_, event)| is(event)).map(|(at, _)| *at)
    }

    fn has(&self, is: impl Fn(&Event) -> bool) -> bool {
        self.first(is).is_some()
    }

    fn members(&self) -> Vec<Member> {
        let mut members: Vec<Member> = Vec::new();
        for (_, event) in &self.log {
            let named = match event {
                Event::ParticipantAdded(member) => std::slice::from_ref(member),
                Event::CommitStart { members } | Event::ForcedCommit { members, .. } => members,
                _ => &[],
            };
            for member in named {
                match members.iter_mut().find(|known| known.shard == member.shard) {
                    Some(known) => *known = *member,
                    None => members.push(*member),
                }
            }
        }
        members
    }

    fn votes(&self) -> BTreeMap<ShardId, Vote> {
        let votes = self.log.iter().filter_map(|(_, event)| match event {
            Event::VoteReceived { shard, vote } => Some((*shard, *vote)),
            _ => None,
        });
        votes.collect()
    }

    fn forced(&self) -> bool {
        self.has(|event| matches!(event, Event::ForcedCommit { .. } | Event::ForcedAbort { .. }))
    }

    /// Its beginning, if one decides alone and no operator has taken the decision over.
    fn alone(&self) -> Option<Sequence> {
        let begun = self.first(|event| *event == Event::OnePhaseStart);
        begun.filter(|_| !self.forced())
    }

    /// The state is that of the last event that has one.
    fn state(&self) -> &'static str {
        let mut state = "created";
        for (_, event) in &self.log {
            state = match event {
                Event::PrepareStart => "preparing",
                Event::OnePhaseStart => "delegated",
                Event::CommitStart { .. } | Event::ForcedCommit { .. } => "committing",
                Event::AbortStart | Event::ForcedAbort { .. } => "aborting",
                Event::RollbackStart if state != "aborting" => "rolling_back",
                Event::CommitComplete => "committed",
                Event::AbortComplete => "aborted",
                Event::RollbackComplete if state == "rolling_back" => "aborted",
                Event::ReadOnlyComplete => "read_only",
                _ => state,
            };
        }
        state
    }

    fn decision(&self) -> Option<Decision> {
        match self.state() {
            "committing" | "committed" => Some(Decision::Commit),
            "aborting" | "rolling_back" | "aborted" => Some(Decision::Abort),
            "read_only" => Some(Decision::ReadOnly),
            _ => None,
        }
    }

    fn ended(&self) -> bool {
        ["committed", "aborted", "read_only"].contains(&self.state())
    }

    fn last(&self) -> Sequence {
        self.log.last().map_or(Sequence(1), |(at, _)| *at)
    }

    fn evidence(&self) -> Sequence {
        let decided = self.first(|event| {
            matches!(
                event,
                Event::CommitStart { .. }
                    | Event::ForcedCommit { .. }
                    | Event::AbortStart
                    | Event::ForcedAbort { .. }
                    | Event::RollbackStart
            )
        });
        decided.unwrap_or(self.last())
    }

    fn everybody_voted(&self, with: &[Vote]) -> bool {
        let votes = self.votes();
        let voted =
            |member: &Member| votes.get(&member.shard).is_some_and(|vote| with.contains(vote));
        self.members().iter().all(voted)
    }

    fn writers(&self) -> Vec<Member> {
        let votes = self.votes();
        let mut writers = self.members();
        writers.retain(|member| votes.get(&member.shard) != Some(&Vote::ReadOnly));
        writers
    }

    /// Whether this event follows, by the state and what was there before.
    fn allows(&self, event: &Event) -> Result<(), IllegalTransition> {
        use IllegalTransition as Illegal;
        let state = self.state();
        let out_of_place = Err(Illegal::OutOfPlace { event: event.name(), state });
        let open = ["created", "preparing", "delegated"].contains(&state);
        let undone = ["aborting", "rolling_back"].contains(&state);
        if matches!(event, Event::Created { .. }) {
            return Err(Illegal::CreatedTwice);
        }
        if self.ended() {
            return out_of_place;
        }
        let follows = match event {
            Event::Created { .. } => false,
            Event::ParticipantAdded(member) => {
                let known = self.members().iter().any(|known| known.shard == member.shard);
                if state == "created" && known {
                    return Err(Illegal::DuplicateShard);
                }
                state == "created"
            }
            Event::PrepareStart => state == "created",
            Event::OnePhaseStart => state == "created" && self.members().len() == 1,
            Event::VoteReceived { shard, .. } => {
                if !undone && state != "preparing" {
                    return out_of_place;
                }
                if !self.members().iter().any(|member| member.shard == *shard) {
                    return Err(Illegal::UnknownShard);
                }
                if self.votes().contains_key(shard) {
                    return Err(Illegal::SecondVote);
                }
                true
            }
            Event::CommitStart { members } => {
                if undone {
                    return Err(Illegal::SecondDecision);
                }
                let stranger =
                    |named: &Member| !self.members().iter().any(|known| known.shard == named.shard);
                let agreed = self.everybody_voted(&[Vote::Commit, Vote::ReadOnly]);
                let backed = state == "delegated" || state == "preparing" && agreed;
                if open && (!backed || members.iter().any(stranger)) {
                    return Err(Illegal::UnbackedCommit);
                }
                open
            }
            Event::ForcedCommit { .. } | Event::ForcedAbort { .. } => {
                if !open {
                    return Err(Illegal::SecondDecision);
                }
                true
            }
            Event::CommitComplete => state == "committing",
            Event::AbortStart => {
                if state == "committing" {
                    return Err(Illegal::SecondDecision);
                }
                true
            }
            Event::AbortComplete => undone || ["created", "preparing"].contains(&state),
            Event::ReadOnlyComplete => {
                let nothing = state == "preparing" && self.everybody_voted(&[Vote::ReadOnly]);
                nothing || state == "delegated"
            }
            Event::RollbackStart => undone || state == "preparing",
            Event::RollbackComplete => {
                let begun = self.has(|event| *event == Event::RollbackStart);
                state == "rolling_back" || state == "aborting" && begun
            }
        };
        if follows { Ok(()) } else { out_of_place }
    }

    /// Members by number, and the shard of each.
    fn numbered(&self) -> Vec<(u32, ShardId)> {
        (0..).zip(self.members()).map(|(at, member)| (at, member.shard)).collect()
    }

    fn awaits_commit(&self, shard: ShardId) -> bool {
        self.state() == "committing"
            && self.alone().is_none()
            && !self.acknowledged.contains(&shard)
            && self.votes().get(&shard) != Some(&Vote::ReadOnly)
    }

    fn told_after(&self, decision: Decision) -> Sequence {
        let recorded = decision == Decision::Commit && self.alone().is_none();
        if recorded { self.evidence() } else { Sequence::NONE }
    }

    fn pending(&self) -> Vec<Effect> {
        let (votes, members) = (self.votes(), self.numbered());
        let tell = |decision| Effect::Tell { decision, after: self.told_after(decision) };
        let mut owed: Vec<Effect> = self.decision().map(tell).into_iter().collect();
        match self.state() {
            "delegated" => owed.push(Effect::Delegate { member: 0, after: self.alone().unwrap() }),
            "preparing" => {
                let silent = members.iter().filter(|(_, shard)| !votes.contains_key(shard));
                owed.extend(silent.map(|(member, _)| Effect::Prepare { member: *member }));
            }
            "committing" => {
                let after = self.evidence();
                let waits = members.iter().filter(|(_, shard)| self.awaits_commit(*shard));
                owed.extend(waits.map(|(member, _)| Effect::Commit { member: *member, after }));
            }
            "aborting" | "rolling_back" if self.alone().is_none() => {
                let holds = |shard: &ShardId| matches!(votes.get(shard), None | Some(Vote::Commit));
                let told = members.iter().filter(|(_, shard)| holds(shard));
                owed.extend(told.map(|(member, _)| Effect::Abort { member: *member }));
            }
            _ => {}
        }
        owed
    }

    fn settle(&self) -> Option<Event> {
        match self.state() {
            "preparing" if self.votes().values().any(|vote| *vote == Vote::Abort) => {
                Some(Event::AbortStart)
            }
            "preparing" if self.everybody_voted(&[Vote::ReadOnly]) => Some(Event::ReadOnlyComplete),
            "preparing" if self.everybody_voted(&[Vote::Commit, Vote::ReadOnly]) => {
                Some(Event::CommitStart { members: self.writers() })
            }
            "committing" => {
                let waits = self.members().iter().any(|member| self.awaits_commit(member.shard));
                (!waits).then_some(Event::CommitComplete)
            }
            _ => None,
        }
    }

    fn decide(&self, input: &Input) -> Option<Event> {
        let state = self.state();
        let undecided = ["created", "preparing"].contains(&state);
        let agreed = state == "preparing" && self.everybody_voted(&[Vote::Commit, Vote::ReadOnly]);
        match *input {
            Input::Vote { shard, vote } => {
                let known = self.members().iter().any(|member| member.shard == shard);
                match (state, vote) {
                    _ if !known => None,
                    ("delegated", Vote::Commit) => {
                        Some(Event::CommitStart { members: self.members() })
                    }
                    ("delegated", Vote::Abort) => Some(Event::AbortStart),
                    ("delegated", Vote::ReadOnly) => Some(Event::ReadOnlyComplete),
                    ("preparing", _) if !self.votes().contains_key(&shard) => {
                        Some(Event::VoteReceived { shard, vote })
                    }
                    _ => None,
                }
            }
            Input::TimedOut | Input::AbortRequested => {
                (undecided && !agreed).then_some(Event::AbortStart)
            }
            Input::Restarted { .. } => undecided.then_some(Event::AbortStart),
            Input::AbortsSent => {
                let undone = ["aborting", "rolling_back"].contains(&state);
                undone.then_some(Event::AbortComplete)
            }
        }
    }

    fn force(&self, commit: bool) -> Result<Option<Event>, ForceRefusal> {
        let audit = audit();
        match (self.decision(), self.forced()) {
            (None, _) if commit => Ok(Some(Event::ForcedCommit { members: self.writers(), audit })),
            (None, _) => Ok(Some(Event::ForcedAbort { audit })),
            (Some(decision), forced) => {
                let before = decision == Decision::Commit;
                match forced {
                    true if before == commit => Ok(None),
                    true => Err(ForceRefusal::ForcedOtherwise { commit: before }),
                    false => Err(ForceRefusal::Decided { commit: before }),
                }
            }
        }
    }

    fn was_refused(&self) -> bool {
        let against = self.votes().values().any(|vote| *vote == Vote::Abort);
        against || self.alone().is_some() && self.decision() == Some(Decision::Abort)
    }

    fn check(&self, tx: &Transaction) {
        let history = &self.log;
        assert_eq!(tx.state(), self.state(), "{history:?}");
        assert_eq!(tx.decision(), self.decision(), "{history:?}");
        assert_eq!(tx.ended(), self.decision().filter(|_| self.ended()), "{history:?}");
        assert_eq!(tx.is_forced(), self.forced(), "{history:?}");
        assert_eq!(tx.is_delegated(), self.state() == "delegated", "{history:?}");
        assert_eq!(tx.was_refused(), self.was_refused(), "{history:?}");
        assert_eq!(tx.created_at(), Sequence(1));
        assert_eq!((tx.last(), tx.evidence()), (self.last(), self.evidence()), "{history:?}");
        assert_eq!(tx.members(), self.members(), "{history:?}");
        let votes = self.votes();
        let in_order = |(_, shard): (u32, ShardId)| Some((shard, *votes.get(&shard)?));
        let expected: Vec<_> = self.numbered().into_iter().filter_map(in_order).collect();
        assert_eq!(tx.votes().collect::<Vec<_>>(), expected, "{history:?}");
        for decision in [Decision::Commit, Decision::Abort, Decision::ReadOnly] {
            let after = self.told_after(decision);
            assert_eq!(tx.told_after(decision), after, "{decision:?}: {history:?}");
        }
        for number in 0..SHARDS {
            let shard = shard(number);
            let members = self.members();
            let known = members.iter().find(|member| member.shard == shard);
            assert_eq!(tx.member(shard), known, "{history:?}");
            let awaited = known.filter(|member| self.awaits_commit(member.shard));
            assert_eq!(tx.awaited(shard), awaited, "{history:?}");
            let inputs = VOTES.map(|vote| Input::Vote { shard, vote });
            for input in inputs {
                assert_eq!(tx.decide(&input), self.decide(&input), "{input:?}: {history:?}");
            }
        }
        let restarted = Input::Restarted { epoch: Epoch::new(2) };
        for input in [Input::TimedOut, Input::AbortRequested, Input::AbortsSent, restarted] {
            assert_eq!(tx.decide(&input), self.decide(&input), "{input:?}: {history:?}");
        }
        for (at, member) in (0..).zip(self.members()) {
            let store = member.store.map(|(store, _)| store);
            let known = !self.forced() || votes.get(&member.shard) == Some(&Vote::Commit);
            assert_eq!(tx.store_to_commit(at), store.filter(|_| known), "{history:?}");
        }
        assert_eq!(tx.store_to_commit(self.members().len() as u32), None);
        for commit in [false, true] {
            assert_eq!(tx.force(commit, &audit()), self.force(commit), "{commit}: {history:?}");
        }
        assert_eq!(tx.settle(), self.settle(), "{history:?}");
        let mut owed = Vec::new();
        tx.pending(&mut owed);
        assert_eq!(owed, self.pending(), "{history:?}");
    }
}

/// Something that a log may say, mostly what it would.
fn event(stream: &mut Stream, plain: &Plain, created: &Event) -> Event {
    let any = |stream: &mut Stream| member(stream.below(SHARDS), stream.below(3));
    let named = |stream: &mut Stream| {
        let mut named = if stream.below(2) == 0 { plain.writers() } else { Vec::new() };
        if stream.below(4) == 0 {
            named.push(any(stream));
        }
        named
    };
    if let Some(owed) = plain.settle()
        && stream.below(3) == 0
    {
        return owed;
    }
    match stream.below(if plain.state() == "created" { 9 } else { 22 }) {
        0..4 => Event::ParticipantAdded(member(stream.below(SHARDS - 1), stream.below(3))),
        4..6 => Event::PrepareStart,
        6..8 => Event::OnePhaseStart,
        8 if stream.below(3) > 0 => created.clone(),
        8 => Event::AbortStart,
        9..15 => {
            let vote = VOTES[stream.below(3) as usize];
            Event::VoteReceived { shard: shard(stream.below(SHARDS)), vote }
        }
        15 => Event::CommitStart { members: named(stream) },
        16 => Event::ForcedCommit { members: named(stream), audit: audit() },
        17 => Event::ForcedAbort { audit: audit() },
        18 => [Event::CommitComplete, Event::AbortComplete][stream.below(2) as usize].clone(),
        19 => [Event::RollbackStart, Event::RollbackComplete][stream.below(2) as usize].clone(),
        20 => Event::ReadOnlyComplete,
        _ => Event::AbortStart,
    }
}

#[test]
fn histories_at_random_go_as_a_plain_model_says() {
    let mut states: BTreeMap<&str, u32> = BTreeMap::new();
    for history in 0..6_000 {
        let mut stream = Key::root(history).child("transactions").stream();
        let created = Event::Created {
            coordinator: COORDINATOR,
            request_key: None,
            fingerprint: None,
            parent: None,
        };
        let mut tx = Transaction::created(ID, Sequence(1), &created).unwrap();
        let mut plain = Plain { log: Vec::new(), acknowledged: BTreeSet::new() };
        for at in 2..2 + stream.between(4, 24) {
            let event = event(&mut stream, &plain, &created);
            let (expected, before) = (plain.allows(&event), tx.clone());
            let applied = tx.apply(Sequence(at), &event);
            assert_eq!(applied, expected, "{event:?} after {:?}", plain.log);
            if matches!(expected, Ok(()) | Err(IllegalTransition::UnbackedCommit)) {
                plain.log.push((Sequence(at), event));
            } else {
                assert_eq!(tx, before, "{event:?} was refused");
            }
            if stream.below(4) == 0 {
                let shard = shard(stream.below(SHARDS));
                let known = plain.members().iter().any(|member| member.shard == shard);
                let reads = plain.votes().get(&shard) == Some(&Vote::ReadOnly);
                let heard = known && !reads && plain.state() == "committing";
                let news = heard && plain.acknowledged.insert(shard);
                assert_eq!(tx.acknowledge(shard), news, "{:?}", plain.log);
            }
            plain.check(&tx);
            *states.entry(plain.state()).or_default() += 1;
        }
    }
    assert_eq!(states.len(), 9, "every state was reached: {states:?}");
    assert!(states.values().all(|times| *times > 500), "and more than a few times: {states:?}");
}

/// What its creation says is found in it, and no other event begins one.
#[test]
fn a_transaction_is_what_its_creation_says() {
    let parent = ParentStep { saga: OperationId(9), step: 3, undo: true };
    let key = RequestKey::new(b"order 7").unwrap();
    for (request_key, fingerprint, parent) in
        [(None, None, None), (Some(key), Some(5), Some(parent))]
    {
        let created = Event::Created {
            coordinator: COORDINATOR,
            request_key: request_key.clone(),
            fingerprint,
            parent,
        };
        let tx = Transaction::created(ID, Sequence(4), &created).unwrap();
        assert_eq!((tx.id(), tx.coordinator()), (ID, COORDINATOR));
        assert_eq!((tx.request_key(), tx.fingerprint()), (request_key.as_ref(), fingerprint));
        assert_eq!((tx.parent(), tx.created_at()), (parent, Sequence(4)));
    }
    let other = Transaction::created(ID, Sequence(4), &Event::PrepareStart);
    assert_eq!(other, Err(IllegalTransition::Unknown { event: "tx_prepare_start" }));
}

/// Up to the most that may take part; none, one more and a shard twice are refused with what is wrong.
#[test]
fn who_may_take_part() {
    let members: Vec<Member> = (0..u64::from(MEMBERS_MAX) + 1).map(|n| member(n, 1)).collect();
    for count in 0..=members.len() {
        let asked = &members[..count];
        let admitted = Transaction::admission(COORDINATOR, None, Some(7), asked);
        let expected = match count {
            0 => Err(AdmissionError::Empty),
            65 => Err(AdmissionError::TooMany { members: 65 }),
            _ => {
                let created = Event::Created {
                    coordinator: COORDINATOR,
                    request_key: None,
                    fingerprint: Some(7),
                    parent: None,
                };
                let joined = asked.iter().copied().map(Event::ParticipantAdded);
                let begun = std::iter::once(created).chain(joined);
                Ok(begun.chain([Event::PrepareStart]).collect())
            }
        };
        assert_eq!(admitted, expected, "{count}");
    }
    for twice in [[0, 1, 0], [0, 1, 1], [2, 2, 0]] {
        let twice: Vec<Member> = twice.iter().map(|at| members[*at]).collect();
        let refused = Transaction::admission(COORDINATOR, None, None, &twice).unwrap_err();
        let AdmissionError::DuplicateShard { shard } = refused else { panic!("{refused}") };
        assert_eq!(twice.iter().filter(|member| member.shard == shard).count(), 2);
    }
}
