//! Atoms for what is too large to write down.
//!
//! An opaque atom is an unknown function, named by a fingerprint of what it stands for, applied to the symbols
//! of that. It is small whatever it stands for, so no input makes expressions explode.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::bounds::Interval;
use super::polynomial::{Atom, Polynomial};
use super::{Dim, Symbol};

/// The most symbols that an opaque atom keeps.
const MAXIMUM_ARGUMENTS: usize = 64;

/// A function of integers without a formula, and its arguments.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Opaque {
    fingerprint: u128,
    arguments: Vec<Dim>,
    interval: Interval,
}

impl Opaque {
    pub(super) fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    pub(super) fn arguments(&self) -> &[Dim] {
        &self.arguments
    }

    /// The bounds of what it stands for.
    pub(super) fn interval(&self) -> Interval {
        self.interval
    }

    pub(super) fn of_polynomial(polynomial: &Polynomial) -> Dim {
        let mut symbols = BTreeSet::new();
        polynomial.collect_symbols(&mut symbols);
        Opaque::atom(polynomial, symbols, Interval::of_terms(polynomial))
    }

    /// The atom for `content`, whose symbols and bounds are given.
    fn atom(content: &impl Hash, symbols: BTreeSet<Symbol>, interval: Interval) -> Dim {
        let arguments = if symbols.len() <= MAXIMUM_ARGUMENTS {
            symbols.into_iter().map(Dim::from).collect()
        } else {
            Vec::new()
        };
        Dim::from_atom(Atom::Opaque(Arc::new(Opaque {
            fingerprint: fingerprint(content),
            arguments,
            interval,
        })))
    }

    pub(super) fn substitute(&self, f: &dyn Fn(&Symbol) -> Option<Dim>) -> Dim {
        let arguments = self.arguments.iter().map(|argument| argument.substitute(f)).collect();
        Dim::from_atom(Atom::Opaque(Arc::new(Opaque { arguments, ..self.clone() })))
    }
}

/// 128 bits that stand for `content`: two unrelated hashes with fixed keys, the same in every run.
fn fingerprint(content: &impl Hash) -> u128 {
    let hash = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        content.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    hash(0) << 64 | hash(1)
}

/// An operation whose result could not be written down.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    FloorDiv,
    TruncatedDiv,
    Modulo,
    Min,
    Max,
}

impl Operation {
    /// The atom for `a operation b`.
    pub(super) fn opaque(self, a: &Dim, b: &Dim) -> Dim {
        let commutes = matches!(self, Operation::Add | Operation::Multiply);
        let (a, b) = if commutes && b < a { (b, a) } else { (a, b) };
        self.opaque_of(&[a.clone(), b.clone()])
    }

    /// The atom for the operation on all `operands`.
    pub(super) fn opaque_of(self, operands: &[Dim]) -> Dim {
        let mut symbols = BTreeSet::new();
        operands.iter().for_each(|operand| operand.collect_symbols(&mut symbols));
        Opaque::atom(&(self, operands), symbols, Interval::ALL)
    }
}
