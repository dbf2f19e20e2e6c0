"""Peak memory of a stretch: through /proc where its mark can be reset, else from the mark of the whole process."""

from pathlib import Path

import numpy as np
import pytest

from duologue_export.memory import peak_rss


@pytest.mark.parametrize("may_reset", [True, False])
def test_peak_covers_what_was_allocated(monkeypatch, may_reset):
    if not may_reset:

        def deny(*_, **__):
            raise PermissionError

        monkeypatch.setattr(Path, "write_text", deny)
    # More than any earlier test of this process took, or the mark of the whole process would not move.
    with peak_rss() as before:
        pass
    megabytes = int(before.megabytes) + 64
    with peak_rss() as peak:
        np.ones(megabytes << 20, np.uint8)
    assert peak.megabytes >= megabytes and peak.growth_megabytes >= 32
