#![allow(clippy::unwrap_used)]

use super::*;

fn fixed(value: i64) -> Dim {
    Dim::fixed(value)
}

fn symbol(name: &str) -> Dim {
    Dim::symbol(name)
}

#[test]
fn prints() {
    let n = symbol("N");
    assert_eq!(fixed(3).to_string(), "3");
    assert_eq!(format!("{n:?}"), "N");
    assert_eq!(Dim::anonymous(7).to_string(), "?7");
    assert_eq!((&n * fixed(2) + fixed(1)).to_string(), "2*N + 1");
    assert_eq!((fixed(1) - &n * &n).to_string(), "-N^2 + 1");
    assert_eq!(n.floor_div(&fixed(2)).to_string(), "floor(N/2)");
    assert_eq!((&n + fixed(1)).floor_div(&fixed(2)).to_string(), "floor((N + 1)/2)");
    assert_eq!(n.floor_div(&(symbol("M") * fixed(2))).to_string(), "floor(N/(2*M))");
    assert_eq!(Dim::min(&n, &fixed(512)).to_string(), "min(N, 512)");
    assert_eq!(fixed(1).max(n).to_string(), "max(N, 1)");
}

/// Each pair is one value in two ways of computing it: the normal form proves them equal.
#[test]
fn equal_values_have_one_form() {
    let [n, m, s, b, h] = ["N", "M", "S", "B", "H"].map(symbol);
    let two = fixed(2);
    let pairs = [
        (&n - &n, fixed(0)),
        (&n + &m, &m + &n),
        ((&n + &m) + &s, &n + (&m + &s)),
        (&n * (&m + &s), &n * &m + &n * &s),
        ((&n + &m) * (&n - &m), &n * &n - &m * &m),
        ((&n * &s).floor_div(&s), n.clone()),
        ((&n * fixed(4) + &two).floor_div(&two), &n * &two + fixed(1)),
        (n.floor_div(&two).floor_div(&two), n.floor_div(&fixed(4))),
        (n.floor_div(&m).floor_div(&s), n.floor_div(&(&m * &s))),
        (n.floor_div(&m).floor_div(&two), n.floor_div(&two).floor_div(&m)),
        ((n.floor_div(&two) + &m).floor_div(&fixed(3)), (&n + &m * &two).floor_div(&fixed(6))),
        ((&n * fixed(12) * fixed(64)).floor_div(&(fixed(12) * fixed(64))), n.clone()),
        ((&n * &s * &two).floor_div(&(&m * &s * fixed(4))), n.floor_div(&(&m * &two))),
        ((&n * &m + &s).floor_div(&m), &n + s.floor_div(&m)),
        ((&n + fixed(2) - fixed(3)).floor_div(&fixed(1)) + fixed(1), n.clone()),
        ((&n + fixed(2) - fixed(3)).floor_div(&two) + fixed(1), (&n + fixed(1)).floor_div(&two)),
        (n.floor_div(&-&two), (-&n).floor_div(&two)),
        ((&n * &two + fixed(5)).floor_div(&fixed(4)), (&n + &two).floor_div(&two)),
        (n.ceil_div(&two), (&n + fixed(1)).floor_div(&two)),
        (n.ceil_div(&m), -(-&n).floor_div(&m) + n.ceil_div(&m) + (-&n).floor_div(&m)),
        ((&n * &m).ceil_div(&m), n.clone()),
        (n.modulo(&fixed(1)), fixed(0)),
        ((&n * fixed(6) + fixed(7)).modulo(&fixed(3)), fixed(1)),
        (n.modulo(&m) + &m * n.floor_div(&m), n.clone()),
        (n.modulo(&fixed(8)).floor_div(&fixed(8)), fixed(0)),
        (n.modulo(&fixed(8)).modulo(&fixed(8)), n.modulo(&fixed(8))),
        (n.truncated_div(&two), n.floor_div(&two)),
        ((-&n).truncated_div(&two), -n.floor_div(&two)),
        ((&n - &m).truncated_div(&two), -(&m - &n).truncated_div(&two)),
        (((&n - &m) * &s).truncated_div(&s), &n - &m),
        (Dim::max(&n, &fixed(0)), n.clone()),
        (Dim::min(&n, &n), n.clone()),
        (Dim::min(&n, &Dim::max(&m, &n)), n.clone()),
        (Dim::min(&n, &Dim::min(&m, &s)), Dim::min(&Dim::min(&s, &n), &m)),
        (Dim::min(&(&n * &two), &(&n * &two + &m)), &n * &two),
        (Dim::min(&(&n + fixed(1)), &fixed(513)), Dim::min(&n, &fixed(512)) + fixed(1)),
        (Dim::min(&(&n * &s), &(&m * &s)), &s * Dim::min(&n, &m)),
        (Dim::max(&Dim::min(&n, &fixed(5)), &fixed(0)), Dim::min(&n, &fixed(5))),
        (Dim::max(&n.floor_div(&two), &n), n.clone()),
        (Dim::product([&b, &s, &h]).exact_div(&(&s * &b)).unwrap(), h.clone()),
        (Dim::sum([&b, &s, &h]), &h + &s + &b),
    ];
    for (index, (left, right)) in pairs.iter().enumerate() {
        assert_eq!(left, right, "pair {index}");
    }
}

