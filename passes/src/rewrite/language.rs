//! `rules!`: rewrites declared as pattern and replacement.
//!
//! ```text
//! rules! {
//!     /// The algebra.
//!     name [class, since N]: Pattern | Pattern => Replacement where |site| guard;
//! }
//! ```
//!
//! A pattern is `Op(operands){attributes} as name`, with operands
//! `x` (any value; the same name is the same value), `const w`, `x?` (may be left out), `..rest` (all further ones),
//! a number (a scalar constant) or a pattern; and attributes `name = value` or `name: int|float|ints capture`.
//! Operands of commutative operators match in both orders. Inner results must have no other use; `[class, shared]`
//! lifts that where the rule pays all the same.
//!
//! A replacement is a capture, an operator `Op(operands){name = value}` over captures, numbers (typed as the
//! result) and operators, or `do |site| { ... }`, Rust that gives a [`super::Rewrite`]. Captures are Rust variables
//! in guards, attribute values and `do` blocks: `ValueId`, for `x?` `Option<ValueId>`, for `..rest` `Vec<ValueId>`,
//! for attributes `i64`, `f32`, `Option<Vec<i64>>`.

use onnx_opt_ir::{Tensor, ValueId};

use super::kinds::Kinds;
use super::pattern::{OpPattern, escapes};
use super::{ErrorClass, Match, Miss, Operand, Patch, Rewrite, Rule, Site};

/// Replacement at a site for a match.
type Build = fn(&Site<'_>, &Match) -> Rewrite;

/// A rule that `rules!` declares.
pub struct DeclaredRule {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) class: ErrorClass,
    pub(crate) since: i64,
    pub(crate) shared: bool,
    pub(crate) alternatives: Vec<Alternative>,
    pub(crate) build: Build,
}

/// A pattern, and what it asks of operands.
pub(crate) struct Alternative {
    pattern: OpPattern,
    kinds: Kinds,
}

impl From<OpPattern> for Alternative {
    fn from(pattern: OpPattern) -> Self {
        Self { kinds: Kinds::of_pattern(&pattern), pattern }
    }
}

impl Rule for DeclaredRule {
    fn name(&self) -> &'static str {
        self.name
    }

    fn doc(&self) -> &'static str {
        self.doc
    }

    fn class(&self) -> ErrorClass {
        self.class
    }

    fn since(&self) -> i64 {
        self.since
    }

    fn roots(&self) -> Vec<&'static str> {
        let mut roots: Vec<&'static str> =
            self.alternatives.iter().map(|alternative| alternative.pattern.op_type).collect();
        roots.sort_unstable();
        roots.dedup();
        roots
    }

    fn rewrite(&self, site: &Site<'_>) -> Rewrite {
        let mut miss = Miss::NoMatch;
        let mut found = Match::default();
        for Alternative { pattern, kinds } in &self.alternatives {
            if !site.kinds.include(*kinds) {
                continue;
            }
            found.clear();
            if !pattern.matches(site.graph, site.root, &mut found) {
                continue;
            }
            if !self.shared && escapes(site.graph, &found, site.root) {
                miss = "an inner result has other users".into();
                continue;
            }
            match (self.build)(site, &found) {
                Ok(patch) => return Ok(patch),
                Err(Miss::NoMatch) => {}
                Err(declined) => miss = declined,
            }
        }
        Err(miss)
    }
}

/// A scalar constant of the element type of the rule's result.
///
/// # Errors
/// If that type is not known or has no such value.
#[allow(
    dead_code,
    reason = "part of the language, whether or not a rule writes a number into its replacement"
)]
pub(crate) fn literal(site: &Site<'_>, patch: &mut Patch, value: f64) -> Result<Operand, Miss> {
    let element = site.graph.element(site.output()?).ok_or("the element type is not known")?;
    let tensor = Tensor::scalar(element, value).ok_or("the element type has no numbers")?;
    Ok(patch.constant(tensor))
}

/// Replaces the first result of the root; its other results must be unused.
///
/// # Errors
/// If another result is used.
pub(crate) fn finish(site: &Site<'_>, mut patch: Patch, new: Operand) -> Rewrite {
    let used = |value: &&ValueId| site.graph.use_count(**value) > 0;
    if site.node().outputs().iter().skip(1).flatten().any(|value| used(&value)) {
        return Err("another result of the operator is used".into());
    }
    patch.replace(site.output()?, new);
    Ok(patch)
}

