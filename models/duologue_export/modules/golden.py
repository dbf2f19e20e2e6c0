"""The torch modules against the golden data (`modules/module_*.npz`, written by the official PyTorch code on a tiny
checkpoint).

Each check reads one or two of those files and returns the row of one sub-module. The trimming of caches between
chunks is what minicpmo-utils 1.0.5 does (token2wav.py:192-204), its quirks included; the server does the same in its
`compat105` mode.
"""

from pathlib import Path

import numpy as np
import torch

from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError
from duologue_export.modules.apm import Apm
from duologue_export.modules.decoder import TorchDecoder, llm_source, tts_source
from duologue_export.modules.flow import FlowSpeaker
from duologue_export.modules.parity import THRESHOLDS, Row
from duologue_export.modules.torch_flow_cfm import Cfm
from duologue_export.modules.torch_flow_encoder import CONV1_LEN, CONV2_LEN, FlowEncoder
from duologue_export.modules.torch_hift import SAMPLES_PER_FRAME, Hift
from duologue_export.modules.tts_condition import TtsCondition
from duologue_export.modules.vision import Vision, bucket_table

_TAIL_FRAMES = 100


@torch.inference_mode()
def check(checkpoint: Checkpoint, folder: Path) -> list[Row]:
    """One row per sub-module that the checkpoint has. Raises `ExportError` for a missing file or another shape."""
    rows = [llm(checkpoint, folder)]
    if checkpoint.has_apm:
        rows.append(apm(checkpoint, folder))
    if checkpoint.has_vision:
        rows.append(vision(checkpoint, folder))
    if checkpoint.has_tts:
        rows += [make(checkpoint, folder) for make in (tts_condition, tts, flow, hift)]
    return rows


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    """module_<name>.npz as a dict."""
    path = folder / f"module_{name}.npz"
    if not path.is_file():
        raise ExportError(f"{path}: missing. --modules must name the folder with the golden module_*.npz files.")
    with np.load(path) as data:
        return dict(data)


def _row(name: str) -> Row:
    return Row(name, "fp32", THRESHOLDS["fp32"])


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def llm(checkpoint: Checkpoint, folder: Path) -> Row:
    """A prompt, two tokens and a chunk; hidden states, logits and the cache."""
    return _decoder(checkpoint.llm, llm_source(checkpoint), load(folder, "llm"), "llm")


def _decoder(dims, source, data: dict, name: str) -> Row:
    row, decoder = _row(name), TorchDecoder(dims, source)
    for step in ("prefill", "step1", "step2", "step3"):
        logits, hidden = decoder.step(_tensor(data[f"{step}_in"]))
        row.add("hidden", data[f"{step}_hidden"], hidden.numpy())
        row.add("logits", data[f"{step}_logits_last"], logits.numpy())
    for side, cache in (("key", decoder.keys), ("value", decoder.values)):
        row.add(side, data[f"kv_{side}"], torch.stack(cache).numpy())
    return row


def tts(checkpoint: Checkpoint, folder: Path) -> Row:
    """The condition as prompt and one code."""
    data, row = load(folder, "tts"), _row("tts")
    decoder = TorchDecoder(checkpoint.tts, tts_source(checkpoint))
    for embeds, prefix, last in ((data["condition"], "prefill", "_last"), (data["emb_code_1234"][None], "step", "")):
        logits, hidden = decoder.step(_tensor(embeds))
        row.add("logits", data[f"{prefix}_logits{last}"], logits.numpy())
        row.add("hidden", np.atleast_2d(data[f"{prefix}_hidden"]), hidden.numpy())
    return row


def tts_condition(checkpoint: Checkpoint, folder: Path) -> Row:
    """Six tokens and audio_bos."""
    data, row = load(folder, "tts"), _row("tts_condition")
    condition = TtsCondition(checkpoint)(_tensor(data["token_ids"]).long(), _tensor(data["llm_hidden"]))
    row.add("condition", data["condition"], condition.numpy())
    return row


