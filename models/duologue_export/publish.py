"""Where a bundle is written and how it takes the place of an older one.

`<out>.partial` is being written, `<out>.replaced` is the former bundle for the moment of the exchange. Nothing is
deleted or renamed that is not provably a bundle: every file of it must be listed in its own manifest.
"""

import json
import shutil
from pathlib import Path

from duologue_export.errors import ExportError

# Folder below `<out>.partial` that remembers finished sub-modules.
STAMPS = ".stamps"
_FORMAT = "duologue-bundle"


def partial_of(out: Path) -> Path:
    """The folder that becomes `out`."""
    return out.with_name(out.name + ".partial")


def _old_of(out: Path) -> Path:
    return out.with_name(out.name + ".replaced")


def prepare(out: Path, checkpoint: Path) -> Path:
    """Checks `out` and its neighbours and mends what a crash during `publish` left; returns the absolute `out`.

    Raises `ExportError` for a folder that is not ours to replace.
    """
    out = out.resolve()
    if Path.cwd().is_relative_to(out):
        raise ExportError(f"--out {out}: this is the current folder or holds it; name a folder of its own.")
    if out.is_relative_to(checkpoint.resolve()):
        raise ExportError(f"--out {out}: lies inside the checkpoint; name a folder outside of it.")
    old, partial = _old_of(out), partial_of(out)
    if old.exists():
        _require_bundle(old)
        if out.exists():
            shutil.rmtree(old)
        else:
            old.rename(out)
    _require_bundle(out)
    if partial.exists() and not (partial / STAMPS).is_dir() and (not partial.is_dir() or any(partial.iterdir())):
        raise ExportError(f"{partial}: exists and was not left by an export; move it away or choose another --out.")
    return out


def publish(partial: Path, out: Path) -> None:
    """Gives the complete `partial` its final name. A crash at any point leaves a complete bundle under `out` or under
    `<out>.replaced`, which `prepare` of the next run restores."""
    extra = _files(partial) ^ _listed(partial)
    assert not extra, f"the manifest does not list exactly the written files: {sorted(extra)}. This is a bug."
    old = _old_of(out)
    _require_bundle(out)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(out / STAMPS)
    if old.exists():
        shutil.rmtree(old)


def _require_bundle(folder: Path) -> None:
    """Raises `ExportError` unless `folder` is absent, empty or a bundle that holds no other files."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExportError(f"{folder}: exists and is not a folder.")
    files = _files(folder)
    if not files:
        return
    try:
        foreign = sorted(files - _listed(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{folder}: exists and is not a bundle (no manifest.json of one); choose another --out or empty it."
        ) from error
    if foreign:
        raise ExportError(
            f"{folder}: exists and holds {foreign[0]}, which is not part of the bundle there; move it away first."
        )


def _listed(folder: Path) -> set[str]:
    """Names in the manifest, and the manifest itself. Raises OSError, ValueError, KeyError or TypeError when it is not
    one."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["format"] != _FORMAT:
        raise ValueError(manifest["format"])
    return {*manifest["files"], "manifest.json"}


def _files(folder: Path) -> set[str]:
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder) for path in paths)
    return {name.as_posix() for name in names if STAMPS not in name.parts}
