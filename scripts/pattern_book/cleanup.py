"""What does nothing, what is known, what is there twice."""

import numpy as np

from .builder import BOOL, FLOAT, HALF, INT32, INT64, UINT8, Model, pattern


def wrapped(m: Model, spelling: str, inner, *sizes) -> str:
    """tanh before, sigmoid after: the graph that is left has these two."""
    x = m.input("x", *(sizes or ("batch", 3, "sequence")))
    return m.Sigmoid(inner(m.Tanh(x)))


@pattern("identity_out", 1, "at the output", "at the input", "both")
def _(m, s):
    x = m.input("x", "batch", 4)
    x = x if s == "at the output" else m.Identity(x)
    y = m.Relu(x)
    return y if s == "at the input" else m.Identity(y)


@pattern("cast_nop", 2, "Cast", "CastLike", "half")
def _(m, s):
    if s == "CastLike":
        return wrapped(m, s, lambda t: m.CastLike(t, np.float32(0)))
    if s == "Cast":
        return wrapped(m, s, lambda t: m.Cast(t, to=FLOAT))
    x = m.input("x", "batch", 4, type=HALF)
    return m.Sigmoid(m.Cast(m.Tanh(x), to=HALF))


@pattern("cast_chain_widen", 2, "half", "int32", "bool")
def _(m, s):
    if s == "half":
        x = m.input("x", "batch", 4, type=HALF)
        return m.Sigmoid(m.Cast(m.Cast(m.Tanh(x), to=FLOAT), to=HALF))
    if s == "int32":
        x = m.input("x", "batch", 4, type=INT32)
        return m.Neg(m.Cast(m.Cast(m.Abs(x), to=INT64), to=INT32))
    x, y = m.input("x", "batch", 4), m.input("y", "batch", 4)
    return m.Not(m.Cast(m.Cast(m.Less(x, y), to=FLOAT), to=BOOL))


@pattern("cast_chain_bool_int", 3, "int32", "uint8", "int64")
def _(m, s):
    x, y = m.input("x", "batch", 4), m.input("y", "batch", 4)
    middle = {"int32": INT32, "uint8": UINT8, "int64": INT64}[s]
    return m.Exp(m.Cast(m.Cast(m.Less(x, y), to=middle), to=FLOAT))


@pattern("dropout", 2, "ratio attribute", "ratio operand", "mode operand", opsets={"ratio attribute": 11})
def _(m, s):
    if s == "ratio attribute":
        return wrapped(m, s, lambda t: m.Dropout(t, ratio=0.5))
    if s == "ratio operand":
        return wrapped(m, s, lambda t: m.Dropout(t, 0.3))
    return wrapped(m, s, lambda t: m.Dropout(t, 0.3, np.array(False)))


@pattern("pad_zero", 2, "operand", "attribute", "axes", opsets={"attribute": 10, "axes": 18})
def _(m, s):
    if s == "operand":
        return wrapped(m, s, lambda t: m.Pad(t, [0] * 6, 0.0))
    if s == "attribute":
        return wrapped(m, s, lambda t: m.Pad(t, pads=[0] * 6, mode="constant"))
    return wrapped(m, s, lambda t: m.Pad(t, [0, 0], None, [-1], mode="reflect"))


@pattern("tile_ones", 2, "constant", "computed")
def _(m, s):
    if s == "constant":
        return wrapped(m, s, lambda t: m.Tile(t, [1, 1, 1]))
    return wrapped(m, s, lambda t: m.Tile(t, m.Expand(np.array([1]), [3])))


@pattern("expand_nop", 2, "one", "its own shape", "static sizes")
def _(m, s):
    if s == "one":
        return wrapped(m, s, lambda t: m.Expand(t, [1]))
    if s == "its own shape":
        return wrapped(m, s, lambda t: m.Expand(t, m.Shape(t)))
    return wrapped(m, s, lambda t: m.Expand(t, [1, 3, 4]), "batch", 3, 4)


@pattern("expand_ones_before_add", 1, "rank", "left side", "ones in the middle")
def _(m, s):
    if s == "rank":
        x, y = m.input("x", "rows", 4), m.input("y", "batch", "rows", 4)
        return m.Add(m.Expand(x, [1, 1, 1]), y)
    if s == "left side":
        x, y = m.input("x", "batch", 1, 4), m.input("y", "batch", 3, 4)
        return m.Add(y, m.Expand(x, [1, 1, 1]))
    x, y = m.input("x", 1, 4), m.input("y", "batch", 8, 4)
    return m.Add(m.Expand(x, [1, 1, 4]), y)


