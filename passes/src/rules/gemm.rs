//! Matrix products by weights: Gemm and MatMul take in what scales and shifts columns, before and after them, bias
//! sums, transpositions and further products.

use onnx_opt_ir::{Attributes, ElementType, Graph, Node, ValueId};

use super::facts::element;
use super::idiom::known_as_part;
use super::scaling::scaled;
use super::weights::{Affine, Channels, channel_values, numbers, own_weight, rounded};
use crate::matrix::{MAX_PRODUCT, product};
use crate::rewrite::language::finish;
use crate::rewrite::{Miss, Operand, Patch, Rewrite, Site, ensure, found};

rules! {
    // First: these take the summand as it is, constant or not.
    /// a·b + c = Gemm(a, b, c) for matrices of floats.
    matmul_add [rounding, since 7]: Add(MatMul(a, b) as y, c) => Gemm(a, b, c) where |site| {
        ensure(site.graph.rank(a) == Some(2) && site.graph.rank(b) == Some(2), "the operands are no matrices")?;
        may_be_gemm(site.graph, a, b)?;
        is_bias(site.graph, c, y)
    };

    /// Gemm(a, b) + c = Gemm(a, b, c).
    gemm_add [rounding, since 11]: Add(Gemm(a, b) as y, c) => do |site| {
        is_bias(site.graph, c, y)?;
        let (_, node, _) = found(site.graph.producer(y))?;
        let mut attributes = node.attributes().clone();
        attributes.remove("beta");
        let mut patch = Patch::new();
        let new = patch.node("Gemm", [a, b, c], attributes);
        finish(site, patch, new)
    };

    /// BatchNormalization(x·W + b) = x·(W·s) + (s·b + t).
    linear_batch_normalization [rounding, since 7]:
        BatchNormalization(Gemm(x, w, b?) as y, const scale, const shift, const mean, const variance)
        | BatchNormalization(MatMul(x, w) as y, const scale, const shift, const mean, const variance)
        => do |site| { take_in_after(site, y) };

    /// (x·W + b)·s = x·(W·s) + b·s, and the same of division.
    linear_scale [rounding, since 7]:
        Mul(Gemm(x, w, b?) as y, const c)
        | Mul(MatMul(x, w) as y, const c)
        | Div(Gemm(x, w, b?) as y, const c)
        | Div(MatMul(x, w) as y, const c)
        => do |site| { take_in_after(site, y) };

    /// (x·W + b) + t = x·W + (b + t), and the same of subtraction.
    linear_shift [rounding, since 7]:
        Add(Gemm(x, w, b?) as y, const c)
        | Add(MatMul(x, w) as y, const c)
        | Sub(Gemm(x, w, b?) as y, const c)
        | Sub(MatMul(x, w) as y, const c)
        | Sub(const c, Gemm(x, w, b?) as y)
        | Sub(const c, MatMul(x, w) as y)
        => do |site| { take_in_after(site, y) };

    /// BatchNormalization(x)·W + b = x·(s·W) + (t·W + b).
    batch_normalization_linear [rounding, since 7]:
        Gemm(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, w, b?)
        | MatMul(BatchNormalization(x, const scale, const shift, const mean, const variance) as y, w)
        => do |site| { take_in_before(site, x, y) };

    /// (x·s)·W + b = x·(s·W) + b, and the same of division.
    scale_linear [rounding, since 7]:
        Gemm(Mul(x, const c) as y, w, b?)
        | MatMul(Mul(x, const c) as y, w)
        | Gemm(Div(x, const c) as y, w, b?)
        | MatMul(Div(x, const c) as y, w)
        => do |site| { take_in_before(site, x, y) };

    /// (x + t)·W + b = x·W + (t·W + b), and the same of subtraction.
    shift_linear [rounding, since 7]:
        Gemm(Add(x, const c) as y, w, b?)
        | MatMul(Add(x, const c) as y, w)
        | Gemm(Sub(x, const c) as y, w, b?)
        | MatMul(Sub(x, const c) as y, w)
        => do |site| { take_in_before(site, x, y) };

    /// (x·V + a)·W + b = x·(V·W) + (a·W + b).
    linear_linear [rounding, since 7]:
        Gemm(Gemm(x, v, a?) as y, w, b?)
        | Gemm(MatMul(x, v) as y, w, b?)
        | MatMul(Gemm(x, v, a?) as y, w)
        | MatMul(MatMul(x, v) as y, w)
        => do |site| { compose(site, y) };

    /// Gemm(aᵀ, b, c) says with an attribute that it transposes, and the same of b.
    transpose_gemm [rounding, since 7, shared]:
        Gemm(Transpose(t) as a, b, c?) | Gemm(a, Transpose(t) as b, c?)
        => do |site| {
            let mut attributes = site.node().attributes().clone();
            let mut operand = |value: ValueId, name: &str| match site.graph.producer_of(value, "Transpose") {
                Some((_, node)) if node.ints("perm").is_none_or(|perm| *perm == [1, 0]) => {
                    attributes.set(name, i64::from(site.node().int(name).unwrap_or(0) == 0));
                    node.input(0).into()
                }
                _ => Operand::Value(value),
            };
            let inputs = [operand(a, "transA"), operand(b, "transB"), c.into()];
            let mut patch = Patch::new();
            let new = patch.node("Gemm", inputs, attributes);
            finish(site, patch, new)
        };
}

