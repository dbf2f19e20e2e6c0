"""The torch modules against the golden data (`modules/module_*.npz`, written by the official PyTorch code on a tiny
checkpoint).

Each check reads one or more of those files and fills the row of one sub-module. The trimming of caches between
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
from duologue_export.modules.torch_hift import CACHE_FRAMES, SAMPLES_PER_FRAME, Hift
from duologue_export.modules.tts_condition import TtsCondition
from duologue_export.modules.vision import Vision, bucket_table

_TAIL_FRAMES = 100
# Sampling of the speech codes (modeling_minicpmo_unified.py:6711): 26 steps, the last sample is not used.
_CODES, _TEMPERATURE, _PENALTY, _WINDOW = 25, 0.8, 1.05, 16


@torch.inference_mode()
def check(checkpoint: Checkpoint, folder: Path) -> list[Row]:
    """One row per sub-module that the checkpoint has; `Row.outputs` names what was compared. Raises `ExportError` when
    there is no such folder; a missing file or another shape fails its row."""
    if not folder.is_dir():
        raise ExportError(f"{folder}: is no folder. --modules must name the folder with the golden module_*.npz files.")
    checks = [("llm", llm)]
    if checkpoint.has_apm:
        checks.append(("apm", apm))
    if checkpoint.has_vision:
        checks.append(("vision", vision))
    if checkpoint.has_tts:
        checks += [("tts_condition", tts_condition), ("tts", tts), ("flow", flow), ("hift", hift)]
        checks.append(("token2wav", token2wav))
    rows = [
        Row(name, "fp32", THRESHOLDS["fp32"]).run(lambda row, make=make: make(checkpoint, folder, row))
        for name, make in checks
    ]
    if checkpoint.has_tts:
        rows.append(Row("tts_codes", "fp32", 1.0, "equal codes").run(lambda row: tts_codes(checkpoint, folder, row)))
    return rows


def load(folder: Path, name: str) -> dict[str, np.ndarray]:
    """module_<name>.npz as a dict."""
    path = folder / f"module_{name}.npz"
    if not path.is_file():
        raise ExportError(f"{path}: missing. --modules must name the folder with the golden module_*.npz files.")
    with np.load(path) as data:
        return dict(data)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def llm(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """A prompt, two tokens and a chunk; hidden states, logits and the cache."""
    data, decoder = load(folder, "llm"), TorchDecoder(checkpoint.llm, llm_source(checkpoint))
    for step in ("prefill", "step1", "step2", "step3"):
        logits, hidden = decoder.step(_tensor(data[f"{step}_in"]))
        row.add("hidden", data[f"{step}_hidden"], hidden.numpy())
        row.add("logits", data[f"{step}_logits_last"], logits.numpy())
    for side, cache in (("key", decoder.keys), ("value", decoder.values)):
        row.add(side, data[f"kv_{side}"], torch.stack(cache).numpy())


def tts(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """The condition as prompt and one code; hidden states, logits and the cache."""
    data = load(folder, "tts")
    decoder = TorchDecoder(checkpoint.tts, tts_source(checkpoint))
    for embeds, prefix, last in ((data["condition"], "prefill", "_last"), (data["emb_code_1234"][None], "step", "")):
        logits, hidden = decoder.step(_tensor(embeds))
        row.add("logits", data[f"{prefix}_logits{last}"], logits.numpy())
        row.add("hidden", np.atleast_2d(data[f"{prefix}_hidden"]), hidden.numpy())
    for side, cache in (("key", decoder.keys), ("value", decoder.values)):
        row.add(side, data[f"kv_{side}"], torch.stack(cache).numpy())


def tts_codes(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """Two chunks of 25 codes on one cache, each code the one with the best score: temperature, repetition penalty over
    the chunk's last 16 codes, no end (generate_chunk, modeling_minicpmo_unified.py:6692)."""
    data, dims = load(folder, "tts_chunk"), checkpoint.tts
    decoder = TorchDecoder(dims, tts_source(checkpoint))
    for chunk in ("1", "2"):
        codes: list[int] = []
        rows = _tensor(data[f"condition{chunk}"])
        for _ in range(_CODES):
            scores = decoder.step(rows)[0] / _TEMPERATURE
            factor = _PENALTY ** torch.bincount(torch.tensor(codes[-_WINDOW:], dtype=torch.int64), minlength=dims.vocab)
            scores = torch.where(scores < 0, scores * factor, scores / factor)
            scores[dims.eos] = -torch.inf
            codes.append(int(scores.argmax()))
            rows = checkpoint.weights.rows("tts.emb_code.0.weight", codes[-1], codes[-1] + 1)
        # The reference feeds the last code, too.
        decoder.step(rows)
        row.add_equal("codes", data[f"tokens{chunk}"], np.array(codes))
    row.add_equal("positions in the cache", data["kv_len_after"], np.array([decoder.length]))