@pattern("add0", 2, "scalar", "vector", "left")
def _(m, s):
    if s == "scalar":
        return wrapped(m, s, lambda t: m.Add(t, 0.0))
    if s == "vector":
        return wrapped(m, s, lambda t: m.Add(t, np.zeros((3, 1), np.float32)))
    return wrapped(m, s, lambda t: m.Add(np.zeros(1, np.float32), t))


@pattern("mul1", 2, "scalar", "vector", "left")
def _(m, s):
    if s == "scalar":
        return wrapped(m, s, lambda t: m.Mul(t, 1.0))
    if s == "vector":
        return wrapped(m, s, lambda t: m.Mul(t, np.ones((1, 3, 1), np.float32)))
    return wrapped(m, s, lambda t: m.Mul(np.ones((1, 1), np.float32), t))


@pattern("sub0", 2, "scalar", "vector")
def _(m, s):
    return wrapped(m, s, lambda t: m.Sub(t, 0.0 if s == "scalar" else np.zeros((3, 1), np.float32)))


@pattern("div1", 2, "scalar", "vector")
def _(m, s):
    return wrapped(m, s, lambda t: m.Div(t, 1.0 if s == "scalar" else np.ones((3, 1), np.float32)))


@pattern("pow1", 2, "float", "integer", "vector")
def _(m, s):
    exponent = {"float": 1.0, "integer": np.int64(1), "vector": np.ones(1, np.float32)}[s]
    return wrapped(m, s, lambda t: m.Pow(t, exponent))


@pattern("neg_neg", 2, "Neg", "Mul outside", "Mul inside")
def _(m, s):
    if s == "Neg":
        return wrapped(m, s, lambda t: m.Neg(m.Neg(t)))
    if s == "Mul outside":
        return wrapped(m, s, lambda t: m.Mul(m.Neg(t), -1.0))
    return wrapped(m, s, lambda t: m.Neg(m.Mul(-1.0, t)))


@pattern("relu_relu", 1, "Relu", "Max")
def _(m, s):
    x = m.input("x", "batch", 4)
    return m.Relu(m.Relu(x) if s == "Relu" else m.Max(x, 0.0))


@pattern("abs_of_relu", 1, "Relu", "Clip")
def _(m, s):
    x = m.input("x", "batch", 4)
    return m.Abs(m.Relu(x) if s == "Relu" else m.Clip(x, 0.0, 6.0))


@pattern("not_where", 2, "Greater", "IsNaN", "twice")
def _(m, s):
    x, y = m.input("x", "batch", 4), m.input("y", "batch", 4)
    if s == "Greater":
        return m.Where(m.Not(m.Greater(x, y)), x, y)
    if s == "IsNaN":
        return m.Where(m.Not(m.IsNaN(x)), x, 0.5)
    return m.Where(m.Not(m.Not(m.Less(x, 0.0))), y, x)


@pattern("where_const_true", 2, "true", "false", "computed")
def _(m, s):
    if s == "true":
        return wrapped(m, s, lambda t: m.Where(np.array(True), t, 0.0))
    if s == "false":
        return wrapped(m, s, lambda t: m.Where(np.zeros((3, 1), bool), 1.0, t))
    return wrapped(m, s, lambda t: m.Where(m.Equal([1, 1, 1], m.ConstantOfShape([3], value=one())), t, -1.0), "batch", 2, 3)


def one():
    from onnx import helper

    return helper.make_tensor("value", INT64, [1], [1])


@pattern("add_add_const", 1, "scalars", "vectors", "Sub")
def _(m, s):
    x = m.input("x", "batch", "sequence", 4)
    if s == "scalars":
        return m.Add(m.Add(x, 0.5), 0.25)
    if s == "vectors":
        return m.Add(m.weights(4), m.Add(m.weights(4), x))
    return m.Sub(m.Add(x, m.weights(4)), 0.5)