def apm(checkpoint: Checkpoint, folder: Path) -> Row:
    """Three streaming chunks, and the voice prompt in one-second blocks."""
    data, row, module = load(folder, "apm_streaming"), _row("apm"), Apm(checkpoint)
    d = checkpoint.apm
    key = value = torch.zeros(0, d.layers, d.heads, d.head_dim)
    for chunk in range(3):
        # conv frames that overlap the previous second are dropped (modeling_minicpmo_unified.py:1510-1514)
        first = (int(data[f"c{chunk}_prefix_extra"]) + 1) // 2
        kept = torch.arange(first, first + len(data[f"c{chunk}_apm_out"]))
        positions = torch.arange(len(kept)) + len(key)
        embeds, new_key, new_value, encoded = module(_tensor(data[f"c{chunk}_mel"])[None], kept, positions, key, value)
        row.add("encoded", data[f"c{chunk}_apm_out"], encoded.numpy())
        row.add("embeds", data[f"c{chunk}_embeds"], embeds.numpy())
        row.add("new_key", data[f"c{chunk}_new_key"], new_key.permute(1, 2, 0, 3).numpy())
        row.add("new_value", data[f"c{chunk}_new_value"], new_value.permute(1, 2, 0, 3).numpy())
        key, value = torch.cat([key, new_key]), torch.cat([value, new_value])
    return row


def vision(checkpoint: Checkpoint, folder: Path) -> Row:
    """Two whole images and one cut into slices of different size."""
    row, module, d = _row("vision"), Vision(checkpoint), checkpoint.vision
    buckets = np.array(bucket_table(d.grid))
    for name in ("vision_1", "vision_2", "vision_sliced"):
        data = load(folder, name)
        sizes = data["tgt_sizes"]
        length = int((sizes[:, 0] * sizes[:, 1]).max())
        patches = np.zeros((len(sizes), length, 3 * d.patch**2), np.float32)
        positions, grid = np.zeros((2, len(sizes), length), np.int64)
        mask = np.zeros((len(sizes), length), np.float32)
        for index, (rows, columns) in enumerate(sizes):
            count = rows * columns
            pixels = (data[f"patches{index}_u8"].astype(np.float32) / 255 - d.mean) / d.std
            pixels = pixels.reshape(3, d.patch, count, d.patch).transpose(2, 0, 1, 3)
            patches[index, :count] = pixels.reshape(count, -1)
            place = buckets[rows - 1, :rows, None] * d.grid + buckets[columns - 1, :columns]
            positions[index, :count] = place.ravel()
            grid[index, :count] = (np.arange(rows)[:, None] * d.grid + np.arange(columns)).ravel()
            mask[index, :count] = 1
        embeds, encoded = module(*(torch.from_numpy(array) for array in (patches, positions, grid, mask)))
        row.add("encoded", data["vpm_out_slice0"], encoded[0].numpy())
        row.add("embeds", data["embeds"], embeds.numpy())
    return row


