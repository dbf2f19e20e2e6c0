"""How two implementations of one sub-module are compared, and what counts as equal."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np

from duologue_export.errors import ExportError

THRESHOLDS = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99, "int4": 0.99}


def relative_limit(correlation: float) -> float:
    """Largest relative error |a - b| / |a| that goes with a correlation.

    Two signals of the same mean and loudness whose correlation is r differ by sqrt(2 (1 - r)). Correlation does not
    see a wrong scale or offset; the factor 2 is all that is left for them.
    """
    return 2 * math.sqrt(2 * (1 - correlation))


@dataclass
class Row:
    """Result of one sub-module. `agreement` is the worst figure so far, None until something was compared: a Pearson
    correlation, or a share of equal elements, as `measure` says."""

    name: str
    precision: str
    threshold: float
    measure: str = "PCC"
    agreement: float | None = None
    max_abs: float | None = None
    relative: float | None = None
    outputs: list[str] = field(default_factory=list)
    ran_on: list[str] = field(default_factory=list)
    note: str = ""
    error: str = ""

    @property
    def relative_limit(self) -> float | None:
        """Limit of the relative error; None where elements must be equal."""
        return relative_limit(self.threshold) if self.measure == "PCC" else None

    @property
    def failures(self) -> list[str]:
        """What is wrong, one text per limit that failed."""
        if self.error:
            return [self.error]
        if self.agreement is None:
            return ["nothing was compared"]
        found = []
        # Written so that NaN fails, too.
        if not self.agreement >= self.threshold:
            found.append(f"{self.measure} {self.agreement:.7f}, needs {self.threshold}")
        if self.relative_limit is not None and not (self.relative or 0.0) <= self.relative_limit:
            found.append(f"relative error {self.relative:.3g}, at most {self.relative_limit:.3g}")
        return found

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it is close enough."""
        return not self.failures

    def run(self, check: Callable[["Row"], object]) -> "Row":
        """Fills the row by `check(row)`. An exception becomes its error: one broken sub-module must not hide the
        others, and whatever a broken graph makes a library raise is this row's result."""
        try:
            check(self)
        except Exception as error:
            text = str(error).strip() or "no message"
            self.error = text if isinstance(error, ExportError) else f"{type(error).__name__}: {text.splitlines()[0]}"
        return self

    def add(self, name: str, expected: np.ndarray, actual: np.ndarray) -> None:
        """Takes one output into account. Raises `ExportError` for another shape or for values that are not finite."""
        self._note_output(name, expected, actual)
        if expected.size == 0:
            return
        a, b = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
        for side, values in (("the expected", a), ("the actual", b)):
            if not np.isfinite(values).all():
                raise ExportError(f"output '{name}': {side} values hold NaN or infinity.")
        self._lower(correlation(a, b))
        self.add_error(a, b)

    def add_error(self, a: np.ndarray, b: np.ndarray) -> None:
        """Takes only the absolute and the relative error of two arrays into account."""
        self.max_abs = max(self.max_abs or 0.0, float(np.abs(a - b).max()))
        self.relative = max(self.relative or 0.0, float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30)))

    def add_equal(self, name: str, expected: np.ndarray, actual: np.ndarray) -> None:
        """Takes the share of equal elements into account. Raises `ExportError` for another shape."""
        self._note_output(name, expected, actual)
        self._lower(float((expected == actual).mean()))

    def require_equal(self, name: str, expected: np.ndarray, actual: np.ndarray) -> None:
        """Raises `ExportError` unless every element is the same."""
        different = np.count_nonzero(expected != actual)
        if different:
            raise ExportError(f"output '{name}' must be an exact copy; {different} of {expected.size} values differ.")

    def as_json(self) -> dict:
        """All fields, the limit and the verdict."""
        return asdict(self) | {"relative_limit": self.relative_limit, "ok": self.ok, "failures": self.failures}

    def _note_output(self, name: str, expected: np.ndarray, actual: np.ndarray) -> None:
        if expected.shape != actual.shape:
            raise ExportError(f"output '{name}' has shape {list(actual.shape)}, expected {list(expected.shape)}.")
        if name not in self.outputs:
            self.outputs.append(name)

    def _lower(self, figure: float) -> None:
        # min() would drop a NaN that comes second.
        figures = [figure] if self.agreement is None else [self.agreement, figure]
        self.agreement = float(np.min(figures))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; for a constant signal 1 or 0, by closeness."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.allclose(a, b, rtol=1e-3, atol=1e-6))
    return float(np.corrcoef(a, b)[0, 1])


def print_table(rows: list[Row]) -> None:
    """One line per row, and below a failed row one line per reason."""
    head = ("sub-module", "precision", "measure", "value", "needs", "max abs", "relative", "at most", "ran on")
    print("{:17} {:9} {:12} {:>9} {:>7} {:>9} {:>9} {:>9} {:6} result".format(*head))
    for row in rows:
        value = "-" if row.agreement is None else f"{row.agreement:.7f}"
        errors = ["-" if figure is None else f"{figure:.2e}" for figure in (row.max_abs, row.relative)]
        limit = "-" if row.relative_limit is None else f"{row.relative_limit:.2e}"
        where = row.ran_on[0].removesuffix("ExecutionProvider") if row.ran_on else "-"
        result = ("ok" if row.ok else "FAILED") + (f" ({row.note})" if row.note else "")
        print(
            f"{row.name:17} {row.precision:9} {row.measure:12} {value:>9} {row.threshold:>7} {errors[0]:>9} "
            f"{errors[1]:>9} {limit:>9} {where:6} {result}"
        )
        for failure in row.failures:
            print(f"    {row.name}: {failure}")
