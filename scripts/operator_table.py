"""Writes ir/src/schema/table.rs: what the installed `onnx` package knows of every version of every operator.

    python scripts/operator_table.py           # write the table
    python scripts/operator_table.py --check   # say whether the checked-in table is up to date (exit code 1 if not)

The checked-in table comes from onnx 1.23.2.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.defs import C, OpSchema, get_all_schemas_with_history

TABLE = Path(__file__).resolve().parent.parent / "ir" / "src" / "schema" / "table.rs"
Option = OpSchema.FormalParameterOption
UNBOUNDED = 2**31 - 1

# onnx marks an operator as not deterministic also when it owns a body or its function contains one, and as unknown
# when it cannot expand the function. Neither says that it draws random numbers, so each such operator is named here;
# one that is not named stops the script.
RANDOM = {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
RANDOM_AS_ITS_BODY = {"AffineGrid", "If", "Loop", "Scan", "SequenceMap"}
UNKNOWN_BUT_NOT_RANDOM = {"CausalConvWithState", "DepthToSpace", "LinearAttention", "SpaceToDepth"}

# Spelling of an element type inside a type string -> name in TensorProto.DataType.
ELEMENT_TYPES = {name.lower(): name for name in TensorProto.DataType.keys()}

# Form of a type string -> field of TypeSet.
FORMS = {
    "tensor(_)": "tensors",
    "sparse_tensor(_)": "sparse_tensors",
    "seq(tensor(_))": "sequences",
    "optional(tensor(_))": "optionals",
    "optional(seq(tensor(_)))": "optional_sequences",
    "map(_, _)": "maps",
    "seq(map(_, _))": "map_sequences",
}


def text(value: str | bytes) -> str:
    """A Rust string literal."""
    value = value.decode() if isinstance(value, bytes) else value
    assert value.isascii() and value.isprintable(), value
    return json.dumps(value)


def type_set(type_strings: Iterable[str]) -> str:
    """A Rust expression for the set of types that the strings name."""
    fields: dict[str, set[tuple[int, ...]]] = {}
    for string in type_strings:
        elements = re.findall(r"\w+(?=[,)])", string)
        form = re.sub(r"\w+(?=[,)])", "_", string)
        codes = tuple(TensorProto.DataType.Value(ELEMENT_TYPES[element]) for element in elements)
        fields.setdefault(FORMS[form], set()).add(codes)
    parts = []
    for field in dict.fromkeys(FORMS.values()):
        members = [[TensorProto.DataType.Name(code) for code in codes] for codes in sorted(fields.get(field, ()))]
        if members and "map" in field:
            parts.append(f"{field}: &[{', '.join(f'({key}, {value})' for key, value in members)}]")
        elif members:
            parts.append(f"{field}: {' | '.join(name for [name] in members)}")
    return f"TypeSet {{ {', '.join(parts)}, ..TypeSet::EMPTY }}"


class TypeSets:
    """The distinct type sets of the table, each a named Rust static."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def name(self, expression: str) -> str:
        return self.names.setdefault(expression, f"TYPES_{len(self.names)}")


def parameter(schema: OpSchema, formal: OpSchema.FormalParameter, sets: TypeSets) -> str:
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    types = sets.name(type_set(allowed.get(formal.type_str, [formal.type_str])))
    start = f"{text(formal.name)}, {text(formal.type_str)}, &{types}"
    if formal.option == Option.Variadic:
        return f"variadic({start}, {formal.min_arity}, {str(formal.is_homogeneous).lower()})"
    assert formal.is_homogeneous and formal.min_arity == 1, (schema.name, formal.name)
    return f"{'single' if formal.option == Option.Single else 'optional'}({start})"


def check_arity(schema: OpSchema, formals: list[OpSchema.FormalParameter], least: int, most: int) -> None:
    """The table holds no counts: they must follow from the parameters, as `count` in schema/operator.rs says."""
    low, high = 0, len(formals)
    for index, formal in enumerate(formals):
        if formal.option == Option.Single:
            low = index + 1
        elif formal.option == Option.Variadic:
            low, high = index + formal.min_arity, UNBOUNDED
    assert (low, high) == (least, most), (schema.name, schema.since_version, low, high, least, most)


def attribute(schema: OpSchema.Attribute) -> str:
    name, kind = text(schema.name), schema.type.name
    if not schema.default_value.name:
        return f"attribute({name}, {kind.title().replace('_', '')}, {str(schema.required).lower()})"
    assert not schema.required, schema.name
    write = {"INT": str, "FLOAT": lambda value: repr(float(str(np.float32(value)))), "STRING": text}[kind.removesuffix("S")]
    value = helper.get_attribute_value(schema.default_value)
    literal = f"&[{', '.join(map(write, value))}]" if kind.endswith("S") else write(value)
    return f"{kind.lower()}({name}, {literal})"


