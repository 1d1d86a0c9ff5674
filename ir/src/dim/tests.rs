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
