"""Shapes, broadcasting, axes, order of elements."""

import numpy as np
from onnx import TensorProto

from .book import TrapModel, trap

INT64 = TensorProto.INT64
END = 2**63 - 1


@trap()
def zero_copies_the_middle(m: TrapModel):
    """0 in the second shape means a size of the first result, not of x."""
    x = m.input("x", "batch", 6)
    m.sizes = [{"batch": 4}, {"batch": 2}]
    return m.Reshape(m.Reshape(x, [2, -1]), [0, -1]), m.Reshape(m.Reshape(x, [2, -1]), [0, 0])


@trap()
def neutral_operand_widens(m):
    """Ones of shape [3, 1] make three rows of one."""
    x = m.input("x", "rows", 4)
    m.sizes = [{"rows": 1}, {"rows": 3}]
    return m.Mul(x, np.ones((3, 1), np.float32))


@trap()
def neutral_operand_raises_rank(m):
    x = m.input("x", "rows", 4)
    return m.Add(x, np.zeros((1, 1, 1), np.float32)), m.Div(x, np.ones((2, 1, 1), np.float32))


@trap()
def where_widens(m):
    x, y = m.input("x", 4), m.input("y", "rows", 4)
    return m.Where(np.array(True), x, y), m.Where(np.ones((2, 1), bool), x, m.weights(4))


@trap()
def expand_of_both_sides(m):
    """Neither Expand is in vain."""
    x, y = m.input("x", "batch", 1, 4), m.input("y", 3, 1)
    m.sizes = [{"batch": 1}, {"batch": 2}]
    return m.Add(m.Expand(x, [2, 1, 4]), y)


@trap()
def bias_of_another_shape(m):
    """What is added to a convolution goes along the width; what is added to a product by rows."""
    t = m.Conv(m.input("x", "batch", 3, 6, 6), m.weights(4, 3, 3, 3))
    u = m.MatMul(m.input("y", 4, 8), m.weights(8, 4))
    return m.Add(t, m.weights(4)), m.Mul(t, m.weights(4, 1)), m.Add(u, m.weights(4, 1)), m.Add(u, m.weights(2, 1, 4))


@trap()
def bias_makes_rows(m):
    """A product of one row becomes three by its bias."""
    x = m.input("x", "rows", 8)
    m.sizes = [{"rows": 1}, {"rows": 3}]
    return m.Add(m.MatMul(x, m.weights(8, 4)), m.weights(3, 4))


@trap()
def pad_with_zero_before_maximum(m):
    """Zero is not less than negative numbers."""
    x = m.Sub(m.Neg(m.Abs(m.input("x", "batch", 2, 6, 6))), 1.0)
    return m.MaxPool(m.Pad(x, [0, 0, 1, 1, 0, 0, 1, 1]), kernel_shape=[3, 3])


@trap()
def pads_that_stay(m):
    """Reflected, of other numbers, negative, along the channels, and not counted by the pool."""
    x, w = m.input("x", "batch", 2, 6, 6), m.weights(3, 2, 3, 3)
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    return (
        m.Conv(m.Pad(x, pads, mode="reflect"), w),
        m.Conv(m.Pad(x, pads, 1.0), w),
        m.Conv(m.Pad(x, [0, 0, -1, 0, 0, 0, 0, -1]), w),
        m.Conv(m.Pad(x, [0, 1, 0, 0, 0, 0, 0, 0]), m.weights(3, 3, 3, 3)),
        m.AveragePool(m.Pad(x, pads), kernel_shape=[3, 3]),
    )


@trap()
def shift_before_padding(m):
    """A convolution pads with zeros, not with the shift."""
    x = m.input("x", "batch", 3, 6, 6)
    t = m.BatchNormalization(x, m.weights(3), m.weights(3), m.weights(3), m.weights(3, low=0.5))
    return m.Conv(t, m.weights(4, 3, 3, 3), pads=[1] * 4), m.Conv(m.Add(x, 1.0), m.weights(4, 3, 3, 3), auto_pad="SAME_LOWER")


