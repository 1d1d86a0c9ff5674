//! Which rewrites to leave out when a result is wrong.

use std::collections::BTreeSet;

/// The fewest names, found greedily, whose rewrites must be left out so that the result is right; `None` if it is
/// wrong even without all of them. `check` rebuilds the model without the given ones and tells whether it is right.
/// Takes about log2(n) checks for each culprit.
///
/// # Errors
/// Those of `check`.
pub fn bisect<E>(
    fired: &[String],
    mut check: impl FnMut(&BTreeSet<String>) -> Result<bool, E>,
) -> Result<Option<BTreeSet<String>>, E> {
    let mut culprits = BTreeSet::new();
    let mut end = fired.len();
    if !check(&fired.iter().cloned().collect())? {
        return Ok(None);
    }
    while end > 0 && (culprits.is_empty() || !check(&culprits)?) {
        // Right without the culprits and the first `high` names, wrong without the culprits and the first `low`.
        let (mut low, mut high) = (0, end);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let skip = culprits.iter().chain(&fired[..middle]).cloned().collect();
            if check(&skip)? { high = middle } else { low = middle }
        }
        culprits.insert(fired[high - 1].clone());
        end = high - 1;
    }
    Ok(Some(culprits))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found among twenty rewrites when these are wrong, and the number of checks.
    fn found(wrong: &[&str]) -> (Option<BTreeSet<String>>, usize) {
        let fired: Vec<String> = (0..20).map(|index| format!("rule{index:02}")).collect();
        let mut checks = 0;
        let result: Result<_, ()> = bisect(&fired, |skip| {
            checks += 1;
            Ok(wrong.iter().all(|&name| skip.contains(name)))
        });
        (result.unwrap_or_default(), checks)
    }

    fn set(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn one_culprit() {
        for name in ["rule00", "rule07", "rule19"] {
            let (result, checks) = found(&[name]);
            assert_eq!(result, set(&[name]));
            assert!(checks <= 8, "{checks}");
        }
    }

    #[test]
    fn two_culprits() {
        assert_eq!(found(&["rule03", "rule15"]).0, set(&["rule03", "rule15"]));
    }

    #[test]
    fn no_culprit_among_them() {
        assert_eq!(found(&["elsewhere"]).0, None);
        let nothing: Result<_, ()> = bisect(&[], |_| Ok(true));
        assert_eq!(nothing, Ok(Some(BTreeSet::new())));
    }
}
