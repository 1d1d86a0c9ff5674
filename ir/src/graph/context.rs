//! What all graphs of a model share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dim::Dim;
use crate::schema::canonical_domain;

/// Domain and name of a model-local function.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionId {
    /// Domain, the default one as the empty string.
    pub domain: String,
    /// Name.
    pub name: String,
}

/// Opset versions, IR version, names of model-local functions and the source of anonymous symbols. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    facts: Arc<Facts>,
    symbols: Arc<AtomicU64>,
}

#[derive(Clone, Debug, Default)]
struct Facts {
    ir_version: i64,
    opsets: BTreeMap<String, i64>,
    functions: BTreeSet<FunctionId>,
}

impl Context {
    /// A context with these opset versions by domain.
    pub fn new(
        ir_version: i64,
        opsets: impl IntoIterator<Item = (String, i64)>,
        functions: impl IntoIterator<Item = FunctionId>,
    ) -> Self {
        let opsets = opsets
            .into_iter()
            .map(|(domain, version)| (canonical_domain(&domain).to_owned(), version))
            .collect();
        let facts = Facts { ir_version, opsets, functions: functions.into_iter().collect() };
        Self { facts: Arc::new(facts), symbols: Arc::default() }
    }

    /// These facts, and the symbols of `self`: for graphs that exist already.
    #[must_use]
    pub(crate) fn with_facts_of(&self, other: Self) -> Self {
        Self { facts: other.facts, symbols: self.symbols.clone() }
    }

    /// A context with one version of the default domain, for tests and generated graphs.
    pub fn with_opset(version: i64) -> Self {
        Self::new(10, [(String::new(), version)], [])
    }

    /// IR version of the model.
    pub fn ir_version(&self) -> i64 {
        self.facts.ir_version
    }

    /// The operator set version that the model imports for a domain.
    pub fn opset(&self, domain: &str) -> Option<i64> {
        self.facts.opsets.get(canonical_domain(domain)).copied()
    }

    /// Imported domains and their versions; the default domain is the empty string.
    pub fn opsets(&self) -> impl Iterator<Item = (&str, i64)> {
        self.facts.opsets.iter().map(|(domain, version)| (domain.as_str(), *version))
    }

    /// Whether an operator of this name is a function that the model defines itself.
    pub fn is_function(&self, domain: &str, name: &str) -> bool {
        let domain = canonical_domain(domain);
        // The set is nearly always empty; a scan keeps the lookup free of allocation.
        self.facts.functions.iter().any(|function| function.domain == domain && function.name == name)
    }

    /// A size that is unknown and equal to no other. Numbered in order of creation, so that runs are repeatable.
    pub fn fresh_dim(&self) -> Dim {
        Dim::anonymous(self.symbols.fetch_add(1, Ordering::Relaxed))
    }
}
