//! Where a model will run: what a runtime has, and what is slow there.
//!
//! The profiles of this crate lie in `passes/targets/`; a user's own has the same form.

use std::collections::{BTreeMap, BTreeSet};

use onnx_opt_ir::schema::{canonical_domain, versions};
use serde::Deserialize;
use thiserror::Error;

use crate::pipeline::pipeline;
use crate::quantize::Profile;

/// What a runtime has, and what is slow there.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Name for the command line.
    pub name: String,
    /// The highest version of the default operator set that it runs.
    pub highest_opset: i64,
    /// Operators of which it lacks the newest versions, and the highest version of the default operator set at which
    /// it runs them. A model that has one is raised no further.
    #[serde(default)]
    pub only_up_to: BTreeMap<String, i64>,
    /// Operators outside the standard that a rewrite may emit, as in `com.microsoft:BiasGelu`.
    #[serde(default)]
    pub contrib: BTreeSet<String>,
    /// Rules and passes that make models slower there. They apply only where the user names them.
    #[serde(default)]
    pub avoid: BTreeSet<String>,
    /// What a node of an operator costs there beside an elementwise one on the same data, which costs 1, as does what
    /// is not listed. `inf` for operators that it does not have. A rewrite with a listed operator must cost no more
    /// than what it replaces.
    #[serde(default)]
    pub costs: BTreeMap<String, f64>,
    /// Types of floats narrower than single precision that it computes with.
    #[serde(default)]
    pub narrow_floats: BTreeSet<String>,
    /// How it computes with integers, or the name of a profile of this crate that says so.
    #[serde(default)]
    pub quantize: Option<Quantize>,
}

/// How a runtime computes with integers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Quantize {
    /// As that of another profile does.
    As(String),
    /// As said here.
    Table(Box<Profile>),
}

/// Why a profile cannot be used.
#[derive(Debug, Error)]
pub enum TargetError {
    /// It is not TOML, or not of the form of a profile.
    #[error("{0}")]
    Form(#[from] toml::de::Error),
    /// It names a rule that is not there.
    #[error("`avoid` names `{0}`, which is no pass and no rule")]
    NoSuchRule(String),
    /// It says something of an operator that neither the standard nor its own list of operators has.
    #[error("`{table}` names `{name}`, which is no operator of the standard{}", if *table == "costs" { " and not in `contrib`" } else { "" })]
    NoSuchOperator {
        /// Where.
        table: &'static str,
        /// The operator.
        name: String,
    },
    /// A cost is negative or not a number.
    #[error("the cost of `{0}` is negative or not a number")]
    Cost(String),
    /// An operator outside the standard without its domain.
    #[error("`contrib` names `{0}`, which is not of the form domain:Operator")]
    NoDomain(String),
    /// The default operator set has no such version.
    #[error("`{table}` has {version}, which is no version of the default operator set")]
    Opset {
        /// Where.
        table: &'static str,
        /// The number.
        version: i64,
    },
    /// What it says of quantization makes no sense.
    #[error("`quantize`: {0}")]
    Quantize(String),
}

/// Name and text of each profile of this crate, the default one first.
const PROFILES: [(&str, &str); 7] = [
    ("onnx", include_str!("../targets/onnx.toml")),
    ("onnxruntime", include_str!("../targets/onnxruntime.toml")),
    ("onnxruntime-arm", include_str!("../targets/onnxruntime-arm.toml")),
    ("tensorrt", include_str!("../targets/tensorrt.toml")),
    ("openvino", include_str!("../targets/openvino.toml")),
    ("qnn", include_str!("../targets/qnn.toml")),
    ("tract", include_str!("../targets/tract.toml")),
];

impl Target {
    /// Names of the profiles of this crate, the default one first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PROFILES.iter().map(|(name, _)| *name)
    }

