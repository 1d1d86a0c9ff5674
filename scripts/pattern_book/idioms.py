"""Activations, normalizations and attention in arithmetic."""

import math

import numpy as np

from .builder import Model, pattern

RAISES = ("-O3",)


def by_name(rule: str) -> tuple[str, ...]:
    """The result is another one where exponentials overflow or norms vanish, so that the rule must be asked for."""
    return ("--only", f"{rule},lift_constants,expand_operand,clip_of_min_max,dead_code")


ROOT_HALF = math.sqrt(0.5)


def tokens(m: Model, width: int = 8) -> str:
    return m.input("x", "batch", "sequence", width)


@pattern("relu_clip", 1, "operands", "attributes", "Relu last", opsets={"attributes": 10})
def _(m, s):
    x = tokens(m)
    if s == "attributes":
        return m.Clip(m.Relu(x), min=0.0, max=6.0)
    return m.Clip(m.Relu(x), 0.0, 6.0) if s == "operands" else m.Relu(m.Clip(x, -1.0, 6.0))


@pattern("clip_clip", 1, "overlapping", "one-sided", "attributes", opsets={"attributes": 10})
def _(m, s):
    x = tokens(m)
    if s == "overlapping":
        return m.Clip(m.Clip(x, -1.0, 1.0), -0.5, 2.0)
    if s == "one-sided":
        return m.Clip(m.Clip(x, -1.0), None, 1.0)
    return m.Clip(m.Clip(x, min=-1.0, max=1.0), min=0.0)


@pattern("max_min_clip", 1, "Min outside", "Max outside", "scalars left")
def _(m, s):
    x = tokens(m)
    if s == "Min outside":
        return m.Min(m.Max(x, -1.0), 1.0)
    if s == "Max outside":
        return m.Max(m.Min(x, 1.0), -1.0)
    return m.Min(np.float32(1.0), m.Max(np.float32(0.0), x))


@pattern("clip_after_sigmoid", 1, "Clip", "Relu", "Softmax")
def _(m, s):
    x = tokens(m)
    if s == "Clip":
        return m.Clip(m.Sigmoid(x), 0.0, 1.0)
    return m.Relu(m.Sigmoid(x)) if s == "Relu" else m.Clip(m.Softmax(x), 0.0, 1.0)


def erf_gate(m: Model, x: str, divided: bool) -> str:
    return m.Add(m.Erf(m.Div(x, math.sqrt(2)) if divided else m.Mul(x, ROOT_HALF)), 1.0)


def gelu_erf(m: Model, s: str) -> str:
    x = tokens(m)
    if s == "half last":
        return m.Mul(m.Mul(x, erf_gate(m, x, True)), 0.5)
    if s == "half on the gate":
        return m.Mul(x, m.Mul(0.5, erf_gate(m, x, False)))
    return m.Div(m.Mul(erf_gate(m, x, False), x), 2.0)


pattern("gelu_erf_op17", 1, "half last", "half on the gate", "halved", opset=17, flags=RAISES)(gelu_erf)
pattern("gelu_erf_op20", 1, "half last", "half on the gate", "halved", opset=20)(gelu_erf)


@pattern("gelu_erf_mulhalf_first_op20", 1, "divided", "multiplied", opset=20)
def _(m, s):
    x = tokens(m)
    return m.Mul(m.Mul(0.5, x), erf_gate(m, x, s == "divided"))


SLOPE = math.sqrt(2 / math.pi)


@pattern("gelu_tanh_op20", 1, "cube by products", "square factored", opset=20)
def _(m, s):
    x = tokens(m)
    if s == "cube by products":
        inner = m.Mul(m.Add(x, m.Mul(m.Mul(m.Mul(x, x), x), 0.044715)), SLOPE)
    else:
        inner = m.Mul(m.Mul(x, SLOPE), m.Add(1.0, m.Mul(m.Mul(x, 0.044715), x)))
    return m.Mul(m.Mul(x, 0.5), m.Add(m.Tanh(inner), 1.0))


@pattern("gelu_tanh_pow_op20", 1, "float exponent", "integer exponent", "half on the gate", opset=20)
def _(m, s):
    x = tokens(m)
    cube = m.Pow(x, np.int64(3) if s == "integer exponent" else 3.0)
    gate = m.Add(1.0, m.Tanh(m.Mul(SLOPE, m.Add(x, m.Mul(0.044715, cube)))))
    return m.Mul(x, m.Mul(gate, 0.5)) if s == "half on the gate" else m.Mul(m.Mul(0.5, x), gate)


