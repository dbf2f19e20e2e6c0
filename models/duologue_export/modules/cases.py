"""Seeded inputs for every graph and what the torch modules answer: the material of `verify`.

A case is (feeds, expected) by input and output name. Every stateful module has a first call on empty caches and a
second one on what the first left behind; lengths differ between the calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from duologue_export.checkpoint import Checkpoint
from duologue_export.modules.apm import Apm
from duologue_export.modules.flow import FlowSpeaker
from duologue_export.modules.torch_flow_cfm import DROP, Cfm
from duologue_export.modules.torch_flow_encoder import CONV1_LEN, CONV2_LEN, FlowEncoder
from duologue_export.modules.torch_hift import CACHE_FRAMES, SAMPLES_PER_FRAME, Hift
from duologue_export.modules.tts_condition import TtsCondition
from duologue_export.modules.vision import Vision, bucket_table

SEED = 20450505


@dataclass(frozen=True)
class Case:
    """Arrays by name; outputs that the torch side does not name are not compared. Those in `exact` are copies and must
    be equal bit by bit."""

    feeds: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    exact: frozenset[str] = field(default_factory=frozenset)


def _arrays(values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: value.detach().contiguous().numpy() for name, value in values.items()}


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def generator() -> torch.Generator:
    """The seeded source of one module's inputs."""
    return torch.Generator().manual_seed(SEED)


@torch.inference_mode()
def apm(checkpoint: Checkpoint) -> Iterator[Case]:
    """Three chunks: the first second, the second one with its two redundant frames, and a short end of a voice
    prompt."""
    module, d, g = Apm(checkpoint), checkpoint.apm, generator()
    key = value = torch.zeros(0, d.layers, d.heads, d.head_dim)
    for frames, first, count in ((102, 0, 50), (104, 1, 50), (37, 1, 17)):
        inputs = {
            "mel": _normal(g, 1, d.mels, frames),
            "frame_idx": torch.arange(first, first + count),
            "pos_ids": torch.arange(len(key), len(key) + count),
            "past_key": key,
            "past_value": value,
        }
        embeds, new_key, new_value, _ = module(*inputs.values())
        yield Case(_arrays(inputs), _arrays({"embeds": embeds, "new_key": new_key, "new_value": new_value}))
        key, value = torch.cat([key, new_key]), torch.cat([value, new_value])


@torch.inference_mode()
def vision(checkpoint: Checkpoint) -> Iterator[Case]:
    """One slice of 12 x 9 patches, and two of different size in one padded batch."""
    module, d, g = Vision(checkpoint), checkpoint.vision, generator()
    buckets = torch.tensor(bucket_table(d.grid))
    for sizes in (((12, 9),), ((5, 8), (7, 4))):
        length = max(rows * columns for rows, columns in sizes)
        inputs = {
            "patches": torch.zeros(len(sizes), length, 3 * d.patch**2),
            "pos_ids": torch.zeros(len(sizes), length, dtype=torch.int64),
            "grid_ids": torch.zeros(len(sizes), length, dtype=torch.int64),
            "mask": torch.zeros(len(sizes), length),
        }
        for index, (rows, columns) in enumerate(sizes):
            count = rows * columns
            inputs["patches"][index, :count] = _normal(g, count, 3 * d.patch**2).clamp(-1, 1)
            place = buckets[rows - 1, :rows, None] * d.grid + buckets[columns - 1, :columns]
            inputs["pos_ids"][index, :count] = place.flatten()
            inputs["grid_ids"][index, :count] = (torch.arange(rows)[:, None] * d.grid + torch.arange(columns)).flatten()
            inputs["mask"][index, :count] = 1
        yield Case(_arrays(inputs), _arrays({"embeds": module(*inputs.values())[0]}))


@torch.inference_mode()
def tts_condition(checkpoint: Checkpoint) -> Iterator[Case]:
    """Nine tokens, and none at all."""
    module, d, g = TtsCondition(checkpoint), checkpoint.tts, generator()
    for count in (9, 0):
        inputs = {
            "ids": torch.randint(0, d.text_tokens, (count,), generator=g),
            "hidden": _normal(g, count, d.llm_hidden),
        }
        yield Case(_arrays(inputs), _arrays({"condition": module(*inputs.values())}))


@torch.inference_mode()
def flow_speaker(checkpoint: Checkpoint) -> Iterator[Case]:
    """One speaker vector."""
    inputs = {"embedding": _normal(generator(), 1, checkpoint.flow.spk)}
    yield Case(_arrays(inputs), _arrays({"spk": FlowSpeaker(checkpoint)(*inputs.values())}))


