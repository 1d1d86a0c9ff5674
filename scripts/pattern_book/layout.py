"""Transposes, reshapes, sizes, slices, splits and concatenations."""

import numpy as np

from .builder import TO_THE_END, Model, pattern
from .cleanup import wrapped

NHWC, NCHW = [0, 2, 3, 1], [0, 3, 1, 2]


@pattern("transpose_pair", 2, "NHWC", "reversed")
def _(m, s):
    if s == "NHWC":
        return wrapped(m, s, lambda t: m.Transpose(m.Transpose(t, perm=NHWC), perm=NCHW), "batch", 3, 4, 5)
    return wrapped(m, s, lambda t: m.Transpose(m.Transpose(t), perm=[2, 1, 0]))


@pattern("transpose_merge", 1, "NHWC", "reversed")
def _(m, s):
    if s == "NHWC":
        x = m.input("x", "batch", 3, "height", "width")
        return m.Transpose(m.Transpose(x, perm=NHWC), perm=[0, 2, 1, 3])
    return m.Transpose(m.Transpose(m.input("x", "batch", "sequence", 4), perm=[1, 0, 2]))


def between(m: Model, inner) -> str:
    """NCHW to NHWC, `inner`, and back."""
    x = m.input("x", "batch", 3, "height", "width")
    return m.Transpose(inner(m.Transpose(x, perm=NHWC)), perm=NCHW)


@pattern("transpose_thru_relu", 1, "Relu", "Clip", "Erf")
def _(m, s):
    return between(m, lambda t: m.Clip(t, 0.0, 6.0) if s == "Clip" else m.op(s, t))


@pattern("transpose_thru_add_bias", 1, "vector", "four axes", "left scalar")
def _(m, s):
    if s == "vector":
        return between(m, lambda t: m.Add(t, m.weights(3)))
    if s == "four axes":
        return between(m, lambda t: m.Add(t, m.weights(1, 1, 1, 3)))
    return between(m, lambda t: m.Sub(1.0, t))


@pattern("transpose_thru_residual", 3, "one input", "two inputs")
def _(m, s):
    if s == "one input":
        return between(m, lambda t: m.Add(t, m.Sigmoid(m.Erf(t))))
    x, y = m.input("x", "batch", 3, "height", "width"), m.input("y", "batch", 3, "height", "width")
    t, u = m.Transpose(x, perm=NHWC), m.Transpose(y, perm=NHWC)
    return m.Transpose(m.Add(m.Tanh(t), m.Erf(u)), perm=NCHW)


@pattern("transpose_thru_concat", 1, "last axis", "negative axis")
def _(m, s):
    x, y = m.input("x", "batch", 3, "height", "width"), m.input("y", "batch", 5, "height", "width")
    joined = m.Concat(m.Transpose(x, perm=NHWC), m.Transpose(y, perm=NHWC), axis=3 if s == "last axis" else -1)
    return m.Transpose(joined, perm=NCHW)


@pattern("transpose_thru_reducemean", 1, "attribute", "operand", "last axis", opset=13, opsets={"operand": 18})
def _(m, s):
    axes = [3] if s == "last axis" else [1, 2]
    return between(m, lambda t: m.mean(t, *axes))


@pattern("transpose_thru_softmax", 1, "last axis", "negative axis", opset=13)
def _(m, s):
    return between(m, lambda t: m.Softmax(t, axis=3 if s == "last axis" else -2))


@pattern("transpose_thru_pad_slice", 1, "Pad", "Slice", "Slice all axes", opset=13)
def _(m, s):
    if s == "Pad":
        return between(m, lambda t: m.Pad(t, [0, 1, 2, 0, 0, 3, 4, 0]))
    if s == "Slice":
        return between(m, lambda t: m.Slice(t, [1], [3], [3]))
    return between(m, lambda t: m.Slice(t, [0, 0, 0, 1], [TO_THE_END] * 3 + [3]))


@pattern("transpose_thru_reshape_unit", 1, "Reshape", "Flatten")
def _(m, s):
    t = m.Transpose(m.input("x", "batch", 8, 1, 1), perm=NHWC)
    return m.Reshape(t, [0, 8]) if s == "Reshape" else m.Flatten(t, axis=1)


@pattern("transpose_unit_dims_as_reshape", 1, "Reshape", "Unsqueeze")
def _(m, s):
    if s == "Reshape":
        return m.Transpose(m.Reshape(m.input("x", "batch", 8), [-1, 1, 8]), perm=[0, 2, 1])
    return m.Transpose(m.unsqueeze(m.input("x", "batch", 8), 1, 2), perm=NCHW)


