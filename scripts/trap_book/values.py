"""Elements, types, randomness."""

import numpy as np
from onnx import TensorProto, helper

from .book import TrapModel, trap

FLOAT, HALF, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE
INT32, INT64, UINT8 = TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8


def differ(result, outputs) -> str | None:
    """A judge: the two outputs come from two draws."""
    return None if all(np.abs(a.astype(float) - b.astype(float)).max() > 0 for a, b in outputs) else "drawn once"


@trap(random=True)
def two_draws_normal(m: TrapModel):
    x = m.input("x", 8, 8)
    m.judge = differ
    return m.RandomNormalLike(x), m.RandomNormalLike(x)


@trap(random=True)
def two_draws_uniform(m):
    m.judge = differ
    return m.RandomUniform(shape=[8, 8]), m.RandomUniform(shape=[8, 8])


@trap(random=True)
def two_draws_bernoulli(m):
    m.judge = differ
    x = m.Expand(0.5, [16, 16])
    return m.Bernoulli(x), m.Bernoulli(x)


@trap(random=True)
def dropout_in_training(m):
    """Drops elements, so it is no Identity."""
    x = m.input("x", 16, 16, positive=True)
    m.judge = lambda result, outputs: None if all((a == 0).any() for (a,) in outputs) else "nothing dropped"
    return m.Dropout(x, 0.5, np.array(True))


@trap()
def dropout_mask(m):
    y, mask = m.op("Dropout", m.input("x", "batch", 4), 0.5, outputs=2)
    return y, m.Cast(mask, to=FLOAT)


@trap(opset=15)
def normalization_in_training(m):
    """Statistics of the batch, not those stored."""
    t = m.Conv(m.input("x", 2, 3, 6, 6), m.weights(4, 3, 3, 3))
    given = m.op("BatchNormalization", t, m.weights(4), m.weights(4), m.weights(4), m.weights(4, low=0.5), outputs=3, training_mode=1)
    return given


@trap()
def zero_and_minus_zero(m):
    """Two initializers that compare equal."""
    x = m.input("x", "batch", 4, positive=True)
    return m.Div(x, np.zeros(4, np.float32)), m.Div(x, -np.zeros(4, np.float32))


@trap()
def equal_bytes_of_other_types(m):
    x = m.input("x", "batch", 4)
    zeros = m.Add(m.Cast(x, to=INT32), np.zeros(4, np.int32))
    return m.Div(x, np.zeros(4, np.float32)), zeros


@trap()
def lossy_cast_chain(m):
    x = m.input("x", "batch", 4)
    return m.Cast(m.Cast(m.Mul(x, 100.7), to=INT32), to=FLOAT), m.Cast(m.Cast(x, to=HALF), to=FLOAT)


@trap()
def wrapping_cast_chain(m):
    x = m.input("x", "batch", 4, type=INT32, below=2**30)
    return m.Cast(m.Cast(x, to=UINT8), to=INT32), m.Cast(m.Cast(x, to=FLOAT), to=INT32)


@trap()
def cast_to_bool_and_back(m):
    return m.Cast(m.Cast(m.special("x", "batch", 8), to=TensorProto.BOOL), to=FLOAT)


@trap()
def rounding_of_double(m):
    x = m.input("x", "batch", 4, type=DOUBLE)
    return m.Sub(x, m.Cast(m.Cast(x, to=FLOAT), to=DOUBLE))


@trap()
def times_zero(m):
    """∞·0 and NaN·0 are no zeros."""
    x = m.special("x", "batch", 8)
    return m.Mul(x, 0.0), m.Sub(x, x), m.Div(x, x)


@trap()
def not_greater(m):
    """With NaN, not greater is not less or equal."""
    x, y = m.special("x", "batch", 8), m.special("y", "batch", 8)
    return m.Where(m.Not(m.Greater(x, y)), 1.0, 2.0), m.Not(m.LessOrEqual(x, y))


@trap()
def limits_of_nan(m):
    x = m.special("x", "batch", 8)
    return m.Clip(m.Clip(x, -1.0, 1.0), -0.5, 0.5), m.Min(m.Max(x, -1.0), 1.0)


@trap()
def limits_crossed(m):
    """The lower limit is the higher one."""
    x = m.input("x", "batch", 4)
    return m.Clip(m.Clip(x, 1.0, 2.0), -2.0, -1.0), m.Min(m.Max(x, 1.0), -1.0), m.Max(m.Min(x, -1.0), 1.0)


@trap()
def integer_quotients(m):
    """(x/2)·2 is not x, (x·3)/3 may have wrapped."""
    x = m.input("x", "batch", 4, type=INT32, below=2**31 - 1)
    return m.Mul(m.Div(x, np.int32(2)), np.int32(2)), m.Div(m.Mul(x, np.int32(3)), np.int32(3))


@trap()
def integer_division_folded(m):
    """Quotients of integers round toward zero, Mod follows the sign that fmod says."""
    x = m.input("x", 4, type=INT64)
    a, b = np.array([-7, 7, -7, 7]), np.array([2, -2, -2, 2])
    return m.Add(x, m.Div(a, b)), m.Add(x, m.Mod(a, b)), m.Add(x, m.Mod(a, b, fmod=1))


@trap()
def wrapping_folded(m):
    x = m.input("x", 2, type=INT32)
    large = np.array([2**31 - 1, -(2**31)], np.int32)
    return m.Add(x, m.Add(large, np.array([1, -1], np.int32))), m.Sub(x, m.Neg(m.Abs(large)))


@trap()
def rounding_folded(m):
    """Ties go to even numbers; a cast to integers cuts."""
    x = m.input("x", 4)
    values = np.array([0.5, 1.5, -2.5, -3.7], np.float32)
    return m.Add(x, m.Round(values)), m.Add(x, m.Cast(m.Cast(values, to=INT32), to=FLOAT))


@trap()
def half_overflow_folded(m):
    """60000 + 60000 is no number of half precision."""
    x = m.input("x", 4, type=HALF)
    return m.Mul(m.Mul(x, np.float16(300)), np.float16(300)), m.Add(m.Add(x, np.float16(60000)), np.float16(60000))


@trap()
def scales_vanish(m):
    """The product of two scales is not in the range of single precision, x times each is."""
    x = m.input("x", "batch", 4)
    return m.Mul(m.Mul(x, 1e-30), 1e30), m.Div(m.Mul(x, 1e30), 1e30), m.Mul(m.Mul(x, 1e30), 1e30)


@trap()
def powers_below_zero(m):
    x = m.special("x", "batch", 8)
    return m.Pow(x, 0.5), m.Pow(m.Pow(x, 2.0), 0.5), m.Pow(x, 2.0)


@trap()
def root_of_square(m):
    x = m.input("x", "batch", 8)
    return m.Sqrt(m.Mul(x, x)), m.Exp(m.Log(x)), m.Log(m.Exp(x))


@trap()
def quantized_at_two_scales(m):
    """The second pair rounds to another grid."""
    x = m.input("x", "batch", 16)
    t = m.DequantizeLinear(m.QuantizeLinear(x, 0.05, np.uint8(128)), 0.05, np.uint8(128))
    return m.DequantizeLinear(m.QuantizeLinear(t, 0.04, np.uint8(120)), 0.04, np.uint8(120))


@trap()
def integer_product_with_sum(m):
    """Runtimes have no Gemm of integers."""
    x = m.input("x", "batch", 4, type=INT32)
    return m.Add(m.MatMul(x, np.arange(12, dtype=np.int32).reshape(4, 3)), np.array([1, 2, 3], np.int32))
