//! Operators that work on one value side by side and whose results are joined.

use onnx_opt_ir::{Attributes, ElementType, Graph, Node, Tensor, ValueId};

use super::facts::{axis, only_use, split};
use super::weights::own_weight;
use crate::rewrite::{
    ErrorClass, FunctionRule, Miss, Operand, Patch, Rewrite, Rule, Site, ensure, found, language::finish,
};

/// The rules of this file.
pub fn rules() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(FunctionRule {
            name: "parallel_convolutions",
            doc: "The channels of several Conv of one value, joined, are those of one Conv with the joined weights.",
            class: ErrorClass::Rounding,
            since: 1,
            roots: &["Concat"],
            rewrite: parallel_convolutions,
        }),
        Box::new(FunctionRule {
            name: "parallel_products",
            doc: "Products of one value with several matrices are parts of its product with the joined matrix.",
            class: ErrorClass::Rounding,
            since: 7,
            roots: &["MatMul", "Gemm"],
            rewrite: parallel_products,
        }),
    ]
}

fn parallel_convolutions(site: &Site<'_>) -> Rewrite {
    let graph = site.graph;
    let operands: Vec<ValueId> = found(site.node().inputs().iter().copied().collect())?;
    let (&first, others) = operands.split_first().ok_or(Miss::NoMatch)?;
    ensure(!others.is_empty(), "there is one operand")?;
    let (_, model) = found(graph.producer_of(first, "Conv"))?;
    let rank = graph.rank(first).ok_or("the rank is not known")?;
    ensure(axis(site.node().int("axis").unwrap_or(1), rank)? == 1, "what is joined are no channels")?;
    ensure(model.int("group").unwrap_or(1) == 1, "the channels are grouped")?;
    let mut weights = Vec::new();
    let mut biases = Vec::new();
    for &operand in &operands {
        let (_, node) = found(graph.producer_of(operand, "Conv"))?;
        ensure(node.input(0) == model.input(0), "they work on different values")?;
        ensure(alike(node, model), "the windows differ")?;
        only_use(graph, operand)?;
        weights.push(&**own_weight(graph, found(node.input(1))?)?);
        biases.push(node.input(2));
    }
    let channels = |weight: &Tensor| weight.shape().first().copied().unwrap_or_default();
    let mut patch = Patch::new();
    let bias = if biases.iter().all(Option::is_none) {
        Operand::Absent
    } else {
        let biases: Result<Vec<Tensor>, Miss> = biases
            .iter()
            .zip(&weights)
            .map(|(&bias, weight)| bias_of(graph, bias, weight.element(), channels(weight)))
            .collect();
        patch.constant(joined(&biases?.iter().collect::<Vec<_>>(), 0)?)
    };
    let weight = patch.constant(joined(&weights, 0)?);
    let new = patch.node("Conv", [model.input(0).into(), weight, bias], model.attributes().clone());
    finish(site, patch, new)
}

/// Whether the attributes of two nodes mean the same.
fn alike(a: &Node, b: &Node) -> bool {
    let includes =
        |a: &Node, b: &Node| a.attributes().iter().all(|entry| b.attribute_is(&entry.name, &entry.value));
    includes(a, b) && includes(b, a)
}

/// A constant bias, zeros for one left out.
fn bias_of(
    graph: &Graph,
    bias: Option<ValueId>,
    element: ElementType,
    outputs: usize,
) -> Result<Tensor, Miss> {
    let Some(bias) = bias else {
        let zeros = Tensor::from_f64(element, &[outputs], &vec![0.0; outputs]);
        return zeros.ok_or_else(|| "the weights have no zero".into());
    };
    let tensor = graph.constant(bias).ok_or("a bias is not constant")?;
    ensure(tensor.shape() == [outputs] && tensor.element() == element, "a bias does not fit")?;
    Ok(Tensor::clone(tensor))
}

/// The most bytes that are joined. What a single operator saves is its start, which counts beside little work alone,
/// while weights that stay apart stay in the file that they were read from.
const LARGEST: usize = 1 << 20;

