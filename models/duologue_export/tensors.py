"""Named tensors on disk, read one at a time: safetensors shards (without mmap, so that the resident size stays honest)
and torch pickles. Every lookup names the tensor, the file and both shapes when something does not fit."""

import json
import struct
from pathlib import Path

import torch

from duologue_export.errors import ExportError

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}


# (gain, direction) in the two spellings of torch's weight normalisation.
_WEIGHT_NORM = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)


class State(dict):
    """Tensors by name; a name that is not there raises an `ExportError` that says which file lacks it."""

    def __init__(self, source: "TensorSource", prefix: str, tensors: dict[str, torch.Tensor]):
        super().__init__(tensors)
        self._source, self._prefix = source, prefix

    def __missing__(self, name: str) -> torch.Tensor:
        raise self._source.missing(f"{self._prefix}{name}")


class TensorSource:
    """Read access to named tensors. Subclasses provide `_shapes`, `_read` and `label`."""

    label: str
    _shapes: dict[str, tuple[int, ...]]

    def names(self, prefix: str = "") -> list[str]:
        """All tensor names that start with `prefix`, sorted."""
        return sorted(name for name in self._shapes if name.startswith(prefix))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor without reading it. Raises `ExportError` when it is missing."""
        if name not in self._shapes:
            raise self.missing(name)
        return self._shapes[name]

    def missing(self, name: str) -> ExportError:
        """What to raise for a tensor that is not there."""
        return ExportError(
            f"{self.label}: tensor '{name}' is missing ({len(self._shapes)} tensors present). "
            "The checkpoint is incomplete or of another model version; download it again."
        )

    def wrong_shape(self, name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> ExportError:
        """What to raise for a tensor of another shape than expected."""
        return ExportError(
            f"{self.label}: tensor '{name}' has shape {list(found)}, expected {list(expected)} "
            "from the configuration. The weights and the configuration file do not belong together."
        )

    def folded_shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape of all tensors as they are after folding weight normalisation: `x.weight` in every spelling.

        Raises `ExportError` when the direction of a normalised weight is there but its gain is missing or misshapen.
        """
        shapes = {}
        for name, shape in self._shapes.items():
            for gain, direction in _WEIGHT_NORM:
                if name.endswith(f".{direction}"):
                    stem = name.removesuffix(direction)
                    self.require(f"{stem}{gain}", (shape[0],) + (1,) * (len(shape) - 1))
                    shapes[f"{stem}weight"] = shape
                    break
                if name.endswith(f".{gain}"):
                    break
            else:
                shapes[name] = shape
        return shapes

    def tensor(
        self, name: str, shape: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Reads one tensor as `dtype`. With `shape`, a different stored shape raises `ExportError` naming both."""
        if shape is not None:
            self.require(name, shape)
        else:
            self.shape(name)
        return self._read(name).to(dtype)

    def require(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises `ExportError` unless the tensor exists in this shape; reads nothing."""
        found = self.shape(name)
        if found != tuple(shape):
            raise self.wrong_shape(name, found, tuple(shape))

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor as float32; the rest is not read where the file format allows it."""
        return self.tensor(name)[start:stop]

    def state(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """All tensors below `prefix` as float32, with the prefix removed. Asking the result for a name that is not
        there raises `ExportError`, too."""
        names = self.names(prefix)
        if not names:
            raise ExportError(f"{self.label}: no tensor starts with '{prefix}'. The checkpoint is incomplete.")
        return State(self, prefix, {name[len(prefix) :]: self.tensor(name) for name in names})

    def weight(self, name: str, shape: tuple[int, ...] | None = None) -> torch.Tensor:
        """`name`.weight with weight normalisation folded in: W = g * v / |v| over all axes but the first.

        Accepts the three spellings found in checkpoints: plain `weight`, `parametrizations.weight.original0/1`, and
        the older `weight_g` / `weight_v`.
        """
        for gain, direction in _WEIGHT_NORM:
            if f"{name}.{direction}" in self._shapes:
                v = self.tensor(f"{name}.{direction}", shape)
                g = self.tensor(f"{name}.{gain}", (v.shape[0],) + (1,) * (v.dim() - 1))
                norm = v.flatten(1).norm(dim=1).reshape(g.shape)
                return v * (g / norm)
        return self.tensor(f"{name}.weight", shape)

    def _read(self, name: str) -> torch.Tensor:
        raise NotImplementedError


class SafetensorsSource(TensorSource):
    """One `model.safetensors`, or the shards named in `model.safetensors.index.json`."""

    def __init__(self, folder: Path):
        index = folder / "model.safetensors.index.json"
        single = folder / "model.safetensors"
        self._where: dict[str, tuple[Path, str, int, int]] = {}
        self._shapes = {}
        if index.exists():
            self.label = str(index)
            try:
                expected = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                files = sorted(set(expected.values()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ExportError(
                    f"{index}: no list of tensors and shards ({type(error).__name__}: {error}). Download it again."
                ) from error
            for file in files:
                self._open(folder / file)
            for name, file in expected.items():
                if name not in self._shapes:
                    raise ExportError(
                        f"{folder / file}: tensor '{name}' is missing although {index.name} lists it there."
                    )
        elif single.exists():
            self.label = str(single)
            self._open(single)
        else:
            raise ExportError(f"{folder}: neither model.safetensors nor model.safetensors.index.json found.")

    def _open(self, path: Path) -> None:
        if not path.exists():
            raise ExportError(f"{path}: shard is missing; it is listed in model.safetensors.index.json.")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            if 8 + length > size:
                raise ExportError(f"{path}: truncated or not a safetensors file ({size} bytes).")
            try:
                header = json.loads(file.read(length))
            except ValueError as error:
                raise ExportError(f"{path}: the safetensors header is not JSON ({error}).") from error
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if 8 + length + end > size:
                raise ExportError(f"{path}: truncated, tensor '{name}' ends at byte {8 + length + end} of {size}.")
            if entry["dtype"] not in _DTYPES:
                raise ExportError(f"{path}: tensor '{name}' has type {entry['dtype']}, known are {sorted(_DTYPES)}.")
            self._where[name] = (path, entry["dtype"], 8 + length + begin, end - begin)
            self._shapes[name] = tuple(entry["shape"])

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        """See `TensorSource.rows`; reads only these rows."""
        shape = self.shape(name)
        path, dtype, offset, size = self._where[name]
        step = size // shape[0]
        piece = (path, dtype, offset + start * step, (stop - start) * step)
        return self._load(name, piece, (stop - start, *shape[1:])).to(torch.float32)

    def _read(self, name: str) -> torch.Tensor:
        return self._load(name, self._where[name], self._shapes[name])

    def _load(self, name: str, where: tuple[Path, str, int, int], shape: tuple[int, ...]) -> torch.Tensor:
        path, dtype, offset, size = where
        data = bytearray(size)
        with path.open("rb") as file:
            file.seek(offset)
            if file.readinto(data) != size:
                raise ExportError(f"{path}: truncated while reading '{name}'.")
        return torch.frombuffer(data, dtype=_DTYPES[dtype]).reshape(shape)


class TorchSource(TensorSource):
    """A state dict saved with torch.save; `strip` is a name prefix that is removed where present."""

    def __init__(self, path: Path, strip: str = ""):
        self.label = str(path)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except FileNotFoundError as error:
            raise ExportError(f"{path}: missing.") from error
        except Exception as error:
            raise ExportError(f"{path}: cannot be read as a torch state dict ({error}).") from error
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            raise ExportError(f"{path}: holds something else than named tensors; a plain state dict is expected.")
        self._state = {name.removeprefix(strip): value for name, value in state.items()}
        self._shapes = {name: tuple(value.shape) for name, value in self._state.items()}

    def _read(self, name: str) -> torch.Tensor:
        return self._state[name]