/// Whether `c` is broadcast to the shape of the matrix `y` and does not change it.
fn is_bias(graph: &Graph, c: ValueId, y: ValueId) -> Result<(), Miss> {
    let shapes = (graph.shape(c), graph.shape(y));
    let (Some(c), Some(y)) = shapes else { return Err("a shape is not known".into()) };
    ensure(y.len() == 2 && c.len() <= 2, "a bias of a matrix is at most a matrix")?;
    let fits = c.iter().rev().zip(y.iter().rev()).all(|(c, y)| c.as_fixed() == Some(1) || c == y);
    ensure(fits, "the summand may change the shape")
}

/// Whether a product of matrices may become a Gemm.
fn may_be_gemm(graph: &Graph, a: ValueId, b: ValueId) -> Result<(), Miss> {
    let real = [ElementType::Float, ElementType::Double, ElementType::Float16, ElementType::Bfloat16];
    ensure(graph.element(a).is_some_and(|element| real.contains(&element)), "the matrices are not floats")?;
    // Runtimes know a quantized product by its operators.
    let quantized = |value| graph.producer_of(value, "DequantizeLinear").is_some();
    ensure(!quantized(a) && !quantized(b), "the product is quantized")
}

/// A Gemm or MatMul: `alpha·x·W + beta·b`.
struct Linear<'a> {
    graph: &'a Graph,
    node: &'a Node,
    x: ValueId,
    weight: ValueId,
    /// Of the weight.
    shape: Vec<usize>,
    /// The axis of the weight that the product sums over.
    inner: usize,
    /// The axis of the weight that is the last of the result.
    outer: usize,
    /// Number of axes of the result.
    rank: usize,
    alpha: f64,
    beta: f64,
}

impl<'a> Linear<'a> {
    fn read(graph: &'a Graph, node: &'a Node) -> Result<Self, Miss> {
        let (x, weight) = (found(node.input(0))?, found(node.input(1))?);
        let shape = graph.fixed_shape(weight).ok_or("the shape of the weight is not known")?;
        let shape: Option<Vec<usize>> = shape.into_iter().map(|size| usize::try_from(size).ok()).collect();
        let shape = shape.ok_or("the sizes are out of range")?;
        let rank = node.output(0).and_then(|y| graph.rank(y)).ok_or("the rank of the result is not known")?;
        let (Some(last), true) = (shape.len().checked_sub(1), shape.len() >= 2 && rank >= 1) else {
            return Err("the weight is no matrix".into());
        };
        let (inner, outer) = if node.int("transB") == Some(1) { (last, last - 1) } else { (last - 1, last) };
        let factor = |name| node.float(name).map_or(1.0, f64::from);
        let (alpha, beta) = (factor("alpha"), factor("beta"));
        Ok(Self { graph, node, x, weight, shape, inner, outer, rank, alpha, beta })
    }

    fn is_gemm(&self) -> bool {
        self.node.is("Gemm")
    }

