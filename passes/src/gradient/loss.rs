//! What is differentiated: one number from the outputs of a model, computed by standard operators.

use onnx_opt_ir::{Dim, ElementType, Type, ValueId};

use super::writer::{Writer, Written};

/// One number that the outputs of a model give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// The sum of all elements of all outputs.
    Sum,
    /// How far the outputs, as logits along their last axis, are from those of a teacher: T²·KL(softmax(t/T) ‖
    /// softmax(y/T)), the mean over all other axes. Needs an input `NAME.teacher` for each output.
    Kl {
        /// T, which softens both distributions.
        temperature: f64,
    },
    /// The mean of the squared differences to an input `NAME.target` for each output.
    MeanSquaredError,
    /// −ln softmax(y)[label] along axis 1, the mean over all other axes, with labels in an integer input `NAME.label`.
    CrossEntropy,
}

impl Loss {
    /// The name of the input beside an output that the loss needs.
    pub fn companion(self) -> Option<&'static str> {
        match self {
            Self::Sum => None,
            Self::Kl { .. } => Some("teacher"),
            Self::MeanSquaredError => Some("target"),
            Self::CrossEntropy => Some("label"),
        }
    }

    /// The type of that input, for an output of this type.
    pub(super) fn companion_type(self, element: ElementType, shape: &[Dim]) -> Type {
        match self {
            Self::CrossEntropy => {
                let others = shape.iter().enumerate().filter(|(axis, _)| *axis != 1);
                Type::tensor(ElementType::Int64, others.map(|(_, size)| size.clone()))
            }
            _ => Type::tensor(element, shape.iter().cloned()),
        }
    }

    /// Writes the part of one output.
    pub(super) fn write(self, w: &mut Writer<'_>, y: ValueId, companion: Option<ValueId>) -> Written {
        let other = companion.ok_or("the loss lacks an input");
        match self {
            Self::Sum => whole(w, "ReduceSum", y),
            Self::MeanSquaredError => {
                let difference = w.sub(y, other?)?;
                let square = w.square(difference)?;
                whole(w, "ReduceMean", square)
            }
            Self::Kl { temperature } => {
                let soft = |w: &mut Writer<'_>, x| {
                    let x = w.times(x, 1.0 / temperature)?;
                    w.op_with("LogSoftmax", &[x], "axis", -1i64)
                };
                let (student, teacher) = (soft(w, y)?, soft(w, other?)?);
                let weight = w.op("Exp", &[teacher])?;
                let difference = w.sub(teacher, student)?;
                let terms = w.mul(weight, difference)?;
                let last = w.rank(y)?.checked_sub(1).ok_or("a scalar is no logits")?;
                let divergence = w.sum(terms, &[last], false)?;
                let mean = whole(w, "ReduceMean", divergence)?;
                w.times(mean, temperature * temperature)
            }
            Self::CrossEntropy => {
                let logarithms = w.op_with("LogSoftmax", &[y], "axis", 1i64)?;
                let label = w.unsqueeze(other?, &[1])?;
                let picked = w.op_with("GatherElements", &[logarithms, label], "axis", 1i64)?;
                let mean = whole(w, "ReduceMean", picked)?;
                w.neg(mean)
            }
        }
    }
}

/// A reduction over all axes.
fn whole(w: &mut Writer<'_>, op_type: &str, x: ValueId) -> Written {
    w.op_with(op_type, &[x], "keepdims", 0i64)
}
