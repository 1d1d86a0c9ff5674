//! Products with a matrix, of rows that come from several axes.

use onnx_opt_ir::{Attributes, Graph, Node, Tensor, ValueId};

use super::chain::Chain;
use super::facts::{only_use, shape};
use super::weights::own_weight;
use crate::layout::permutation::Permutation;
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "reshape_product_reshape",
            doc: "Rows flattened for a product with a matrix, and given their axes back, need not be flattened.",
            class: ErrorClass::Rounding,
            since: 7,
            roots: &["Reshape"],
            rewrite: |site| reshape_product_reshape(site, false),
        }),
        Box::new(FunctionRule {
            name: "reshape_activated_product_reshape",
            doc: "Rows flattened for a product with a matrix and an activation need not be flattened.",
            class: ErrorClass::Rounding,
            since: 7,
            roots: &["Reshape"],
            rewrite: |site| reshape_product_reshape(site, true),
        }),
        Box::new(FunctionRule {
            name: "transpose_product_transpose",
            doc: "A product along the channels, moved last for it, is a Conv of windows of one element.",
            class: ErrorClass::Rounding,
            since: 7,
            roots: &["Transpose"],
            rewrite: transpose_product_transpose,
        }),
    ]
}

/// A product of rows with a matrix, and what is added to it.
struct Product {
    rows: ValueId,
    weight: ValueId,
    is_transposed: bool,
    bias: Option<ValueId>,
}

impl Product {
    fn read(node: &Node) -> Result<Self, Miss> {
        let (rows, weight) = (found(node.input(0))?, found(node.input(1))?);
        if node.is("MatMul") {
            return Ok(Self { rows, weight, is_transposed: false, bias: None });
        }
        let is_plain = node.int("transA").unwrap_or(0) == 0
            && node.float("alpha").unwrap_or(1.0) == 1.0
            && node.float("beta").unwrap_or(1.0) == 1.0;
        ensure(is_plain, "it scales or transposes")?;
        let is_transposed = node.int("transB").unwrap_or(0) != 0;
        Ok(Self { rows, weight, is_transposed, bias: node.input(2) })
    }
}

fn is_product(node: &Node) -> bool {
    node.is("MatMul") || node.is("Gemm")
}

/// Whether a constant is the same for all rows of `columns` columns, so that it does not tell where they lie.
fn is_row(tensor: &Tensor, columns: usize) -> bool {
    let shape = tensor.shape();
    (tensor.len() == 1 && shape.len() <= 1) || shape == [columns]
}

/// Of flattened rows a runtime may compute product, bias and activation in one, of others not: a rule for each case.
fn reshape_product_reshape(site: &Site<'_>, activated: bool) -> Rewrite {
    let graph = site.graph;
    let chain = Chain::up(graph, site.input(0)?, is_product)?;
    let is_sum = |node: &Node| node.is("Add") || node.is("Sub");
    found((chain.nodes().all(|id| is_sum(graph.node(id))) != activated).then_some(()))?;
    let (_, node, _) = found(graph.producer(chain.source))?;
    let product = Product::read(node)?;
    let flattens = |node: &Node| ["Reshape", "Flatten"].iter().any(|op_type| node.is(op_type));
    let (_, flatten, _) = found(graph.producer(product.rows).filter(|(_, node, _)| flattens(node)))?;
    let x = found(flatten.input(0))?;
    let (from, between, to) = (shape(graph, x)?, shape(graph, product.rows)?, shape(graph, site.output()?)?);
    let (weight, after) = (shape(graph, product.weight)?, shape(graph, chain.source)?);
    ensure(weight.len() == 2, "the weight is no matrix")?;
    ensure(from.len() > 2 && from.last() == between.last(), "rows are taken apart")?;
    let columns = found(after.last())?;
    ensure(
        to.split_last() == Some((columns, &from[..from.len() - 1])),
        "the axes that come back are others",
    )?;
    let columns = columns.as_fixed().and_then(|size| usize::try_from(size).ok()).unwrap_or(0);
    let mut patch = Patch::new();
    let weight = if product.is_transposed {
        let transposed = own_weight(graph, product.weight)?.transposed(&[1, 0]);
        patch.constant(transposed.ok_or("the weight cannot be transposed")?)
    } else {
        product.weight.into()
    };
    let mut result = patch.node("MatMul", [x.into(), weight], Attributes::new());
    if let Some(bias) = product.bias {
        let fits = graph.constant(bias).is_some_and(|bias| is_row(bias, columns));
        ensure(fits && graph.opset() >= 7, "the bias is no row")?;
        result = patch.node("Add", [result, bias.into()], Attributes::new());
    }
    let result = chain.on_operand(graph, &mut patch, result, |tensor| {
        ensure(is_row(tensor, columns), "a constant belongs to the shape in between").map(|()| None)
    })?;
    finish(site, patch, result)
}

