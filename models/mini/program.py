"""The program `duologue`, as the judges and the example run it."""

import json
import subprocess
from pathlib import Path


def talk(
    binary: Path, bundle: Path, user: Path, reply: Path, timeline: Path, system_prompt: str | None = None
) -> list[dict]:
    """Lets `bundle` answer the wav `user`; writes `reply` and `timeline` and returns the timeline's units. Raises
    `RuntimeError` with the program's own words when it fails."""
    files = {"--bundle": bundle, "--input": user, "--output": reply, "--timeline": timeline}
    command = [str(binary), "talk", *(str(part) for pair in files.items() for part in pair)]
    if system_prompt is not None:
        command += ["--system-prompt", system_prompt]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{binary} talk failed: {done.stderr.strip()}")
    lines = [json.loads(line) for line in timeline.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["event"] == "unit"]