    fn transposes_x(&self) -> bool {
        self.node.int("transA").is_some_and(|transposes| transposes != 0)
    }

    fn outputs(&self) -> usize {
        self.shape[self.outer]
    }

    /// The place along an axis of the weight, of element `index`.
    fn place(&self, axis: usize, index: usize) -> usize {
        index / self.shape[axis + 1..].iter().product::<usize>() % self.shape[axis]
    }

    /// `beta·b`, zeros where there is no bias.
    fn bias(&self) -> Result<Vec<f64>, Miss> {
        let Some(bias) = self.node.input(2) else { return Ok(vec![0.0; self.outputs()]) };
        let tensor = self.graph.constant(bias).ok_or("the bias is not constant")?;
        let channels = Channels { rank: 2, axis: 1, count: self.outputs() };
        Ok(channel_values(tensor, None, &channels)?.iter().map(|value| self.beta * value).collect())
    }

    /// Its weight, multiplied along an axis where factors are not all one.
    fn scaled_weight(&self, patch: &mut Patch, affine: &Affine, axis: usize) -> Result<Operand, Miss> {
        if !affine.scales() {
            return Ok(self.weight.into());
        }
        let tensor = own_weight(self.graph, self.weight)?;
        let run = self.shape[axis + 1..].iter().product();
        Ok(patch.constant(scaled(tensor, run, &affine.scale)?))
    }

    /// The product of another operand and weight. With a bias in place of the old one it is a Gemm.
    fn rebuilt(
        &self,
        patch: &mut Patch,
        x: ValueId,
        weight: Operand,
        bias: Option<Vec<f64>>,
    ) -> Result<Operand, Miss> {
        let mut attributes = self.node.attributes().clone();
        let Some(bias) = bias else {
            let inputs = [x.into(), weight, self.node.input(2).into()];
            return Ok(patch.node(self.node.op_type(), inputs, attributes));
        };
        if !self.is_gemm() {
            let matrices = self.graph.rank(x) == Some(2) && self.shape.len() == 2;
            ensure(matrices, "only a product of matrices takes a bias")?;
            may_be_gemm(self.graph, x, self.weight)?;
        }
        attributes.remove("beta");
        let element = element(self.graph, self.weight)?;
        let bias = patch.constant(rounded(element, &[self.outputs()], bias.into_iter())?);
        Ok(patch.node("Gemm", [x.into(), weight, bias], attributes))
    }
}

/// The root scales and shifts the result `y` of a product.
fn take_in_after(site: &Site<'_>, y: ValueId) -> Rewrite {
    let linear = Linear::read(site.graph, found(site.graph.producer(y))?.1)?;
    let channels = Channels { rank: linear.rank, axis: linear.rank - 1, count: linear.outputs() };
    let affine = Affine::read(site.graph, site.node(), y, &channels)?;
    let mut patch = Patch::new();
    let weight = linear.scaled_weight(&mut patch, &affine, linear.outer)?;
    let biased = linear.node.input(2).is_some() || affine.shifts();
    let bias = if biased { Some(affine.apply(&linear.bias()?)) } else { None };
    let new = linear.rebuilt(&mut patch, linear.x, weight, bias)?;
    finish(site, patch, new)
}

/// The producer of the operand `y` of the product at the root scales and shifts `x`.
fn take_in_before(site: &Site<'_>, x: ValueId, y: ValueId) -> Rewrite {
    let graph = site.graph;
    let (_, before, _) = found(graph.producer(y))?;
    let linear = Linear::read(graph, site.node())?;
    let rank = graph.rank(x).filter(|&rank| rank > 0).ok_or("the rank of the operand is not known")?;
    let axis = if linear.transposes_x() { 0 } else { rank - 1 };
    let channels = Channels::of(graph, x, axis, linear.shape[linear.inner])?;
    let affine = Affine::read(graph, before, x, &channels)?;
    known_as_part(graph, y)?;
    ensure(!affine.shifts() || linear.shape.len() == 2, "only a product of matrices takes a bias")?;
    let mut patch = Patch::new();
    let weight = linear.scaled_weight(&mut patch, &affine, linear.inner)?;
    let bias = if affine.shifts() {
        let tensor = graph.constant(linear.weight).ok_or("the weight is not constant")?;
        let mut bias = linear.bias()?;
        for (index, weight) in numbers(tensor)?.into_iter().enumerate() {
            let shift = affine.shift[linear.place(linear.inner, index)];
            bias[linear.place(linear.outer, index)] += linear.alpha * weight * shift;
        }
        Some(bias)
    } else {
        None
    };
    let new = linear.rebuilt(&mut patch, x, weight, bias)?;
    finish(site, patch, new)
}

