//! `Softmax`, `LogSoftmax`, `Hardmax`: of a matrix first, along one axis later.

use onnx_opt_ir::{Dim, NewNode, ValueId};

use super::step::Step;

/// Version 13 works along one axis. Before, the operand was a matrix whose rows are all that lies from the axis on.
///
/// With sizes of 1 but for one axis behind it that is the same. Else the matrix is made for all to see: f along the
/// last axis of Flatten(x), with the shape of x.
pub(super) fn one_axis(step: &mut Step<'_>) -> Result<(), String> {
    let x = step.input(0)?;
    let axis = step.node().int("axis").ok_or("the axis is not known")?;
    let mut attributes = step.node().attributes().clone();
    if let Some(along) = single_axis(step, x, axis) {
        attributes.set("axis", along);
        return step.restate(&[Some(x)], attributes);
    }
    let flat = step.add(NewNode::new("Flatten", [x]).with("axis", axis))?;
    let op_type = step.node().op_type().to_owned();
    let rows = step.add(NewNode::new(&op_type, [flat]).with("axis", -1i64))?;
    let shape = match step.graph.fixed_shape(x) {
        Some(sizes) => step.integers(&sizes),
        None => step.add(NewNode::new("Shape", [x]))?,
    };
    // Size 0 of a shape stands for that of the operand at this place, if nothing says otherwise. The first size is
    // that of the matrix if the others are not 0.
    let mut reshape = NewNode::new("Reshape", []);
    let sizes = step.graph.shape(x).unwrap_or_default();
    let kept = usize::from(axis > 0);
    let positive = |size: &Dim| size.as_fixed().is_some_and(|size| size > 0);
    if sizes.len() <= kept || !sizes[kept..].iter().all(positive) {
        if step.target < 14 {
            return Err("the operand may be empty, whose shape only opset 14 can restore".to_owned());
        }
        reshape = reshape.with("allowzero", 1i64);
    }
    step.become_operator("Reshape", &[Some(rows), Some(shape)], reshape.attributes)
}

/// The one axis from `axis` on that may have another size than 1.
fn single_axis(step: &Step<'_>, x: ValueId, axis: i64) -> Option<i64> {
    let Some(shape) = step.graph.shape(x) else { return (axis == -1).then_some(axis) };
    let rank = shape.len() as i64;
    let start = if axis < 0 { axis + rank } else { axis };
    let behind = shape.get(usize::try_from(start).ok()?..)?;
    let is_one = |size: &Dim| size.as_fixed() == Some(1);
    let mut others = behind.iter().enumerate().filter(|(_, size)| !is_one(size)).map(|(place, _)| place);
    let place = others.next().unwrap_or(0);
    let along = start + place as i64;
    (others.next().is_none() && along < rank).then_some(along)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::super::testing::{last, operators, raised, refusal};
    use crate::testing::Fixture;

    fn softmax(shape: &[&str], axis: Option<i64>) -> Fixture {
        let mut f = Fixture::new(11);
        let x = f.symbolic_input("x", shape);
        let node = NewNode::new("Softmax", [x]);
        let y = f.node(match axis {
            Some(axis) => node.with("axis", axis),
            None => node,
        });
        f.with_output(y)
    }

    fn axis(fixture: Fixture) -> Option<i64> {
        let model = raised(fixture, 13);
        assert_eq!(operators(&model), ["Softmax"]);
        model.graph.node(last(&model, "Softmax")).int("axis")
    }

    #[test]
    fn one_axis_is_one_axis() {
        assert_eq!(axis(softmax(&["n", "m"], None)), Some(1));
        assert_eq!(axis(softmax(&["n", "m", "k"], Some(-1))), Some(2));
        assert_eq!(axis(softmax(&["n", "7", "1", "1"], None)), Some(1));
        assert_eq!(axis(softmax(&["n", "1", "7", "1"], None)), Some(2));
        assert_eq!(axis(softmax(&["n", "1", "1"], Some(1))), Some(1));
    }

    #[test]
    fn several_axes_are_a_matrix() {
        let fixed = raised(softmax(&["2", "3", "4"], None), 13);
        assert_eq!(operators(&fixed), ["Flatten", "Softmax", "Reshape"]);
        let batch = raised(softmax(&["n", "3", "4"], None), 13);
        assert_eq!(operators(&batch), ["Flatten", "Softmax", "Shape", "Reshape"]);
        assert_eq!(batch.graph.shape(batch.graph.outputs()[0].value).unwrap()[2].as_fixed(), Some(4));
    }

    #[test]
    fn what_may_be_empty_keeps_its_shape() {
        let free = || softmax(&["n", "m", "4"], Some(1));
        assert!(refusal(free(), 13).contains("may be empty"));
        let model = raised(free(), 18);
        assert_eq!(model.graph.node(last(&model, "Reshape")).int("allowzero"), Some(1));
        assert!(refusal(softmax(&["n", "3"], Some(0)), 13).contains("may be empty"));
    }
}
