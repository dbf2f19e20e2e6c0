"""`tests/bench_duplex_ws.py` of OpenBMB/MiniCPM-o-Demo, unmodified, against our worker role.

It runs when DUOLOGUE_DEMO names a checkout of the demo; nothing of the demo is part of this repository.
"""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path

import pytest

CHECKOUT = os.environ.get("DUOLOGUE_DEMO")


@pytest.mark.skipif(
    not CHECKOUT, reason="DUOLOGUE_DEMO names no checkout of OpenBMB/MiniCPM-o-Demo"
)
def test_the_demos_benchmark_runs_to_its_summary(
    server, until_idle, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    script = Path(CHECKOUT) / "tests/bench_duplex_ws.py"
    spec = importlib.util.spec_from_file_location("bench_duplex_ws", script)
    bench = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    monkeypatch.setitem(sys.modules, spec.name, bench)
    spec.loader.exec_module(bench)
    # Both of its workers are this one server, and one round is enough.
    worker = f"{server.replace('http', 'ws')}/ws/duplex"
    bench.WORKERS = dict.fromkeys(bench.WORKERS, worker)
    bench.N_ROUNDS = 1
    asyncio.run(bench.main())
    printed = capsys.readouterr().out
    assert "ERROR" not in printed, printed
    assert printed.count("(1 rounds, ") == len(bench.WORKERS), printed
    until_idle()
