//! Who takes a value: one or two nodes as a rule, thousands sometimes.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::Consumer;

/// Uses that are looked through one by one.
const FEW: usize = 16;

/// Uses of one value by nodes, ascending.
#[derive(Clone, Debug)]
pub(super) enum Consumers {
    Few(SmallVec<[Consumer; 2]>),
    Many(BTreeSet<Consumer>),
}

impl Consumers {
    /// No uses.
    pub(super) fn new() -> Self {
        Self::Few(SmallVec::new())
    }

    pub(super) fn insert(&mut self, consumer: Consumer) {
        match self {
            Self::Many(all) => drop(all.insert(consumer)),
            Self::Few(few) => match few.binary_search(&consumer) {
                Ok(_) => {}
                Err(place) if few.len() < FEW => few.insert(place, consumer),
                Err(_) => *self = Self::Many(few.iter().copied().chain([consumer]).collect()),
            },
        }
    }

    pub(super) fn remove(&mut self, consumer: &Consumer) {
        match self {
            Self::Many(all) => drop(all.remove(consumer)),
            Self::Few(few) => few.retain(|other| other != consumer),
        }
    }

    pub(super) fn contains(&self, consumer: &Consumer) -> bool {
        match self {
            Self::Many(all) => all.contains(consumer),
            Self::Few(few) => few.contains(consumer),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Many(all) => all.len(),
            Self::Few(few) => few.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Consumer> {
        let (few, many) = match self {
            Self::Few(few) => (&few[..], None),
            Self::Many(all) => (&[][..], Some(all)),
        };
        few.iter().chain(many.into_iter().flatten()).copied()
    }
}

#[cfg(test)]
mod tests {
    use petgraph::stable_graph::NodeIndex;

    use super::super::{NodeId, Slot};
    use super::*;

    #[test]
    fn few_and_many_are_kept_in_order() {
        let consumer = |place: usize| Consumer {
            node: NodeId(NodeIndex::new(place * 7 % 40)),
            slot: if place < 20 { Slot::Input(place as u32) } else { Slot::Capture(0) },
        };
        let (mut consumers, mut expected) = (Consumers::new(), BTreeSet::new());
        let changes = (0..40).map(|place| (place, true)).chain((0..40).map(|place| (place * 3 % 40, false)));
        for (place, added) in changes {
            let consumer = consumer(place);
            // Twice, as the second time changes nothing.
            for _ in 0..2 {
                match added {
                    true => {
                        consumers.insert(consumer);
                        expected.insert(consumer);
                    }
                    false => {
                        consumers.remove(&consumer);
                        expected.remove(&consumer);
                    }
                }
                assert!(consumers.iter().eq(expected.iter().copied()), "{place} {added}");
                assert_eq!((consumers.len(), consumers.contains(&consumer)), (expected.len(), added));
            }
        }
    }
}
