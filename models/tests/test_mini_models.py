"""The trainable networks compute what the exporter's modules compute, features are the server's, and the result is a
checkpoint."""

import json
import random

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from duologue_export.checkpoint import Checkpoint
from duologue_export.inventory import require_complete
from duologue_export.modules.apm import Apm as ExportedApm
from duologue_export.modules.decoder import TorchDecoder, llm_source, tts_source
from duologue_export.modules.tts_condition import TtsCondition
from mini import checkpoint as mini_checkpoint
from mini import train_flow, train_speaking
from mini.corpus import CODES, SILENT_CODE, Sentence, code, codes_of, pitch_of, to_24k, vocoder_mel
from mini.export import CHANGES
from mini.features import LEAD_SAMPLES, filter_bank, stream_samples, unit_mels
from mini.hearing import Hearing, HearingDims
from mini.layout import chat_prompt, system_prompt
from mini.pace import Pace
from mini.speakers import FLITE_PHONES
from mini.store import load_small, rows_by_word, save_small
from mini.train_vocoder import torch_mel
from mini.vocabulary import Vocabulary
from mini.voice import Encoder, Estimator, Speaking, flow_weights, hift_weights


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary()


@pytest.fixture(scope="module")
def parts(vocabulary):
    """Untrained parts with the real structure."""
    torch.manual_seed(0)
    dims = HearingDims(vocab=vocabulary.rows, apm_layers=2, llm_layers=2)
    return Hearing(dims).eval(), Speaking(vocabulary.rows).eval(), flow_weights(), hift_weights()


@pytest.fixture(scope="module")
def folder(parts, vocabulary, tmp_path_factory):
    """They as a checkpoint."""
    out = tmp_path_factory.mktemp("mini") / "checkpoint"
    with torch.no_grad():
        mini_checkpoint.write(out, vocabulary, *parts)
    return out


def test_features_are_those_of_the_reference(golden):
    samples, _ = soundfile.read(golden / "inputs" / "public_input.wav", dtype="float32")
    units = 8
    stream = np.zeros(stream_samples(units), np.float32)
    stream[LEAD_SAMPLES:] = samples[: len(stream) - LEAD_SAMPLES]
    ours = unit_mels(stream)
    recorded = np.load(golden / "session_A" / "session.npz")
    for unit in range(units):
        mel = recorded[f"u{unit:03}_mel"]
        core = mel[:, (2 if unit else 0) : (2 if unit else 0) + 100]
        assert np.abs(ours[:, 100 * unit : 100 * unit + 100] - core).max() < 2e-3
    wanted = np.load(golden / "modules" / "module_whisper_mel.npz")["mel_filters"]
    assert np.abs(filter_bank(16000, 400) - wanted).max() < 1e-6


