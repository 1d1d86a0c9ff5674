//! Gathers by grids of indices that count up: parts of a tensor from its start, as masks of exported attention take
//! them.

use onnx_opt_ir::{Attributes, Dim, Graph, Tensor, ValueId};

use super::facts::{axis, becomes, counter, list, shape};
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![Box::new(FunctionRule {
        name: "gather_grid",
        doc: "GatherND by a grid of ranges from 0 is the part of the tensor that they span.",
        class: ErrorClass::Exact,
        since: 13,
        roots: &["GatherND"],
        rewrite: gather_grid,
    })]
}

/// Indices that are `0..limit` along one axis of a grid and the same along all others.
struct Counter {
    /// The axis of the grid.
    along: usize,
    /// Scalar operand of the Range.
    limit: ValueId,
    /// How many, which inference proves to be no negative number.
    size: Dim,
}

impl Counter {
    /// Reads a value of this rank as a Range with axes of size 1 around it, spread over the grid.
    fn read(graph: &Graph, value: ValueId, rank: usize) -> Result<Self, Miss> {
        let spread = match graph.producer_of(value, "Expand") {
            Some((_, expand)) => found(expand.input(0))?,
            None => value,
        };
        let (_, unsqueeze) = found(graph.producer_of(spread, "Unsqueeze"))?;
        let counts = found(unsqueeze.input(0))?;
        let range = counter(graph, counts)?;
        let limit = found(range.input(1))?;
        let [size] = found(graph.elements(limit))?.try_into().map_err(|_| Miss::NoMatch)?;
        ensure(shape(graph, counts)? == [size.clone()], "the limit of a range may be negative")?;

        let around = shape(graph, spread)?.len();
        let mut axes = found(list(graph, unsqueeze, "axes", 1)?)?
            .into_iter()
            .map(|named| axis(named, around))
            .collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        let own = found((0..around).find(|axis| axes.binary_search(axis).is_err()))?;
        ensure(around <= rank, "the ranges do not span the grid")?;
        Ok(Self { along: own + rank - around, limit, size })
    }
}

/// `GatherND(x, Concat(i0[..., 1], i1[..., 1], ...))` with `i_k` counting up along an axis of its own, later for later
/// `k`: `x[0:n0, 0:n1, ...]` with axes of size 1 for what is left of the grid.
fn gather_grid(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    ensure(root.int("batch_dims").unwrap_or(0) == 0, "it has axes of batches")?;
    let x = site.input(0)?;
    let indices = site.input(1)?;
    let (_, concat) = found(graph.producer_of(indices, "Concat"))?;
    let grid = shape(graph, indices)?.len() - 1;
    ensure(axis(concat.int("axis").unwrap_or(0), grid + 1)? == grid, "the indices are joined elsewhere")?;
    let mut counters: Vec<Counter> = Vec::new();
    for part in concat.inputs().iter().copied() {
        let (_, column) = found(graph.producer_of(found(part)?, "Unsqueeze"))?;
        let last = found(list(graph, column, "axes", 1)?)?;
        let [last] = last.as_slice() else { return Err("several axes are put in".into()) };
        ensure(axis(*last, grid + 1)? == grid, "an axis is put in elsewhere")?;
        counters.push(Counter::read(graph, found(column.input(0))?, grid)?);
    }
    ensure(counters.is_sorted_by(|a, b| a.along < b.along), "the axes change places")?;
    let sizes = shape(graph, indices)?;
    let spanned = |along: usize| counters.iter().find(|counter| counter.along == along);
    let fits =
        |along: usize| sizes[along] == spanned(along).map_or(Dim::fixed(1), |found| found.size.clone());
    ensure((0..grid).all(fits), "a part would be repeated")?;

    let mut patch = Patch::new();
    let data = shape(graph, x)?;
    let mut result = Operand::Value(x);
    let zero = patch.constant(Tensor::vector_i64(&[0]));
    for (along, counter) in counters.iter().enumerate() {
        if found(data.get(along))? == &counter.size {
            continue;
        }
        let end = patch.node("Unsqueeze", [counter.limit.into(), zero], Attributes::default());
        let along = patch.constant(Tensor::vector_i64(&[along as i64]));
        result = patch.node("Slice", [result, zero, end, along], Attributes::default());
    }
    let free: Vec<i64> =
        (0..grid).filter(|&along| spanned(along).is_none()).map(|along| along as i64).collect();
    if !free.is_empty() {
        let axes = patch.constant(Tensor::vector_i64(&free));
        result = patch.node("Unsqueeze", [result, axes], Attributes::default());
    }
    match result {
        Operand::Value(value) => becomes(site, value),
        result => finish(site, patch, result),
    }
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    /// `0..limit` along one of the axes of a grid of two, spread over it.
    fn counter(f: &mut Fixture, limit: ValueId, start: i64, others: &[i64], grid: ValueId) -> ValueId {
        let (start, step) = (f.integer(start), f.integer(1));
        let range = f.op("Range", &[start, limit, step]);
        let others = f.integers(others);
        let counts = f.op("Unsqueeze", &[range, others]);
        let spread = f.op("Expand", &[counts, grid]);
        let last = f.integers(&[-1]);
        f.op("Unsqueeze", &[spread, last])
    }

    let example = |start: i64, wide: bool| {
        let mut f = Fixture::new(17);
        let mask = f.symbolic_input("mask", &["4", "6"]);
        let tokens = f.symbolic_input("tokens", &["4", "K"]);
        let size = |f: &mut Fixture, index: i64| {
            let sizes = f.op("Shape", &[tokens]);
            let index = f.integer(index);
            f.op("Gather", &[sizes, index])
        };
        let (batch, keys) = (size(&mut f, 0), size(&mut f, 1));
        let zero = f.integers(&[0]);
        let (rows, columns) = (f.op("Unsqueeze", &[batch, zero]), f.op("Unsqueeze", &[keys, zero]));
        let between = f.integers(&[if wide { 2 } else { 1 }]);
        let one = f.integers(&[1]);
        let grid = f.node(NewNode::new("Concat", [rows, one, between, columns]).with("axis", 0));
        let row = counter(&mut f, batch, 0, &[1, 2, 3], grid);
        let column = counter(&mut f, keys, start, &[0, 1, 2], grid);
        let indices = f.node(NewNode::new("Concat", [row, column]).with("axis", -1));
        let y = f.op("GatherND", &[mask, indices]);
        f.with_output(y)
    };
    vec![
        Example::new("gather_grid", move |fires| example(i64::from(!fires), false)),
        Example::new("gather_grid", move |fires| example(0, !fires)),
    ]
}