/// Floating-point tensors one after the other along an axis, on which alone they may differ.
fn joined(tensors: &[&Tensor], axis: usize) -> Result<Tensor, Miss> {
    ensure(tensors.iter().all(|tensor| tensor.element().is_float()), "the weights are no floats")?;
    let bytes: usize = tensors.iter().map(|tensor| tensor.byte_len()).sum();
    ensure(bytes <= LARGEST, "the weights are large: their products gain nothing side by side")?;
    Tensor::concatenated(tensors, axis).ok_or_else(|| "the weights differ in shape or type".into())
}

/// A product with a constant matrix, and the constant that is added to it.
struct Linear<'g> {
    weight: &'g Tensor,
    bias: Option<ValueId>,
    columns: usize,
    /// What is left when both are done.
    result: ValueId,
}

impl<'g> Linear<'g> {
    fn read(graph: &'g Graph, node: &Node) -> Result<Self, Miss> {
        let weight = own_weight(graph, found(node.input(1))?)?;
        let &[rows, columns] = weight.shape() else { return Err("the weight is no matrix".into()) };
        let result = found(node.output(0))?;
        if node.is("Gemm") {
            let columns = if is_transposed(node) { rows } else { columns };
            return Ok(Self { weight, bias: node.input(2), columns, result });
        }
        let (bias, result) = match added(graph, result, columns) {
            Some((bias, sum)) => (Some(bias), sum),
            None => (None, result),
        };
        Ok(Self { weight, bias, columns, result })
    }
}

fn is_transposed(gemm: &Node) -> bool {
    gemm.int("transB").unwrap_or(0) != 0
}

/// The constant vector that the one user of a product adds to it, and the sum.
fn added(graph: &Graph, product: ValueId, columns: usize) -> Option<(ValueId, ValueId)> {
    if !graph.is_inner(product) {
        return None;
    }
    let add = graph.get_node(graph.consumers(product).next()?.node).filter(|node| node.is("Add"))?;
    let (a, b) = (add.input(0)?, add.input(1)?);
    let bias = if a == product { b } else { a };
    let is_vector = graph.constant(bias).is_some_and(|bias| bias.shape() == [columns]);
    if is_vector { Some((bias, add.output(0)?)) } else { None }
}