def flow(checkpoint: Checkpoint, folder: Path) -> Row:
    """Speaker, encoder and Euler steps: the set-up of the voice prompt, then three chunks."""
    data, front, row = load(folder, "token2wav"), load(folder, "frontend"), _row("flow")
    d, noise = checkpoint.flow, _noise(folder)
    spk = FlowSpeaker(checkpoint)(_tensor(front["spk_emb"])[None])
    row.add("spk", data["chunk0_est0_spks"][:1], spk.numpy())

    encoder = FlowEncoder(checkpoint)
    state = [torch.zeros(1, d.width, length) for length in (CONV1_LEN, CONV2_LEN)]
    state += [torch.zeros(0, layers, 1, d.heads, 2 * d.head_dim) for layers in (d.blocks, d.up_blocks)]
    mu, state, _ = _encode(encoder, data["prompt_tokens_padded"], False, state)
    prompt = mu.shape[2]
    attention = data["setup_conformer_att_cache"]
    row.add("kv1", attention[: d.blocks, :, :, : prompt // d.up], state[2].permute(1, 2, 3, 0, 4).numpy())
    row.add("kv2", attention[d.blocks :], state[3].permute(1, 2, 3, 0, 4).numpy())
    _check_cfm(checkpoint, data, row, noise, mu, spk, _tensor(front["prompt_mels"].T)[None])
    for chunk in range(3):
        mu, state, hidden = _encode(encoder, data[f"chunk{chunk}_tokens"], bool(data[f"chunk{chunk}_last"]), state)
        row.add("encoder", data[f"chunk{chunk}_enc_out"], hidden[0].numpy())
        if chunk < 2:
            row.add("mu", data[f"chunk{chunk}_est0_mu"][:1], mu.numpy())
        state[2:] = _trim(state[2], state[3], prompt)
    return row


def _noise(folder: Path) -> torch.Tensor:
    path = folder.parent / "cfm_noise.npy"
    if not path.is_file():
        raise ExportError(f"{path}: missing. The golden start noise lies beside the folder of the modules.")
    return torch.from_numpy(np.load(path))


def _encode(encoder: FlowEncoder, tokens: np.ndarray, last: bool, state: list[torch.Tensor]):
    token = _tensor(tokens).long()[None]
    padding = encoder.dims.lookahead if last else 0
    valid = torch.cat([torch.ones(1, token.shape[1], 1), torch.zeros(1, padding, 1)], 1)
    token = torch.nn.functional.pad(token, (0, padding))
    mu, conv1, conv2, kv1, kv2, hidden = encoder(token, valid, *state)
    return mu, [conv1, conv2, torch.cat([state[2], kv1]), torch.cat([state[3], kv2])], hidden


def _trim(kv1: torch.Tensor, kv2: torch.Tensor, prompt: int) -> list[torch.Tensor]:
    """1.0.5 trims the first half's cache in its doubled form and then keeps the first half of what is left."""
    if len(kv2) <= prompt + _TAIL_FRAMES:
        return [kv1, kv2]
    doubled = torch.cat([kv1, kv1])
    kept = torch.cat([doubled[:prompt], doubled[-_TAIL_FRAMES:]])
    return [kept[: len(kept) // 2], torch.cat([kv2[:prompt], kv2[-_TAIL_FRAMES:]])]


def _check_cfm(checkpoint: Checkpoint, data: dict, row: Row, noise, mu, spk, mel) -> None:
    """The prompt set-up: caches of the first and of the last Euler step."""
    d, frames = checkpoint.flow, mu.shape[2]
    cnn = [torch.zeros(d.steps, 2, 2 * d.dit_width, 2)] * d.dit_layers
    empty = [torch.zeros(d.steps, 2, d.dit_heads, 0, d.dit_head_dim)] * d.dit_layers
    mask = torch.zeros(1, frames)
    _, cnn, keys, values = Cfm(checkpoint)(noise[:, :, :frames], mu, spk, mel, mask, cnn, empty, empty)
    for layer in range(d.dit_layers):
        for place, step in enumerate((0, d.steps - 1)):
            row.add("cnn", data["setup_estimator_cnn_cache"][place, layer], cnn[layer][step].numpy())
            both = torch.cat([keys[layer][step], values[layer][step]], -1)
            row.add("key and value", data["setup_estimator_att_cache"][place, layer], both.numpy())


def hift(checkpoint: Checkpoint, folder: Path) -> Row:
    """Without noise, with a cached source, and with noise."""
    data, row, module = load(folder, "hift"), _row("hift"), Hift(checkpoint)
    mel = _tensor(data["mel"])[None]
    silence = torch.zeros(1, mel.shape[2] * SAMPLES_PER_FRAME, checkpoint.hift.harmonics + 1)
    noise = _tensor(data["noise_randn"].astype(np.float32))[None]
    cached = _tensor(data["cache_source"])[None, None]
    none = cached[..., :0]
    for cache, excitation, name in (
        (none, silence, "zero_noise"),
        (cached, silence, "with_cache"),
        (none, noise, "noisy"),
    ):
        speech, source, f0 = module(mel, cache, excitation)
        row.add("speech", data[f"speech_{name}"], speech[0].numpy())
        row.add("source", data[f"source_{name}"], source[0, 0].numpy())
        row.add("f0", data["f0"], f0[0].numpy())
    return row
