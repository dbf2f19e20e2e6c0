"""Peak resident memory of one stretch of work."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """Highest resident size during the stretch, and how far above the size at its start; filled when the stretch
    ends."""

    megabytes: float = 0.0
    growth_megabytes: float = 0.0


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"/proc/self/status has no {field}. This is a bug.")


@contextmanager
def peak_rss() -> Iterator[Peak]:
    """Measures through /proc (Linux): writing 5 to clear_refs resets the kernel's high-water mark to the present
    size. Where that file may not be written (some containers), both figures come from the mark of the whole process,
    so the growth is that above all earlier stretches."""
    peak = Peak()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        start, read = _process_peak(), _process_peak
    else:
        start, read = _status("VmRSS"), lambda: _status("VmHWM")
    yield peak
    peak.megabytes = read()
    peak.growth_megabytes = peak.megabytes - start


def _process_peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
