//! Operators that change nothing.

use onnx_opt_ir::{Graph, ValueId};

use crate::rewrite::{Miss, ensure};

rules! {
    /// Identity(x) = x.
    identity [exact, shared]: Identity(x) => x;

    /// Dropout(x) = x outside training.
    dropout [exact, shared]: Dropout(x, ratio?) => x
        where |site| ensure(site.graph.opset() >= 7, "Dropout before opset 7 may be in training mode");

    /// −(−x) = x.
    neg_neg [exact, shared]: Neg(Neg(x)) => x
        where |site| ensure(site.graph.element(x).is_some(), "the element type is not known");

    /// ¬¬x = x.
    not_not [exact, shared]: Not(Not(x)) => x;

    /// Transpose with the axes in their own order.
    transpose_in_order [exact, shared]: Transpose(x){perm: ints perm} => x
        where |site| match &perm {
            Some(perm) => ensure(perm.iter().enumerate().all(|(axis, &from)| from == axis as i64), "axes move"),
            None => Err("axes move".into()),
        };

    /// One Transpose of a Transpose.
    transpose_transpose [exact, shared]: Transpose(Transpose(x){perm: ints first}){perm: ints second} => do |site| {
        let (Some(first), Some(second)) = (first, second) else { return Err("axes are not written".into()) };
        let at = |&axis: &i64| usize::try_from(axis).ok().and_then(|axis| first.get(axis)).copied();
        let perm: Vec<i64> = second.iter().map(at).collect::<Option<_>>().ok_or("axes are out of range")?;
        let mut patch = crate::rewrite::Patch::new();
        let new = build!(site patch; Transpose(x){perm = perm});
        crate::rewrite::language::finish(site, patch, new)
    };

    /// Cast to the type that the operand has.
    cast_to_same [exact, shared]: Cast(x){to: int to} => x
        where |site| match site.graph.element(x) {
            Some(element) => ensure(i64::from(element.code()) == to, "the type changes"),
            None => Err("the element type is not known".into()),
        };

    /// Reshape to the shape that the operand has.
    reshape_to_same [exact, shared]: Reshape(x, shape) as y => x where |site| same_shape(site.graph, x, y);
}

/// Whether two values provably have one shape.
fn same_shape(graph: &Graph, a: ValueId, b: ValueId) -> Result<(), Miss> {
    match (graph.shape(a), graph.shape(b)) {
        (Some(a), Some(b)) => ensure(a == b, "the shape changes"),
        _ => Err("a shape is not known".into()),
    }
}

/// Graphs on which these rules fire, and near misses.
#[cfg(any(test, feature = "testing"))]
pub fn examples() -> Vec<crate::testing::Example> {
    use onnx_opt_ir::{ElementType, NewNode, Type};

    use crate::testing::{Example, Fixture};

    // `op(Sigmoid(x))` and a Relu behind it.
    let between = |node: &dyn Fn(&mut Fixture, ValueId) -> ValueId| {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[2, 3, 4]);
        let t = f.op("Sigmoid", &[x]);
        let t = node(&mut f, t);
        let y = f.op("Relu", &[t]);
        f.with_output(y)
    };
    vec![
        Example::new("identity", |fires| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[4]);
            // An input that is an output needs a node of its own.
            let t = if fires { f.op("Relu", &[x]) } else { x };
            let y = f.op("Identity", &[t]);
            f.with_output(y)
        }),
        Example::new("dropout", |fires| {
            between(&|f, t| {
                let mut node = NewNode::new("Dropout", [t]);
                if !fires {
                    let ratio = f.scalar(0.5);
                    let training = f.graph.add_input("training", Type::tensor(ElementType::Bool, []));
                    node.inputs.extend([Some(ratio), Some(training)]);
                }
                f.node(node)
            })
        }),
        Example::new("neg_neg", |fires| {
            between(&|f, t| {
                let t = f.op(if fires { "Neg" } else { "Abs" }, &[t]);
                f.op("Neg", &[t])
            })
        }),
        Example::new("not_not", |fires| {
            let mut f = Fixture::new(13);
            let (x, z) = (f.input("x", &[4]), f.input("z", &[4]));
            let t = f.op("Less", &[x, z]);
            let t = if fires { f.op("Not", &[t]) } else { t };
            let t = f.op("Not", &[t]);
            let y = f.op("Where", &[t, x, z]);
            f.with_output(y)
        }),
        Example::new("transpose_in_order", |fires| {
            let perm = if fires { vec![0, 1, 2] } else { vec![0, 2, 1] };
            between(&|f, t| f.node(NewNode::new("Transpose", [t]).with("perm", perm.clone())))
        }),
        Example::new("transpose_transpose", |fires| {
            between(&|f, t| {
                let t = f.node(NewNode::new("Transpose", [t]).with("perm", vec![1, 2, 0]));
                let t = if fires { t } else { f.op("Neg", &[t]) };
                f.node(NewNode::new("Transpose", [t]).with("perm", vec![1, 2, 0]))
            })
        }),
        Example::new("cast_to_same", |fires| {
            let to = if fires { ElementType::Float } else { ElementType::Double };
            between(&|f, t| f.node(NewNode::new("Cast", [t]).with("to", i64::from(to.code()))))
        }),
        Example::new("reshape_to_same", |fires| {
            between(&|f, t| {
                let shape = f.integers(if fires { &[2, -1, 4] } else { &[2, 4, -1] });
                f.op("Reshape", &[t, shape])
            })
        }),
    ]
}
