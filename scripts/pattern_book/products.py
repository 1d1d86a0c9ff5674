"""Matrix products."""

from .builder import Model, pattern
from .windows import normalization


def rows(m: Model, last: int = 8) -> str:
    return m.input("x", "batch", last)


@pattern("matmul_add_2d", 1, "right", "left", "two axes")
def _(m, s):
    t = m.MatMul(rows(m), m.weights(8, 4))
    bias = m.weights(1, 4) if s == "two axes" else m.weights(4)
    return m.Add(bias, t) if s == "left" else m.Add(t, bias)


@pattern("gemm_add", 1, "no bias", "bias", "Sub")
def _(m, s):
    bias = [] if s == "no bias" else [m.weights(4)]
    t = m.Gemm(rows(m), m.weights(4, 8), *bias, transB=1)
    return m.Sub(t, m.weights(4)) if s == "Sub" else m.Add(t, m.weights(4))


@pattern("gemm_mul", 1, "vector", "scalar", "Div")
def _(m, s):
    t = m.Gemm(rows(m), m.weights(8, 4), m.weights(4))
    if s == "vector":
        return m.Mul(t, m.weights(4))
    return m.Mul(t, 0.3) if s == "scalar" else m.Div(t, m.weights(4, low=0.5))


@pattern("gemm_bn", 1, "bias", "transB")
def _(m, s):
    t = m.Gemm(rows(m), m.weights(8, 4), m.weights(4)) if s == "bias" else m.Gemm(rows(m), m.weights(4, 8), transB=1)
    return normalization(m, t, 4)


@pattern("matmul_bn", 1, "two axes", "another width")
def _(m, s):
    return normalization(m, m.MatMul(rows(m), m.weights(8, 4 if s == "two axes" else 5)), 4 if s == "two axes" else 5)


@pattern("matmul_mul_const", 1, "scalar", "vector", "Div")
def _(m, s):
    t = m.MatMul(m.input("x", "batch", "sequence", 8), m.weights(8, 4))
    if s == "scalar":
        return m.Mul(t, 0.125)
    return m.Mul(m.weights(4), t) if s == "vector" else m.Div(t, 3.0)


@pattern("mul_matmul_const", 1, "scalar", "vector", "Div")
def _(m, s):
    x = m.input("x", "batch", "sequence", 8)
    t = m.Mul(x, 0.3) if s == "scalar" else m.Mul(x, m.weights(8)) if s == "vector" else m.Div(x, 3.0)
    return m.MatMul(t, m.weights(8, 4))


@pattern("matmul_matmul_const", 1, "narrow", "Gemm")
def _(m, s):
    if s == "narrow":
        return m.MatMul(m.MatMul(m.input("x", "batch", "sequence", 8), m.weights(8, 8)), m.weights(8, 4))
    return m.Gemm(m.Gemm(rows(m), m.weights(8, 8), m.weights(8)), m.weights(4, 8), m.weights(4), transB=1)


@pattern("transpose_gemm", 1, "first", "second")
def _(m, s):
    x, y = m.input("x", 8, "batch"), m.input("y", "rows", 8)
    if s == "first":
        return m.Gemm(m.Transpose(x, perm=[1, 0]), m.weights(8, 4), m.weights(4))
    return m.Gemm(y, m.Transpose(m.input("z", "columns", 8)), transA=0)


@pattern("transpose_const_weight", 1, "MatMul", "Gemm")
def _(m, s):
    w = m.Transpose(m.weights(4, 8), perm=[1, 0])
    return m.MatMul(m.input("x", "batch", "sequence", 8), w) if s == "MatMul" else m.Gemm(rows(m), w, m.weights(4))


@pattern("qkv_parallel_matmul", 2, "three outputs", "two outputs", "biases")
def _(m, s):
    x = m.input("x", "batch", "sequence", 64)
    widths = [64, 64] if s == "two outputs" else [64, 64, 64]
    if s == "biases":
        x = m.input("rows", "rows", 64)
        return [m.Gemm(x, m.weights(64, n), m.weights(n)) for n in widths]
    return [m.MatMul(x, m.weights(64, n)) for n in widths]


@pattern("conv1x1_from_matmul", 1, "MatMul", "bias")
def _(m, s):
    x = m.input("x", "batch", 8, "height", "width")
    t = m.MatMul(m.Transpose(x, perm=[0, 2, 3, 1]), m.weights(8, 4))
    t = m.Add(t, m.weights(4)) if s == "bias" else t
    return m.Transpose(t, perm=[0, 3, 1, 2])
