//! Quantization: element by element, with parameters of a channel or of all.

use onnx_opt_ir::Node;

use super::{Reason, Rule, Site};

pub(super) fn rule(node: &Node) -> Option<Rule> {
    matches!(node.op_type(), "QuantizeLinear" | "DequantizeLinear").then_some(Rule::plain(follow))
}

/// y_i = f(x_i, scale_c, zero_c), with c the index of `axis`.
fn follow(site: &mut Site<'_>) -> Result<(), Reason> {
    if site.int("block_size").unwrap_or(0) != 0 {
        return Err("its parameters are those of blocks".to_owned());
    }
    let (x, y) = (site.needed(0)?, site.output()?);
    site.join_all(&x, &y);
    for index in 1..3 {
        let Some(parameter) = site.operand(index)? else { continue };
        match parameter[..] {
            [] => {}
            [only] if only.size() == 0 => {}
            [channels] => {
                let axis = site.axis(site.int("axis").unwrap_or(1), x.len())?;
                site.join(x[axis], channels);
            }
            _ => return Err("its parameters are those of blocks".to_owned()),
        }
    }
    Ok(())
}
