//! Random expressions, held against direct evaluation.
#![allow(clippy::unwrap_used)]

use std::hash::{BuildHasher, RandomState};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// An expression as written, before any normal form.
#[derive(Clone, Debug)]
enum Tree {
    Fixed(i64),
    Symbol(usize),
    Binary(Operator, Box<Tree>, Box<Tree>),
}

#[derive(Clone, Copy, Debug)]
enum Operator {
    Add,
    Subtract,
    Multiply,
    Floor,
    Ceiling,
    Modulo,
    Truncated,
    Min,
    Max,
}

const NAMES: [&str; 3] = ["N", "M", "S"];

impl Tree {
    fn dim(&self) -> Dim {
        match self {
            Tree::Fixed(value) => Dim::fixed(*value),
            Tree::Symbol(index) => Dim::symbol(NAMES[*index]),
            Tree::Binary(operator, a, b) => {
                let (a, b) = (&a.dim(), &b.dim());
                match operator {
                    Operator::Add => a + b,
                    Operator::Subtract => a - b,
                    Operator::Multiply => a * b,
                    Operator::Floor => a.floor_div(b),
                    Operator::Ceiling => a.ceil_div(b),
                    Operator::Modulo => a.modulo(b),
                    Operator::Truncated => a.truncated_div(b),
                    Operator::Min => a.min(b),
                    Operator::Max => a.max(b),
                }
            }
        }
    }