@pattern("reshape_nop", 2, "zeros", "minus one", "sizes")
def _(m, s):
    shape = {"zeros": [0, 0, 8], "minus one": [0, -1, 8], "sizes": [-1, 3, 8]}[s]
    return wrapped(m, s, lambda t: m.Reshape(t, shape), "batch", 3 if s == "sizes" else "sequence", 8)


@pattern("reshape_reshape", 1, "heads", "Flatten")
def _(m, s):
    x = m.input("x", "batch", "sequence", 8)
    if s == "heads":
        return m.Reshape(m.Reshape(x, [0, 0, 2, 4]), [-1, 4])
    return m.Reshape(m.Flatten(x, axis=2), [-1, 2, 2, 2])


@pattern("reshape_unary_reshape", 1, "Relu", "Clip", "Flatten")
def _(m, s):
    x = m.input("x", "batch", 4, 8)
    flat = m.Flatten(x, axis=2) if s == "Flatten" else m.Reshape(x, [-1, 8])
    return m.Reshape(m.Clip(flat, 0.0, 6.0) if s == "Clip" else m.Relu(flat), [-1, 4, 8])


@pattern("reshape_matmul_reshape", 1, "three axes", "four axes", "Gemm")
def _(m, s):
    if s == "three axes":
        x = m.input("x", "batch", 4, 8)
        return m.Reshape(m.MatMul(m.Reshape(x, [-1, 8]), m.weights(8, 16)), [-1, 4, 16])
    x = m.input("x", "batch", 3, 4, 8)
    flat = m.Reshape(x, [-1, 8])
    y = m.MatMul(flat, m.weights(8, 16)) if s == "four axes" else m.Gemm(flat, m.weights(16, 8), transB=1)
    return m.Reshape(y, [-1, 3, 4, 16])


@pattern("flatten_nop", 2, "axis 1", "negative axis")
def _(m, s):
    return wrapped(m, s, lambda t: m.Flatten(t, axis=1 if s == "axis 1" else -1), "batch", 8)


@pattern("squeeze_unsqueeze", 2, "Unsqueeze first", "Squeeze first", "negative axes")
def _(m, s):
    if s == "Unsqueeze first":
        return wrapped(m, s, lambda t: m.squeeze(m.unsqueeze(t, 1), 1))
    if s == "Squeeze first":
        return wrapped(m, s, lambda t: m.unsqueeze(m.squeeze(t, 1), 1), "batch", 1, "sequence")
    return wrapped(m, s, lambda t: m.squeeze(m.unsqueeze(t, -1, 0), 0, 4))


@pattern("unsqueeze_unsqueeze", 1, "front and back", "three", opsets={"three": 11})
def _(m, s):
    x = m.input("x", "batch", "sequence")
    t = m.unsqueeze(m.unsqueeze(x, 1), 1 if s == "front and back" else -1)
    return t if s == "front and back" else m.unsqueeze(t, 0)


@pattern("reshape_dyn1", 1, "TorchScript", "Shape of one axis", "Slice")
def _(m, s):
    x = m.input("x", "batch", 4, 8)
    if s == "TorchScript":
        n = m.dim(x, 0)
    elif s == "Shape of one axis":
        n = m.Shape(x, start=0, end=1)
    else:
        n = m.Slice(m.Shape(x), [0], [1])
    return m.Reshape(x, m.Concat(n, [-1], axis=0))


@pattern("reshape_dyn2_0copy", 1, "TorchScript", "Shape of one axis", "Gather of both")
def _(m, s):
    x = m.input("x", "batch", "sequence", 8)
    if s == "TorchScript":
        sizes = [m.dim(x, 0), m.dim(x, 1)]
    elif s == "Shape of one axis":
        sizes = [m.Shape(x, start=0, end=1), m.Shape(x, start=1, end=2)]
    else:
        sizes = [m.Gather(m.Shape(x), [0, 1])]
    return m.Reshape(x, m.Concat(*sizes, [2, 4], axis=0))


@pattern("reshape_dyn2_merge_back", 1, "TorchScript", "minus one")
def _(m, s):
    x = m.input("x", "batch", "sequence", 8)
    shape = m.Shape(x)
    n, q = m.Gather(shape, np.int64(0)), m.Gather(shape, np.int64(1))
    rows = m.unsqueeze(m.Mul(n, q), 0) if s == "TorchScript" else np.array([-1])
    flat = m.Relu(m.Reshape(x, m.Concat(rows, [8], axis=0)))
    return m.Reshape(flat, m.Concat(m.unsqueeze(n, 0), m.unsqueeze(q, 0), [8], axis=0))