@torch.inference_mode()
def flow_encoder(checkpoint: Checkpoint) -> Iterator[Case]:
    """A prompt, a chunk, a single new token, and a last chunk whose look-ahead is padding."""
    module, d, g = FlowEncoder(checkpoint), checkpoint.flow, generator()
    names = ("token", "valid", "conv1", "conv2", "kv1", "kv2")
    state = [torch.zeros(1, d.width, length) for length in (CONV1_LEN, CONV2_LEN)]
    state += [torch.zeros(0, layers, 1, d.heads, 2 * d.head_dim) for layers in (d.blocks, d.up_blocks)]
    for count, padding in ((23, 0), (28, 0), (d.lookahead + 1, 0), (10, d.lookahead)):
        token = torch.randint(0, d.vocab, (1, count + padding), generator=g)
        valid = torch.ones(1, count + padding, 1)
        valid[:, count:] = 0
        inputs = dict(zip(names, (token, valid, *state), strict=True))
        mu, conv1, conv2, kv1, kv2, _ = module(*inputs.values())
        outputs = {"mu": mu, "conv1_out": conv1, "conv2_out": conv2, "new_kv1": kv1, "new_kv2": kv2}
        yield Case(_arrays(inputs), _arrays(outputs))
        state = [conv1, conv2, torch.cat([state[2], kv1]), torch.cat([state[3], kv2])]


@torch.inference_mode()
def flow_cfm(checkpoint: Checkpoint) -> Iterator[Case]:
    """A prompt without any slot, then a chunk over slots of which some are unused and hold garbage."""
    module, d, g = Cfm(checkpoint), checkpoint.flow, generator()
    cnn = [torch.zeros(d.steps, 2, 2 * d.dit_width, 2)] * d.dit_layers
    keys = values = [torch.zeros(d.steps, 2, d.dit_heads, 0, d.dit_head_dim)] * d.dit_layers
    used = torch.zeros(0)
    for frames in (22, 14):
        inputs = {name: _normal(g, 1, d.mel, frames) for name in ("z", "mu")}
        inputs |= {"spk": _normal(g, 1, d.mel), "cond": _normal(g, 1, d.mel, frames) * (frames == 22)}
        inputs["mask"] = torch.cat([(1 - used) * DROP, torch.zeros(frames)])[None]
        lists = {"cnn": cnn, "att_key": keys, "att_value": values}
        mel, new_cnn, new_keys, new_values = module(*inputs.values(), *lists.values())
        feeds = inputs | {f"{name}.{i}": v for name, group in lists.items() for i, v in enumerate(group)}
        outputs = {"cnn_out": new_cnn, "new_key": new_keys, "new_value": new_values}
        expected = {"mel": mel} | {f"{name}.{i}": v for name, group in outputs.items() for i, v in enumerate(group)}
        yield Case(_arrays(feeds), _arrays(expected))
        spare = torch.full((d.steps, 2, d.dit_heads, 5, d.dit_head_dim), 3.0)
        cnn = new_cnn
        keys, values = ([torch.cat([v, spare], 3) for v in group] for group in (new_keys, new_values))
        used = torch.cat([torch.ones(frames), torch.zeros(5)])


def flow_store(checkpoint: Checkpoint) -> Iterator[Case]:
    """Frames into slots far apart, in another order than theirs, and one frame into the only slot."""
    d, g = checkpoint.flow, generator()
    parts = [(part, layer) for layer in range(d.dit_layers) for part in ("key", "value")]
    for slots, slot in ((9, [7, 0, 3]), (1, [0])):
        index = torch.tensor(slot)
        feeds, expected = {"slot": index}, {}
        for part, layer in parts:
            cache = _normal(g, d.steps, 2, d.dit_heads, slots, d.dit_head_dim)
            new = _normal(g, d.steps, 2, d.dit_heads, len(slot), d.dit_head_dim)
            feeds |= {f"att_{part}.{layer}": cache, f"new_{part}.{layer}": new}
            expected[f"att_{part}_out.{layer}"] = cache.index_copy(3, index, new)
        yield Case(_arrays(feeds), _arrays(expected), frozenset(expected))


@torch.inference_mode()
def hift(checkpoint: Checkpoint) -> Iterator[Case]:
    """A first call and one with a cached source."""
    module, d, g = Hift(checkpoint), checkpoint.hift, generator()
    cache = torch.zeros(1, 1, 0)
    for frames in (20, 29):
        inputs = {
            "mel": _normal(g, 1, d.mel, frames),
            "cache_source": cache,
            "noise": _normal(g, 1, frames * SAMPLES_PER_FRAME, d.harmonics + 1),
        }
        speech, source, f0 = module(*inputs.values())
        yield Case(_arrays(inputs), _arrays({"speech": speech, "source": source, "f0": f0}))
        cache = source[..., -CACHE_FRAMES * SAMPLES_PER_FRAME :]


@torch.inference_mode()
def kv_compact(checkpoint: Checkpoint) -> Iterator[Case]:
    """Rows from the middle of a cache turned back by seven positions, and a plain copy. Values are always copies, keys
    where the angle is 0 (BUNDLE.md)."""
    d, g = checkpoint.llm, generator()
    half = d.head_dim // 2
    key, value = (_normal(g, 1, d.kv_heads, 40, d.head_dim) for _ in range(2))
    rate = d.rope_theta ** (-torch.arange(half) / half)
    for positions in (7, 0):
        index = torch.cat([torch.arange(4), torch.arange(11, 40)])
        cos, sin = torch.cos(-positions * rate), torch.sin(-positions * rate)
        first, second = key[:, :, index].split(half, -1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
        inputs = {"key": key, "value": value, "index": index, "cos": cos, "sin": sin}
        exact = frozenset({"value_out"} if positions else {"key_out", "value_out"})
        yield Case(_arrays(inputs), _arrays({"key_out": turned, "value_out": value[:, :, index]}), exact)