/// A list of operand patterns.
macro_rules! operands {
    (@list [$($done:expr),*] [$rest:expr]) => { (vec![$($done),*], $rest) };
    (@list [$($done:expr),*] [$rest:expr] .. $name:ident) => { (vec![$($done),*], Some(stringify!($name))) };
    (@list [$($done:expr),*] [$rest:expr] const $name:ident $(, $($more:tt)*)?) => {
        operands!(@list [$($done,)* $crate::rewrite::Pattern::Constant(stringify!($name))] [$rest] $($($more)*)?)
    };
    (@list [$($done:expr),*] [$rest:expr] $op:ident ($($inner:tt)*) $({ $($attributes:tt)* })? $(as $name:ident)? $(, $($more:tt)*)?) => {
        operands!(@list
            [$($done,)* $crate::rewrite::Pattern::Op(pattern!($op ($($inner)*) $({ $($attributes)* })? $(as $name)?))]
            [$rest] $($($more)*)?)
    };
    (@list [$($done:expr),*] [$rest:expr] $name:ident ? $(, $($more:tt)*)?) => {
        operands!(@list [$($done,)* $crate::rewrite::Pattern::Optional(stringify!($name))] [$rest] $($($more)*)?)
    };
    (@list [$($done:expr),*] [$rest:expr] $name:ident $(, $($more:tt)*)?) => {
        operands!(@list [$($done,)* $crate::rewrite::Pattern::Any(stringify!($name))] [$rest] $($($more)*)?)
    };
    (@list [$($done:expr),*] [$rest:expr] $value:literal $(, $($more:tt)*)?) => {
        operands!(@list [$($done,)* $crate::rewrite::Pattern::Scalar($value as f64)] [$rest] $($($more)*)?)
    };
    (@list [$($done:expr),*] [$rest:expr] - $value:literal $(, $($more:tt)*)?) => {
        operands!(@list [$($done,)* $crate::rewrite::Pattern::Scalar(-($value as f64))] [$rest] $($($more)*)?)
    };
}

/// A list of attribute patterns.
macro_rules! attribute_patterns {
    (@list [$($done:expr),*]) => { vec![$($done),*] };
    (@list [$($done:expr),*] $attribute:ident : $kind:ident $name:ident $(, $($more:tt)*)?) => {
        attribute_patterns!(@list
            [$($done,)* $crate::rewrite::AttributePattern::Bind(stringify!($attribute), stringify!($name))]
            $($($more)*)?)
    };
    (@list [$($done:expr),*] $attribute:ident = $value:expr $(, $($more:tt)*)?) => {
        attribute_patterns!(@list
            [$($done,)* $crate::rewrite::AttributePattern::Equals(stringify!($attribute), ($value).into())]
            $($($more)*)?)
    };
}

/// A pattern of an operator.
macro_rules! pattern {
    ($op:ident ($($operands:tt)*) $({ $($attributes:tt)* })? $(as $name:ident)?) => {{
        let (operands, rest) = operands!(@list [] [None] $($operands)*);
        #[allow(unused_mut, unused_assignments)]
        let mut attributes = Vec::new();
        $( attributes = attribute_patterns!(@list [] $($attributes)*); )?
        #[allow(unused_mut, unused_assignments)]
        let mut name = None;
        $( name = Some(stringify!($name)); )?
        $crate::rewrite::OpPattern { op_type: stringify!($op), operands, rest, attributes, name }
    }};
}