@pattern("quickgelu", 1, "right", "left", opset=24)
def _(m, s):
    x = tokens(m)
    gate = m.Sigmoid(m.Mul(x, 1.702) if s == "right" else m.Mul(1.702, x))
    return m.Mul(x, gate) if s == "right" else m.Mul(gate, x)


@pattern("silu_op24", 1, "right", "left", "by the exponential", opset=24)
def _(m, s):
    x = tokens(m)
    if s == "by the exponential":
        return m.Div(x, m.Add(1.0, m.Exp(m.Neg(x))))
    return m.Mul(x, m.Sigmoid(x)) if s == "right" else m.Mul(m.Sigmoid(x), x)


@pattern("mish_op18", 1, "Softplus", "logarithm", opset=18)
def _(m, s):
    x = tokens(m)
    t = m.Softplus(x) if s == "Softplus" else m.Log(m.Add(m.Exp(x), 1.0))
    return m.Mul(x, m.Tanh(t))


@pattern("hardswish_clip", 1, "Div", "Mul", "Relu6 first")
def _(m, s):
    x = tokens(m)
    gate = m.Clip(m.Add(x, 3.0), 0.0, 6.0)
    if s == "Div":
        return m.Div(m.Mul(x, gate), 6.0)
    return m.Mul(m.Mul(gate, x), 1 / 6) if s == "Mul" else m.Mul(x, m.Div(gate, 6.0))


@pattern("hardswish_hs", 1, "right", "left")
def _(m, s):
    x = tokens(m)
    gate = m.HardSigmoid(x, alpha=1 / 6, beta=0.5)
    return m.Mul(x, gate) if s == "right" else m.Mul(gate, x)


@pattern("hardsigmoid_clip", 1, "Div", "Mul", "Clip last")
def _(m, s):
    x = tokens(m)
    if s == "Clip last":
        return m.Clip(m.Add(m.Mul(x, 0.2), 0.5), 0.0, 1.0)
    gate = m.Clip(m.Add(x, 3.0), 0.0, 6.0)
    return m.Div(gate, 6.0) if s == "Div" else m.Mul(gate, 1 / 6)


@pattern("softplus_decomp", 1, "right", "left", flags=by_name("softplus"))
def _(m, s):
    x = tokens(m)
    return m.Log(m.Add(m.Exp(x), 1.0) if s == "right" else m.Add(1.0, m.Exp(x)))


@pattern("leakyrelu_max", 1, "right", "left", "Where")
def _(m, s):
    x = tokens(m)
    if s == "Where":
        return m.Where(m.Greater(x, 0.0), x, m.Mul(x, 0.125))
    return m.Max(x, m.Mul(x, 0.1)) if s == "right" else m.Max(m.Mul(0.25, x), x)


@pattern("sigmoid_decomp", 1, "Div", "Reciprocal", "Mul")
def _(m, s):
    x = tokens(m)
    t = m.Add(m.Exp(m.Mul(x, -1.0) if s == "Mul" else m.Neg(x)), 1.0)
    return m.Reciprocal(t) if s == "Reciprocal" else m.Div(1.0, t)


@pattern("log_softmax", 1, "last axis", "axis 1")
def _(m, s):
    return m.Log(m.Softmax(tokens(m), axis=-1 if s == "last axis" else 1))


@pattern("softmax_decomp", 1, "attribute", "operand", "Reciprocal", opsets={"operand": 18})
def _(m, s):
    x = tokens(m)
    e = m.Exp(m.Sub(x, m.reduce("ReduceMax", x, -1)))
    total = m.reduce("ReduceSum", e, -1)
    return m.Mul(e, m.Reciprocal(total)) if s == "Reciprocal" else m.Div(e, total)


@pattern("reducel2", 1, "Mul", "Pow", "no keepdims", opsets={"Pow": 18})
def _(m, s):
    x = tokens(m)
    square = m.Pow(x, 2.0) if s == "Pow" else m.Mul(x, x)
    return m.Sqrt(m.reduce("ReduceSum", square, -1, keepdims=0 if s == "no keepdims" else 1))


