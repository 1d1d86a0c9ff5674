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
