//! What a user may have meant.

/// The known name that is most like this one, if one is like it at all.
pub fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let likeness = |other: &str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let like =
        known.into_iter().map(|other| (likeness(other), other)).filter(|(likeness, _)| *likeness > 0.8);
    like.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, name)| name.to_owned())
}

/// Names the alternative at the end of an error.
pub fn did_you_mean(similar: &Option<String>) -> String {
    similar.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognized_and_strangers_are_not() {
        let known = ["gelu_erf", "relu_relu", "dead_code"];
        assert_eq!(similar("gelu_ref", known).as_deref(), Some("gelu_erf"));
        assert_eq!(similar("dead-code", known).as_deref(), Some("dead_code"));
        assert_eq!(similar("quantize", known), None);
    }
}