@pattern("mul_mul_const", 1, "scalars", "vectors", "Div")
def _(m, s):
    x = m.input("x", "batch", "sequence", 4)
    if s == "scalars":
        return m.Mul(m.Mul(x, 3.0), 0.7)
    if s == "vectors":
        return m.Mul(m.weights(4), m.Mul(m.weights(4), x))
    return m.Div(m.Mul(x, 2.0), m.weights(4, low=0.5))


@pattern("div_mul", 1, "Div", "Reciprocal", "left")
def _(m, s):
    x, y = m.input("x", "batch", 4, positive=True), m.input("y", "batch", 4)
    if s == "Div":
        return m.Mul(m.Div(1.0, x), y)
    if s == "Reciprocal":
        return m.Mul(m.Reciprocal(x), y)
    return m.Mul(y, m.Div(np.ones((1, 1), np.float32), x))


@pattern("mul_div_same", 1, "Mul Div", "Div Mul", "vector")
def _(m, s):
    x = m.Relu(m.input("x", "batch", 4))
    if s == "Mul Div":
        return m.Div(m.Mul(x, 3.0), 3.0)
    if s == "Div Mul":
        return m.Mul(m.Div(x, 8.0), 8.0)
    c = m.weights(4, low=0.5)
    return m.Div(m.Mul(c, x), c)


@pattern("cse", 3, "two chains", "constants twice")
def _(m, s):
    x = m.input("x", "batch", 4)
    if s == "two chains":
        return m.Add(m.Exp(m.Tanh(x)), m.Exp(m.Tanh(x)))
    return m.Add(m.Erf(m.Mul(x, 1.5)), m.Erf(m.Mul(1.5, x)))


@pattern("cse_commutative", 2, "Add", "Mul")
def _(m, s):
    x, y = m.input("x", "batch", 4), m.input("y", "batch", 4)
    if s == "Add":
        return m.Mul(m.Add(x, y), m.Add(y, x))
    return m.Concat(m.Mul(x, y), m.Mul(y, x), axis=0)


@pattern("constfold", 1, "Add", "Cast")
def _(m, s):
    x = m.input("x", "batch", 4)
    if s == "Add":
        return m.Mul(x, m.Add(m.weights(4), m.weights(4)))
    return m.Mul(x, m.Cast(np.array([1, 2, 3, 4]), to=FLOAT))


@pattern("constfold_const_nodes", 1, "initializers", "Constant nodes")
def _(m, s):
    x = m.input("x", "batch", 4)
    return m.Mul(x, m.Exp(m.Neg(m.weights(4))))


@pattern("shape_static_fold", 1, "Slice", "Gather", "Size")
def _(m, s):
    x = m.input("x", 2, 3, 4)
    if s == "Slice":
        return m.Reshape(x, m.Concat(m.Slice(m.Shape(x), [0], [1], [0]), [-1], axis=0))
    if s == "Gather":
        return m.Reshape(x, m.Concat(m.dim(x, 2), [6], axis=0))
    return m.Reshape(x, m.unsqueeze(m.Size(x), 0))


@pattern("range_nonzero_fold", 1, "NonZero", "Range")
def _(m, s):
    x = m.input("x", "batch", 8)
    if s == "NonZero":
        return m.Mul(x, m.Cast(m.NonZero(m.ConstantOfShape([8], value=one())), to=FLOAT))
    return m.Mul(x, m.Cast(m.unsqueeze(m.Range(np.int64(0), np.int64(16), np.int64(2)), 0), to=FLOAT))


@pattern("dead_node", 1, "one", "chain")
def _(m, s):
    x = m.input("x", "batch", 4)
    m.Tanh(x if s == "one" else m.Exp(x))
    return m.Relu(x)


@pattern("split_unused_output", 2, "first", "last")
def _(m, s):
    parts = m.split(m.input("x", "batch", 6), [2, 4], axis=1)
    return m.Relu(parts[s == "last"])


@pattern("if_const", 1, "true", "computed false")
def _(m, s):
    x = m.input("x", "batch", 4)
    condition = np.array(True) if s == "true" else m.Not(np.array(True))
    branches = {"then_branch": m.body(lambda b: b.Relu(x)), "else_branch": m.body(lambda b: b.Sigmoid(x))}
    return m.If(condition, **branches)


