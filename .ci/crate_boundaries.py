#!/usr/bin/env python3
"""Checks who may depend on whom (see README, "The house").

Reads `cargo metadata` and fails by name when a crate reaches, directly or through others of ours, a dependency it must not know.
"""

import json
import subprocess
import sys

# crate -> packages that must not be among its dependencies, direct or through our own crates
FORBIDDEN = {
    "duologue-proto": {"tokio", "ort", "webrtc", "rtc", "axum"},
    "duologue-session": {"tokio", "ort", "webrtc", "rtc", "axum", "crossbeam-channel"},
    "duologue-audio": {"tokio", "ort", "webrtc", "rtc", "axum"},
    "duologue-model": {"tokio", "webrtc", "rtc", "axum", "crossbeam-channel"},
    "duologue-engine": {"tokio", "webrtc", "rtc", "axum"},
    "duologue-transport": {"ort", "duologue-model", "duologue-engine"},
}
MAX_PACKAGES = 9


def main() -> int:
    meta = json.loads(subprocess.check_output(["cargo", "metadata", "--no-deps", "--format-version", "1", "--locked"]))
    direct = {p["name"]: {d["name"] for d in p["dependencies"] if d["kind"] is None} for p in meta["packages"]}
    problems = []
    if len(direct) > MAX_PACKAGES:
        problems.append(f"{len(direct)} packages, at most {MAX_PACKAGES}: {', '.join(sorted(direct))}")
    for crate, banned in FORBIDDEN.items():
        if crate not in direct:
            problems.append(f"{crate} is named in the rules but is no package")
            continue
        seen, todo = set(), [crate]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            for dep in direct[name]:
                if dep in banned:
                    problems.append(f"{crate} reaches {dep} (through {name}); the rule of the house forbids it")
                if dep in direct:
                    todo.append(dep)
    for p in problems:
        print(f"crate boundary: {p}", file=sys.stderr)
    print(f"crate boundaries: {len(direct)} packages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
