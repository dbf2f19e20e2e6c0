"""The real server with the golden bundle (random weights) on a free port."""

import json
import re
import subprocess
import time
import urllib.request
import wave
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def server():
    """Address of a running server, such as http://127.0.0.1:40123."""
    command = [
        ROOT / "target/release/duologue",
        "serve",
        "--bundle",
        ROOT / "out/bundles/golden-fp32",
    ]
    command += ["--listen", "127.0.0.1:0", "--set", "log.level=error"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if found := re.match(r"talk at (http://\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("the server ended before it printed its address")
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def speech():
    """Somebody speaking, 16 kHz mono int16."""
    with wave.open(str(ROOT / "tests/golden/inputs/public_input.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), np.int16)


@pytest.fixture(scope="session")
def until_idle(server):
    """Waits until the server has no session left: the client has closed what it opened."""

    def wait():
        for _ in range(200):
            with urllib.request.urlopen(f"{server}/status", timeout=20) as answer:
                if json.load(answer)["busy_workers"] == 0:
                    return
            time.sleep(0.1)
        pytest.fail("a session is still open")

    return wait