    /// The profile of this name; `None` if this crate has none.
    pub fn named(name: &str) -> Option<Self> {
        let (_, text) = PROFILES.iter().find(|(known, _)| *known == name)?;
        // That they say nothing wrong a test knows, at no cost to every start.
        toml::from_str(text).ok()
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// If it is not one, or names rules or operators that are not there.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let target: Self = toml::from_str(text)?;
        let versioned = target.only_up_to.values().map(|&version| ("only_up_to", version));
        if let Some((table, version)) =
            versioned.chain([("highest_opset", target.highest_opset)]).find(|(_, version)| *version < 1)
        {
            return Err(TargetError::Opset { table, version });
        }
        if let Some(name) = target.only_up_to.keys().find(|name| versions("", name).is_empty()) {
            return Err(TargetError::NoSuchOperator { table: "only_up_to", name: name.clone() });
        }
        if let Some(name) = target.contrib.iter().find(|name| !name.contains(':')) {
            return Err(TargetError::NoDomain(name.clone()));
        }
        let manager = pipeline(3);
        let known = manager.names();
        if let Some(name) = target.avoid.iter().find(|name| !known.contains(name.as_str())) {
            return Err(TargetError::NoSuchRule(name.clone()));
        }
        for (name, cost) in &target.costs {
            let (domain, op_type) = name.split_once(':').unwrap_or(("", name));
            if versions(domain, op_type).is_empty() && !target.contrib.contains(name) {
                return Err(TargetError::NoSuchOperator { table: "costs", name: name.clone() });
            }
            if cost.is_nan() || *cost < 0.0 {
                return Err(TargetError::Cost(name.clone()));
            }
        }
        match &target.quantize {
            Some(Quantize::As(name)) if !Self::names().any(|known| known == name) => {
                return Err(TargetError::Quantize(format!("there is no profile `{name}`")));
            }
            Some(Quantize::Table(profile)) => {
                if let Some(complaint) = profile.complaint() {
                    return Err(TargetError::Quantize(complaint));
                }
            }
            _ => {}
        }
        Ok(target)
    }

    /// The same runtime for a model that is to be pruned or quantized yet: with standard operators alone, into which these
    /// look.
    #[must_use]
    pub fn without_contrib(&self) -> Self {
        Self { contrib: BTreeSet::new(), ..self.clone() }
    }

    /// How it computes with integers, if its profile says so.
    pub fn quantization(&self) -> Option<Profile> {
        match self.quantize.as_ref()? {
            Quantize::Table(profile) => Some((**profile).clone()),
            // Profiles of this crate that refer to another refer to one with a table: a test reads them all.
            Quantize::As(name) => match Self::named(name)?.quantize? {
                Quantize::Table(profile) => Some(*profile),
                Quantize::As(_) => None,
            },
        }
    }

    /// The highest version of the default operator set at which it runs a model of these operators.
    pub fn highest_opset_of<'a>(&self, operators: impl IntoIterator<Item = &'a str>) -> i64 {
        let limits = operators.into_iter().filter_map(|op_type| self.only_up_to.get(op_type).copied());
        limits.fold(self.highest_opset, i64::min)
    }

    /// What a node of an operator costs, if the profile says so.
    pub fn listed_cost(&self, domain: &str, op_type: &str) -> Option<f64> {
        match canonical_domain(domain) {
            "" => self.costs.get(op_type),
            domain => self.costs.get(&format!("{domain}:{op_type}")),
        }
        .copied()
    }

    /// Whether a rewrite may emit an operator of this domain.
    pub fn has(&self, domain: &str, op_type: &str) -> bool {
        !versions(domain, op_type).is_empty() || self.contrib.contains(&format!("{domain}:{op_type}"))
    }
}