fn parallel_products(site: &Site<'_>) -> Rewrite {
    let (graph, root) = (site.graph, site.node());
    let x = site.input(0)?;
    let is_gemm = root.is("Gemm");
    ensure(!is_gemm || root.int("transA").unwrap_or(0) == 0, "the operand is transposed")?;
    let mut nodes: Vec<_> = graph
        .consumers(x)
        .filter_map(|consumer| {
            let node = graph.get_node(consumer.node)?;
            let fits = node.is(root.op_type()) && node.input(0) == Some(x) && alike(node, root);
            if fits { Some((consumer.node, Linear::read(graph, node).ok()?)) } else { None }
        })
        .collect();
    nodes.sort_by_key(|(id, _)| (graph.node(*id).position(), *id));
    nodes.dedup_by_key(|(id, _)| *id);
    // At the first of them, so that all others stand behind.
    found(nodes.first().filter(|(id, _)| *id == site.root))?;
    let linear: Vec<Linear<'_>> = nodes.into_iter().map(|(_, linear)| linear).collect();
    let sums = linear.iter().filter(|linear| linear.bias.is_some() && !is_gemm).count();
    ensure(linear.len() + sums > 2 + usize::from(sums > 0), "there would be as many operators")?;

    let mut patch = Patch::new();
    let weights: Vec<&Tensor> = linear.iter().map(|linear| linear.weight).collect();
    let axis = usize::from(!is_gemm || !is_transposed(root));
    let weight = patch.constant(joined(&weights, axis)?);
    let bias = if linear.iter().all(|linear| linear.bias.is_none()) {
        None
    } else {
        let biases: Result<Vec<Tensor>, Miss> = linear
            .iter()
            .map(|linear| bias_of(graph, linear.bias, linear.weight.element(), linear.columns))
            .collect();
        Some(patch.constant(joined(&biases?.iter().collect::<Vec<_>>(), 0)?))
    };
    let attributes = root.attributes().clone();
    let product = match bias {
        Some(bias) if is_gemm => patch.node("Gemm", [x.into(), weight, bias], attributes),
        Some(bias) => {
            let product = patch.node("MatMul", [x.into(), weight], attributes);
            patch.node("Add", [product, bias], Attributes::new())
        }
        None => patch.node(root.op_type(), [x.into(), weight], attributes),
    };
    let sizes: Vec<i64> = linear.iter().filter_map(|linear| linear.columns.try_into().ok()).collect();
    let parts = split(graph, &mut patch, product, -1, &sizes);
    for (linear, part) in linear.iter().zip(parts) {
        patch.replace(linear.result, part);
    }
    Ok(patch)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use crate::testing::{Example, Fixture};

    let example = |build: fn(&mut Fixture, ValueId, bool) -> Vec<ValueId>| {
        Example::new("parallel_convolutions", move |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["batch", "3", "6", "5"]);
            let parts = build(&mut f, x, fires);
            let y = f.node(NewNode::new("Concat", parts).with("axis", -3));
            f.with_output(y)
        })
    };
    vec![
        // One without a bias; with other kernels.
        example(|f, x, fires| {
            let width: usize = if fires { 1 } else { 2 };
            let (v, w, b) = (f.weights(&[4, 3, 1, 1]), f.weights(&[2, 3, 1, width]), f.weights(&[2]));
            let padded = NewNode::new("Conv", [x, w, b]).with("pads", vec![0, 0, 0, width as i64 - 1]);
            let plain = NewNode::new("Conv", [x, v]).with("pads", vec![0; 4]);
            vec![f.node(plain), f.node(padded)]
        }),
        // Three; one of another value.
        example(|f, x, fires| {
            let other = f.op("Abs", &[x]);
            let from = [x, if fires { x } else { other }, x];
            from.map(|x| {
                let count = f.graph.values().count();
                let (w, b) = (f.weights(&[2 + count % 2, 3, 3, 3]), f.weights(&[2 + count % 2]));
                f.node(
                    NewNode::new("Conv", [x, w, b])
                        .with("pads", vec![1, 1, 1, 1])
                        .with("strides", vec![2, 1]),
                )
            })
            .to_vec()
        }),
        // Two of them with a bias; with one left, as many operators would take their place.
        Example::new("parallel_products", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["batch", "length", "4"]);
            for (name, width) in [("q", 4), ("k", 2), ("v", 3)].into_iter().take(if fires { 3 } else { 2 }) {
                let (w, b) = (f.weights(&[4, width]), f.weights(&[width]));
                let t = f.op("MatMul", &[x, w]);
                let y = if name == "k" || !fires { t } else { f.op("Add", &[t, b]) };
                f.output(name, y);
            }
            f
        }),
        // In an old opset, without biases; of different values.
        Example::new("parallel_products", |fires| {
            let mut f = Fixture::new(11);
            let x = f.input("x", &[3, 4]);
            let other = f.op("Abs", &[x]);
            for (name, x) in [("q", x), ("k", x), ("v", if fires { x } else { other })] {
                let w = f.weights(&[4, 4]);
                let y = f.op("MatMul", &[x, w]);
                f.output(name, y);
            }
            f
        }),
        // Gemm, one without a bias; one transposes its weight.
        Example::new("parallel_products", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[3, 4]);
            for (name, width) in [("q", 2), ("k", 4), ("v", 4)] {
                let (w, b) = (f.weights(&[width, 4]), f.weights(&[width]));
                let operands = if name == "k" { vec![x, w] } else { vec![x, w, b] };
                let transposed = i64::from(fires || name != "v");
                let y = f.node(NewNode::new("Gemm", operands).with("transB", transposed));
                f.output(name, y);
            }
            f
        }),
    ]
}
