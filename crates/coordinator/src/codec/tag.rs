//! The tags of our extensions. Values are little-endian; a value longer than 65,535 bytes stands in
//! parts, one behind the other under the same tag.

/// A reader that does not know one of these must not go on with the log. None is in use.
pub const MUST_UNDERSTAND: std::ops::RangeInclusive<u8> = 96..=127;
/// The user's name for an operation, at most 64 bytes. On both created records.
pub const REQUEST_KEY: u8 = 1;
/// 16 bytes, from which a saga's tokens follow. On `saga_created`.
pub const NONCE: u8 = 2;
/// u32 each. On `saga_step_added`; without it steps are in sequence.
pub const DEPENDENCIES: u8 = 3;
/// 32 bytes: where a step runs. On `saga_step_added`.
pub const NODE: u8 = 4;
/// What a step, or a branch of a transaction, is asked to do. On `saga_step_added`, `tx_prepared`
/// and `step_outcome`.
pub const BODY: u8 = 5;
/// u8: 0 none, 1 maybe. On `saga_step_failed`; without it none.
pub const EFFECT: u8 = 6;
/// Participants, 76 bytes each: shard, node, store u64, boot count u32. On `tx_commit_start` and
/// `tx_prepared`. A store of which nothing is known has boot count 0.
pub const PARTICIPANTS: u8 = 7;
/// Store u64, boot count u32. On `tx_participant_added`.
pub const STORE: u8 = 8;
/// u32: the highest epoch of the coordinator that was seen. On the participant's records. On
/// `in_doubt`: up to which epoch ids may be in doubt.
pub const EPOCH: u8 = 9;
/// 32 bytes: which of the participant's shards. On the participant's records.
pub const SHARD: u8 = 10;
/// u8, 1: a NO was promised to a peer. On `tx_participant_aborted`.
pub const PROMISED: u8 = 11;
/// Step u32, direction u8 (0 forward, 1 backward), token 16 bytes. On `step_outcome`.
pub const CALL: u8 = 12;
/// u8 (0 done, 1 refused), error code u32, u8 (1: the store was changed). On `step_outcome`.
pub const ANSWER: u8 = 13;
/// u8: 0 a record was lost, 1 a saga, 2 a transaction, 3 every id that the log does not know. On
/// `in_doubt`.
pub const DOUBT: u8 = 14;
/// u8: 0 compensatable, 1 pivot, 2 retriable, 3 read-only. On `saga_step_added`; without it 0.
pub const KIND: u8 = 32;
/// u64, nanoseconds. On `saga_created` and `saga_step_added`.
pub const TIMEOUT: u8 = 33;
/// UTF-8, 1 to 64 bytes: by what name a step's code is found. On `saga_step_added`.
pub const ACTION_NAME: u8 = 34;
/// u32 each: the steps whose outputs a step is given. On `saga_step_added`.
pub const INPUTS: u8 = 35;
/// u8: 0 bytes, 1 text, 2 u64, 3 i64, 4 bool. On `saga_step_added`; without it a step brings
/// nothing.
pub const OUTPUT_TYPE: u8 = 36;
/// Version u32, name UTF-8 of 1 to 64 bytes: of the definition. On `saga_created`.
pub const DEFINITION: u8 = 37;
/// 16 bytes that tell the definition, bodies included, from any other. On `saga_created`; on
/// `tx_created` those that tell the branches, their work included.
pub const FINGERPRINT: u8 = 38;
/// u8: 0, and the bytes behind it are what a step brought; 1, and behind it are their hash, 32
/// bytes, and their number, u64. On `saga_step_succeeded` and `step_outcome`.
pub const OUTPUT: u8 = 39;
/// u8, 1: the branch waits for an operator. On `saga_compensation_failed`.
pub const PARKED: u8 = 40;
/// What u8 (0 retry now, 1 mark done, 2 close unanswered, 3 override: what is asked instead is under
/// [`BODY`], 4 the transaction that undoes it instead is under [`UNDO`]), length of who u16, who, why: an
/// operator's order, no attempt. On `saga_compensation_failed`.
pub const ORDER: u8 = 41;
/// u8, 1: an operator said so, not the participant. On `saga_compensation_succeeded`.
pub const HEURISTIC: u8 = 42;
/// UTF-8, 1 to 64 bytes: by what name a step's compensation is found. On `saga_step_added`.
pub const UNDO_NAME: u8 = 44;
/// u8, 1: an operator has undone it by hand; nothing was changed by this call. On `step_outcome`.
pub const MARKED: u8 = 43;
/// u8, 1: the vote is read-only; on the vote of such a one, whose published byte is 1, and on the
/// `tx_abort_complete` of a transaction of which every vote is one. On `tx_vote_received` and
/// `tx_abort_complete`.
pub const READ_ONLY: u8 = 45;
/// u8, 1: the only participant decides by itself. On `tx_prepare_start`, and on the
/// `tx_participant_committed` that is such a decision: what it does is under [`BODY`].
pub const ONE_PHASE: u8 = 46;
/// When i64, Unix milliseconds, length of who u16, who, why: an operator ends what is in doubt, or has seen
/// to what came of that. On `tx_commit_start`, `tx_abort_start`, `tx_participant_committed`,
/// `tx_participant_aborted`, `tx_participant_heuristic`, `tx_heuristic`, `saga_completed` and
/// `saga_compensated`.
pub const FORCED: u8 = 47;
/// u8: on `tx_participant_heuristic` 0 it is decided to abort, 1 to commit, 2 the coordinator has noted it,
/// 3 an operator has seen to it; on `tx_heuristic` 1 the branch is lost (with [`FORCED`]: by the word of an operator),
/// 2 it has aborted, 3 it has committed, 4 an operator has seen to it.
pub const FOUND: u8 = 48;
/// u8: 0 its node, 1 a transaction: its branches, 2 a saga: its definition. On `saga_step_added`; without
/// it 0. What stands in both is in FORMAT.md.
pub const PERFORMER: u8 = 49;
/// u8: 0 a call, 1 a transaction: its branches, 2 the compensations of the sub-saga's own steps. On
/// `saga_step_added`; without it 0. On `saga_compensation_failed` with an order that says so: 1.
pub const UNDO: u8 = 50;
/// u32: so many transactions are voted down before the step is refused. On `saga_step_added`.
pub const ATTEMPTS: u8 = 51;
/// Saga u64, step u32, u8 (0 it does the step, 1 it undoes it): on whose behalf an operation runs. On
/// `saga_created` and `tx_created`.
pub const PARENT: u8 = 52;
/// Highest id u64, then the active ids up to it, u64 each, ascending: the finished-watermark. On
/// `coordinator_seen`.
pub const FINISHED: u8 = 75;