    /// `None` at a division by zero and where a value does not fit.
    fn evaluate(&self, values: &[i64; 3]) -> Option<i64> {
        match self {
            Tree::Fixed(value) => Some(*value),
            Tree::Symbol(index) => Some(values[*index]),
            Tree::Binary(operator, a, b) => {
                let (a, b) = (a.evaluate(values)?, b.evaluate(values)?);
                let floor = |a: i64, b: i64| {
                    a.checked_div(b)
                        .map(|_| (a as f64 / b as f64).floor() as i64)
                        .filter(|_| a.abs() < 1 << 50)
                };
                match operator {
                    Operator::Add => a.checked_add(b),
                    Operator::Subtract => a.checked_sub(b),
                    Operator::Multiply => a.checked_mul(b),
                    Operator::Floor => floor(a, b),
                    Operator::Ceiling => floor(-a, b).map(|negated| -negated),
                    Operator::Modulo => Some(a - b * floor(a, b)?),
                    Operator::Truncated => a.checked_div(b),
                    Operator::Min => Some(a.min(b)),
                    Operator::Max => Some(a.max(b)),
                }
            }
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![(-4..=8_i64).prop_map(Tree::Fixed), (0..3_usize).prop_map(Tree::Symbol)];
    leaf.prop_recursive(4, 24, 2, |inner| {
        let operator = prop::sample::select(vec![
            Operator::Add,
            Operator::Add,
            Operator::Subtract,
            Operator::Multiply,
            Operator::Floor,
            Operator::Floor,
            Operator::Ceiling,
            Operator::Modulo,
            Operator::Truncated,
            Operator::Min,
            Operator::Max,
        ]);
        (operator, inner.clone(), inner)
            .prop_map(|(operator, a, b)| Tree::Binary(operator, Box::new(a), Box::new(b)))
    })
}

fn sizes() -> impl Strategy<Value = [i64; 3]> {
    prop::array::uniform3(0..=20_i64)
}

fn evaluate(dim: &Dim, values: &[i64; 3]) -> Option<i64> {
    dim.evaluate(&|symbol| {
        NAMES.iter().position(|name| *name == symbol.to_string()).map(|index| values[index])
    })
}

fn is_opaque(dim: &Dim) -> bool {
    dim.to_string().contains("opaque")
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn normal_form_keeps_the_value_and_its_bounds(tree in tree(), samples in prop::collection::vec(sizes(), 8)) {
        let dim = tree.dim();
        for values in &samples {
            let Some(expected) = tree.evaluate(values) else { continue };
            if !is_opaque(&dim) {
                prop_assert_eq!(evaluate(&dim, values), Some(expected), "{} at {:?}", dim, values);
            }
            prop_assert!(dim.lower_bound().is_none_or(|low| low <= expected), "{dim} at {values:?}");
            prop_assert!(dim.upper_bound().is_none_or(|high| high >= expected), "{dim} at {values:?}");
        }
    }

    #[test]
    fn comparisons_hold_for_all_sizes(a in tree(), b in tree(), samples in prop::collection::vec(sizes(), 8)) {
        let (left, right) = (a.dim(), b.dim());
        for values in &samples {
            let (Some(a), Some(b)) = (a.evaluate(values), b.evaluate(values)) else { continue };
            prop_assert!(left != right || a == b, "{left} == {right} at {values:?}");
            prop_assert!(!left.proves_ge(&right) || a >= b, "{left} >= {right} at {values:?}");
            prop_assert!(!left.proves_gt(&right) || a > b, "{left} > {right} at {values:?}");
            prop_assert!(!left.proves_ne(&right) || a != b, "{left} != {right} at {values:?}");
        }
    }

    #[test]
    fn a_known_product_is_the_product(dims in prop::collection::vec(tree(), 0..4)) {
        let dims: Vec<Dim> = dims.iter().map(Tree::dim).collect();
        prop_assert_eq!(Dim::fixed_product(&dims), Dim::product(&dims).as_fixed());
    }

    #[test]
    fn a_normal_form_is_its_own(tree in tree()) {
        let dim = tree.dim();
        prop_assert_eq!(dim.substitute(&|_| None), dim);
    }

    #[test]
    fn substitution_commutes_with_evaluation(outer in tree(), inner in tree(), values in sizes()) {
        let (dim, replacement) = (outer.dim(), inner.dim());
        let replaced = dim.substitute(&|symbol| (symbol.to_string() == "N").then(|| replacement.clone()));
        let Some(size) = inner.evaluate(&values).filter(|size| *size >= 0) else { return Ok(()) };
        let values_inside = [size, values[1], values[2]];
        if let Some(expected) = outer.evaluate(&values_inside)
            && !is_opaque(&replaced)
        {
            prop_assert_eq!(evaluate(&replaced, &values), Some(expected), "{} -> {}", dim, replaced);
        }
    }

    #[test]
    fn arithmetic_laws(a in tree(), b in tree(), c in tree()) {
        let (a, b, c) = (&a.dim(), &b.dim(), &c.dim());
        prop_assert_eq!(a + b, b + a);
        prop_assert_eq!(a * b, b * a);
        prop_assert_eq!(a.min(b), b.min(a));
        prop_assert_eq!(a.max(b), b.max(a));
        prop_assert_eq!(a.min(a), a.clone());
        prop_assert_eq!(a - a, Dim::fixed(0));
        if [a, b, c, &(a * b), &(b * c), &(a * b * c)].into_iter().any(is_opaque) {
            return Ok(());
        }
        prop_assert_eq!((a + b) + c, a + (b + c));
        prop_assert_eq!((a * b) * c, a * (b * c));
        prop_assert_eq!(a * (b + c), a * b + a * c);
        if b.as_fixed() != Some(0) {
            prop_assert_eq!((a * b).exact_div(b), Some(a.clone()));
            let rest = &Dim::symbol("rest");
            prop_assert_eq!((a * b + rest).floor_div(b), a + rest.floor_div(b));
        }
        if let Some(quotient) = a.exact_div(b) {
            prop_assert_eq!(&quotient * b, a.clone());
        }
    }

    #[test]
    fn order_is_total_and_agrees_with_equality(a in tree(), b in tree(), c in tree()) {
        let (a, b, c) = (a.dim(), b.dim(), c.dim());
        prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        prop_assert_eq!(a == b, a.cmp(&b).is_eq());
        prop_assert!(!(a <= b && b <= c) || a <= c);
        let hasher = RandomState::new();
        prop_assert!(a != b || hasher.hash_one(&a) == hasher.hash_one(&b));
    }
}
