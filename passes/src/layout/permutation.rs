//! Orders of axes.

use onnx_opt_ir::{Graph, Node};
use smallvec::SmallVec;

/// An order of axes: axis `i` of what `Transpose` makes is axis `self[i]` of what it takes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Permutation(SmallVec<[usize; 6]>);

impl Permutation {
    /// The order that these axes name, if each of them is there once.
    pub fn new(axes: impl IntoIterator<Item = usize>) -> Option<Self> {
        let axes: SmallVec<[usize; 6]> = axes.into_iter().collect();
        let mut sorted = axes.clone();
        sorted.sort_unstable();
        sorted.into_iter().eq(0..axes.len()).then_some(Self(axes))
    }

    /// The order that a Transpose asks for.
    pub fn of(graph: &Graph, transpose: &Node) -> Option<Self> {
        match transpose.ints("perm") {
            Some(perm) => {
                let rank = perm.len() as i64;
                let counted = |&axis: &i64| usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
                Self::new(perm.iter().map(counted).collect::<Option<SmallVec<[usize; 6]>>>()?)
            }
            None => Some(Self((0..graph.rank(transpose.input(0)?)?).rev().collect())),
        }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The axes in this order.
    pub fn axes(&self) -> &[usize] {
        &self.0
    }

    /// As the attribute of a Transpose.
    pub fn attribute(&self) -> Vec<i64> {
        self.0.iter().map(|&axis| axis as i64).collect()
    }

    /// Whether no axis moves.
    pub fn is_identity(&self) -> bool {
        self.0.iter().enumerate().all(|(place, &axis)| place == axis)
    }

    /// Whether axes of this place and later ones stay where they are.
    pub fn keeps_from(&self, place: usize) -> bool {
        self.0.iter().enumerate().skip(place).all(|(place, &axis)| place == axis)
    }

    /// The order that undoes this one.
    pub fn inverse(&self) -> Self {
        let mut inverse = SmallVec::from_elem(0, self.rank());
        for (place, &axis) in self.0.iter().enumerate() {
            inverse[axis] = place;
        }
        Self(inverse)
    }

    /// This order and then `second`, if both have as many axes.
    pub fn then(&self, second: &Self) -> Option<Self> {
        (self.rank() == second.rank()).then(|| Self(second.0.iter().map(|&place| self.0[place]).collect()))
    }

    /// Where an axis comes to be.
    pub fn place_of(&self, axis: usize) -> Option<usize> {
        self.0.iter().position(|&other| other == axis)
    }

    /// What belongs to the axes, in the new order.
    pub fn permuted<T: Clone>(&self, items: &[T]) -> Option<Vec<T>> {
        (items.len() == self.rank()).then(|| self.0.iter().map(|&axis| items[axis].clone()).collect())
    }

    /// The order of the axes that are left when some go.
    pub fn without(&self, gone: &[usize]) -> Self {
        let kept = self.0.iter().filter(|axis| !gone.contains(axis));
        Self(kept.map(|axis| axis - gone.iter().filter(|gone| *gone < axis).count()).collect())
    }

    /// The order of the last `count` axes, if they stay among themselves.
    pub fn last(&self, count: usize) -> Option<Self> {
        let first = self.rank().checked_sub(count)?;
        let axes: Option<SmallVec<[usize; 6]>> =
            self.0[first..].iter().map(|axis| axis.checked_sub(first)).collect();
        axes.map(Self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::Permutation;

    #[test]
    fn algebra() {
        let order = |axes: &[usize]| Permutation::new(axes.iter().copied()).unwrap();
        let nhwc = order(&[0, 2, 3, 1]);
        assert_eq!(nhwc.inverse(), order(&[0, 3, 1, 2]));
        assert!(nhwc.then(&nhwc.inverse()).unwrap().is_identity());
        assert_eq!(nhwc.then(&nhwc).unwrap(), nhwc.inverse());
        assert_eq!(nhwc.permuted(&["n", "c", "h", "w"]).unwrap(), ["n", "h", "w", "c"]);
        assert_eq!(nhwc.place_of(1), Some(3));
        assert_eq!(order(&[1, 0, 3, 2]).last(2), Some(order(&[1, 0])));
        assert_eq!(nhwc.last(2), None);
        assert_eq!(nhwc.without(&[2]), order(&[0, 2, 1]));
        assert!(nhwc.without(&[2, 3]).is_identity());
        assert!(order(&[1, 0, 2, 3]).keeps_from(2) && !nhwc.keeps_from(2));
        assert!(Permutation::new([0, 0]).is_none() && Permutation::new([0, 2]).is_none());
    }
}
