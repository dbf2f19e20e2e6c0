//! The turn fence of a session: one atomic number that every stage compares its work with.
//!
//! Work carries the turn it belongs to. Raising the fence makes everything of earlier turns stale at once, in whatever queue or
//! graph call it is; each stage drops stale results at its next hop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use duologue_session::TurnId;

/// Shared fence of one session.
#[derive(Debug, Clone, Default)]
pub struct TurnFence(Arc<AtomicU32>);

impl TurnFence {
    /// Makes every turn before `turn` stale. Turns only grow; a lower number changes nothing.
    pub fn raise(&self, turn: TurnId) {
        self.0.fetch_max(turn.0, Ordering::AcqRel);
    }

    /// Whether work of `turn` must be dropped.
    pub fn is_stale(&self, turn: TurnId) -> bool {
        turn.0 < self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raising_is_monotonic_and_shared() {
        let fence = TurnFence::default();
        let other = fence.clone();
        assert!(!other.is_stale(TurnId(0)));
        fence.raise(TurnId(3));
        fence.raise(TurnId(2));
        assert!(other.is_stale(TurnId(2)));
        assert!(!other.is_stale(TurnId(3)));
    }
}
