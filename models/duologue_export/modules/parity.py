"""How two implementations of one sub-module are compared, and what counts as equal."""

from dataclasses import dataclass

import numpy as np

from duologue_export.errors import ExportError

THRESHOLDS = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99, "int4": 0.99}


@dataclass
class Row:
    """Result of one sub-module; `pcc` is None until the first output is taken into account."""

    name: str
    precision: str
    threshold: float
    pcc: float | None = None
    max_abs: float = 0.0
    relative: float = 0.0
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it is close enough."""
        return self.pcc is not None and self.pcc >= self.threshold

    def add(self, name: str, expected: np.ndarray, actual: np.ndarray) -> None:
        """Takes one output into account. Raises `ExportError` for another shape or for values that are not finite."""
        if expected.shape != actual.shape:
            raise ExportError(f"{self.name}: output '{name}' has shape {actual.shape}, PyTorch has {expected.shape}.")
        if expected.size == 0:
            return
        a, b = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
        if not np.isfinite(b).all():
            raise ExportError(f"{self.name}: output '{name}' holds NaN or infinite values.")
        self.pcc = min(1.0 if self.pcc is None else self.pcc, correlation(a, b))
        self.max_abs = max(self.max_abs, float(np.abs(a - b).max()))
        self.relative = max(self.relative, float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; for a constant signal 1 or 0, by closeness."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float(np.allclose(a, b, rtol=1e-3, atol=1e-6))
    return float(np.corrcoef(a, b)[0, 1])