@trap()
def groups_of_a_transposed_convolution(m):
    """Its weights have the output channels of one group on the second axis."""
    x = m.input("x", "batch", 4, 5, 5)
    t = m.ConvTranspose(x, m.weights(4, 3, 2, 2), group=2, strides=[2, 2])
    t = m.BatchNormalization(t, m.weights(6), m.weights(6), m.weights(6), m.weights(6, low=0.5))
    return m.Mul(t, m.weights(6, 1, 1))


@trap(opset=11)
def softmax_of_old(m):
    """Before opset 13 the axes from `axis` on are one."""
    x = m.input("x", "batch", 3, 4)
    t = m.Softmax(m.Transpose(x, perm=[0, 2, 1]), axis=1)
    return m.Transpose(t, perm=[0, 2, 1]), m.Log(m.Softmax(x, axis=0))


@trap(opset=18)
def reductions_over_no_axes(m):
    x = m.input("x", "batch", 1, 4)
    none = np.array([], np.int64)
    return m.ReduceSum(x, none, noop_with_empty_axes=1), m.ReduceMean(x, none, keepdims=0), m.ReduceSumSquare(x, [1])


@trap()
def no_elements(m):
    """Sizes may be zero."""
    x = m.input("x", "rows", 4)
    m.sizes = [{"rows": 0}, {"rows": 3}]
    return m.Reshape(m.Relu(m.Reshape(x, [-1, 2, 2])), [-1, 4]), m.Concat(x, m.Slice(x, [0], [0], [0]), axis=0), m.ReduceSum(x, [0])


@trap()
def squeeze_of_what_is_one(m):
    """Which axes go is known when sizes are."""
    x = m.input("x", "rows", 4)
    m.sizes = [{"rows": 1}, {"rows": 3}]
    y = m.Squeeze(x)
    return m.Size(y), m.Shape(m.Relu(m.Unsqueeze(x, [0])))


@trap()
def steps_backwards(m):
    x = m.input("x", "batch", 8)
    t = m.Slice(m.Slice(x, [END], [-END], [1], [-1]), [1], [5], [1], [2])
    return t, m.Slice(m.Slice(x, [-3], [END], [1]), [-2], [-1], [1]), m.Slice(m.Slice(x, [0], [END], [1], [3]), [1], [9], [1])


@trap()
def slices_beyond_the_end(m):
    """Indices from the end of an axis that may be shorter."""
    x = m.input("x", "rows", 4)
    m.sizes = [{"rows": 1}, {"rows": 6}]
    return m.Slice(m.Slice(x, [-3], [END], [0]), [1], [3], [0]), m.Slice(x, [0], [5], [0]), m.Slice(x, [0], [-1], [0])


@trap()
def parts_in_another_order(m):
    a, b = m.split(m.input("x", "batch", 4, 4), [2, 2], axis=1)
    return m.Concat(b, a, axis=1), m.Concat(a, b, axis=2), m.Concat(a, a, axis=1)


@trap()
def transposes_of_other_orders(m):
    """Not each other's inverses, though twice the same."""
    x = m.input("x", "batch", 3, 4, 5)
    t = m.Transpose(m.Transpose(x, perm=[0, 2, 3, 1]), perm=[0, 2, 3, 1])
    return t, m.Reshape(m.Transpose(x, perm=[0, 2, 3, 1]), [0, -1]), m.Add(m.Transpose(x, perm=[0, 1, 3, 2]), m.weights(4))


@trap()
def indices_from_the_end(m):
    x, ids = m.input("x", 5, 4), m.input("ids", "batch", type=INT64)
    m.samples["ids"] = lambda random, shape: random.integers(-5, 5, shape)
    return m.Gather(x, ids), m.Gather(x, [-1, 0]), m.Gather(x, np.int64(-2))


@trap()
def scattered_twice(m):
    """Rows in another order, and one of them not written."""
    x, y = m.input("x", 4, 3), m.input("y", 4, 3)
    return m.ScatterND(x, np.array([[3], [1], [0], [2]]), y), m.ScatterND(x, np.array([[0], [1], [2]]), m.Slice(y, [0], [3]))
