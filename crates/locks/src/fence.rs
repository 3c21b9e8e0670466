use crate::FencingToken;

/// What a lock guards remembers the highest token that it has seen, and refuses a lower one.
///
/// A lease alone does not keep a holder that stood still past its end from writing: it does not know that
/// it has lost the lock. The token does, since the next holder's is higher. The token is kept with what is guarded,
/// and changes in the same record as that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    highest: FencingToken,
}

/// Somebody has had the lock since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is lower than {highest:?}, which was seen: the lock was lost")]
pub struct Fenced {
    /// The highest one seen.
    pub highest: FencingToken,
}

impl Fence {
    /// The fence of something that has seen this token, and none that is higher.
    #[must_use]
    pub const fn at(highest: FencingToken) -> Fence {
        Fence { highest }
    }

    /// Whether who shows this token may act; if so, no lower one may any more. To be kept in the same record as
    /// what was done.
    ///
    /// # Errors
    /// [`Fenced`]: a higher one was seen. Acquire the lock again.
    pub fn admit(&mut self, token: FencingToken) -> Result<(), Fenced> {
        if token < self.highest {
            return Err(Fenced { highest: self.highest });
        }
        self.highest = token;
        Ok(())
    }

    /// The highest token that was seen.
    #[must_use]
    pub const fn highest(&self) -> FencingToken {
        self.highest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_token_is_refused_once_a_higher_was_seen() {
        let mut fence = Fence::default();
        assert_eq!(fence.admit(FencingToken(7)), Ok(()));
        assert_eq!(fence.admit(FencingToken(7)), Ok(()));
        assert_eq!(fence.admit(FencingToken(9)), Ok(()));
        let fenced = Err(Fenced { highest: FencingToken(9) });
        assert_eq!(fence.admit(FencingToken(8)), fenced);
        assert_eq!(fence.highest(), FencingToken(9));
        assert_eq!(Fence::at(FencingToken(9)).admit(FencingToken(8)), fenced);
    }
}