@pattern("reshape_view_B_S_to_BS", 1, "TorchScript", "ReduceProd")
def _(m, s):
    x = m.input("x", "batch", "sequence", 8)
    if s == "TorchScript":
        rows = m.unsqueeze(m.Mul(m.Gather(m.Shape(x), np.int64(0)), m.Gather(m.Shape(x), np.int64(1))), 0)
    else:
        rows = m.ReduceProd(m.Slice(m.Shape(x), [0], [2]), keepdims=1)
    return m.Reshape(x, m.Concat(rows, [8], axis=0))


@pattern("reshape_to_own_shape", 2, "Shape", "parts")
def _(m, s):
    if s == "Shape":
        return wrapped(m, s, lambda t: m.Reshape(t, m.Shape(t)))
    return wrapped(m, s, lambda t: m.Reshape(t, m.Concat(m.dim(t, 0), m.dim(t, 1), m.dim(t, 2), axis=0)))


@pattern("shape_gather_static", 1, "Gather", "negative index", "Shape of one axis")
def _(m, s):
    x = m.input("x", "batch", "sequence", 16)
    if s == "Shape of one axis":
        size = m.squeeze(m.Shape(x, start=-1), 0)
    else:
        size = m.Gather(m.Shape(x), np.int64(2 if s == "Gather" else -1))
    return m.Div(x, m.Sqrt(m.Cast(size, to=1)))


@pattern("shape_slice_static", 1, "Slice", "negative")
def _(m, s):
    x = m.input("x", "batch", "sequence", 16)
    size = m.Slice(m.Shape(x), [2], [3], [0]) if s == "Slice" else m.Slice(m.Shape(x), [-1], [TO_THE_END], [0])
    return m.Mul(x, m.Cast(size, to=1))


@pattern("expand_hf_mask", 1, "TorchScript", "with Equal and Where")
def _(m, s):
    mask = m.input("mask", "batch", "sequence")
    shape = m.Concat(m.dim(mask, 0), [1], [1], m.dim(mask, 1), axis=0)
    if s != "TorchScript":
        # torch.expand keeps sizes that are -1.
        keep = m.Equal(shape, m.Mul(m.ConstantOfShape([4], value=unit()), np.int64(-1)))
        shape = m.Where(keep, m.ConstantOfShape([4], value=unit()), shape)
    return m.Expand(m.unsqueeze(m.unsqueeze(mask, 1), 2), shape)


def unit():
    from onnx import helper

    return helper.make_tensor("value", 7, [1], [1])


@pattern("constofshape_dyn_nop_add", 1, "Add", "Mul", "Sub")
def _(m, s):
    from onnx import helper

    x = m.Relu(m.input("x", "batch", "sequence", 4))
    value = helper.make_tensor("value", 1, [1], [1.0 if s == "Mul" else 0.0])
    return m.op(s, x, m.ConstantOfShape(m.Shape(x), value=value))


@pattern("slice_full", 2, "to the end", "negative axis", "attributes", opsets={"attributes": 9})
def _(m, s):
    if s == "to the end":
        return wrapped(m, s, lambda t: m.Slice(t, [0], [TO_THE_END], [1], [1]))
    if s == "negative axis":
        return wrapped(m, s, lambda t: m.Slice(t, [0, -3], [TO_THE_END, 3], [-1, -2]))
    return wrapped(m, s, lambda t: m.Slice(t, starts=[0], ends=[TO_THE_END], axes=[2]))


@pattern("slice_dyn_end_shape", 2, "Gather", "Shape of one axis")
def _(m, s):
    if s == "Gather":
        return wrapped(m, s, lambda t: m.Slice(t, [0], m.dim(t, 2), [2], [1]))
    return wrapped(m, s, lambda t: m.Slice(t, [0], m.Shape(t, start=0, end=1), [0]))


@pattern("slice_slice_diff_axes", 1, "two", "steps")
def _(m, s):
    x = m.input("x", "batch", 6, 8)
    if s == "two":
        return m.Slice(m.Slice(x, [1], [4], [1]), [2], [6], [2])
    return m.Slice(m.Slice(x, [0], [TO_THE_END], [1], [2]), [-3], [TO_THE_END], [-1])


