"""The list of CUDA kernels that ONNX Runtime publishes (docs/OperatorKernels.md), kept in the package as
cuda_kernels.json."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from duologue_export.errors import ExportError

TABLE = Path(__file__).with_name("cuda_kernels.json")
_VERSIONS = re.compile(r"^\[?(\d+)(?:\+|, (\d+)\])?$")
_PARAMETER = re.compile(r"\*(in|out)\* ([\w.]+):\*\*([^*]+)\*\*")


@dataclass(frozen=True)
class Kernel:
    """One row: opset range, parameters as type variables or fixed types, and the types each variable may take."""

    first: int
    last: int | None
    inputs: list[str]
    outputs: list[str]
    types: dict[str, list[str]]

    def allowed(self, variable: str) -> list[str] | None:
        """Types of a parameter; None when the list does not restrict it."""
        return [variable] if variable.startswith("tensor(") else self.types.get(variable)


def parse_markdown(text: str) -> dict[str, dict[str, list[dict]]]:
    """domain -> op -> rows of the section for CUDAExecutionProvider. Raises `ExportError` when there is no such
    section."""
    match = re.search(r"## Operators implemented by CUDAExecutionProvider\n(.*?)(?:\n## |\Z)", text, re.S)
    if not match:
        raise ExportError("the file has no section 'Operators implemented by CUDAExecutionProvider'.")
    table: dict[str, dict[str, list[dict]]] = {}
    domain = op = ""
    parameters: list = []
    for line in match.group(1).splitlines():
        if line.startswith("|**Operator Domain:**"):
            domain = re.search(r"\*([\w.]+)\*\|", line).group(1)
            domain = "" if domain == "ai.onnx" else domain
            continue
        cells = line.split("|")[1:-1]
        if len(cells) != 4 or cells[0].strip().startswith(("Op Name", "---")):
            continue
        if cells[0]:
            op = cells[0]
            # Several signatures of one operator are separated by "or"; the newest comes first.
            parameters = _PARAMETER.findall(cells[1].split("<br><br>or<br><br>")[0])
        first, last = _VERSIONS.match(cells[2]).groups()
        plain = "+" not in cells[2] and last is None
        row = {
            "first": int(first),
            "last": int(first) if plain else int(last) if last else None,
            "inputs": [kind for way, _, kind in parameters if way == "in"],
            "outputs": [kind for way, _, kind in parameters if way == "out"],
            "types": {
                name: re.findall(r"(?:seq\()?tensor\(\w+\)\)?", kinds)
                for name, kinds in re.findall(r"\*\*(\w+)\*\* = ([^*]+)", cells[3])
            },
        }
        table.setdefault(domain, {}).setdefault(op, []).append(row)
    return table


def update_table(markdown: Path, source: str) -> int:
    """Rewrites cuda_kernels.json from a copy of OperatorKernels.md; returns the number of operators."""
    kernels = parse_markdown(markdown.read_text(encoding="utf-8"))
    rows = {
        domain: {op: [json.dumps(row, separators=(",", ":")) for row in rows] for op, rows in ops.items()}
        for domain, ops in kernels.items()
    }
    # One kernel per line, so that a new version of the list gives a readable difference.
    body = ",\n".join(
        f"{json.dumps(domain)}: {{\n"
        + ",\n".join(f" {json.dumps(op)}: [\n  " + ",\n  ".join(r) + "\n ]" for op, r in ops.items())
        + "\n}"
        for domain, ops in rows.items()
    )
    TABLE.write_text(f'{{"source": {json.dumps(source)},\n"kernels": {{\n{body}\n}}}}\n', encoding="utf-8")
    return sum(len(ops) for ops in kernels.values())


@cache
def _table() -> dict:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def table_source() -> str:
    """Which version of the list the package carries."""
    return _table()["source"]


def find_kernel(domain: str, op: str, opset: int) -> Kernel | None:
    """The kernel that ONNX Runtime would choose for this operator at this opset, None when there is none."""
    rows = _table()["kernels"].get("" if domain == "ai.onnx" else domain, {}).get(op, [])
    for row in rows:
        if row["first"] <= opset and (row["last"] is None or opset <= row["last"]):
            return Kernel(**row)
    return None