/// The operand `y` of the product at the root is a product: one for both.
fn compose(site: &Site<'_>, y: ValueId) -> Rewrite {
    let graph = site.graph;
    let first = Linear::read(graph, found(graph.producer(y))?.1)?;
    let second = Linear::read(graph, site.node())?;
    ensure(first.shape.len() == 2 && second.shape.len() == 2, "a weight is no matrix")?;
    ensure(second.x == y && !second.transposes_x(), "the result between is transposed")?;
    let (rows, inner, columns) = (first.shape[first.inner], first.outputs(), second.outputs());
    ensure(inner == second.shape[second.inner], "the inner sizes differ")?;
    let (v, w) = (own_weight(graph, first.weight)?, own_weight(graph, second.weight)?);
    let elements = rows.checked_mul(columns).ok_or("the sizes are out of range")?;
    ensure(elements <= v.len() + w.len(), "the weights would grow")?;
    ensure(elements.saturating_mul(inner) <= MAX_PRODUCT, "composing the weights takes too long")?;

    // Row-major, without the factors of Gemm.
    let matrix = |linear: &Linear<'_>, tensor| -> Result<Vec<f64>, Miss> {
        let mut matrix = vec![0.0; linear.shape[0] * linear.shape[1]];
        for (index, value) in numbers(tensor)?.into_iter().enumerate() {
            let (row, column) = (linear.place(linear.inner, index), linear.place(linear.outer, index));
            matrix[row * linear.outputs() + column] = linear.alpha * value;
        }
        Ok(matrix)
    };
    let (v, w) = (matrix(&first, v)?, matrix(&second, w)?);
    let element = element(graph, second.weight)?;
    let mut patch = Patch::new();
    let weight = patch.constant(rounded(
        element,
        &[rows, columns],
        product(&v, &w, |number| number, [rows, inner, columns]).into_iter(),
    )?);
    if !first.is_gemm() && !second.is_gemm() {
        let new = patch.node("MatMul", [first.x.into(), weight], Attributes::new());
        return finish(site, patch, new);
    }
    let through = product(&first.bias()?, &w, |number| number, [1, inner, columns]);
    let bias = second.bias()?.into_iter().zip(through).map(|(own, through)| own + through);
    let bias = patch.constant(rounded(element, &[columns], bias)?);
    let attributes = Attributes::from_pairs([("transA", i64::from(first.transposes_x()).into())]);
    let new = patch.node("Gemm", [first.x.into(), weight, bias], attributes);
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::NewNode;

    use super::batch_normalization::batch_normalization;
    use crate::testing::{Example, Fixture};

    // Products of [3, 4] (or its transposition) and [4, 5], in three spellings.
    const SPELLINGS: [&str; 3] = ["MatMul", "Gemm", "transposed Gemm"];
    let input = |f: &mut Fixture, spelling: &str| {
        if spelling == "transposed Gemm" { f.input("x", &[4, 3]) } else { f.input("x", &[3, 4]) }
    };
    let product = |f: &mut Fixture, spelling: &str, x: ValueId| match spelling {
        "MatMul" => {
            let w = f.weights(&[4, 5]);
            f.op("MatMul", &[x, w])
        }
        "Gemm" => {
            let (w, b) = (f.weights(&[5, 4]), f.weights(&[1, 5]));
            f.node(NewNode::new("Gemm", [x, w, b]).with("transB", 1).with("alpha", 0.5f32).with("beta", 2f32))
        }
        _ => {
            let w = f.weights(&[4, 5]);
            f.node(NewNode::new("Gemm", [x, w]).with("transA", 1).with("alpha", 0.5f32))
        }
    };
    let mut examples = Vec::new();
    for spelling in SPELLINGS {
        examples.push(Example::new("linear_batch_normalization", |fires| {
            let mut f = Fixture::new(15);
            let x = input(&mut f, spelling);
            let t = product(&mut f, spelling, x);
            let y = batch_normalization(&mut f, t, 5);
            if !fires {
                f.output("t", t);
            }
            f.with_output(y)
        }));
        for (op, rule) in [
            ("Mul", "linear_scale"),
            ("Div", "linear_scale"),
            ("Add", "linear_shift"),
            ("Sub", "linear_shift"),
        ] {
            for (shape, miss) in [(&[5][..], &[3, 1][..]), (&[1, 5], &[1, 1, 5]), (&[], &[3, 5])] {
                examples.push(Example::new(rule, |fires| {
                    let mut f = Fixture::new(13);
                    let x = input(&mut f, spelling);
                    let t = product(&mut f, spelling, x);
                    let shape = if fires { shape } else { miss };
                    let c = f.floats(
                        shape,
                        &(0..shape.iter().product()).map(|i| i as f32 + 0.5).collect::<Vec<_>>(),
                    );
                    let y = f.op(op, &[t, c]);
                    f.with_output(y)
                }));
            }
        }
        for (op, rule) in [
            ("Mul", "scale_linear"),
            ("Div", "scale_linear"),
            ("Add", "shift_linear"),
            ("Sub", "shift_linear"),
        ] {
            examples.push(Example::new(rule, |fires| {
                let mut f = Fixture::new(13);
                let x = input(&mut f, spelling);
                let along = if spelling == "transposed Gemm" { [4, 1] } else { [1, 4] };
                let across = if spelling == "transposed Gemm" { [1, 3] } else { [3, 1] };
                let c = if fires { f.floats(&along, &[0.5, 1.5, -2.0, 3.0]) } else { f.weights(&across) };
                let t = f.op(op, &[x, c]);
                let y = product(&mut f, spelling, t);
                f.with_output(y)
            }));
        }
        for second in ["MatMul", "Gemm"] {
            examples.push(Example::new("linear_linear", |fires| {
                let mut f = Fixture::new(13);
                let x = input(&mut f, spelling);
                let t = product(&mut f, spelling, x);
                let b = f.weights(&[2]);
                let node = if second == "MatMul" {
                    let w = f.weights(&[5, 2]);
                    NewNode::new("MatMul", [t, w])
                } else {
                    let w = f.weights(&[2, 5]);
                    NewNode::new("Gemm", [t, w, b]).with("transB", 1).with("alpha", 0.5f32)
                };
                let y = f.node(node);
                if !fires {
                    f.output("t", t);
                }
                f.with_output(y)
            }));
        }
    }
    for spelling in ["MatMul", "Gemm"] {
        examples.push(Example::new("batch_normalization_linear", |fires| {
            let mut f = Fixture::new(15);
            let x = f.input("x", &[3, 4]);
            let t = batch_normalization(&mut f, x, 4);
            let y = product(&mut f, spelling, t);
            if !fires {
                f.output("t", t);
            }
            f.with_output(y)
        }));
    }
    examples.extend([
        // A waist of two is smaller than the product.
        Example::new("linear_linear", |fires| {
            let mut f = Fixture::new(13);
            let x = f.symbolic_input("x", &["n", "3", "6"]);
            let inner = if fires { 6 } else { 2 };
            let (v, w) = (f.weights(&[6, inner]), f.weights(&[inner, 6]));
            let t = f.op("MatMul", &[x, v]);
            let y = f.op("MatMul", &[t, w]);
            f.with_output(y)
        }),
        // The scale of a normalization stays with it.
        Example::new("scale_linear", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3, 4]);
            let t = f.op("Mul", &[x, x]);
            let t = f.node(NewNode::new("ReduceMean", [t]).with("axes", vec![-1]));
            let one = f.scalar(1.0);
            let t = f.op("Add", &[t, one]);
            let t = f.op(if fires { "Exp" } else { "Sqrt" }, &[t]);
            let t = f.op("Div", &[x, t]);
            let (c, w) = (f.weights(&[4]), f.weights(&[4, 5]));
            let t = f.op("Mul", &[t, c]);
            let y = f.op("MatMul", &[t, w]);
            f.with_output(y)
        }),
        Example::new("matmul_add", |fires| {
            let mut f = Fixture::new(13);
            let (a, b) = (f.symbolic_input("a", &["m", "4"]), f.input("b", &[4, 5]));
            let c = f.symbolic_input("c", if fires { &["m", "1"] } else { &["n", "5"] });
            let t = f.op("MatMul", &[a, b]);
            let y = f.op("Add", &[c, t]);
            f.with_output(y)
        }),
        // Three axes are no matrix.
        Example::new("matmul_add", |fires| {
            let mut f = Fixture::new(7);
            let (a, b) = (f.input("a", if fires { &[3, 4] } else { &[2, 3, 4] }), f.input("b", &[4, 5]));
            let c = f.weights(&[5]);
            let t = f.op("MatMul", &[a, b]);
            let y = f.op("Add", &[t, c]);
            f.with_output(y)
        }),
        Example::new("gemm_add", |fires| {
            let mut f = Fixture::new(13);
            let (a, b) = (f.input("a", &[4, 3]), f.input("b", &[4, 5]));
            let c = f.input("c", if fires { &[3, 1] } else { &[1, 3, 5] });
            let t = f.node(NewNode::new("Gemm", [a, b]).with("transA", 1).with("beta", 0.25f32));
            let y = f.op("Add", &[t, c]);
            f.with_output(y)
        }),
    ]);
    for (left, right) in [(true, true), (true, false), (false, true)] {
        examples.push(Example::new("transpose_gemm", |fires| {
            let mut f = Fixture::new(13);
            let (a, b) = (f.input("a", &[4, 4]), f.input("b", &[4, 4]));
            let turn = |f: &mut Fixture, x| {
                if fires {
                    f.node(NewNode::new("Transpose", [x]).with("perm", vec![1, 0]))
                } else {
                    f.op("Neg", &[x])
                }
            };
            let a = if left { turn(&mut f, a) } else { a };
            let b = if right { turn(&mut f, b) } else { b };
            let y = f.node(NewNode::new("Gemm", [a, b]).with("transB", 1));
            f.with_output(y)
        }));
    }
    examples
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{Dim, ElementType, Tensor};

    use super::*;
    use crate::testing::Fixture;

    #[test]
    fn integers_have_no_gemm() {
        let mut f = Fixture::new(13);
        let a = f.typed_input("a", ElementType::Int32, [3, 4].map(Dim::fixed));
        let b = f.graph.add_constant(Tensor::from_integers(ElementType::Int32, &[4, 5], &[1; 20]).unwrap());
        let c = f.graph.add_constant(Tensor::from_integers(ElementType::Int32, &[5], &[1; 5]).unwrap());
        let t = f.op("MatMul", &[a, b]);
        let y = f.op("Add", &[t, c]);
        assert_eq!(f.with_output(y).rewritten(rules()), ["MatMul", "Add"]);
    }

    #[test]
    fn a_stack_of_linear_layers_is_one() {
        let mut f = Fixture::new(11);
        let x = f.symbolic_input("x", &["n", "8"]);
        let mut t = x;
        for _ in 0..3 {
            let (w, b, c) = (f.weights(&[8, 8]), f.weights(&[8]), f.weights(&[1]));
            t = f.op("MatMul", &[t, w]);
            t = f.op("Add", &[b, t]);
            t = f.op("Div", &[t, c]);
        }
        assert_eq!(f.with_output(t).rewritten(rules()), ["Gemm"]);
    }

    #[test]
    fn three_axes_scale_but_take_no_bias() {
        let mut f = Fixture::new(13);
        let x = f.symbolic_input("x", &["n", "t", "4"]);
        let (w, c) = (f.weights(&[4, 5]), f.weights(&[5]));
        let t = f.op("MatMul", &[x, w]);
        let t = f.op("Mul", &[t, c]);
        let y = f.op("Add", &[t, c]);
        assert_eq!(f.with_output(y).rewritten(rules()), ["MatMul", "Add"]);
    }
}
