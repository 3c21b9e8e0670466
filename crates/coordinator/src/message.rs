use base::{BootCount, CoordinatorId, Epoch, NodeName, OperationId, StoreId, Token};
use saga::{Direction, Output, StepInput, StepKind};
use std::sync::Arc;
use twopc::{PeerVerdict, Verdict, Vote, Watermark};

/// A saga as the nodes that run its steps know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SagaKey {
    /// Who coordinates it. A coordinator's id is also the name of the node where it listens.
    pub coordinator: CoordinatorId,
    /// The id that the coordinator drew.
    pub id: OperationId,
}

impl SagaKey {
    /// Where the coordinator listens.
    #[must_use]
    pub fn coordinator_node(&self) -> NodeName {
        NodeName(self.coordinator.0)
    }
}

/// What a node answers to a call of a step. Silence is the third outcome: unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepAnswer {
    /// The effect of this token is durable.
    Done,
    /// A durable refusal: no call with this token ever has an effect.
    Refused {
        /// The reason's code, for the log.
        code: u32,
    },
    /// Not now: something is in the way. Nothing was recorded; ask again.
    NotNow,
}

/// Which call of a step it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The step's number.
    pub step: u32,
    /// Forward, or its compensation.
    pub direction: Direction,
    /// A read-only step changes nothing.
    pub kind: StepKind,
    /// It is never refused for good: where another would be, it is put off.
    pub cannot_fail: bool,
    /// Backward: what an operator has to do with it.
    pub order: UndoOrder,
    /// Forward: the outputs that it takes. Backward: the step's own output, if it is known.
    pub inputs: Arc<[StepInput]>,
}

/// What an operator has to do with a compensation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UndoOrder {
    /// Nothing.
    None,
    /// The call's body is the operator's: it counts, whatever the node knows of the step.
    Override,
    /// Nothing; but the node has not done the step, and so knows nothing of it that could be undone: it was a
    /// transaction or a saga, which succeeded. The call's body says what is to be undone.
    Alone,
    /// The operator has undone it by hand. The node records the call as done, and changes nothing.
    MarkDone,
}

/// Everything that travels between nodes on behalf of operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Two-phase commit.
    Transaction(twopc::Message),
    /// Coordinator to node: run a step, or its compensation.
    StepCall {
        /// The saga.
        key: SagaKey,
        /// The coordinator's epoch.
        epoch: Epoch,
        /// The idempotency token of (saga, step, direction).
        token: Token,
        /// What the step is asked to do; opaque to the coordinator.
        body: Arc<[u8]>,
        /// Which call it is.
        call: Call,
    },
    /// Node to coordinator: what became of a call.
    StepReply {
        /// The saga.
        key: SagaKey,
        /// The step's number.
        step: u32,
        /// Forward, or its compensation.
        direction: Direction,
        /// The token of the call.
        token: Token,
        /// The answer.
        answer: StepAnswer,
        /// With "done", forward: what the step brought.
        output: Option<Box<Output>>,
    },
    /// Node to coordinator: which of your operations are finished? Asked before a snapshot of the node's log,
    /// which leaves out what is.
    AskFinished,
    /// Coordinator to node: these are.
    Finished {
        /// Who says so.
        coordinator: CoordinatorId,
        /// Under which epoch.
        epoch: Epoch,
        /// What is finished.
        watermark: Arc<Watermark>,
    },
    /// Coordinator to node: announce your store and boot count.
    Hello,
    /// Node to coordinator: this store, opened this often. Sent when asked and when a node starts.
    Announce {
        /// Its store.
        store: StoreId,
        /// How often it was opened.
        boot: BootCount,
    },
}

/// The kinds of message, for filters, counters and traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MessageKind {
    /// PREPARE
    Prepare = 1,
    /// A vote.
    Vote,
    /// COMMIT
    Commit,
    /// ACK
    Ack,
    /// ABORT
    Abort,
    /// A participant asks the coordinator.
    Inquiry,
    /// The coordinator answers.
    Answer,
    /// A participant asks a peer.
    PeerInquiry,
    /// The peer answers.
    PeerAnswer,
    /// A step is called, or its compensation.
    Step,
    /// What became of it.
    StepReply,
    /// Announce yourself.
    Hello,
    /// A store announces itself.
    Announce,
    /// A node asks what is finished.
    AskFinished,
    /// A coordinator says it.
    Finished,
    /// A coordinator asks what was decided in one phase.
    Resolve,
    /// A coordinator has noted that a branch ended otherwise.
    Noted,
}