/// One Rust variable for each capture of a list of operands.
macro_rules! captures {
    ($site:ident $found:ident;) => {};
    ($site:ident $found:ident; .. $name:ident) => {
        #[allow(unused_variables)]
        let $name = $found.values(stringify!($name));
    };
    ($site:ident $found:ident; const $name:ident $(, $($more:tt)*)?) => {
        #[allow(unused_variables)]
        let $name = $found.value(stringify!($name))?;
        captures!($site $found; $($($more)*)?);
    };
    ($site:ident $found:ident; $op:ident ($($inner:tt)*) $({ $($attributes:tt)* })? $(as $name:ident)? $(, $($more:tt)*)?) => {
        captures!($site $found; $($inner)*);
        $( captures!(@attributes $site $found; $($attributes)*); )?
        $( #[allow(unused_variables)] let $name = $found.value(stringify!($name))?; )?
        captures!($site $found; $($($more)*)?);
    };
    ($site:ident $found:ident; $name:ident ? $(, $($more:tt)*)?) => {
        #[allow(unused_variables)]
        let $name = $found.optional(stringify!($name));
        captures!($site $found; $($($more)*)?);
    };
    ($site:ident $found:ident; $name:ident $(, $($more:tt)*)?) => {
        #[allow(unused_variables)]
        let $name = $found.value(stringify!($name))?;
        captures!($site $found; $($($more)*)?);
    };
    ($site:ident $found:ident; $value:literal $(, $($more:tt)*)?) => { captures!($site $found; $($($more)*)?); };
    ($site:ident $found:ident; - $value:literal $(, $($more:tt)*)?) => { captures!($site $found; $($($more)*)?); };
    (@attributes $site:ident $found:ident;) => {};
    (@attributes $site:ident $found:ident; $attribute:ident : int $name:ident $(, $($more:tt)*)?) => {
        #[allow(unused_variables)]
        let $name: i64 = $found.int($site.graph, stringify!($name))?;
        captures!(@attributes $site $found; $($($more)*)?);
    };
    (@attributes $site:ident $found:ident; $attribute:ident : float $name:ident $(, $($more:tt)*)?) => {
        #[allow(unused_variables)]
        let $name: f32 = $found.float($site.graph, stringify!($name))?;
        captures!(@attributes $site $found; $($($more)*)?);
    };
    (@attributes $site:ident $found:ident; $attribute:ident : ints $name:ident $(, $($more:tt)*)?) => {
        #[allow(unused_variables)]
        let $name: Option<Vec<i64>> = $found.ints($site.graph, stringify!($name));
        captures!(@attributes $site $found; $($($more)*)?);
    };
    (@attributes $site:ident $found:ident; $attribute:ident = $value:expr $(, $($more:tt)*)?) => {
        captures!(@attributes $site $found; $($($more)*)?);
    };
}

/// Builds a replacement term and gives its operand.
macro_rules! build {
    ($site:ident $patch:ident; $op:ident ($($operands:tt)*) $({ $($attribute:ident = $value:expr),* $(,)? })?) => {{
        let operands: Vec<$crate::rewrite::Operand> = build!(@list $site $patch; [] $($operands)*);
        let attributes = onnx_opt_ir::Attributes::from_pairs([$($((stringify!($attribute), ($value).into())),*)?]);
        $patch.node(stringify!($op), operands, attributes)
    }};
    ($site:ident $patch:ident; $name:ident) => { $crate::rewrite::Operand::from($name) };
    (@list $site:ident $patch:ident; [$($done:expr),*]) => { vec![$($done),*] };
    (@list $site:ident $patch:ident; [$($done:expr),*] $op:ident ($($inner:tt)*) $({ $($attributes:tt)* })? $(, $($more:tt)*)?) => {
        build!(@list $site $patch; [$($done,)* build!($site $patch; $op ($($inner)*) $({ $($attributes)* })?)] $($($more)*)?)
    };
    (@list $site:ident $patch:ident; [$($done:expr),*] $name:ident $(, $($more:tt)*)?) => {
        build!(@list $site $patch; [$($done,)* $crate::rewrite::Operand::from($name)] $($($more)*)?)
    };
    (@list $site:ident $patch:ident; [$($done:expr),*] $value:literal $(, $($more:tt)*)?) => {
        build!(@list $site $patch; [$($done,)* $crate::rewrite::language::literal($site, &mut $patch, $value as f64)?] $($($more)*)?)
    };
}

/// The body of a rule's replacement.
macro_rules! replacement {
    ($site:ident; do | $name:ident | $body:block) => {{
        #[allow(unused_variables)]
        let $name = $site;
        $body
    }};
    ($site:ident; $($term:tt)*) => {{
        #[allow(unused_mut)]
        let mut patch = $crate::rewrite::Patch::new();
        let new = build!($site patch; $($term)*);
        $crate::rewrite::language::finish($site, patch, new)
    }};
}

/// The class, version and flags in a rule's brackets.
macro_rules! header {
    (class exact $($more:tt)*) => {
        $crate::rewrite::ErrorClass::Exact
    };
    (class rounding $($more:tt)*) => {
        $crate::rewrite::ErrorClass::Rounding
    };
    (class approximate $($more:tt)*) => {
        $crate::rewrite::ErrorClass::Approximate
    };
    (since $class:ident) => {
        1
    };
    (since $class:ident, since $version:literal $($more:tt)*) => {
        $version
    };
    (since $class:ident, shared $($more:tt)*) => {
        1
    };
    (shared $class:ident) => {
        false
    };
    (shared $class:ident, since $version:literal) => {
        false
    };
    (shared $class:ident, $(since $version:literal,)? shared) => {
        true
    };
}

/// Declares `pub fn rules() -> Vec<Box<dyn Rule>>`; see the module's text.
macro_rules! rules {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident [$($header:tt)*]:
        $op:ident ($($operands:tt)*) $({ $($attributes:tt)* })? $(as $bound:ident)?
        $(| $op_more:ident ($($operands_more:tt)*) $({ $($attributes_more:tt)* })? $(as $bound_more:ident)?)*
        => $head:ident $(|$do_site:ident| $do_body:block)? $(($($new:tt)*) $({ $($new_attributes:tt)* })?)?
        $(where |$guard_site:ident| $guard:expr)?;
    )*) => {
        /// The rules of this file, in the order in which they are tried.
        pub fn rules() -> Vec<Box<dyn $crate::rewrite::Rule>> {
            vec![$(Box::new($crate::rewrite::DeclaredRule {
                name: stringify!($name),
                doc: concat!($($doc),+),
                class: header!(class $($header)*),
                since: header!(since $($header)*),
                shared: header!(shared $($header)*),
                alternatives: vec![
                    pattern!($op ($($operands)*) $({ $($attributes)* })? $(as $bound)?).into()
                    $(, pattern!($op_more ($($operands_more)*) $({ $($attributes_more)* })? $(as $bound_more)?).into())*
                ],
                build: |site, _found| {
                    captures!(site _found; $op ($($operands)*) $({ $($attributes)* })? $(as $bound)?);
                    $(
                        #[allow(unused_variables)]
                        let $guard_site = site;
                        let verdict: Result<(), $crate::rewrite::Miss> = $guard;
                        verdict?;
                    )?
                    replacement!(site; $head $(|$do_site| $do_body)? $(($($new)*) $({ $($new_attributes)* })?)?)
                },
            })),*]
        }
    };
}
