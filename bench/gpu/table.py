#!/usr/bin/env python3
"""One table out of the results of `engine_load` and `check.py`, with what we want to reach on an H200 beside it.

  table.py RESULTS

Reads load-PRECISION.json and verify-PRECISION.json in the folder RESULTS, prints the table, and writes table.txt and
summary.json beside them. Times are ms; unit times and TTFB are those that a session sees, waiting for other sessions
included, as far as the engine's border: a network is not in them. Stage times are those of the stage, shared by all
sessions of a batch; `cpu_unit` is the processor time of all threads for one unit of one session, `gpu_busy` the percent
of the time in which the GPU ran a kernel.
"""

import argparse
import json
import sys
from pathlib import Path

# Bytes per second that the H200's memory gives a copy kernel, measured.
BANDWIDTH = 4.3e12
SAMPLE_RATE = 24000
COLUMNS = (
    ("precision", "{:9}"),
    ("sessions", "{:>8}"),
    ("units", "{:>6}"),
    ("missed", "{:>6}"),
    ("ttfb_p50", "{:>8}"),
    ("ttfb_p95", "{:>8}"),
    ("speak_p50", "{:>9}"),
    ("speak_p95", "{:>9}"),
    ("listen_p95", "{:>10}"),
    ("apm", "{:>6}"),
    ("prefill", "{:>7}"),
    ("ms_token", "{:>8}"),
    ("ms_code", "{:>7}"),
    ("flow", "{:>7}"),
    ("hift", "{:>7}"),
    ("t2w_rtf", "{:>7}"),
    ("cpu_unit", "{:>8}"),
    ("rss_mib", "{:>7}"),
    ("gpu_mib", "{:>7}"),
    ("gpu_busy", "{:>8}"),
)