def test_the_encoder_in_one_piece_is_the_encoder_in_steps(parts, folder):
    hearing, exported = parts[0], ExportedApm(Checkpoint(folder))
    units, d = 31, parts[0].dims
    mel = torch.randn(1, 80, 100 * units + 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows, _ = hearing.rows(mel)
        cache = [torch.zeros(0, d.apm_layers, d.apm_heads, d.apm_hidden // d.apm_heads)] * 2
        for unit in range(units):
            first = max(0, 100 * unit - 2)
            piece = mel[..., first : 100 * unit + 102]
            # The server's restart rule, which counts the redundant frames too.
            if len(cache[0]) + (piece.shape[2] - 1) // 2 + 1 >= 1500:
                cache = [side[:0] for side in cache]
            index = torch.arange(50) + (1 if unit else 0)
            out = exported(piece, index, torch.arange(50) + len(cache[0]), *cache)
            cache = [torch.cat(pair) for pair in zip(cache, out[1:3], strict=True)]
            torch.testing.assert_close(out[0], rows[0, 10 * unit : 10 * unit + 10], atol=2e-5, rtol=1e-4)


def test_the_decoders_are_the_exported_ones(parts, folder, vocabulary):
    checkpoint, hearing, speaking = Checkpoint(folder), parts[0], parts[1]
    ids = system_prompt(vocabulary)
    with torch.no_grad():
        rows = hearing.llm.model.embed_tokens(torch.tensor(ids))
        logits = hearing.llm.lm_head(hearing.llm.model(rows[None])[0, -1])
        torch.testing.assert_close(
            TorchDecoder(checkpoint.llm, llm_source(checkpoint)).step(rows)[0], logits, atol=1e-4, rtol=1e-4
        )
        # The condition is the text's embedding alone, whatever the language model's state.
        condition = train_speaking.condition(["hello", ","], True, vocabulary)
        rows = speaking.emb_text(torch.tensor(condition))
        given = TtsCondition(checkpoint)(
            torch.tensor(condition[:-1]), torch.randn(len(condition) - 1, hearing.dims.llm_hidden)
        )
        torch.testing.assert_close(given, rows)
        logits = speaking.head_code(speaking.model(rows[None])[0, -1])
        torch.testing.assert_close(
            TorchDecoder(checkpoint.tts, tts_source(checkpoint)).step(rows)[0], logits, atol=1e-4, rtol=1e-4
        )


def test_decoding_with_a_cache_changes_nothing(parts):
    model = parts[0].llm.model
    rows = torch.randn(1, 9, parts[0].dims.llm_hidden, generator=torch.Generator().manual_seed(2))
    caches = [[] for _ in model.layers]
    with torch.no_grad():
        stepped = torch.cat([model(rows[:, :4], caches), *(model(rows[:, i : i + 1], caches) for i in range(4, 9))], 1)
        torch.testing.assert_close(stepped, model(rows), atol=1e-5, rtol=1e-4)


def test_the_checkpoint_is_complete_and_its_tokenizer_agrees(folder, vocabulary, capsys):
    checkpoint = Checkpoint(folder)
    require_complete(checkpoint)
    assert "warning" not in capsys.readouterr().err
    assert not checkpoint.has_vision and not checkpoint.is_random
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = "<|im_start|>system\nStreaming Omni Conversation.\n<|audio_start|><|audio_end|><|im_end|>"
    assert tokenizer.encode(prompt, add_special_tokens=False).ids == system_prompt(vocabulary)
    written = "<|im_start|>user\n what is two plus two<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.encode(written, add_special_tokens=False).ids == chat_prompt("what is two plus two", vocabulary)
    assert tokenizer.decode(vocabulary.encode("hello, how are you")) == " hello, how are you"
    assert "<unk>" not in tokenizer.encode("Überraschung 7").tokens
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert not any(name.startswith("phones") for name in file.keys())  # noqa: SIM118


def test_manifest_changes_name_entries_that_exist():
    sections = {"prompt", "duplex", "sampling", "tts", "token2wav", "voice"}
    assert set(CHANGES) == sections and json.dumps(CHANGES)


def test_a_smaller_vocabulary_grows_without_losing_rows(parts, vocabulary, tmp_path):
    old = Vocabulary(vocabulary.words[::2])
    before = Speaking(old.rows)
    save_small(tmp_path / "s.pt", before, 5, {"words": old.words})
    state = load_small(tmp_path / "s.pt")
    after = Speaking(vocabulary.rows)
    rows_by_word(state["weights"], state["words"], after, vocabulary, train_speaking.TABLES)
    for word in (old.words[0], old.words[-1]):
        moved, source = after.emb_text.weight[vocabulary.id(word)], before.emb_text.weight[old.id(word)]
        torch.testing.assert_close(moved, source.to(torch.bfloat16).float())
    assert state["step"] == 5


def test_codes_give_every_phone_a_frame_and_keep_the_time():
    phones = [(0.0, "hh"), (0.05, "ax"), (0.07, "l"), (0.2, "ow"), (0.5, "pau")]
    pitch = np.full(40, 170, np.float32)
    codes = codes_of(phones, 0.6, pitch)
    assert len(codes) == 15 and codes.min() >= 0 and codes.max() < CODES
    heard = train_speaking.phones(codes.tolist())
    assert heard == [FLITE_PHONES.index(name) for name in ("hh", "ax", "l", "ow")]
    assert (codes[5:12] // 9 == FLITE_PHONES.index("ow")).all() and (codes[13:] // 9 == FLITE_PHONES.index("pau")).all()
    assert code(FLITE_PHONES.index("pau"), 1, 1) == SILENT_CODE


def test_pitch_and_mel_of_a_tone():
    time = np.arange(16000) / 16000
    tone = (0.3 * sum(np.sin(2 * np.pi * 180 * k * time) / k for k in range(1, 6))).astype(np.float32)
    pitch = pitch_of(tone * 32768, 50)
    assert np.abs(pitch[5:-5] - 180).max() < 2
    wave = to_24k(tone, 24000)
    mel = vocoder_mel(wave)
    assert mel.shape == (80, 50) and np.abs(torch_mel(torch.from_numpy(wave)[None])[0].numpy() - mel).max() < 1e-2


def test_speech_is_laid_out_unit_by_unit(vocabulary):
    pace = Pace({**dict.fromkeys(vocabulary.words, 0.34), ",": 0.22})
    text = "hello, how are you today my friend"
    known = " ".join(word for word in text.replace(",", " ,").split() if word == "," or word in vocabulary.words)
    codes = np.arange(80) % CODES
    words, spoken = train_speaking.units_of(Sentence(known, [], np.zeros(0, np.int16), np.zeros(0), codes), pace)
    assert len(words) > 2 and [len(c) for c in spoken[:-1]] == [35] + [25] * (len(words) - 2)
    ids, kinds, targets = train_speaking.sequence(words, spoken, vocabulary)
    chosen = [t for t in targets if t >= 0]
    assert chosen[: len(codes)] == codes.tolist() and (chosen[-1] == CODES) == (len(spoken[-1]) < 25)
    # What is chosen is fed next, but for the end.
    fed = [ids[i + 1] for i, t in enumerate(targets) if 0 <= t < CODES and i + 1 < len(ids)]
    assert fed == [t for t in chosen if t != CODES][: len(fed)] and all(
        kinds[i + 1] for i, t in enumerate(targets[:-1]) if 0 <= t < CODES
    )


def test_generated_units_follow_the_rules_of_the_server(parts, vocabulary):
    units = train_speaking.generate(parts[1], [["hello"], ["you"], []], vocabulary)
    assert [len(unit) for unit in units[:2]] == [35, 25] and len(units[2]) <= 25
    assert all(0 <= code < CODES for unit in units for code in unit)


def test_chunks_cover_a_turn():
    for count in (2, 13, 14, 30, 51, 200):
        chunks = train_flow.chunks_of(count)
        assert sum(chunks) == count and all(size > 0 for size in chunks) and max(chunks) <= 25


def test_the_flow_in_chunks_depends_on_the_past_and_the_look_ahead_only(parts):
    encoder, estimator = Encoder(parts[2]), Estimator(parts[2])
    draw = random.Random(0)
    codes = torch.tensor([[draw.randrange(CODES) for _ in range(30)]])
    changed = codes.clone()
    changed[0, 25] = (changed[0, 25] + 1) % CODES
    with torch.no_grad():
        a, b = (encoder.speak(c, [10, 10, 10]) for c in (codes, changed))
        assert a.shape == (1, 80, 60)
        torch.testing.assert_close(a[..., :40], b[..., :40])
        assert (a[..., 40:] - b[..., 40:]).abs().max() > 1e-4
        estimator.refresh()
        noise = torch.randn(1, 80, 60)
        # The gates are closed before training: the velocity is zero and the noise stays.
        torch.testing.assert_close(estimator.sample(noise, a, [20, 40]), noise)