/// The methods of `Ord` on owned dimensions compare values, not forms.
#[test]
fn owned_extrema_are_those_of_the_values() {
    let n = symbol("N");
    assert_eq!(n.clone().min(fixed(512)), Dim::min(&n, &fixed(512)));
    assert_eq!(n.clone().max(fixed(0)), n);
    assert_eq!(n.clamp(fixed(5), fixed(3)), fixed(3));
}

/// Near misses: what looks equal and is not.
#[test]
fn different_values_have_different_forms() {
    let [n, m] = ["N", "M"].map(symbol);
    let two = fixed(2);
    assert_ne!(n.floor_div(&two) * &two, n);
    assert_ne!((&n + &m).floor_div(&two), n.floor_div(&two) + m.floor_div(&two));
    assert_ne!((&n - &m).truncated_div(&two), (&n - &m).floor_div(&two));
    assert_ne!(Dim::max(&n, &fixed(1)), n);
    assert_ne!(Dim::min(&n, &m), n);
    assert_ne!(Dim::max(&(&n - &m), &fixed(0)), &n - &m);
    assert_ne!(n.floor_div(&fixed(0)), m.floor_div(&fixed(0)));
    assert_ne!(n, Dim::anonymous(0));
}

#[test]
fn divides_exactly_or_not_at_all() {
    let [n, m, s] = ["N", "M", "S"].map(symbol);
    assert_eq!((&n * &s + &m * &s).exact_div(&(&n + &m)), Some(s.clone()));
    assert_eq!((&n * &n - fixed(1)).exact_div(&(fixed(1) - &n)), Some(-&n - fixed(1)));
    assert_eq!((&n * fixed(6)).exact_div(&fixed(-3)), Some(&n * fixed(-2)));
    assert_eq!(fixed(0).exact_div(&n), Some(fixed(0)));
    assert_eq!(fixed(6).exact_div(&fixed(4)), None);
    assert_eq!((&n * fixed(6)).exact_div(&fixed(4)), None);
    assert_eq!((&n * &s + &m).exact_div(&s), None);
    assert_eq!(n.exact_div(&(&n * &n)), None);
    assert_eq!(n.exact_div(&fixed(0)), None);
}

#[test]
fn bounds_see_through_shared_terms() {
    let [n, m, s] = ["N", "M", "S"].map(symbol);
    let bounds = |dim: &Dim| (dim.lower_bound(), dim.upper_bound());
    assert_eq!(bounds(&(&n - fixed(3))), (Some(-3), None));
    assert_eq!(bounds(&n.modulo(&fixed(8))), (Some(0), Some(7)));
    assert_eq!(bounds(&Dim::min(&n, &fixed(512))), (Some(0), Some(512)));
    assert_eq!(bounds(&(&n - &m)), (None, None));
    assert!(n.proves_ge(&Dim::min(&n, &fixed(512))));
    assert!(Dim::max(&n, &m).proves_ge(&m));
    assert!(n.proves_ge(&n.floor_div(&m)));
    assert!(n.modulo(&m).proves_ge(&fixed(0)));
    assert!(m.proves_gt(&n.modulo(&m)));
    assert!((&n * &m + &s).proves_ge(&(&n * &m)));
    assert!((&n + fixed(1)).proves_gt(&n) && !n.proves_gt(&n));
    assert!((&n + fixed(1)).proves_positive() && !n.proves_positive());
    assert!((&n + fixed(1)).proves_ne(&n));
    assert!((&n * fixed(2)).proves_ne(&(&m * fixed(4) + fixed(1))));
    assert!(!n.proves_ne(&m) && !(&n * fixed(2)).proves_ne(&(&m + fixed(1))));
    assert!(!(&n * &m).proves_ge(&n));
}

#[test]
fn broadcasts() {
    let [n, m] = ["N", "M"].map(symbol);
    assert_eq!(n.broadcast(&n), Some(n.clone()));
    assert_eq!(n.broadcast(&fixed(1)), Some(n.clone()));
    assert_eq!(fixed(1).broadcast(&n), Some(n.clone()));
    assert_eq!(n.broadcast(&fixed(3)), Some(fixed(3)));
    assert_eq!(fixed(0).broadcast(&n), Some(fixed(0)));
    assert_eq!(fixed(0).broadcast(&fixed(1)), Some(fixed(0)));
    assert_eq!(n.broadcast(&m), None);
    assert_eq!(n.broadcast(&Dim::min(&n, &fixed(512))), Some(n.clone()));
    assert_eq!(Dim::min(&n, &m).broadcast(&n), None, "0 and 1 give 0");
    assert_eq!((&n + fixed(1)).broadcast(&n), None, "1 and 0 give 0");
    assert_eq!(fixed(2).broadcast(&fixed(3)), None);
}