@pattern("slice_slice_same_axis", 1, "static", "from the front")
def _(m, s):
    if s == "static":
        return m.Slice(m.Slice(m.input("x", "batch", 8), [1], [7], [1]), [2], [4], [1])
    return m.Slice(m.Slice(m.input("x", "batch", "sequence"), [1], [TO_THE_END], [1]), [1], [TO_THE_END], [1])


@pattern("slices_to_split", 3, "gate", "thirds")
def _(m, s):
    if s == "gate":
        x = m.input("x", "batch", "sequence", 8)
        a, b = m.Slice(x, [0], [4], [-1]), m.Slice(x, [4], [TO_THE_END], [-1])
        return m.Mul(a, m.Sigmoid(b))
    x = m.input("x", "batch", 9, "sequence")
    a, b, c = (m.Slice(x, [i], [i + 3], [1], [1]) for i in (0, 3, 6))
    return m.Sub(m.Sub(a, b), c)


@pattern("gathers_to_split", 1, "one each", "ranges")
def _(m, s):
    if s == "one each":
        x = m.input("x", 3, "batch", 4)
        return [m.Gather(x, [i]) for i in range(3)]
    x = m.input("x", "batch", 6)
    return [m.Gather(x, [i, i + 1], axis=1) for i in (0, 2, 4)]


@pattern("split_concat_nop", 1, "two", "three")
def _(m, s):
    x = m.input("x", "batch", 6)
    parts = m.split(x, [2, 4] if s == "two" else [2, 2, 2], axis=1)
    return m.Relu(m.Concat(*parts, axis=1 if s == "two" else -1))


@pattern("concat_slice_recover", 2, "first", "last")
def _(m, s):
    x, y = m.Tanh(m.input("x", "batch", 4)), m.input("y", "batch", 3)
    if s == "first":
        return m.Relu(m.Slice(m.Concat(x, y, axis=1), [0], [4], [1]))
    return m.Relu(m.Slice(m.Concat(y, x, axis=-1), [3], [TO_THE_END], [1]))


@pattern("concat_one", 2, "axis", "negative axis")
def _(m, s):
    return wrapped(m, s, lambda t: m.Concat(t, axis=1 if s == "axis" else -1))


@pattern("concat_concat", 1, "left", "right", "negative axis")
def _(m, s):
    x, y, z = (m.input(name, "batch", 4) for name in "xyz")
    if s == "left":
        return m.Concat(m.Concat(x, y, axis=1), z, axis=1)
    if s == "right":
        return m.Concat(x, m.Concat(y, z, axis=0), axis=0)
    return m.Concat(x, m.Concat(y, z, axis=1), axis=-1)


@pattern("split_one", 2, "sizes", "none", opsets={"none": 18})
def _(m, s):
    if s == "sizes":
        return wrapped(m, s, lambda t: m.op("Split", t, [3], axis=1))
    return wrapped(m, s, lambda t: m.op("Split", t, axis=0, num_outputs=1))


@pattern("scatternd_full", 2, "rows", "three axes")
def _(m, s):
    sizes = (4, 3) if s == "rows" else (2, 3, 4)
    x, y = m.input("x", *sizes), m.input("y", *sizes)
    indices = np.arange(sizes[0]).reshape(-1, 1)
    return m.Sigmoid(m.ScatterND(x, indices, m.Tanh(y)))


@pattern("depth_to_space", 1, "DCR", "CRD", "static batch")
def _(m, s):
    batch = 2 if s == "static batch" else "batch"
    lead = 2 if s == "static batch" else -1
    x = m.input("x", batch, 12, 4, 5)
    if s == "CRD":
        t = m.Transpose(m.Reshape(x, [lead, 3, 2, 2, 4, 5]), perm=[0, 1, 4, 2, 5, 3])
    else:
        t = m.Transpose(m.Reshape(x, [lead, 2, 2, 3, 4, 5]), perm=[0, 3, 4, 1, 5, 2])
    return m.Reshape(t, [lead, 3, 8, 10])


@pattern("focus_space_to_depth", 1, "both axes at once", "one axis after the other")
def _(m, s):
    x = m.input("x", "batch", 3, 8, 6)
    parts = []
    for i in range(2):
        for j in range(2):
            if s == "both axes at once":
                parts.append(m.Slice(x, [i, j], [TO_THE_END, TO_THE_END], [2, 3], [2, 2]))
            else:
                rows = m.Slice(x, [i], [TO_THE_END], [2], [2])
                parts.append(m.Slice(rows, [j], [TO_THE_END], [3], [2]))
    return m.Concat(*parts, axis=1)