/// The order in which the second axis is the last, of as many axes as an image or a signal has.
fn channels_last(rank: usize) -> Result<Permutation, Miss> {
    ensure((3..=5).contains(&rank), "these are no images")?;
    found(Permutation::new([0].into_iter().chain(2..rank).chain([1])))
}

fn order(graph: &Graph, node: &Node) -> Result<Permutation, Miss> {
    found(Permutation::of(graph, node))
}

fn transpose_product_transpose(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let back = order(graph, site.node())?;
    let last = channels_last(back.rank())?;
    ensure(back == last.inverse(), "the channels do not come back to where they are in a Conv")?;
    let chain = Chain::up(graph, site.input(0)?, |node| node.is("MatMul"))?;
    let (_, product, _) = found(graph.producer(chain.source))?;
    let rows = found(product.input(0))?;
    let (_, transpose) = found(graph.producer_of(rows, "Transpose"))?;
    ensure(order(graph, transpose)? == last, "the channels come from elsewhere")?;
    only_use(graph, rows)?;
    let x = found(transpose.input(0))?;
    let weight = own_weight(graph, found(product.input(1))?)?;
    let &[inputs, outputs] = weight.shape() else { return Err("the weight is no matrix".into()) };
    ensure(inputs > 0 && outputs > 0, "there are no channels")?;
    super::support::supports(site, "Conv", x)?;
    let window = [&[outputs, inputs][..], &vec![1; back.rank() - 2]].concat();
    let kernel = weight.transposed(&[1, 0]).and_then(|weight| weight.reshaped(&window));
    let mut patch = Patch::new();
    let kernel = patch.constant(kernel.ok_or("the weight cannot be transposed")?);
    let attributes = Attributes::from_pairs([("kernel_shape", vec![1; back.rank() - 2].into())]);
    let conv = patch.node("Conv", [x.into(), kernel], attributes);
    let result =
        chain.on_operand(graph, &mut patch, conv, |tensor| super::transpose::untransposed(tensor, &last))?;
    finish(site, patch, result)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    type Build = fn(&mut Fixture, ValueId, bool) -> ValueId;
    let rows = |rule: &'static str, build: Build, back: &'static [i64]| {
        Example::new(rule, move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["N", "4", "6"]);
            let sizes = f.integers(&[-1, 6]);
            let t = f.op("Reshape", &[x, sizes]);
            let t = build(&mut f, t, fires);
            let back = f.integers(back);
            let y = f.op("Reshape", &[t, back]);
            f.with_output(y)
        })
    };
    let channels = |opset: i64, shape: &'static [&'static str], misses: &'static [i64]| {
        Example::new("transpose_product_transpose", move |fires| {
            let mut f = Fixture::new(opset);
            let x = f.symbolic_input("x", shape);
            let rank = shape.len() as i64;
            let last: Vec<i64> = [0].into_iter().chain(2..rank).chain([1]).collect();
            let first: Vec<i64> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
            let t = f.node(NewNode::new("Transpose", [x]).with("perm", last));
            let (weight, bias) = (f.weights(&[3, 5]), f.weights(&[5]));
            let t = f.op("MatMul", &[t, weight]);
            let t = f.op("Add", &[bias, t]);
            let t = f.op("Relu", &[t]);
            let perm = if fires { first } else { misses.to_vec() };
            let y = f.node(NewNode::new("Transpose", [t]).with("perm", perm));
            f.with_output(y)
        })
    };
    vec![
        rows(
            "reshape_product_reshape",
            |f, t, fires| {
                let weight = f.weights(if fires { &[6, 5] } else { &[6, 10] });
                f.op("MatMul", &[t, weight])
            },
            &[-1, 4, 5],
        ),
        rows(
            "reshape_activated_product_reshape",
            |f, t, fires| {
                let (weight, bias) = (f.weights(&[6, 5]), f.weights(if fires { &[5] } else { &[1, 1] }));
                let t = f.op("MatMul", &[t, weight]);
                let t = f.op("Add", &[t, bias]);
                f.op("Relu", &[t])
            },
            &[-1, 4, 5],
        ),
        rows(
            "reshape_product_reshape",
            |f, t, fires| {
                let (weight, bias) = (f.weights(&[5, 6]), f.weights(&[5]));
                let gemm = NewNode::new("Gemm", [t, weight, bias]).with("transB", 1);
                f.node(gemm.with("beta", if fires { 1.0 } else { 0.5 }))
            },
            &[-1, 4, 5],
        ),
        channels(13, &["N", "3", "H", "W"], &[0, 3, 2, 1]),
        channels(11, &["N", "3", "L"], &[1, 2, 0]),
    ]
}
