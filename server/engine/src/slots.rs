//! Which slots are taken. Slots are handed out lowest first, so that the decode batch, which spans from the lowest to the highest
//! busy slot, stays narrow.

/// The slots of an engine.
#[derive(Debug)]
pub(crate) struct SlotTable {
    taken: Vec<bool>,
}

impl SlotTable {
    pub fn new(slots: usize) -> Self {
        Self { taken: vec![false; slots] }
    }

    /// Takes the lowest free slot.
    pub fn take(&mut self) -> Option<usize> {
        let slot = self.taken.iter().position(|taken| !taken)?;
        self.taken[slot] = true;
        Some(slot)
    }

    pub fn give_back(&mut self, slot: usize) {
        assert!(std::mem::take(&mut self.taken[slot]), "slot {slot} was given back twice. This is a bug.");
    }

    pub fn busy(&self) -> usize {
        self.taken.iter().filter(|taken| **taken).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_slot_is_taken() {
        let mut table = SlotTable::new(3);
        assert_eq!([table.take(), table.take(), table.take(), table.take()], [Some(0), Some(1), Some(2), None]);
        table.give_back(1);
        assert_eq!(table.busy(), 2);
        assert_eq!(table.take(), Some(1));
    }
}
