use std::fmt;

/// A logged event that the machine's rules do not allow where it stands: an anomaly of the log.
///
/// Whoever replays a log reports it with its sequence number. It changed nothing, with the one exception
/// that [`IllegalTransition::UnbackedCommit`] documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IllegalTransition {
    /// An event for an operation that the log never created.
    Unknown {
        /// The event's name.
        event: &'static str,
    },
    /// A second creation of the same id.
    CreatedTwice,
    /// The event does not follow from the state.
    OutOfPlace {
        /// The event's name.
        event: &'static str,
        /// The state's name.
        state: &'static str,
    },
    /// A shard joined twice.
    DuplicateShard,
    /// A vote of a shard that never joined.
    UnknownShard,
    /// A second vote of one shard: the first counts.
    SecondVote,
    /// A commit decision without every vote. It *is* taken as the decision: somebody may have been
    /// told of it.
    UnbackedCommit,
    /// A decision against an earlier one: the first durable decision wins.
    SecondDecision,
}

impl fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { event } => write!(f, "{event} for an operation never created"),
            Self::CreatedTwice => f.write_str("created a second time"),
            Self::OutOfPlace { event, state } => write!(f, "{event} while {state}"),
            Self::DuplicateShard => f.write_str("a shard joined twice"),
            Self::UnknownShard => f.write_str("a vote of a shard that never joined"),
            Self::SecondVote => f.write_str("a second vote of one shard; the first counts"),
            Self::UnbackedCommit => {
                f.write_str("commit decided without every vote; it stands, someone may know of it")
            }
            Self::SecondDecision => {
                f.write_str("a decision against an earlier one; the first one stands")
            }
        }
    }
}

impl std::error::Error for IllegalTransition {}