@pattern("if_shape_cond", 1, "size of an axis", "rank")
def _(m, s):
    x = m.input("x", "batch", 1, 4)
    branches = {"then_branch": m.body(lambda b: b.Squeeze(x, [1])), "else_branch": m.body(lambda b: b.Identity(x))}
    of = m.Size(m.Shape(x)) if s == "rank" else m.Gather(m.Shape(x), np.int64(1))
    y = m.If(m.Equal(of, np.int64(3 if s == "rank" else 1)), **branches)
    m.declared[y] = ["batch", 4]
    return y


@pattern("sequence_at", 1, "SequenceConstruct", "SequenceInsert", "negative index")
def _(m, s):
    x, y = m.input("x", "batch", 4), m.input("y", "batch", 3)
    if s == "SequenceConstruct":
        return m.Relu(m.SequenceAt(m.SequenceConstruct(x, y), np.int64(1)))
    if s == "negative index":
        return m.Relu(m.SequenceAt(m.SequenceConstruct(x, y, x), np.int64(-2)))
    sequence = m.SequenceInsert(m.SequenceInsert(m.SequenceEmpty(), x), y)
    result = m.Relu(m.SequenceAt(sequence, np.int64(0)))
    m.declared[result] = ["batch", 4]
    return result


@pattern("dup_initializers", 2, "float", "shapes")
def _(m, s):
    x = m.input("x", "batch", 4)
    c = np.array([0.5, 1.5, 2.5, 3.5], np.float32)
    return m.Div(m.Add(x, c), c.copy() if s == "float" else c.reshape(1, 4))


@pattern("qdq_pair_dup", 2, "uint8", "int8", "by channel")
def _(m, s):
    x = m.input("x", "batch", 4)
    if s == "by channel":
        operands, attributes = (np.array([0.1, 0.2, 0.3, 0.4], np.float32), np.zeros(4, np.int8)), {"axis": 1}
    else:
        operands, attributes = (np.float32(0.05), np.uint8(128) if s == "uint8" else np.int8(3)), {}
    for _ in range(2):
        x = m.DequantizeLinear(m.QuantizeLinear(x, *operands, **attributes), *operands, **attributes)
    return x


@pattern("expand_binary", 1, "Shape of the other", "both sides", "static")
def _(m, s):
    if s == "static":
        x, y = m.input("x", 1, 8), m.input("y", 4, 8)
        return m.Mul(m.Expand(x, [4, 8]), y)
    x, y = m.input("x", "batch", 1, 4), m.input("y", "batch", "sequence", 4)
    if s == "Shape of the other":
        return m.Mul(m.Expand(x, m.Shape(y)), y)
    shape = m.Concat(m.dim(y, 0), m.dim(y, 1), [4], axis=0)
    return m.Add(y, m.Expand(x, shape))


@pattern("gather_embed_cast", 1, "table", "axis 1")
def _(m, s):
    ids = m.Cast(m.input("ids", "batch", "sequence", type=INT32), to=INT64)
    if s == "table":
        return m.Gather(m.weights(4, 8), ids)
    return m.Gather(m.input("x", "rows", 4), ids, axis=1)


@pattern("mul_sigmoid_twice_distribute", 2, "Add", "sides swapped", "Sub")
def _(m, s):
    x, a, b = (m.input(name, "batch", "sequence", 4) for name in "xab")
    if s == "Add":
        return m.Add(m.Mul(x, a), m.Mul(x, b))
    if s == "sides swapped":
        return m.Add(m.Mul(a, x), m.Mul(x, b))
    return m.Sub(m.Mul(a, x), m.Mul(b, x))


@pattern("matmul_distribute", 2, "Add", "Sub")
def _(m, s):
    x, z = m.input("x", "batch", "sequence", 8), m.input("z", "batch", "sequence", 8)
    w = m.weights(8, 4)
    return m.op(s, m.MatMul(x, w), m.MatMul(z, w))


@pattern("maxpool_relu_swap", 3, "twice the same", "defaults spelled out")
def _(m, s):
    x = m.input("x", "batch", 3, 8, 8)
    spelled = {} if s == "twice the same" else {"pads": [0, 0, 0, 0], "dilations": [1, 1]}
    one = m.MaxPool(m.Relu(x), kernel_shape=[2, 2], strides=[2, 2])
    other = m.MaxPool(m.Relu(x), kernel_shape=[2, 2], strides=[2, 2], **spelled)
    return m.Add(one, other)
