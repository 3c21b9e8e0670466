use crate::FencingToken;
use base::ShardId;
use std::collections::BTreeMap;

/// What is locked remembers the highest token that it has seen, and refuses a lower one.
///
/// A lease alone does not keep a holder that stood still past its end from writing: it does not know that
/// it has lost the lock. The token does, since the next holder's is higher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    highest: BTreeMap<ShardId, FencingToken>,
}

/// Somebody has had the lock since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is lower than {highest:?}, which was seen: the lock was lost")]
pub struct Fenced {
    /// The highest one seen.
    pub highest: FencingToken,
}

impl Fence {
    /// Whether who shows this token may act on the shard; if so, no lower one may any more. To be kept
    /// with the shard, in the same record as what was done.
    ///
    /// # Errors
    /// [`Fenced`]: a higher one was seen. Acquire the lock again.
    pub fn admit(&mut self, shard: ShardId, token: FencingToken) -> Result<(), Fenced> {
        let highest = self.highest.entry(shard).or_default();
        if token < *highest {
            return Err(Fenced { highest: *highest });
        }
        *highest = token;
        Ok(())
    }

    /// The shard is gone, and with it what was seen.
    pub fn forget(&mut self, shard: ShardId) {
        self.highest.remove(&shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_token_is_refused_once_a_higher_was_seen() {
        let (mut fence, shard) = (Fence::default(), ShardId::numbered(1));
        assert_eq!(fence.admit(shard, FencingToken(7)), Ok(()));
        assert_eq!(fence.admit(shard, FencingToken(7)), Ok(()));
        assert_eq!(fence.admit(shard, FencingToken(9)), Ok(()));
        let fenced = Err(Fenced { highest: FencingToken(9) });
        assert_eq!(fence.admit(shard, FencingToken(8)), fenced);
        assert_eq!(fence.admit(ShardId::numbered(2), FencingToken(1)), Ok(()));
    }
}
