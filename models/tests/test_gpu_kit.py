"""The GPU kit in bench/gpu, as far as a CPU goes.

Properties: of a CUDA library, exactly what the driver would load for the GPU stays, in place, and a layout that is not
understood is refused; the table's figures are those of the units, and a goal that was not measured is not met;
`run.sh` builds a checkpoint and a bundle, loads the engine and compares with PyTorch, every result says that its
schedule was forced, a second call does nothing again, and other sizes are refused in the same folder."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KIT = ROOT / "bench" / "gpu"
sys.path.insert(0, str(KIT))

import prune_fatbin  # noqa: E402
import table  # noqa: E402

PTX, CODE = prune_fatbin.PTX, prune_fatbin.MACHINE_CODE


def container(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary with these (kind, arch, body); heads of entries are 64 bytes, as nvcc writes them."""
    parts = b""
    for kind, arch, body in entries:
        head = struct.pack("<HHIQ", kind, 0x101, 64, len(body))
        parts += head + bytes(12) + struct.pack("<I", arch) + bytes(32) + body
    return struct.pack("<IHHQ", prune_fatbin.MAGIC, 1, 16, len(parts)) + parts


def library(code: bytes) -> bytearray:
    """An ELF file whose only sections are .nv_fatbin and the names."""
    names = b"\0.shstrtab\0.nv_fatbin\0"
    offsets = (64, 64 + len(code))
    table_at = offsets[1] + len(names)
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + bytes(24) + struct.pack("<Q", table_at) + bytes(4)
    head += struct.pack("<HHHHHH", 64, 0, 0, 64, 3, 2)

    def section(name: int, offset: int, size: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)

    sections = section(0, 0, 0) + section(11, offsets[0], len(code)) + section(1, offsets[1], len(names))
    return bytearray(head + code + names + sections)


def kept(*entries: tuple[int, int, bytes]) -> list[bytes]:
    """The bodies that are left for sm_90 of a library with this container and one more for sm_90."""
    data = library(container(*entries) + bytes(24) + container((CODE, 90, b"anchor")))
    before = bytes(data)
    prune_fatbin.prune(data, 90)
    assert len(data) == len(before)
    changed = [i for i in range(len(data)) if data[i] != before[i]]
    first, *_ = prune_fatbin.containers(before, *prune_fatbin.section(before, prune_fatbin.SECTION))
    inside = {i for entry in first for i in range(entry.start, entry.start + entry.size)}
    assert set(changed) <= inside, "only bodies may change"
    assert b"anchor" in data
    return [body for _, _, body in entries if body in data]


def test_code_for_this_gpu_stays_and_no_other():
    assert kept((CODE, 80, b"ampere"), (CODE, 90, b"hopper"), (CODE, 120, b"later"), (PTX, 90, b"text")) == [b"hopper"]


def test_what_the_driver_could_fall_back_to_stays():
    assert kept((CODE, 80, b"ampere"), (PTX, 80, b"old text"), (PTX, 120, b"new text")) == [b"old text"]
    assert kept((CODE, 120, b"later")) == []


def test_an_unknown_layout_is_refused():
    good = container((CODE, 90, b"hopper"))
    for code, part in (
        (good + b"rubbish", "neither a container nor padding"),
        (good[:4] + struct.pack("<H", 7) + good[6:], "version 7"),
        (good[:8] + struct.pack("<Q", 1 << 40) + good[16:], "ends at"),
        (good[:24] + struct.pack("<Q", 1 << 40) + good[32:], "does not fit"),
        (container((CODE, 80, b"ampere")), "no code for sm_90; the library has sm_80"),
    ):
        with pytest.raises(prune_fatbin.FatbinError, match=part):
            prune_fatbin.prune(library(code), 90)
    with pytest.raises(prune_fatbin.FatbinError, match="not a 64-bit"):
        prune_fatbin.prune(bytearray(b"MZ" + bytes(100)), 90)