def is_random(schema: OpSchema) -> bool:
    flagged = schema.node_determinism != OpSchema.NodeDeterminism.Deterministic
    named = schema.name in RANDOM | RANDOM_AS_ITS_BODY | UNKNOWN_BUT_NOT_RANDOM
    assert named or not flagged, f"{schema.name}-{schema.since_version} is flagged {schema.node_determinism}: name it"
    return flagged and schema.name in RANDOM


def listing(field: str, items: list[str]) -> str:
    """A slice field: on one line if it fits, else an item a line."""
    line = f"        {field}: &[{', '.join(items)}],\n"
    if len(line) <= 110:
        return line
    return f"        {field}: &[\n" + "".join(f"            {item},\n" for item in items) + "        ],\n"


def operator(schema: OpSchema, sets: TypeSets) -> str:
    check_arity(schema, schema.inputs, schema.min_input, schema.max_input)
    check_arity(schema, schema.outputs, schema.min_output, schema.max_output)
    flags = {
        "deprecated": schema.deprecated,
        "has_function": schema.has_function or schema.has_context_dependent_function,
        "random": is_random(schema),
    }
    return (
        "    Operator {\n"
        f"        domain: {text(schema.domain)}, op_type: {text(schema.name)}, since_version: {schema.since_version},\n"
        f"        {', '.join(f'{name}: {str(value).lower()}' for name, value in flags.items())},\n"
        + listing("inputs", [parameter(schema, formal, sets) for formal in schema.inputs])
        + listing("outputs", [parameter(schema, formal, sets) for formal in schema.outputs])
        + listing("attributes", [attribute(schema.attributes[name]) for name in sorted(schema.attributes)])
        + "    },\n"
    )


def ir_versions() -> list[tuple[str, int, int]]:
    """(domain, opset version, first IR version that was released with it), ascending."""
    first: dict[tuple[str, int], int] = {}
    for _release, ir_version, opset, *ml_opset in helper.VERSION_TABLE:
        first.setdefault(("", opset), ir_version)
        for version in ml_opset[:1]:
            first.setdefault(("ai.onnx.ml", version), ir_version)
    return sorted((*key, ir_version) for key, ir_version in first.items())


def table() -> str:
    schemas = sorted(get_all_schemas_with_history(), key=lambda s: (s.domain, s.name, s.since_version))
    used = {schema.domain for schema in schemas}
    latest = sorted((domain, last) for domain, (_, last) in C.schema_version_map().items() if domain in used)
    sets = TypeSets()
    operators = "".join(operator(schema, sets) for schema in schemas)
    codes = [(name, code) for name, code in TensorProto.DataType.items() if code]
    assert max(code for _, code in codes) < 64, "an element type does not fit the bits of a TypeSet"
    statics = "".join(
        "\n".join(textwrap.wrap(f"static {name}: TypeSet = {expression};", 110, subsequent_indent="    ",
                                break_long_words=False)) + "\n"
        for expression, name in sets.names.items()
    )
    return (
        f"//! Generated by scripts/operator_table.py from onnx {onnx.__version__}. Do not edit.\n\n"
        "use super::operator::{\n"
        "    AttributeKind::*, Operator, attribute, float, int, ints, optional, single, string, strings, variadic,\n"
        "};\n"
        "use super::type_set::TypeSet;\n\n"
        "/// Latest version of each operator set.\n"
        "pub(super) static LATEST_OPSETS: &[(&str, i64)] = &[\n"
        + "".join(f"    ({text(domain)}, {version}),\n" for domain, version in latest)
        + "];\n\n"
        "/// (domain, opset version, first IR version that was released with it), ascending.\n"
        "pub(super) static IR_VERSIONS: &[(&str, i64, i64)] = &[\n"
        + "".join(f"    ({text(domain)}, {opset}, {ir}),\n" for domain, opset, ir in ir_versions())
        + "];\n\n"
        "/// Every version of every operator, ascending by domain, name and version.\n"
        f"pub(super) static OPERATORS: &[Operator] = &[\n{operators}];\n\n"
        "// A bit per element type, by its code in TensorProto.DataType.\n"
        + "".join(f"const {name}: u64 = 1 << {code};\n" for name, code in codes)
        + f"\n{statics}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the operator table from the installed onnx package.")
    parser.add_argument("--check", action="store_true", help="compare with the checked-in table, write nothing")
    arguments = parser.parse_args()
    new = table()
    if not arguments.check:
        TABLE.write_text(new)
        return 0
    same = TABLE.is_file() and TABLE.read_text() == new
    print(f"{TABLE.name} is {'what' if same else 'NOT what'} onnx {onnx.__version__} gives")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