impl MessageKind {
    /// Every kind.
    pub const ALL: [MessageKind; 17] = [
        Self::Prepare,
        Self::Vote,
        Self::Commit,
        Self::Ack,
        Self::Abort,
        Self::Inquiry,
        Self::Answer,
        Self::PeerInquiry,
        Self::PeerAnswer,
        Self::Step,
        Self::StepReply,
        Self::Hello,
        Self::Announce,
        Self::AskFinished,
        Self::Finished,
        Self::Resolve,
        Self::Noted,
    ];

    /// Its name in scenario files and traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Vote => "vote",
            Self::Commit => "commit",
            Self::Ack => "ack",
            Self::Abort => "abort",
            Self::Inquiry => "inquiry",
            Self::Answer => "answer",
            Self::PeerInquiry => "peer_inquiry",
            Self::PeerAnswer => "peer_answer",
            Self::Step => "step",
            Self::StepReply => "step_reply",
            Self::Hello => "hello",
            Self::Announce => "announce",
            Self::AskFinished => "ask_finished",
            Self::Finished => "finished",
            Self::Resolve => "resolve",
            Self::Noted => "noted",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<MessageKind> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl Message {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> MessageKind {
        match self {
            Self::Transaction(message) => match message {
                twopc::Message::Prepare { .. } => MessageKind::Prepare,
                twopc::Message::Resolve { .. } => MessageKind::Resolve,
                twopc::Message::Vote { .. } => MessageKind::Vote,
                twopc::Message::Commit { .. } => MessageKind::Commit,
                twopc::Message::Ack { .. } => MessageKind::Ack,
                twopc::Message::Noted { .. } => MessageKind::Noted,
                twopc::Message::Abort { .. } => MessageKind::Abort,
                twopc::Message::Inquiry { .. } => MessageKind::Inquiry,
                twopc::Message::Answer { .. } => MessageKind::Answer,
                twopc::Message::PeerInquiry { .. } => MessageKind::PeerInquiry,
                twopc::Message::PeerAnswer { .. } => MessageKind::PeerAnswer,
            },
            Self::StepCall { .. } => MessageKind::Step,
            Self::StepReply { .. } => MessageKind::StepReply,
            Self::Hello => MessageKind::Hello,
            Self::Announce { .. } => MessageKind::Announce,
            Self::AskFinished => MessageKind::AskFinished,
            Self::Finished { .. } => MessageKind::Finished,
        }
    }

    /// Feeds what tells this message from others to a trace's hash, in words of 64 bits: its kind,
    /// operation, shard or step, and answer. Bodies and lists are left out: they follow from these.
    pub fn digest(&self, word: &mut impl FnMut(u64)) {
        word(self.kind() as u64);
        match self {
            Self::Transaction(message) => {
                let key = message.key();
                word(key.coordinator.number());
                word(key.id.0);
                match message {
                    twopc::Message::Prepare { epoch, shard, .. }
                    | twopc::Message::Resolve { epoch, shard, .. }
                    | twopc::Message::Abort { epoch, shard, .. }
                    | twopc::Message::Noted { epoch, shard, .. }
                    | twopc::Message::Commit { epoch, shard, .. } => {
                        word(shard.number());
                        word(u64::from(epoch.value()));
                    }
                    twopc::Message::Answer { epoch, shard, verdict, .. } => {
                        word(shard.number());
                        word(u64::from(epoch.value()));
                        word(match verdict {
                            Verdict::Committed => 0,
                            Verdict::Aborted => 1,
                            Verdict::Pending => 2,
                            Verdict::InDoubt => 3,
                        });
                    }
                    twopc::Message::Vote { shard, vote, store, boot, .. } => {
                        word(shard.number());
                        let vote = match vote {
                            Vote::Abort => 0,
                            Vote::Commit => 1,
                            Vote::ReadOnly => 2,
                        };
                        word(vote << 32 | u64::from(boot.0));
                        word(store.0);
                    }
                    twopc::Message::Ack { shard, store, heuristic, .. } => {
                        word(shard.number());
                        word(store.0);
                        word(heuristic.map_or(0, |it| u64::from(it.code())));
                    }
                    twopc::Message::Inquiry { shard, .. } => word(shard.number()),
                    twopc::Message::PeerInquiry { shard, peer, .. } => {
                        word(shard.number());
                        word(peer.shard.number());
                    }
                    twopc::Message::PeerAnswer { shard, verdict, .. } => {
                        word(shard.number());
                        word(match verdict {
                            PeerVerdict::Committed => 0,
                            PeerVerdict::Aborted => 1,
                            PeerVerdict::Prepared => 2,
                            PeerVerdict::Unknown => 3,
                            PeerVerdict::Finished => 4,
                        });
                    }
                }
            }
            Self::StepCall { key, epoch, call, .. } => {
                let Call { step, direction, order, inputs, .. } = call;
                word(key.coordinator.number());
                word(key.id.0);
                word(u64::from(*step) << 1 | u64::from(*direction == Direction::Backward));
                word(u64::from(epoch.value()));
                match order {
                    UndoOrder::None => {}
                    UndoOrder::Override => word(1),
                    UndoOrder::MarkDone => word(2),
                    UndoOrder::Alone => word(3),
                }
                for input in inputs.iter() {
                    word(u64::from(input.step));
                    digest_output(&input.output, word);
                }
            }
            Self::StepReply { key, step, direction, answer, output, .. } => {
                word(key.coordinator.number());
                word(key.id.0);
                word(u64::from(*step) << 1 | u64::from(*direction == Direction::Backward));
                word(match answer {
                    StepAnswer::Done => 0,
                    StepAnswer::NotNow => 1,
                    StepAnswer::Refused { code } => 2 | u64::from(*code) << 2,
                });
                if let Some(output) = output {
                    digest_output(output, word);
                }
            }
            Self::Hello | Self::AskFinished => {}
            Self::Finished { coordinator, epoch, watermark } => {
                word(coordinator.number());
                word(u64::from(epoch.value()));
                word(watermark.highest().0);
                word(watermark.active().len() as u64);
            }
            Self::Announce { store, boot } => {
                word(store.0);
                word(u64::from(boot.0));
            }
        }
    }
}

fn digest_output(output: &Output, word: &mut impl FnMut(u64)) {
    let (bytes, len) = match output {
        Output::Inline(bytes) => (&bytes[..], bytes.len() as u64),
        Output::Hashed { hash, bytes } => (&hash[..], *bytes),
    };
    word(len);
    for chunk in bytes.chunks(8) {
        let mut whole = [0; 8];
        whole[..chunk.len()].copy_from_slice(chunk);
        word(u64::from_le_bytes(whole));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::ShardId;
    use twopc::Peer;

    /// Two runs are taken for the same by their traces: a message that differs in anything that a trace is to tell
    /// apart has another digest.
    #[test]
    fn a_digest_tells_messages_apart() {
        use twopc::{Heuristic, Message as Tx, TxKey};
        let mut all = Vec::new();
        for (at, one, two, three) in
            [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)]
        {
            let coordinator = CoordinatorId(NodeName::numbered(at).0);
            let id = OperationId(one);
            let (key, saga) = (TxKey { coordinator, id }, SagaKey { coordinator, id });
            let (shard, epoch) = (ShardId(NodeName::numbered(two).0), Epoch::new(three));
            let (store, boot) = (StoreId(u64::from(three)), BootCount(two as u32));
            let of_epoch = [
                Tx::Prepare {
                    key,
                    epoch,
                    shard,
                    peers: [].into(),
                    work: [].into(),
                    one_phase: false,
                },
                Tx::Resolve { key, epoch, shard },
                Tx::Commit { key, epoch, shard, store: None },
                Tx::Abort { key, epoch, shard },
                Tx::Noted { key, epoch, shard },
            ];
            all.extend(of_epoch.map(Message::Transaction));
            let verdicts =
                [Verdict::Committed, Verdict::Aborted, Verdict::Pending, Verdict::InDoubt];
            let answers = verdicts.map(|verdict| Tx::Answer { key, epoch, shard, verdict });
            all.extend(answers.map(Message::Transaction));
            let votes = [Vote::Abort, Vote::Commit, Vote::ReadOnly];
            let votes = votes.map(|vote| Tx::Vote { key, shard, vote, store, boot });
            all.extend(votes.map(Message::Transaction));
            let ends = Heuristic::ALL.map(Some).into_iter().chain([None]);
            let acks = ends.map(|heuristic| Tx::Ack { key, shard, store, heuristic });
            all.extend(acks.map(Message::Transaction));
            let verdicts = [
                PeerVerdict::Committed,
                PeerVerdict::Aborted,
                PeerVerdict::Prepared,
                PeerVerdict::Unknown,
                PeerVerdict::Finished,
            ];
            let answers = verdicts.map(|verdict| Tx::PeerAnswer { key, shard, verdict });
            all.extend(answers.map(Message::Transaction));
            if three == 1 {
                // What follows knows no epoch and no store.
                all.push(Message::Transaction(Tx::Inquiry { key, shard, store }));
                let peer = Peer { shard, node: NodeName::numbered(9), store, boot };
                all.push(Message::Transaction(Tx::PeerInquiry {
                    key,
                    shard,
                    peer: Box::new(peer),
                }));
            }

            let orders =
                [UndoOrder::None, UndoOrder::Override, UndoOrder::MarkDone, UndoOrder::Alone];
            let direction = if two == 1 { Direction::Forward } else { Direction::Backward };
            let inputs = |lens: &[u8]| -> Arc<[StepInput]> {
                let output = |len: &u8| Output::Inline(vec![7; usize::from(*len)].into());
                lens.iter().map(|len| StepInput { step: 3, output: output(len) }).collect()
            };
            let (kind, body): (_, Arc<[u8]>) = (StepKind::Compensatable, [].into());
            let calls = orders.map(|order| (order, inputs(&[]))).into_iter().chain([
                (UndoOrder::None, inputs(&[1])),
                (UndoOrder::None, inputs(&[9])),
                (UndoOrder::None, inputs(&[1, 1])),
            ]);
            all.extend(calls.map(|(order, inputs)| {
                let call = Call { step: 0, direction, kind, cannot_fail: false, order, inputs };
                let (token, body) = (Token([1; 16]), body.clone());
                Message::StepCall { key: saga, epoch, token, body, call }
            }));
            let outputs = [
                None,
                Some(Output::Inline([1].into())),
                Some(Output::Inline([2].into())),
                Some(Output::Hashed { hash: [0; 32], bytes: 1 }),
                Some(Output::Hashed { hash: [0; 32], bytes: 2 }),
            ];
            let done = outputs.map(|output| (StepAnswer::Done, output.map(Box::new)));
            let others = [
                StepAnswer::NotNow,
                StepAnswer::Refused { code: 0 },
                StepAnswer::Refused { code: 1 },
            ];
            let others = others.map(|answer| (answer, None));
            all.extend(done.into_iter().chain(others).map(|(answer, output)| {
                let (step, token) = (three, Token([1; 16]));
                Message::StepReply { key: saga, step, direction, token, answer, output }
            }));
            all.push(Message::Announce { store, boot });
            let highest = OperationId(two);
            let ids = (1..two).map(OperationId);
            let watermark = Arc::new(Watermark::new(highest, ids));
            all.push(Message::Finished { coordinator, epoch, watermark });
        }
        all.extend([Message::Hello, Message::AskFinished]);

        let mut digests = std::collections::BTreeMap::new();
        let mut trace = 0xCBF2_9CE4_8422_2325_u64;
        for message in all {
            let mut words = Vec::new();
            message.digest(&mut |word| words.push(word));
            for word in &words {
                trace = (trace ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
            }
            if let Some(other) = digests.insert(words, message.clone()) {
                assert_eq!(other, message, "two messages have one digest");
            }
        }
        // The hashes of runs that are written down rest on these words.
        assert_eq!(trace, 0x4B74_F70C_26C3_B32A, "{trace:#X}");
    }

    /// Messages are moved several times on their way: two lines of a cache, not three.
    #[test]
    fn a_message_is_small() {
        assert!(size_of::<Message>() <= 112, "{}", size_of::<Message>());
        assert!(size_of::<crate::Output>() <= 152, "{}", size_of::<crate::Output>());
    }
}