impl Default for Target {
    /// Standard operators alone, at which no known runtime is slow.
    fn default() -> Self {
        let latest = onnx_opt_ir::schema::latest_opset("").unwrap_or(1);
        Self::named(PROFILES[0].0).unwrap_or(Self {
            name: PROFILES[0].0.to_owned(),
            highest_opset: latest,
            only_up_to: BTreeMap::new(),
            contrib: BTreeSet::new(),
            avoid: BTreeSet::new(),
            narrow_floats: BTreeSet::new(),
            costs: BTreeMap::new(),
            quantize: None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_read_and_bears_its_name() {
        for (name, text) in PROFILES {
            let target = Target::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(target.name, name);
            assert!(target.quantization().is_some(), "{name}");
            assert_eq!(Target::named(name), Some(target));
        }
        assert_eq!(Target::default(), Target::named("onnx").unwrap());
        assert!(Target::default().contrib.is_empty());
        assert_eq!(Target::named("abacus"), None);
    }

    #[test]
    fn a_profile_is_held_against_what_there_is() {
        let parse = |rest: &str| Target::parse(&format!("name = \"mine\"\nhighest_opset = 17\n{rest}"));
        let mine = parse("avoid = [\"gelu_erf\", \"inline_functions\"]\ncosts.Gelu = inf").unwrap();
        assert_eq!(mine.listed_cost("ai.onnx", "Gelu"), Some(f64::INFINITY));
        assert_eq!((mine.listed_cost("", "Erf"), mine.listed_cost("other", "Gelu")), (None, None));
        assert!(mine.has("", "Gelu") && !mine.has("com.microsoft", "Gelu"));
        let contrib = "contrib = [\"com.microsoft:Gelu\"]\n";
        let mine = parse(&format!("{contrib}costs.\"com.microsoft:Gelu\" = 0.5")).unwrap();
        assert!(mine.has("com.microsoft", "Gelu"));
        assert_eq!(mine.listed_cost("com.microsoft", "Gelu"), Some(0.5));

        assert!(matches!(parse("avoid = [\"gelu\"]"), Err(TargetError::NoSuchRule(name)) if name == "gelu"));
        assert_eq!(
            parse("costs.Gelo = 1.0").unwrap_err().to_string(),
            "`costs` names `Gelo`, which is no operator of the standard and not in `contrib`"
        );
        assert_eq!(
            parse("only_up_to.Gelo = 16").unwrap_err().to_string(),
            "`only_up_to` names `Gelo`, which is no operator of the standard"
        );
        assert!(matches!(
            parse("only_up_to.Gelu = 0"),
            Err(TargetError::Opset { table: "only_up_to", version: 0 })
        ));
        assert!(matches!(parse("costs.Gelu = -1.0"), Err(TargetError::Cost(_))));
        assert!(matches!(parse("costs.Gelu = nan"), Err(TargetError::Cost(_))));
        assert!(matches!(parse("contrib = [\"BiasGelu\"]"), Err(TargetError::NoDomain(_))));
        assert!(matches!(parse("colour = 1"), Err(TargetError::Form(_))));
        assert!(parse("quantize = \"onnxruntime\"").unwrap().quantization().is_some());
        assert!(matches!(parse("quantize = \"abacus\""), Err(TargetError::Quantize(_))));
        assert!(matches!(Target::parse("name = \"x\"\nhighest_opset = 0"), Err(TargetError::Opset { .. })));
    }

    #[test]
    fn an_operator_may_end_before_the_others() {
        let text = "name = \"mine\"\nhighest_opset = 23\n[only_up_to]\nRoiAlign = 21\nGelu = 24";
        let mine = Target::parse(text).unwrap();
        assert_eq!(mine.highest_opset_of(["Relu", "RoiAlign"]), 21);
        assert_eq!(mine.highest_opset_of(["Relu", "Gelu"]), 23);
        // Kernels of onnxruntime, which the default target heeds as well.
        for name in ["onnx", "onnxruntime"] {
            assert_eq!(Target::named(name).unwrap().highest_opset_of(["RandomNormal"]), 21, "{name}");
        }
    }
}