def unit(speaks: bool, unit_ms: float, **changes) -> dict:
    """One row of engine_load."""
    stages = dict.fromkeys(("mel_ms", "apm_ms", "prefill_ms", "finalize_ms"), 1.0)
    speech = {"llm_ms": 20.0, "tts_ms": 50.0, "flow_ms": 15.0, "hift_ms": 5.0} if speaks else {}
    silent = {"llm_ms": 0.0, "tts_ms": 0.0, "flow_ms": 0.0, "hift_ms": 0.0}
    amounts = {"tokens": 5, "codes": 25, "samples": 24000} if speaks else {"tokens": 0, "codes": 0, "samples": 0}
    base = {"speaks": speaks, "unit_ms": unit_ms, "ttfb_ms": None, "missed": False}
    return {**base, **stages, **silent, **speech, **amounts, **changes}


def test_the_table_holds_the_figures_of_the_units():
    units = [unit(True, float(time), ttfb_ms=float(time) / 2) for time in range(1, 101)]
    units.append(unit(False, 7.0, missed=True))
    run = {
        "sessions": 1,
        "units": units,
        "cpu_ms_per_unit": 5.0,
        "memory": {"rss_mib": 10, "gpu_mib": 20000, "gpu_busy_percent": 70.0},
    }
    row = table.row("fp16", run)
    assert (row["units"], row["missed"], row["ttfb_p50"], row["speak_p95"]) == (101, 1, 25.0, 95.0)
    assert (row["ms_token"], row["ms_code"], row["t2w_rtf"]) == (4.0, 2.0, pytest.approx(0.02))
    report = {"prefill": [2048, [900.0, 30.0, 31.0, 32.0]], "llm_bytes": 4.3e9 * 3}
    verdicts = {goal["name"]: goal["met"] for goal in table.goals("fp16", report, [row])}
    assert verdicts["TTFB p50 at 1 session, ms"] and verdicts["prompt of 2048 tokens, ms"]
    assert verdicts["decode, share of the memory's bandwidth"], "3 ms of 4 are the memory's"
    assert verdicts["missed deadlines at 16 sessions"] is None
    assert verdicts["GPU memory at 1 session, MiB"]


def run_kit(work: Path, *more: str) -> subprocess.CompletedProcess:
    """`run.sh` on the CPU with a model that takes seconds."""
    for program in ("duologue", "engine_load"):
        assert (ROOT / "target" / "release" / program).is_file(), f"{program} is not built; `make test` does it"
    sizes = work.parent / "dims.json"
    sizes.write_text(json.dumps({"preset": "default", "calibrate": False}))
    fixed = ["--device", "cpu", "--precisions", "fp32", "--work", str(work), "--dims", str(sizes), "--sessions", "1,2"]
    short = ["--units", "2", "--warm-up", "1", "--schedule", "listen=1,speak=2,tokens=3,codes=12"]
    command = ["bash", str(KIT / "run.sh"), *fixed, *short, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_kit_runs_from_end_to_end(tmp_path):
    work = tmp_path / "work"
    first = run_kit(work, "--layers", "2", "--until", "bundle-fp32")
    assert first.returncode == 75, first.stdout + first.stderr
    assert (work / "bundle-fp32" / "manifest.json").is_file() and not (work / "results" / "load-fp32.json").exists()
    second = run_kit(work, "--layers", "2")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "== bundle-fp32" not in second.stdout, "what is done is not done again"
    assert "forced schedule listen=1,speak=2,tokens=3,codes=12" in second.stdout
    load = json.loads((work / "results" / "load-fp32.json").read_text())
    assert next(iter(load)) == "forced_schedule"
    assert [run["sessions"] for run in load["runs"]] == [1, 2]
    for run in load["runs"]:
        assert len(run["units"]) == 4 * 2, "as many as four sessions would have"
        for unit in run["units"]:
            assert unit["speaks"] == (unit["unit"] % 3 != 0)
            assert unit["codes"] == (12 if unit["speaks"] else 0)
    verify = json.loads((work / "results" / "verify-fp32.json").read_text())
    assert verify["ok"] and len(verify["graphs"]) >= 15
    assert set(verify["placement"]["hift.onnx"]) == {"CPUExecutionProvider"}
    summary = json.loads((work / "results" / "summary.json").read_text())
    assert next(iter(summary)) == "forced_schedule"
    assert len(summary["parts"][0]["rows"]) == 2
    other = run_kit(work, "--layers", "1")
    assert other.returncode == 2 and "name another --work" in other.stderr
