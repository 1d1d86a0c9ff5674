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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use onnx_opt_ir::{ElementType, NewNode};

    use crate::testing::Fixture;

    #[test]
    fn chains_of_nothing_vanish() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let t = f.op("Relu", &[x]);
        let t = f.op("Identity", &[t]);
        let t = f.op("Neg", &[t]);
        let t = f.op("Neg", &[t]);
        let t = f.op("Dropout", &[t]);
        let y = f.op("Sigmoid", &[t]);
        f.output("y", y);
        assert_eq!(f.rewritten(super::rules())[..1], ["Relu"]);
    }

    #[test]
    fn an_input_that_is_an_output_keeps_its_identity() {
        let mut f = Fixture::new(13);
        let x = f.input("x", &[4]);
        let y = f.op("Identity", &[x]);
        f.output("y", y);
        assert_eq!(f.rewritten(super::rules()), ["Identity"]);
    }

    #[test]
    fn transposes_merge_and_cancel() {
        let build = |second: [i64; 3]| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2, 3, 4]);
            let t = f.node(NewNode::new("Transpose", [x]).with("perm", vec![1, 2, 0]));
            let t = f.node(NewNode::new("Transpose", [t]).with("perm", second.to_vec()));
            let y = f.op("Relu", &[t]);
            f.output("y", y);
            f.rewritten(super::rules())
        };
        assert_eq!(build([2, 0, 1]), ["Relu"]);
        assert_eq!(build([1, 2, 0]), ["Transpose", "Relu"]);
    }

    #[test]
    fn a_cast_to_another_type_stays() {
        let build = |to: ElementType| {
            let mut f = Fixture::new(13);
            let x = f.input("x", &[2]);
            let t = f.node(NewNode::new("Cast", [x]).with("to", i64::from(to.code())));
            let y = f.op("Abs", &[t]);
            f.output("y", y);
            f.rewritten(super::rules())
        };
        assert_eq!(build(ElementType::Float), ["Abs"]);
        assert_eq!(build(ElementType::Double), ["Cast", "Abs"]);
    }
}
