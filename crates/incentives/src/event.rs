//! The words the bank is told and says: requests, facts, effects, refusals.

use crate::agreement::{Disagreement, Opinion};
use crate::{Account, EscrowId, Units};
use base::{NodeName, Ratio, Sequence, Time, Token};

/// What somebody wants of the bank, under a number of its own.
///
/// Each asker numbers its requests 1, 2, 3 … and has one under way at a time. A number names a
/// request for ever: delivered again it is answered again, and done once. Its key names it beyond a crash
/// of the asker, which may have forgotten the number: asked again under another number it is not done
/// again, for as long as [`Config::request_kept`](crate::Config::request_kept).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks: whoever the message came from, never what it claims.
    pub by: NodeName,
    /// One more than the asker's last request that was done.
    pub number: u64,
    /// The asker's name for it: whoever asks for the same again, however late, gives the same.
    pub key: Token,
    /// What it wants.
    pub ask: Ask,
}

/// What a request is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Whose.
    pub by: NodeName,
    /// Its number.
    pub number: u64,
    /// Its key.
    pub key: Token,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Units from the treasury to a wallet. Only the authority may.
    Grant {
        /// Whose wallet.
        to: NodeName,
        /// How much.
        units: Units,
    },
    /// Units from the asker's wallet to another.
    Transfer {
        /// Whose wallet.
        to: NodeName,
        /// How much.
        units: Units,
    },
    /// The asker's units stand behind an operator from now on: its stake if it is that operator
    /// itself, a delegation if not.
    Bond {
        /// Behind whom.
        operator: NodeName,
        /// How much.
        units: Units,
    },
    /// They come back, after the delay. What is on its way already waits with it anew.
    Unbond {
        /// From behind whom.
        operator: NodeName,
        /// How much.
        units: Units,
    },
    /// An operator earned this, with all who stand behind it. Only the authority may.
    Reward {
        /// Who.
        operator: NodeName,
        /// The period that it is for. An operator's periods grow.
        period: u64,
        /// How much.
        units: Units,
    },
    /// An operator did wrong. The asker has to be active, and somebody else.
    Report {
        /// Who.
        operator: NodeName,
        /// What.
        offence: Offence,
        /// What proves it: the challenge's nonce, say. It counts once, whoever reports it.
        evidence: Token,
        /// When it happened.
        happened: Time,
    },
    /// An operator's score is judged. Only the authority may, with what voters told it.
    Review {
        /// Who.
        operator: NodeName,
        /// What they told. Only active voters other than the operator count, each once.
        opinions: Vec<Opinion>,
    },
    /// The operator disputes a slash of itself.
    Dispute {
        /// Which.
        escrow: EscrowId,
    },
    /// A vote on a disputed slash. The asker has to be active, and to have no part in it.
    Vote {
        /// Which.
        escrow: EscrowId,
        /// Whether the slash is right.
        uphold: bool,
    },
}

/// What an operator can be reported for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// It did not prove in time that it stores what it should.
    FailedProof,
    /// It served or stored a shard whose digest is wrong.
    Corruption,
}

/// Why a slash was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody reported it.
    Reported {
        /// What.
        offence: Offence,
        /// Who.
        by: NodeName,
        /// With what proof.
        evidence: Token,
        /// When it had happened.
        happened: Time,
    },
    /// Voters agree that its score is too low.
    LowScore {
        /// The median.
        score: Ratio,
        /// How many distinct voters.
        voters: u32,
    },
}

/// A fact in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it was decided, on a clock that goes on over restarts. Never before an earlier event.
    pub at: Time,
    /// The request that it does; `None` if nobody asked: a deadline passed or a vote was decided.
    pub request: Option<RequestId>,
    /// What happened.
    pub fact: Fact,
}

/// What happened. A fact holds every amount that it moves: a replay computes none anew, so numbers
/// of the [`Config`](crate::Config) can change between two starts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact {
    /// From the treasury to a wallet.
    Granted {
        /// Whose.
        to: NodeName,
        /// How much.
        units: Units,
    },
    /// From wallet to wallet.
    Transferred {
        /// From whose.
        from: NodeName,
        /// To whose.
        to: NodeName,
        /// How much.
        units: Units,
    },
    /// From a wallet to a bond.
    Bonded {
        /// Behind whom.
        operator: NodeName,
        /// Whose.
        owner: NodeName,
        /// How much.
        units: Units,
    },
    /// Out of a bond, and on its way.
    Unbonding {
        /// From behind whom.
        operator: NodeName,
        /// Whose.
        owner: NodeName,
        /// How much.
        units: Units,
        /// When all that is on its way arrives.
        until: Time,
    },
    /// All that was on its way is in the wallet.
    Unbonded {
        /// From behind whom.
        operator: NodeName,
        /// Whose.
        owner: NodeName,
    },
    /// From the treasury to the wallets of an operator and of those behind it.
    Rewarded {
        /// Who earned it.
        operator: NodeName,
        /// For which period.
        period: u64,
        /// To whom, how much.
        shares: Vec<(NodeName, Units)>,
    },
    /// Held in escrow, from everything that stands behind the operator.
    Slashed {
        /// Where it is held.
        escrow: EscrowId,
        /// Who is slashed.
        operator: NodeName,
        /// Why.
        cause: Cause,
        /// From which accounts how much.
        portions: Vec<(Account, Units)>,
        /// Until when it can be disputed.
        until: Time,
    },
    /// The operator disputes it.
    Disputed {
        /// Which slash.
        escrow: EscrowId,
        /// Until when it is voted on.
        until: Time,
    },
    /// A vote.
    Voted {
        /// On which slash.
        escrow: EscrowId,
        /// Whose.
        voter: NodeName,
        /// Which way.
        uphold: bool,
    },
    /// The slash is final: the escrow is forfeited.
    Upheld {
        /// Which.
        escrow: EscrowId,
    },
    /// The slash was wrong: everyone has back what was taken.
    Overturned {
        /// Which.
        escrow: EscrowId,
        /// To which accounts how much.
        portions: Vec<(Account, Units)>,
    },
}