@pattern("lpnorm", 1, "Clip", "Max", "with Expand", flags=by_name("lp_normalization"))
def _(m, s):
    x = tokens(m)
    norm = m.ReduceL2(x, axes=[-1], keepdims=1)
    norm = m.Max(norm, 1e-12) if s == "Max" else m.Clip(norm, 1e-12)
    return m.Div(x, m.Expand(norm, m.Shape(x)) if s == "with Expand" else norm)


@pattern("reducemean_unsqueeze", 1, "last axis", "two axes", opsets={"two axes": 18})
def _(m, s):
    x = m.input("x", "batch", 3, "height", "width")
    if s == "last axis":
        return m.unsqueeze(m.mean(x, 3, keepdims=0), -1)
    return m.unsqueeze(m.mean(x, 2, 3, keepdims=0), 2, 3)


# ------------------------------------------------------------------ normalizations


def deviation(m: Model, d: str, axes: tuple[int, ...] = (-1,), power: bool = True) -> str:
    square = m.Pow(d, 2.0) if power else m.Mul(d, d)
    return m.Sqrt(m.Add(m.mean(square, *axes), 1e-5))


def layer_normalization(m: Model, x: str, power: bool = True, affine: bool = True, reciprocal: bool = False, width: int = 8) -> str:
    d = m.Sub(x, m.mean(x, -1))
    s = deviation(m, d, power=power)
    t = m.Mul(d, m.Reciprocal(s)) if reciprocal else m.Div(d, s)
    return m.Add(m.Mul(t, m.weights(width)), m.weights(width)) if affine else t


def keras(m: Model, x: str, width: int = 8) -> str:
    """The form of tf.nn.batch_normalization: the scale joins the reciprocal, the mean is subtracted last."""
    mean = m.mean(x, -1)
    d = m.Sub(x, mean)
    factor = m.Mul(m.Reciprocal(m.Sqrt(m.Add(m.mean(m.Mul(d, d), -1), 1e-3))), m.weights(width))
    return m.Add(m.Mul(x, factor), m.Sub(m.weights(width), m.Mul(mean, factor)))


def layer_normalization_of(m: Model, s: str) -> str:
    x = tokens(m)
    if s == "Keras":
        return keras(m, x)
    if s == "two differences":
        d, e = m.Sub(x, m.mean(x, -1)), m.Sub(x, m.mean(x, -1))
        return m.Add(m.weights(8), m.Mul(m.weights(8), m.Div(d, deviation(m, e))))
    return layer_normalization(m, x, reciprocal=s == "reciprocal")


SPELLINGS = ("PyTorch", "reciprocal", "two differences", "Keras")
pattern("ln_op17", 1, *SPELLINGS, opset=17)(layer_normalization_of)
pattern("ln_op18", 1, *SPELLINGS, opset=18)(layer_normalization_of)
pattern("ln_op13_upconvertible", 1, *SPELLINGS, opset=13, flags=RAISES)(layer_normalization_of)


@pattern("ln_mul_op20", 1, "Mul", "reciprocal", opset=20)
def _(m, s):
    return layer_normalization(m, tokens(m), power=False, reciprocal=s == "reciprocal")


@pattern("ln_noaffine_op18", 1, "Pow", "Mul", "no shift", opset=18)
def _(m, s):
    x = tokens(m)
    t = layer_normalization(m, x, power=s == "Pow", affine=False)
    return m.Mul(t, m.weights(8)) if s == "no shift" else t


def rms(m: Model, s: str) -> str:
    x = tokens(m)
    root = deviation(m, x, power=s != "Mul")
    if s == "exponent":
        t = m.Mul(x, m.Pow(m.Add(m.mean(m.Pow(x, 2.0), -1), 1e-5), -0.5))
    else:
        t = m.Div(x, root) if s == "Div" else m.Mul(x, m.Reciprocal(root))
    return m.Mul(m.weights(8), t)


pattern("rms_op20", 1, "Pow", "Mul", "exponent", opset=20, flags=RAISES)(rms)
pattern("rms_op23", 1, "Pow", "Mul", "exponent", opset=23)(rms)


@pattern("rms_div_op23", 1, "Div", "one divided", "no scale", opset=23)
def _(m, s):
    if s == "Div":
        return rms(m, "Div")
    x = tokens(m)
    root = deviation(m, x)
    return m.Div(x, root) if s == "no scale" else m.Mul(m.Mul(x, m.Div(1.0, root)), m.weights(8))


