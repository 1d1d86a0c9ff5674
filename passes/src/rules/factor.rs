//! Sums of products with a common factor.

use onnx_opt_ir::{Attributes, ValueId};

use super::facts::{element, same_shape, shape};
use crate::rewrite::{Patch, Rewrite, Site, ensure, found, language::finish};

rules! {
    /// x·a + x·b = x·(a + b), and the same of differences.
    common_factor [rounding, since 7]:
        Add(Mul(x, a), Mul(x, b))
        | Add(Mul(a, x), Mul(x, b))
        | Sub(Mul(x, a), Mul(x, b))
        | Sub(Mul(a, x), Mul(x, b))
        => do |site| {
            ensure(element(site.graph, x)?.is_float(), "the elements are no floats")?;
            let mut patch = Patch::new();
            let sum = patch.node(site.node().op_type(), [a, b], Attributes::new());
            let new = patch.node("Mul", [x.into(), sum], Attributes::new());
            finish(site, patch, new)
        };

    /// x·W + z·W = (x + z)·W of matrices, and the same of differences and of factors on the left.
    common_matrix [rounding, since 7]:
        Add(MatMul(x, w) as p, MatMul(z, w) as q)
        | Sub(MatMul(x, w) as p, MatMul(z, w) as q)
        | Add(MatMul(w, x) as p, MatMul(w, z) as q)
        | Sub(MatMul(w, x) as p, MatMul(w, z) as q)
        => do |site| { product_of_sum(site, [x, z], w, p) };
}

/// Rows or columns of a matrix from which on a product costs more than the sum that saves it.
const WIDE: i64 = 4;

fn product_of_sum(site: &Site<'_>, sides: [ValueId; 2], w: ValueId, product: ValueId) -> Rewrite {
    let graph = site.graph;
    ensure(element(graph, w)?.is_float(), "the elements are no floats")?;
    same_shape(graph, sides[0], sides[1])?;
    let (_, node) = found(graph.producer_of(product, "MatMul"))?;
    let on_the_right = node.input(1) == Some(w);
    let matrix = shape(graph, w)?;
    ensure(matrix.len() > 1, "the matrix is a vector")?;
    let other = matrix.get(if on_the_right { matrix.len() - 1 } else { matrix.len() - 2 });
    let wide = other.is_some_and(|size| size.lower_bound().is_some_and(|size| size >= WIDE));
    ensure(wide, "the products are no larger than the sum")?;
    let mut patch = Patch::new();
    let sum = patch.node(site.node().op_type(), sides, Attributes::new());
    let operands = if on_the_right { [sum, w.into()] } else { [w.into(), sum] };
    let new = patch.node("MatMul", operands, Attributes::new());
    finish(site, patch, new)
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{Dim, ElementType};

    use crate::testing::{Example, Fixture};

    let factor = |op_type: &'static str, element: ElementType, swapped: bool| {
        Example::new("common_factor", move |fires| {
            let mut f = Fixture::new(13);
            let element = if fires { element } else { ElementType::Int32 };
            let x = f.typed_input("x", element, [2, 3].map(Dim::fixed));
            let [a, b] = ["a", "b"].map(|name| f.typed_input(name, element, [Dim::fixed(3)]));
            let p = if swapped { f.op("Mul", &[a, x]) } else { f.op("Mul", &[x, a]) };
            let q = f.op("Mul", &[b, x]);
            let y = f.op(op_type, &[p, q]);
            f.with_output(y)
        })
    };
    let matrix = |op_type: &'static str, left: bool| {
        Example::new("common_matrix", move |fires| {
            let mut f = Fixture::new(13);
            let w = f.weights(&[5, 5]);
            let x = f.symbolic_input("x", &["batch", "5", "5"]);
            let z = f.symbolic_input("z", &[if fires { "batch" } else { "1" }, "5", "5"]);
            let [p, q] = [x, z].map(|x| if left { f.op("MatMul", &[w, x]) } else { f.op("MatMul", &[x, w]) });
            let y = f.op(op_type, &[p, q]);
            f.with_output(y)
        })
    };
    vec![
        factor("Add", ElementType::Float, false),
        factor("Add", ElementType::Float, true),
        factor("Sub", ElementType::Float, true),
        matrix("Add", false),
        matrix("Sub", true),
        // One column: the sum would take as long as the product.
        Example::new("common_matrix", |fires| {
            let mut f = Fixture::new(13);
            let [x, z] = ["x", "z"].map(|name| f.input(name, &[3, 5]));
            let w = f.weights(&[5, if fires { 4 } else { 1 }]);
            let [p, q] = [x, z].map(|x| f.op("MatMul", &[x, w]));
            let y = f.op("Add", &[p, q]);
            f.with_output(y)
        }),
    ]
}
