//! What is lost with units that go together, to first order.
//!
//! With s_u what one run says of unit u, units S lose E (Σ_S s_u)² = Σ_S Σ_S M with the moments M = E s·sᵀ: two that push the
//! outputs the same way lose more than both would alone, two that push against each other less.

use super::importance::worth_after;

/// For each unit what it is worth when it goes after all that are worth less; the next to go is always the one with which
/// least is lost. `moments` are of `units` rows and columns.
pub(super) fn losses(moments: &[f64], units: usize) -> Vec<f64> {
    let mut losses = vec![0.0; units];
    let mut left: Vec<usize> = (0..units).collect();
    // Of each unit with all that are gone.
    let mut shared = vec![0.0; units];
    let mut most: f64 = 0.0;
    let moment = |a: usize, b: usize| moments.get(a * units + b).copied().unwrap_or_default();
    while !left.is_empty() {
        let loss = |&unit: &usize| 2.0 * shared[unit] + moment(unit, unit);
        let least = (0..left.len()).min_by(|&a, &b| loss(&left[a]).total_cmp(&loss(&left[b]))).unwrap_or(0);
        most = worth_after(most, loss(&left[least]));
        let unit = left.remove(least);
        losses[unit] = most;
        left.iter().for_each(|&other| shared[other] += moment(unit, other));
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_cancel_out_go_together() {
        // Of s = (1, -1.1, 1.2, 3): the second makes up for the first, the third then for the second.
        let s = [1.0, -1.1, 1.2, 3.0];
        let moments: Vec<f64> = s.iter().flat_map(|a| s.map(|b| a * b)).collect();
        let losses = losses(&moments, 4);
        let mut order = [0, 1, 2, 3];
        order.sort_by(|&a, &b| losses[a].total_cmp(&losses[b]).then(a.cmp(&b)));
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(losses[3] > 3.0 * 3.0 && losses[1] < 1.01, "{losses:?}");
    }

    #[test]
    fn units_that_say_nothing_of_each_other_lose_what_they_lose_alone() {
        assert_eq!(losses(&[3.0, 0.0, 0.0, 2.0], 2), [3.0, 2.0]);
    }

    #[test]
    fn units_that_push_the_same_way_do_not_both_go_first() {
        // The first two are the same; the third is as large as one of them, and independent.
        let moments = [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let losses = losses(&moments, 3);
        assert!(losses[0] < losses[1] && losses[2] < losses[1], "{losses:?}");
    }
}