/// What the bank owes the world. It is owed until the state changes, so a message that is lost is sent
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell the operator that it was slashed, so that it can dispute that.
    NoticeSlash {
        /// Whom.
        operator: NodeName,
        /// Which slash.
        escrow: EscrowId,
        /// How much is held.
        units: Units,
        /// Until when it can be disputed.
        until: Time,
        /// The record to wait for.
        after: Sequence,
    },
    /// Ask active nodes to vote.
    CallVotes {
        /// Who has no vote.
        operator: NodeName,
        /// On which slash.
        escrow: EscrowId,
        /// Until when.
        until: Time,
        /// The record to wait for.
        after: Sequence,
    },
}

/// A request that is not done. Nothing was changed, and the number is still free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The asker has had later requests done; or it skipped a number.
    #[error("the next request has number {next}")]
    WrongNumber {
        /// The number to use.
        next: u64,
    },
    /// Only [`Config::authority`](crate::Config::authority) may.
    #[error("only the bank's authority may ask for this")]
    NotAuthority,
    /// The account has less.
    #[error("{balance} units are there")]
    Insufficient {
        /// What it has.
        balance: Units,
    },
    /// Nothing is moved, or to the place where it is.
    #[error("it would move nothing")]
    Nothing,
    /// The bond would be too small. Bond more, or take all of it away.
    #[error("at least {needed} units have to be bonded, or none")]
    BelowMinimum {
        /// How much at least.
        needed: Units,
    },
    /// The operator has all the delegators that it may have. Delegate to another.
    #[error("the operator has {max} delegators, and may have no more")]
    TooManyDelegators {
        /// How many it may have.
        max: u32,
    },
    /// The operator's own stake is too small for delegations, or the asker's to take part.
    #[error("{node:?} has less than the minimum at stake")]
    Inactive {
        /// Who.
        node: NodeName,
    },
    /// A slash of the operator is undecided. Wait for its end.
    #[error("slash {escrow:?} of the operator is undecided until {until} at the latest")]
    SlashUndecided {
        /// The first one.
        escrow: EscrowId,
        /// Its deadline.
        until: Time,
    },
    /// That many slashes of one operator are undecided. Wait for the end of one.
    #[error("{max} slashes of the operator are undecided")]
    TooManyEscrows {
        /// How many may be.
        max: u32,
    },
    /// Nothing stands behind the operator.
    #[error("nothing stands behind the operator")]
    NothingAtStake,
    /// The period was rewarded before.
    #[error("the operator was rewarded for period {last}")]
    PeriodOver {
        /// The last one.
        last: u64,
    },
    /// That offence was reported before.
    #[error("this evidence was used before")]
    EvidenceUsed,
    /// It happened too long ago, or has not happened yet.
    #[error("the offence is too old, or in the future")]
    EvidenceOutdated,
    /// Nobody reports itself or has a vote about itself.
    #[error("the asker is a party to this")]
    Party,
    /// The operator was slashed for its score a short time ago.
    #[error("the operator's score can be judged again at {at}")]
    ReviewedLately {
        /// From when on.
        at: Time,
    },
    /// The voters do not agree.
    #[error(transparent)]
    Disagreement(#[from] Disagreement),
    /// The score is high enough.
    #[error("the score of {score} is no reason to slash")]
    ScoreIsFine {
        /// What the voters agree on.
        score: Ratio,
    },
    /// There is no such slash, or it is decided.
    #[error("no undecided slash has that number")]
    UnknownEscrow,
    /// The deadline has passed.
    #[error("the time for this was over at {until}")]
    TooLate {
        /// When.
        until: Time,
    },
    /// One dispute per slash.
    #[error("the slash is disputed")]
    AlreadyDisputed,
    /// Votes are for disputed slashes.
    #[error("the slash is not disputed")]
    NotDisputed,
    /// The votes before this one have decided.
    #[error("the votes before this one have decided")]
    VotesComplete,
    /// One vote per node and slash; the first counts.
    #[error("the asker has voted")]
    AlreadyVoted,
}
