"""Interfaces, bodies, names, files."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .book import TrapModel, trap


@trap()
def overridable_initializer(m: TrapModel):
    """A default value of an input is no constant."""
    x = m.input("x", "batch", 4)
    factor = m.input("factor", 4)

    def change(model):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "factor"))

    m.change = change
    return m.Mul(x, factor)


@trap()
def overridable_shape(m):
    x, shape = m.input("x", "batch", 4), m.input("shape", 2, type=TensorProto.INT64)
    m.samples["shape"] = lambda random, sizes: np.array([2, -1])
    m.sizes = [{"batch": 4}, {"batch": 6}]
    m.change = lambda model: model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 2]), "shape"))
    return m.Reshape(x, shape)


@trap()
def unused_input(m):
    m.input("unused", "batch", 4)
    return m.Relu(m.input("x", "batch", 4))


@trap()
def input_used_by_a_shape_alone(m):
    x, y = m.input("x", 3, 4), m.input("y", 3, "other")
    return m.Add(x, m.Cast(m.Shape(y, start=0, end=1), to=1))


@trap()
def input_used_in_a_body_alone(m):
    """The decoder whose encoder states only one branch reads."""
    flag, x = m.input("flag", type=TensorProto.BOOL), m.input("x", "batch", 4)
    states = m.input("states", "batch", 4)
    return m.If(flag, then_branch=m.body(lambda b: b.Add(x, states)), else_branch=m.body(lambda b: b.Relu(x)))


@trap()
def output_is_an_input(m):
    x = m.input("x", "batch", 4)
    return m.Identity(m.Identity(x)), m.Relu(x)


@trap()
def outputs_of_one_value(m):
    t = m.Tanh(m.input("x", "batch", 4))
    return t, m.Identity(t), m.Neg(m.Neg(t))


@trap()
def output_is_constant(m):
    x = m.input("x", "batch", 4)
    return m.Identity(m.weights(3)), m.Add(x, m.Mul(m.weights(4), 2.0))


@trap()
def inner_value_is_output(m):
    """What a fusion would swallow leaves the graph."""
    x = m.input("x", "batch", 3, 6, 6)
    t = m.Conv(x, m.weights(4, 3, 3, 3))
    scale = [m.weights(4), m.weights(4), m.weights(4), m.weights(4, low=0.5)]
    return t, m.BatchNormalization(t, *scale)


@trap()
def weights_used_twice(m):
    """Scales go into a weight that another operator reads."""
    x, w = m.input("x", "batch", 8), m.weights(8, 8)
    return m.Mul(m.MatMul(x, w), m.weights(8)), m.MatMul(m.Tanh(x), w)


@trap()
def if_with_captured_constant(m):
    x, c = m.input("x", "batch", 4), m.weights(4)
    branches = {"then_branch": m.body(lambda b: b.Add(x, c)), "else_branch": m.body(lambda b: b.Sub(x, c))}
    return m.If(np.array(True), **branches)


@trap()
def if_with_initializer_as_output(m):
    x = m.input("x", "batch", 4)
    value = numpy_helper.from_array(np.arange(4, dtype=np.float32), "branch_value")
    info = helper.make_tensor_value_info("branch_value", 1, [4])
    then = helper.make_graph([], "then", [], [info], [value])
    other = m.body(lambda b: b.Constant(value=numpy_helper.from_array(np.zeros(4, np.float32))))
    return m.Add(x, m.If(np.array(True), then_branch=then, else_branch=other))


@trap()
def if_with_outer_value_as_output(m):
    x = m.input("x", "batch", 4)
    t = m.Tanh(x)
    return m.If(np.array(False), then_branch=m.body(lambda b: b.Relu(t)), else_branch=m.body(lambda b: b.Identity(t)))


@trap()
def if_in_if(m):
    flag, x, c = m.input("flag", type=TensorProto.BOOL), m.input("x", "batch", 4), m.weights(4)
    inner = lambda b: b.If(np.array(True), then_branch=b.body(lambda d: d.Mul(x, c)), else_branch=b.body(lambda d: d.Relu(x)))
    return m.If(flag, then_branch=m.body(inner), else_branch=m.body(lambda b: b.Sub(c, x)))


@trap()
def names_of_a_body_return(m):
    """Two branches that become part of the graph use the same names inside."""
    x = m.input("x", "batch", 4)

    def branch(op_type):
        nodes = [helper.make_node(op_type, [x], ["t"]), helper.make_node("Exp", ["t"], ["u"])]
        return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("u", 1, ["batch", 4])])

    one = m.If(np.array(True), then_branch=branch("Tanh"), else_branch=branch("Erf"))
    other = m.If(np.array(False), then_branch=branch("Tanh"), else_branch=branch("Erf"))
    return m.Add(one, other)


def loop(m: TrapModel, trips: str, body_nodes, initial: str, scanned: bool = False) -> list[str]:
    """A Loop that carries one float value; `body_nodes(iteration, carried)` gives nodes and the name of the next."""
    inputs = [
        helper.make_tensor_value_info("iteration", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        helper.make_tensor_value_info("carried", 1, ["batch", 4]),
    ]
    nodes = [helper.make_node("Identity", ["going"], ["still"]), *body_nodes]
    outputs = [helper.make_tensor_value_info("still", TensorProto.BOOL, []), helper.make_tensor_value_info("next", 1, ["batch", 4])]
    if scanned:
        outputs.append(helper.make_tensor_value_info("scanned", 1, ["batch", 4]))
    graph = helper.make_graph(nodes, "body", inputs, outputs)
    given = m.op("Loop", trips, "", initial, outputs=2 if scanned else 1, body=graph)
    given = given if scanned else [given]
    m.declared |= dict(zip(given, (["batch", 4], ["trips", "batch", 4])))
    return given


@trap()
def loop_reads_outer_values(m):
    x, c = m.input("x", "batch", 4), m.weights(4)
    nodes = [helper.make_node("Mul", ["carried", c], ["t"]), helper.make_node("Add", ["t", x], ["next"])]
    return loop(m, m.const(3), nodes, m.Identity(x))


@trap()
def loop_without_trips(m):
    x = m.input("x", "batch", 4)
    return loop(m, m.const(0), [helper.make_node("Exp", ["carried"], ["next"])], x)


@trap()
def loop_collects(m):
    """The same value every time is stacked all the same."""
    x = m.input("x", "batch", 4)
    nodes = [helper.make_node("Tanh", ["carried"], ["next"]), helper.make_node("Relu", [x], ["scanned"])]
    return loop(m, m.const(3), nodes, x, scanned=True)


@trap()
def loop_draws_anew(m):
    """The trip count comes from an input."""
    x, trips = m.input("x", "batch", 4), m.input("trips", type=TensorProto.INT64)
    return loop(m, trips, [helper.make_node("Add", ["carried", "carried"], ["next"])], x)


@trap()
def ir_version_3(m):
    """Initializers are listed as inputs, as they had to be."""
    m.opset = 9
    x = m.input("x", "batch", 3, 6, 6)
    t = m.Conv(x, m.weights(4, 3, 3, 3), m.weights(4))
    t = m.BatchNormalization(t, m.weights(4), m.weights(4), m.weights(4), m.weights(4, low=0.5))

    def change(model):
        model.ir_version = 3
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))

    m.change = change
    return m.Relu(t)


@trap()
def not_sorted(m):
    """Nodes stand before those whose results they read."""
    x = m.input("x", "batch", 4)
    y = m.Exp(m.Neg(m.Neg(m.Add(m.Tanh(x), 0.0))))

    def change(model):
        nodes = list(reversed(model.graph.node))
        del model.graph.node[:]
        model.graph.node.extend(nodes)

    def judge(result, outputs):
        onnx.checker.check_model(result)

    m.change, m.judge = change, judge
    return y


@trap()
def declaration_lies(m):
    """The declared shape of the output has its axes the wrong way round."""
    x = m.input("x", "batch", "sequence", 8)
    t = m.Transpose(x, perm=[1, 0, 2])
    shape = m.Concat(m.Shape(t, start=0, end=1), m.Shape(t, start=1, end=2), [2, 4], axis=0)
    y = m.Reshape(t, shape)
    m.declared[y] = ["batch", "sequence", 2, 4]
    return y


@trap()
def inner_declaration_lies(m):
    """A shape in value_info that is not that of the value."""
    x = m.input("x", "batch", "sequence")
    t = m.Tanh(x)
    y = m.Expand(t, m.Shape(x))
    m.change = lambda model: model.graph.value_info.append(helper.make_tensor_value_info(t, 1, [1, "sequence"]))
    return m.Relu(y)


@trap()
def external_data_is_missing(m):
    """The file of the weights is not there: the result is right without it, or the refusal names it."""
    x = m.input("x", "batch", 64)
    w = m.weights(64, 64)
    m.data_is_missing = True
    return m.Relu(m.Relu(m.MatMul(m.Identity(x), w)))


@trap()
def metadata_and_texts(m):
    def change(model):
        model.metadata_props.add(key="author", value="somebody")
        model.doc_string, model.producer_name, model.domain, model.model_version = "model", "maker", "org.example", 7
        model.graph.doc_string, model.graph.name = "graph", "named"
        model.graph.input[0].doc_string = "input"

    def judge(result, outputs):
        kept = [p.value for p in result.metadata_props if p.key == "author"] == ["somebody"]
        kept = kept and (result.doc_string, result.producer_name, result.domain, result.model_version) == ("model", "maker", "org.example", 7)
        kept = kept and (result.graph.doc_string, result.graph.input[0].doc_string) == ("graph", "input")
        return None if kept else "texts are lost"

    m.change, m.judge = change, judge
    return m.Relu(m.Identity(m.input("x", "batch", 4)))


@trap()
def function_of_the_model(m):
    """A local function may have the name of a standard operator in a domain of its own."""
    x = m.input("x", "batch", 4)
    y = m.op("Relu", m.Relu(x), domain="org.example")

    def change(model):
        body = [helper.make_node("Neg", ["a"], ["b"])]
        model.functions.append(helper.make_function("org.example", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))
        model.opset_import.append(helper.make_opsetid("org.example", 1))

    m.early = change
    m.declared[y] = ["batch", 4]
    return y


@trap()
def sparse_constant(m):
    x = m.input("x", "batch", 4)
    values = helper.make_tensor("values", 1, [2], [2.0, 3.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [2], [1, 3])
    return m.Mul(m.Identity(x), m.Constant(sparse_value=helper.make_sparse_tensor(values, indices, [4])))


@trap()
def strings(m):
    x = m.input("x", "batch", 4, type=TensorProto.INT64)
    names = helper.make_tensor("value", TensorProto.STRING, [4], [b"a", b"b", b"c", b"d"])
    return m.Identity(m.Gather(m.Constant(value=names), x))


@trap()
def constants_of_other_attributes(m):
    """Constant(value_floats) is a vector of single precision, Constant(value_float) a scalar."""
    x = m.input("x", "batch", 2)
    t = m.Add(x, m.Constant(value_floats=[1.5, 2.5]))
    t = m.Mul(t, m.Constant(value_float=3.0))
    return m.Reshape(t, m.Concat(m.Constant(value_ints=[-1]), m.unsqueeze(m.Constant(value_int=1), 0), axis=0))


def at_most(nodes: int):
    """A judge of results that must not grow."""
    return lambda result, outputs: None if len(result.graph.node) <= nodes else f"{len(result.graph.node)} nodes"


@trap()
def convolution_normalization_grows(m):
    """Folded weights are numbers, not arithmetic in the graph."""
    m.judge = at_most(6)
    t = x = m.input("x", "batch", 4, 6, 6)
    for _ in range(2):
        t = m.Conv(t, m.weights(4, 4, 3, 3), pads=[1] * 4)
        t = m.BatchNormalization(t, m.weights(4), m.weights(4), m.weights(4), m.weights(4, low=0.5))
    return m.Relu(m.Add(x, t))


@trap()
def half_precision_grows(m):
    """No casts come in."""
    m.judge = at_most(2)
    x = m.input("x", "batch", 4, 6, 6, type=TensorProto.FLOAT16)
    half = lambda *shape: m.const(m.random.uniform(0.5, 1.0, shape).astype(np.float16))
    t = m.Conv(x, half(4, 4, 3, 3))
    return m.BatchNormalization(t, half(4), half(4), half(4), half(4))


@trap()
def weights_by_formula(m):
    """Some kilobytes of nodes stand for megabytes of weights."""

    def judge(result, outputs):
        size = len(result.SerializeToString())
        return None if size < 10_000 else f"{size} bytes"

    m.judge = judge
    x = m.input("x", "batch", 512)
    weights = m.ConstantOfShape([512, 512], value=helper.make_tensor("value", 1, [1], [0.01]))
    return m.Relu(m.MatMul(x, weights))
