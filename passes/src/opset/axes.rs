//! Lists of axes: an attribute first, an operand later.

use super::step::Step;

/// `Squeeze`, `Unsqueeze` and `ReduceSum` of version 13, the other reductions of 18. No axes, or an empty list of
/// them, means all of them to reductions and those of size 1 to `Squeeze`, then and now.
pub(super) fn operand(step: &mut Step<'_>) -> Result<(), String> {
    let data = step.input(0)?;
    let attributes = step.attributes_without(&["axes"]);
    let axes = match step.node().attributes().get("axes") {
        None => None,
        Some(axes) => Some(axes.as_ints().ok_or("the axes are not known")?.to_vec()),
    };
    let unsqueezes = step.node().is("Unsqueeze");
    let axes = axes.filter(|axes| unsqueezes || !axes.is_empty()).map(|axes| step.integers(&axes));
    step.restate(&[Some(data), axes], attributes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use onnx_opt_ir::NewNode;

    use super::super::testing::{integers, raised};
    use crate::testing::Fixture;

    fn axes(op_type: &str, axes: Option<Vec<i64>>, target: i64) -> (bool, Option<Vec<i64>>) {
        let mut f = Fixture::new(11);
        let x = f.input("x", &[1, 3, 1]);
        let node = NewNode::new(op_type, [x]);
        let y = f.node(match axes {
            Some(axes) => node.with("axes", axes),
            None => node,
        });
        let model = raised(f.with_output(y), target);
        let (_, node) = model.graph.nodes().next().unwrap();
        (node.attributes().get("axes").is_some(), integers(&model, op_type, 1))
    }

    #[test]
    fn axes_become_an_operand_when_it_is_their_time() {
        for op_type in ["Squeeze", "Unsqueeze", "ReduceSum"] {
            assert_eq!(axes(op_type, Some(vec![0]), 12), (true, None));
            assert_eq!(axes(op_type, Some(vec![0]), 13), (false, Some(vec![0])));
        }
        assert_eq!(axes("ReduceMax", Some(vec![-1]), 17), (true, None));
        assert_eq!(axes("ReduceMax", Some(vec![-1]), 20), (false, Some(vec![-1])));
    }

    #[test]
    fn no_axes_stay_none_but_of_unsqueeze() {
        assert_eq!(axes("Squeeze", None, 13), (false, None));
        assert_eq!(axes("ReduceMean", Some(vec![]), 18), (false, None));
        assert_eq!(axes("Unsqueeze", Some(vec![]), 13), (false, Some(vec![])));
    }
}
