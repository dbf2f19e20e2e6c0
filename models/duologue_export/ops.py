"""`ops`: does the CUDA execution provider have a kernel for every node of every graph, for the types that reach it?

A node without one would run on the CPU with copies in between, on every step, without a word. Types are followed
through the graph with the signatures of the kernel list itself.
"""

import argparse
from pathlib import Path

import onnx
from onnx import AttributeProto, TensorProto

from duologue_export.errors import ExportError
from duologue_export.kernel_table import Kernel, find_kernel, table_source, update_table

# Resolved when the graph is built, not by a kernel.
_FOLDED = {"Constant"}
_BODIES = {"Scan", "Loop", "If"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `duologue-export ops`."""
    parser.add_argument("--bundle", type=Path, help="bundle whose graphs are checked")
    parser.add_argument(
        "--update", type=Path, metavar="MARKDOWN", help="rebuild the table from a copy of docs/OperatorKernels.md"
    )
    parser.add_argument("--source", help="with --update: version and commit of that copy")


def run(args: argparse.Namespace) -> int:
    """Prints one line per graph; fails with all misses."""
    if args.update:
        if not args.source:
            raise ExportError("--update needs --source, for example 'ONNX Runtime 1.24.0, commit abc'.")
        print(f"{update_table(args.update, args.source)} operators")
        return 0
    if not args.bundle:
        raise ExportError("--bundle is missing.")
    counts = require_cuda_kernels(args.bundle)
    for name, count in counts.items():
        print(f"{name:24} {count:5} nodes, each has a CUDA kernel")
    print(f"list: {table_source()}")
    return 0


def require_cuda_kernels(bundle: Path) -> dict[str, int]:
    """Checks every *.onnx of a folder; returns node counts. Raises `ExportError` listing every miss by graph, node and
    type."""
    paths = sorted(bundle.glob("*.onnx"))
    if not paths:
        raise ExportError(f"{bundle}: holds no .onnx file.")
    return require_kernels_of(paths)


def require_kernels_of(paths: list[Path]) -> dict[str, int]:
    """`require_cuda_kernels` for single files."""
    counts, misses = {}, []
    for path in paths:
        checker = _Checker(onnx.load(path, load_external_data=False))
        counts[path.name] = checker.nodes
        misses += [f"{path.name}: {miss}" for miss in checker.misses]
    if misses:
        raise ExportError(f"operators without a CUDA kernel ({table_source()}):\n  " + "\n  ".join(misses))
    return counts


def missing_kernels(model: onnx.ModelProto) -> list[str]:
    """Misses of one model, as text: operator, type and node name."""
    return _Checker(model).misses


def _type_name(kind: int) -> str:
    names = {TensorProto.FLOAT: "float", TensorProto.DOUBLE: "double"}
    return f"tensor({names.get(kind, TensorProto.DataType.Name(kind).lower())})"


class _Checker:
    def __init__(self, model: onnx.ModelProto):
        self.opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
        self.misses: list[str] = []
        self.nodes = 0
        self.graph(model.graph, {}, None)

    def graph(self, graph: onnx.GraphProto, outer: dict[str, str], inputs: list[str] | None) -> list[str]:
        """Walks a graph; `inputs` are the types given by the enclosing node. Returns the types of its outputs."""
        types = dict(outer)
        types.update({t.name: _type_name(t.data_type) for t in graph.initializer})
        if inputs is None:
            types.update({v.name: _type_name(v.type.tensor_type.elem_type) for v in graph.input})
        else:
            types.update({v.name: kind for v, kind in zip(graph.input, inputs, strict=True)})
        for node in graph.node:
            self.node(node, types)
        return [types[output.name] for output in graph.output]

    def node(self, node: onnx.NodeProto, types: dict[str, str]) -> None:
        self.nodes += 1
        if node.op_type in _FOLDED:
            types[node.output[0]] = self.constant(node)
            return
        domain = "" if node.domain == "ai.onnx" else node.domain
        kernel = find_kernel(domain, node.op_type, self.opsets[domain])
        label = f"{domain + '.' if domain else ''}{node.op_type} (opset {self.opsets[domain]}), node '{node.name}'"
        if kernel is None:
            self.misses.append(f"{label}: no kernel of this operator")
            # Same type in and out: right for nearly every operator, and only used to name further misses.
            types.update({name: types.get(node.input[0], "tensor(float)") for name in node.output if name})
            return
        bound: dict[str, str] = {}
        for position, name in enumerate(node.input):
            if name:
                self.bind(kernel, self.variable(kernel.inputs, position), types[name], bound, label)
        if node.op_type in _BODIES:
            results = self.body(node, types)
        else:
            results = [
                self.result(node, kernel, self.variable(kernel.outputs, i), bound, label) if name else ""
                for i, name in enumerate(node.output)
            ]
        types.update({name: kind for name, kind in zip(node.output, results, strict=False) if name})

    @staticmethod
    def variable(parameters: list[str], position: int) -> str:
        # The last parameter of a variadic operator stands for all further ones.
        return parameters[min(position, len(parameters) - 1)]

    def bind(self, kernel: Kernel, variable: str, kind: str, bound: dict[str, str], label: str) -> None:
        bound.setdefault(variable, kind)
        allowed = kernel.allowed(variable)
        if allowed is not None and kind not in allowed:
            self.misses.append(f"{label}: no kernel for {kind}")

    def result(self, node: onnx.NodeProto, kernel: Kernel, variable: str, bound: dict[str, str], label: str) -> str:
        attributes = {a.name: a for a in node.attribute}
        allowed = kernel.allowed(variable)
        if variable in bound:
            return bound[variable]
        if "to" in attributes:
            kind = _type_name(attributes["to"].i)
        elif node.op_type == "ConstantOfShape":
            kind = _type_name(attributes["value"].t.data_type) if "value" in attributes else "tensor(float)"
        elif allowed is not None and len(allowed) == 1:
            return allowed[0]
        else:
            raise ExportError(f"{label}: the type of its output cannot be told from the kernel list.")
        if allowed is not None and kind not in allowed:
            self.misses.append(f"{label}: no kernel that gives {kind}")
        return kind

    def body(self, node: onnx.NodeProto, types: dict[str, str]) -> list[str]:
        bodies = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
        given = [types[name] for name in node.input]
        if node.op_type == "Scan":
            return self.graph(bodies[0], types, given)
        if node.op_type == "Loop":
            return self.graph(bodies[0], types, ["tensor(int64)", "tensor(bool)", *given[2:]])[1:]
        results = [self.graph(body, types, []) for body in bodies]
        return results[0]

    @staticmethod
    def constant(node: onnx.NodeProto) -> str:
        attribute = node.attribute[0]
        if attribute.name == "value":
            return _type_name(attribute.t.data_type)
        scalars = {"value_float": "tensor(float)", "value_floats": "tensor(float)"}
        return scalars.get(attribute.name, "tensor(int64)")
