#!/usr/bin/env python3
"""Takes files out of a pip package without installing it.

  wheel_files.py REQUIREMENT PATTERN FOLDER

Downloads the wheel of REQUIREMENT (name==version) and copies what matches PATTERN inside it into FOLDER.
"""

import fnmatch
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


def main(requirement: str, pattern: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--no-deps", "--only-binary=:all:", "--dest", wheels, requirement], check=True)
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = fnmatch.filter(archive.namelist(), pattern)
            if not names:
                sys.exit(f"{requirement}: no file in {wheel.name} matches {pattern}")
            folder.mkdir(parents=True, exist_ok=True)
            for name in names:
                target = folder / Path(name).name
                part = target.with_name(target.name + ".part")
                part.write_bytes(archive.read(name))
                part.replace(target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