def tts_condition(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """Six tokens and audio_bos."""
    data = load(folder, "tts")
    condition = TtsCondition(checkpoint)(_tensor(data["token_ids"]).long(), _tensor(data["llm_hidden"]))
    row.add("condition", data["condition"], condition.numpy())


def apm(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """Three streaming chunks, a voice prompt in one-second blocks, and the projector with its pool."""
    data, module, d = load(folder, "apm_streaming"), Apm(checkpoint), checkpoint.apm
    empty = torch.zeros(0, d.layers, d.heads, d.head_dim)
    key = value = empty
    for chunk in range(3):
        # conv frames that overlap the previous second are dropped (modeling_minicpmo_unified.py:1510-1514)
        first = (int(data[f"c{chunk}_prefix_extra"].item()) + 1) // 2
        kept = torch.arange(first, first + len(data[f"c{chunk}_apm_out"]))
        positions = torch.arange(len(kept)) + len(key)
        embeds, new_key, new_value, encoded = module(_tensor(data[f"c{chunk}_mel"])[None], kept, positions, key, value)
        row.add("encoded", data[f"c{chunk}_apm_out"], encoded.numpy())
        row.add("embeds", data[f"c{chunk}_embeds"], embeds.numpy())
        row.add("new_key", data[f"c{chunk}_new_key"], new_key.permute(1, 2, 0, 3).numpy())
        row.add("new_value", data[f"c{chunk}_new_value"], new_value.permute(1, 2, 0, 3).numpy())
        key, value = torch.cat([key, new_key]), torch.cat([value, new_value])

    data, key, value, blocks = load(folder, "apm_offline"), empty, empty, []
    mel = _tensor(data["mel"])[None]
    # The second convolution halves the frames.
    frames = torch.arange((mel.shape[2] + 1) // 2)
    for kept in frames.split(d.mask_frames):
        embeds, new_key, new_value, _ = module(mel, kept, kept, key, value)
        key, value = torch.cat([key, new_key]), torch.cat([value, new_value])
        blocks.append(embeds)
    row.add("embeds of a voice prompt", data["embeds"], torch.cat(blocks).numpy())

    data = load(folder, "audio_projector_pool")
    row.add("projector and pool", data["pooled"], module.project(_tensor(data["x"])).numpy())


def vision(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """Two whole images and one cut into slices of different size; the tower's output only where the file has it."""
    module, d = Vision(checkpoint), checkpoint.vision
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
        if "vpm_out_slice0" in data:
            row.add("encoded", data["vpm_out_slice0"], encoded[0].numpy())
        row.add("embeds", data["embeds"], embeds.numpy())


def flow(checkpoint: Checkpoint, folder: Path, row: Row) -> list[torch.Tensor]:
    """Speaker, encoder and Euler steps: the set-up of the voice prompt, then three chunks. Of the chunks the first
    Euler step is compared here; `token2wav` compares what all steps give. Returns the three mels [1, M, T]."""
    data, front = load(folder, "token2wav"), load(folder, "frontend")
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

    cfm, mels = Cfm(checkpoint), []
    cnn = [torch.zeros(d.steps, 2, 2 * d.dit_width, 2)] * d.dit_layers
    keys = values = [torch.zeros(d.steps, 2, d.dit_heads, 0, d.dit_head_dim)] * d.dit_layers
    cond = _tensor(front["prompt_mels"].T)[None]
    _, cnn, keys, values = _euler(cfm, noise, mu, spk, cond, cnn, keys, values)
    _check_prompt(data, row, cnn, keys, values)
    for chunk in range(3):
        mu, state, hidden = _encode(
            encoder, data[f"chunk{chunk}_tokens"], bool(data[f"chunk{chunk}_last"].item()), state
        )
        row.add("encoder", data[f"chunk{chunk}_enc_out"], hidden[0].numpy())
        state[2:] = _trim(state[2], state[3], prompt)
        cond = torch.zeros_like(mu)
        if f"chunk{chunk}_est0_out" in data:
            start = keys[0].shape[3]
            z = noise[:, :, start : start + mu.shape[2]]
            mask = torch.zeros(1, start + mu.shape[2])
            first = ([layer[0] for layer in group] for group in (cnn, keys, values))
            row.add("mu", data[f"chunk{chunk}_est0_mu"][:1], mu.numpy())
            row.add("z", data[f"chunk{chunk}_est0_x"][:1], z.numpy())
            velocity = cfm.velocity(0, z, mu, spk, cond, mask, *first)[0]
            row.add("velocity of the first step", data[f"chunk{chunk}_est0_out"], velocity.numpy())
        mel, cnn, keys, values = _euler(cfm, noise, mu, spk, cond, cnn, keys, values)
        mels.append(mel)
    return mels


def _euler(cfm: Cfm, noise, mu, spk, cond, cnn, keys, values):
    """All steps of a chunk; its noise starts at the column that the cache has reached (flow_matching.py:190)."""
    start, frames = keys[0].shape[3], mu.shape[2]
    z, mask = noise[:, :, start : start + frames], torch.zeros(1, start + frames)
    mel, cnn, new_keys, new_values = cfm(z, mu, spk, cond, mask, cnn, keys, values)
    keys, values = (
        [torch.cat(pair, 3) for pair in zip(old, new, strict=True)]
        for old, new in ((keys, new_keys), (values, new_values))
    )
    return mel, cnn, keys, values


def _check_prompt(data: dict, row: Row, cnn, keys, values) -> None:
    """Caches of the first and of the last Euler step after the set-up; attention only where the file has it."""
    last = cnn[0].shape[0] - 1
    for layer in range(len(cnn)):
        for place, step in enumerate((0, last)):
            row.add("cnn", data["setup_estimator_cnn_cache"][place, layer], cnn[layer][step].numpy())
            if "setup_estimator_att_cache" in data:
                both = torch.cat([keys[layer][step], values[layer][step]], -1)
                row.add("key and value", data["setup_estimator_att_cache"][place, layer], both.numpy())


def token2wav(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """Speech of the three chunks, joined with the cross-fade of the reference (token2wav.py:206-240), noise off."""
    data, module = load(folder, "token2wav"), Hift(checkpoint)
    mels = flow(checkpoint, folder, Row("flow", "fp32", THRESHOLDS["fp32"]))
    overlap = CACHE_FRAMES * SAMPLES_PER_FRAME
    window = torch.from_numpy(np.hamming(2 * overlap)).float()
    mel, source, tail = mels[0][..., :0], torch.zeros(1, 1, 0), None
    for chunk, new in enumerate(mels):
        mel = torch.cat([mel[..., -CACHE_FRAMES:], new], 2)
        silence = torch.zeros(1, mel.shape[2] * SAMPLES_PER_FRAME, checkpoint.hift.harmonics + 1)
        speech, source, _ = module(mel, source[..., -overlap:], silence)
        if tail is None:
            spoken = torch.cat([torch.zeros(1, overlap), speech], 1)
        else:
            spoken = speech.clone()
            spoken[:, :overlap] = speech[:, :overlap] * window[:overlap] + tail * window[overlap:]
        tail = spoken[:, -overlap:]
        spoken = spoken if data[f"chunk{chunk}_last"].item() else spoken[:, :-overlap]
        row.add("speech", data[f"chunk{chunk}_speech"], spoken[0].numpy())


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


def hift(checkpoint: Checkpoint, folder: Path, row: Row) -> None:
    """Without noise, with a cached source, and with noise."""
    data, module = load(folder, "hift"), Hift(checkpoint)
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
