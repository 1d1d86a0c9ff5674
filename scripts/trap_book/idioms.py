"""What looks like an operator and is not."""

import math

import numpy as np
from onnx import TensorProto

from .book import TrapModel, trap
from pattern_book.builder import Model


def normalized(m: Model, x: str, axis: int = -1, epsilon: object = 1e-5) -> str:
    d = m.Sub(x, m.mean(x, axis))
    return m.Div(d, m.Sqrt(m.Add(m.mean(m.Mul(d, d), axis), epsilon)))


@trap(opset=13)
def layer_normalization_of_old(m: TrapModel):
    """Opset 13 has no such operator."""
    return m.Add(m.Mul(normalized(m, m.input("x", "batch", 3, 8)), m.weights(8)), m.weights(8))


@trap(opset=23)
def layer_normalization_in_order(m):
    """Not an RMSNormalization of a difference."""

    def judge(result, outputs):
        return "the mean is left outside" if any(n.op_type == "RMSNormalization" for n in result.graph.node) else None

    m.judge = judge
    return m.Add(m.Mul(normalized(m, m.input("x", "batch", 3, 8)), m.weights(8)), m.weights(8))


@trap()
def normalizations_of_other_kinds(m):
    """Along another axis, with another mean, with a scale by rows, with the variance of a sample."""
    x = m.input("x", "batch", 3, 8)
    one = m.Mul(normalized(m, x, axis=1), m.weights(8))
    d, e = m.Sub(x, m.mean(x, -1)), m.Sub(x, m.mean(x, 1))
    two = m.Div(d, m.Sqrt(m.Add(m.mean(m.Mul(e, e), -1), 1e-5)))
    three = m.Mul(normalized(m, x), m.weights(3, 1))
    four = m.Div(d, m.Sqrt(m.Div(m.reduce("ReduceSum", m.Mul(d, d), -1), 7.0)))
    return one, two, three, four


@trap(opset=23)
def normalization_of_double(m):
    x = m.input("x", "batch", 8, type=TensorProto.DOUBLE)
    return normalized(m, x, epsilon=np.float64(1e-12)), m.Div(x, m.Sqrt(m.mean(m.Mul(x, x), -1)))


@trap(opset=24)
def activations_of_other_numbers(m):
    """A wrong factor, a wrong limit, another argument."""
    x, y = m.input("x", "batch", 8), m.input("y", "batch", 8)
    gate = m.Add(m.Erf(m.Div(x, 1.5)), 1.0)
    cubic = m.Add(m.Tanh(m.Mul(m.Add(x, m.Mul(0.05, m.Pow(x, 3.0))), math.sqrt(2 / math.pi))), 1.0)
    return (
        m.Mul(m.Mul(x, gate), 0.5),
        m.Mul(m.Mul(x, cubic), 0.5),
        m.Mul(x, m.Sigmoid(y)),
        m.Div(m.Mul(x, m.Clip(m.Add(x, 3.0), 0.0, 5.0)), 6.0),
        m.Max(x, m.Mul(x, 1.5)),
        m.Max(x, m.Mul(x, -0.5)),
    )


@trap(opset=23)
def attention_of_other_axes(m):
    """Softmax along queries, a mask that is multiplied, probabilities that leave the graph."""
    q, k, v = (m.input(name, "batch", 4, 6, 6) for name in "qkv")
    scores = m.Mul(m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])), 0.4)
    probabilities = m.Softmax(scores, axis=-1)
    masked = m.Mul(scores, m.weights(6, 6))
    return (
        m.MatMul(m.Softmax(scores, axis=2), v),
        m.MatMul(m.Softmax(masked, axis=-1), v),
        m.MatMul(probabilities, v),
        probabilities,
        m.MatMul(m.Softmax(m.MatMul(q, k), axis=-1), v),
    )


@trap()
def parallel_products(m):
    """Queries, keys and values of different sizes, one of them with another operand."""
    x, y = m.input("x", "batch", "sequence", 8), m.input("y", "batch", "sequence", 8)
    return m.MatMul(x, m.weights(8, 8)), m.MatMul(x, m.weights(8, 4)), m.MatMul(y, m.weights(8, 8))


@trap()
def factors_of_gemm(m):
    """alpha, beta, transposed operands, no C."""
    x = m.input("x", 8, "batch")
    t = m.Gemm(x, m.weights(4, 8), m.weights(4), alpha=0.5, beta=2.0, transA=1, transB=1)
    t = m.BatchNormalization(m.Mul(t, m.weights(4)), m.weights(4), m.weights(4), m.weights(4), m.weights(4, low=0.5))
    return m.Add(m.Gemm(t, m.weights(4, 4), alpha=3.0), m.weights(4))