def percentile(values: list[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed."""
    if not values:
        return None
    return sorted(values)[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]


def mean(values: list[float]) -> float | None:
    """None for no values."""
    return sum(values) / len(values) if values else None


def ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to divide by."""
    return part / whole if whole else None


def row(precision: str, run: dict) -> dict:
    """The figures of one number of sessions."""
    units = run["units"]
    speak = [unit for unit in units if unit["speaks"]]
    listen = [unit for unit in units if not unit["speaks"]]
    ttfb = [unit["ttfb_ms"] for unit in units if unit["ttfb_ms"] is not None]
    total = {name: sum(unit[name] for unit in speak) for name in ("llm_ms", "tts_ms", "flow_ms", "hift_ms")}
    count = {name: sum(unit[name] for unit in speak) for name in ("tokens", "codes", "samples")}
    return {
        "precision": precision,
        "sessions": run["sessions"],
        "units": len(units),
        "missed": sum(unit["missed"] for unit in units),
        "ttfb_p50": percentile(ttfb, 0.5),
        "ttfb_p95": percentile(ttfb, 0.95),
        "speak_p50": percentile([unit["unit_ms"] for unit in speak], 0.5),
        "speak_p95": percentile([unit["unit_ms"] for unit in speak], 0.95),
        "listen_p95": percentile([unit["unit_ms"] for unit in listen], 0.95),
        "apm": mean([unit["apm_ms"] for unit in units]),
        "prefill": mean([unit["prefill_ms"] for unit in units]),
        "ms_token": ratio(total["llm_ms"], count["tokens"]),
        "ms_code": ratio(total["tts_ms"], count["codes"]),
        "flow": mean([unit["flow_ms"] for unit in speak]),
        "hift": mean([unit["hift_ms"] for unit in speak]),
        "t2w_rtf": ratio((total["flow_ms"] + total["hift_ms"]) / 1e3, count["samples"] / SAMPLE_RATE),
        "cpu_unit": run["cpu_ms_per_unit"],
        "rss_mib": run["memory"]["rss_mib"],
        "gpu_mib": run["memory"]["gpu_mib"],
        "gpu_busy": run["memory"]["gpu_busy_percent"],
    }


def goals(precision: str, report: dict, rows: list[dict]) -> list[dict]:
    """What is wanted of an H200 with all layers beside what was measured; `met` is None where that is missing."""
    by_sessions = {row["sessions"]: row for row in rows}
    one = by_sessions.get(1, {})
    # The first call warms up.
    prompt = percentile(report["prefill"][1][1:], 0.5) if report["prefill"] else None
    decode = ratio(report["llm_bytes"] / BANDWIDTH * 1e3, one.get("ms_token") or 0)
    most_gpu = {"fp16": 20 * 1024, "int4": 10 * 1024}.get(precision)
    wanted = [
        ("TTFB p50 at 1 session, ms", one.get("ttfb_p50"), "<=", 100),
        ("TTFB p95 at 1 session, ms", one.get("ttfb_p95"), "<=", 150),
        ("speak unit p95 at 1 session, ms", one.get("speak_p95"), "<=", 100),
        ("listen unit p95 at 1 session, ms", one.get("listen_p95"), "<=", 15),
        ("decode, share of the memory's bandwidth", decode, ">=", 0.7),
        ("missed deadlines at 16 sessions", by_sessions.get(16, {}).get("missed"), "<=", 0),
        ("missed deadlines at 32 sessions", by_sessions.get(32, {}).get("missed"), "<=", 0),
        (f"prompt of {report['prefill'][0] if report['prefill'] else 2048} tokens, ms", prompt, "<=", 40),
        ("token2wav RTF at 1 session", one.get("t2w_rtf"), "<=", 0.04),
        ("GPU memory at 1 session, MiB", one.get("gpu_mib"), "<=", most_gpu),
    ]
    found = []
    for name, measured, sign, limit in wanted:
        if limit is not None:
            met = None if measured is None else (measured <= limit if sign == "<=" else measured >= limit)
            found.append({"name": name, "measured": measured, "wanted": f"{sign} {limit}", "met": met})
    return found


def shown(value: object) -> str:
    """A figure as the table has it."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1 else f"{value:.1f}"
    return str(value)


def lines(summary: dict) -> list[str]:
    """The table."""
    text = []
    for part in summary["parts"]:
        what = f"{part['bundle']} ({part['precision']}, {part['weights']} weights)"
        where = f"{part['device']}, ONNX Runtime {part['onnxruntime']}, {part['cores']} CPU cores"
        early = f", spoken from {part['first_words']} words on" if part["first_words"] else ""
        text.append(f"forced schedule {part['forced_schedule']}{early}: {what} on {where}")
    text += ["", " ".join(form.format(name) for name, form in COLUMNS)]
    for part in summary["parts"]:
        text += [" ".join(form.format(shown(row[name])) for name, form in COLUMNS) for row in part["rows"]]
    for part in summary["parts"]:
        text += ["", f"{part['precision']}: {'goal on an H200 with all layers':42} {'measured':>10}  wanted"]
        for goal in part["goals"]:
            verdict = {True: "met", False: "missed", None: "not measured"}[goal["met"]]
            # What a CPU or a few layers do says nothing about the goal.
            verdict = verdict if part["device"].startswith("cuda") else "no GPU"
            text.append(f"  {goal['name']:48} {shown(goal['measured']):>8}  {goal['wanted']:10} {verdict}")
    for name, verdict in summary["verify"].items():
        text += ["", f"verify {name}: {verdict}"]
    return text


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    folder = parser.parse_args().results
    parts = []
    for path in sorted(folder.glob("load-*.json")):
        precision, report = path.stem.removeprefix("load-"), json.loads(path.read_text(encoding="utf-8"))
        rows = [row(precision, run) for run in report.pop("runs")]
        parts.append({**report, "rows": rows, "goals": goals(precision, report, rows)})
    if not parts:
        print(f"error: {folder}: no load-PRECISION.json", file=sys.stderr)
        return 1
    verified = {}
    for path in sorted(folder.glob("verify-*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        bad = [row["name"] for row in report["graphs"] if not row["ok"]]
        count = f"{len(report['graphs'])} sub-modules on {report['providers'][0]}"
        verified[path.stem.removeprefix("verify-")] = f"{count}, {'failed: ' + ', '.join(bad) if bad else 'all equal'}"
    # The schedule stays first: it qualifies everything that follows.
    summary = {"forced_schedule": parts[0]["forced_schedule"], "verify": verified, "parts": parts}
    text = "\n".join(lines(summary)) + "\n"
    print(text, end="")
    (folder / "table.txt").write_text(text, encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