#[test]
fn substitutes_and_evaluates() {
    let [n, m] = ["N", "M"].map(symbol);
    let dim = n.floor_div(&fixed(2)) * &m + Dim::min(&n, &fixed(5));
    let twice = |symbol: &Symbol| (symbol.to_string() == "N").then(|| m.clone() * fixed(2));
    assert_eq!(dim.substitute(&twice), &m * &m + Dim::min(&(&m * fixed(2)), &fixed(5)));
    assert_eq!(dim.substitute(&|_| Some(fixed(7))), fixed(26));
    assert_eq!(dim.evaluate(&|_| Some(7)), Some(26));
    assert_eq!(dim.evaluate(&|symbol| (symbol.to_string() == "N").then_some(7)), None);
    assert_eq!(n.floor_div(&m).evaluate(&|_| Some(0)), None);
    assert_eq!(dim.symbols(), [Symbol::Named("M".into()), Symbol::Named("N".into())]);
    assert_eq!(n.as_symbol(), Some(&Symbol::Named("N".into())));
    assert_eq!((&n + fixed(1)).as_symbol(), None);
}

#[test]
fn overflow_is_opaque_and_deterministic() {
    let (n, most) = (symbol("N"), fixed(i64::MAX));
    for (a, b) in
        [(i64::MAX, 1), (i64::MIN, -1), (i64::MIN, 1), (i64::MAX, i64::MIN), (-7, 2), (7, -2), (-7, -2)]
    {
        let (wide_a, wide_b) = (i128::from(a), i128::from(b));
        let floor = (wide_a - (wide_a % wide_b + wide_b) % wide_b) / wide_b;
        let (a, b) = (&fixed(a), &fixed(b));
        let results = [
            (a + b, wide_a + wide_b),
            (a - b, wide_a - wide_b),
            (a * b, wide_a * wide_b),
            (a.floor_div(b), floor),
            (a.ceil_div(b), floor + i128::from(wide_a % wide_b != 0)),
            (a.truncated_div(b), wide_a / wide_b),
            (a.modulo(b), wide_a - floor * wide_b),
        ];
        for (index, (result, exact)) in results.iter().enumerate() {
            let known = result.as_fixed().map(i128::from);
            assert!(known.is_none_or(|value| value == *exact), "operation {index} of {a} and {b}: {result}");
            let near = exact.unsigned_abs() < 1 << 40 && wide_a.unsigned_abs() < 1 << 40;
            assert!(known.is_some() || !near, "operation {index} of {a} and {b}: {result}");
        }
    }
    let overflow = &most + fixed(1);
    assert!(!overflow.is_fixed());
    assert_eq!(overflow, fixed(1) + &most);
    assert_ne!(overflow, &most + fixed(2));
    assert_eq!(overflow.evaluate(&|_| Some(1)), None);
    assert_eq!(&overflow - &overflow, fixed(0));
    assert_eq!(&n * &most * fixed(2), fixed(2) * (&n * &most));
    assert_ne!(&n * &most * fixed(2), &n * fixed(-2));
}

/// An opaque atom is a function of its symbols: another value for one gives another atom.
#[test]
fn opaque_atoms_follow_their_symbols() {
    let [n, m] = ["N", "M"].map(symbol);
    let opaque = &n * fixed(i64::MAX) * fixed(3);
    let renamed = opaque.substitute(&|_| Some(m.clone()));
    assert_ne!(opaque, renamed);
    assert_eq!(renamed.symbols(), m.symbols());
    assert_eq!(renamed.substitute(&|_| Some(n.clone())), opaque);
}

/// Expressions that double at each step, or take a new symbol, stay small.
#[test]
fn expressions_stay_small() {
    let n = symbol("N");
    let steps: [fn(&Dim, &Dim) -> Dim; 6] = [
        |dim, new| dim * dim + new,
        |dim, new| dim + new,
        |dim, new| (dim + new).floor_div(&fixed(7)) * dim,
        |dim, new| Dim::max(&(dim - new), &dim.floor_div(new)),
        |dim, new| Dim::min(&Dim::max(&(dim + dim), new), &(new * new)),
        |dim, new| (new - dim * dim).truncated_div(dim),
    ];
    for (index, step) in steps.into_iter().enumerate() {
        let run = || (0..200).fold(n.clone(), |dim, id| step(&dim, &Dim::anonymous(id)));
        let result = run();
        assert_eq!(result, run(), "step {index}");
        assert!(result.to_string().len() < 10_000, "step {index}: {}", result.to_string().len());
    }
}
