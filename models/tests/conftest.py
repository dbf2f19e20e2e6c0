"""Shared fixtures: the golden data of the repository (or of DUOLOGUE_GOLDEN), and small helpers to alter a
checkpoint."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from duologue_export.checkpoint import Checkpoint
from duologue_export.export import Options, export_bundle

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with `checkpoint` and `modules`."""
    folder = Path(os.environ.get("DUOLOGUE_GOLDEN", Path(__file__).parents[2] / "tests" / "golden"))
    assert (folder / "checkpoint" / "config.json").is_file(), f"{folder} holds no golden checkpoint"
    return folder


@pytest.fixture(scope="session")
def checkpoint(golden) -> Checkpoint:
    """The golden checkpoint, read only."""
    return Checkpoint(golden / "checkpoint")


@pytest.fixture(scope="session")
def bundle_of(checkpoint, tmp_path_factory) -> Callable[[str], Path]:
    """precision -> a CPU bundle of the golden checkpoint, made once. Read only: copy it before changing it."""

    @cache
    def make(precision: str) -> Path:
        out = tmp_path_factory.mktemp("bundles") / precision
        export_bundle(checkpoint, out, Options(precision, "cpu", 256), "golden-tiny", [])
        return out

    return make


class Copy:
    """A private copy of the golden checkpoint whose parts a test may break."""

    def __init__(self, folder: Path):
        self.folder = folder

    def edit_config(self, **changes) -> None:
        path = self.folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def edit_weights(self, change) -> None:
        path = self.folder / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        path.unlink()
        save_file(tensors, path)

    def shard(self) -> None:
        """Splits model.safetensors into three files with an index, as large checkpoints are."""
        path = self.folder / "model.safetensors"
        tensors = load_file(path)
        names = sorted(tensors)
        where = {}
        for part in range(3):
            file = f"model-{part + 1:05}-of-00003.safetensors"
            own = {name: tensors[name] for name in names[part::3]}
            save_file(own, self.folder / file)
            where.update(dict.fromkeys(own, file))
        path.unlink()
        (self.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))

    def open(self) -> Checkpoint:
        return Checkpoint(self.folder)


@pytest.fixture
def copy(golden, tmp_path) -> Copy:
    """A writable copy of the golden checkpoint."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(golden / "checkpoint", folder, copy_function=shutil.copyfile)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Copy(folder)


def pcc(a, b) -> float:
    """Pearson correlation of two arrays."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (a, b))
    return float(np.corrcoef(a, b)[0, 1])