@pattern("groupnorm_op21", 1, "TorchScript", "PyTorch 2", opset=21)
def _(m, s):
    x = m.input("x", "batch", 6, "height", "width")
    if s == "TorchScript":
        t = m.InstanceNormalization(m.Reshape(x, [0, 3, -1]), np.ones(3, np.float32), np.zeros(3, np.float32))
    else:
        t = layer_normalization(m, m.Reshape(x, [0, 3, -1]), affine=False)
    t = m.Reshape(t, m.Shape(x))
    return m.Add(m.Mul(t, m.weights(6, 1, 1)), m.weights(6, 1, 1))


@pattern("instancenorm_decomp", 1, "two axes", "Mul", "one axis", opsets={"Mul": 18})
def _(m, s):
    axes = (2,) if s == "one axis" else (2, 3)
    x = m.input("x", "batch", 3, *("height", "width")[: len(axes)])
    d = m.Sub(x, m.mean(x, *axes))
    t = m.Div(d, deviation(m, d, axes, power=s != "Mul"))
    shape = (3,) + (1,) * len(axes)
    return m.Add(m.Mul(t, m.weights(*shape)), m.weights(1, *shape))


# ------------------------------------------------------------------ attention


def heads(m: Model) -> tuple[str, str, str]:
    sizes = {"q": "sequence", "k": "keys", "v": "keys"}
    return tuple(m.input(name, "batch", 4, size, 16) for name, size in sizes.items())


@pattern("sdpa_op23", 1, "Mul", "Div", "scaled query", opset=23)
def _(m, s):
    q, k, v = heads(m)
    q = m.Mul(q, 0.25) if s == "scaled query" else q
    t = m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2]))
    t = m.Mul(t, 0.25) if s == "Mul" else m.Div(t, 4.0) if s == "Div" else t
    return m.MatMul(m.Softmax(t, axis=-1), v)


@pattern("sdpa_mask_op23", 1, "four axes", "two axes", "one head", opset=23)
def _(m, s):
    q, k, v = heads(m)
    mask = {
        "four axes": lambda: m.input("mask", "batch", 4, "sequence", "keys"),
        "two axes": lambda: m.input("mask", "sequence", "keys"),
        "one head": lambda: m.input("mask", "batch", 1, "sequence", "keys"),
    }[s]()
    t = m.Div(m.MatMul(q, m.Transpose(k, perm=[0, 1, 3, 2])), 4.0)
    t = m.Add(mask, t) if s == "two axes" else m.Add(t, mask)
    return m.MatMul(m.Softmax(t, axis=-1), v)


@pattern("sdpa_torch_op23", 1, "roots on both", "computed roots", "mask", opset=23)
def _(m, s):
    q, k, v = heads(m)
    root = 0.5
    if s == "computed roots":
        size = m.Cast(m.Gather(m.Shape(q), np.int64(-1)), to=1)
        root = m.Sqrt(m.Div(1.0, m.Sqrt(size)))
    t = m.MatMul(m.Mul(q, root), m.Mul(m.Transpose(k, perm=[0, 1, 3, 2]), root))
    t = m.Add(t, m.input("mask", "batch", 1, "sequence", "keys")) if s == "mask" else t
    return m.MatMul(m.Softmax(t, axis=-1), v)


def rotated(m: Model, x: str, s: str) -> str:
    """The halves of the last axis changed and one negated."""
    if s == "Split":
        first, second = m.split(x, [8, 8], axis=-1)
    else:
        first, second = m.Slice(x, [0], [8], [3]), m.Slice(x, [8], [2**63 - 1], [3])
    return m.Concat(m.Neg(second), first, axis=-1)


@pattern("rope_op23", 1, "Slice", "Split", "sine first", opset=23)
def _(m, s):
    x = m.input("x", 1, 4, 6, 16)
    angles = np.outer(np.arange(6), 1.0 / 100 ** (np.arange(8) / 8))
    angles = np.concatenate([angles, angles], -1).astype(np.float32)[None, None]
    a, b = m.Mul(x, np.cos(angles)), m.Mul(rotated(m, x, s), np.sin(angles))
    return m.Add(b, a) if s == "sine first" else m.Add(a, b)
