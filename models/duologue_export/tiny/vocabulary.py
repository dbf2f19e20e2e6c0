"""The pruned vocabulary: a byte-level BPE trained on the package's own text, with every special token of the release.

Files written: tokenizer.json, vocab.json, merges.txt, added_tokens.json, special_tokens_map.json,
tokenizer_config.json. Normaliser, pre-tokeniser and decoder are those of Qwen2 (transformers, Qwen2Converter), so the
ids of a text depend on vocabulary and merges only."""

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from duologue_export.tiny.training_text import DOCUMENTS

# Qwen2's split pattern: contractions, words, single digits, punctuation, line breaks, blanks.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# In id order, as in the release; the offset between any two of them is the release's.
ADDED = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    "<image>",
    "</image>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<point>",
    "</point>",
    "<slice>",
    "</slice>",
    "<image_id>",
    "</image_id>",
    "<unit>",
    "</unit>",
    "<answer>",
    "</answer>",
    "<focus>",
    "</focus>",
    "<line>",
    "</line>",
    "<perception>",
    "</perception>",
    "<source_image>",
    "</source_image>",
    "<image_save_to>",
    "</image_save_to>",
    "<|audio_start|>",
    "<|audio|>",
    "<|audio_end|>",
    "<|spk_bos|>",
    "<|spk|>",
    "<|spk_eos|>",
    "<|tts_bos|>",
    "<|tts_eos|>",
    "<|listen|>",
    "<|speak|>",
    "<|interrupt|>",
    "<|vad_start|>",
    "<|vad_end|>",
    "<|emotion_start|>",
    "<|emotion_end|>",
    "<|speed_start|>",
    "<|speed_end|>",
    "<|pitch_start|>",
    "<|pitch_end|>",
    "<|turn_bos|>",
    "<|turn_eos|>",
    "<|chunk_eos|>",
    "<|chunk_bos|>",
    "<|chunk_tts_bos|>",
    "<|chunk_tts_eos|>",
    "<|tts_pad|>",
] + [f"<|timbre_{i}|>" for i in range(7, 32)]

# Added tokens that decoding with skip_special_tokens keeps.
NOT_SPECIAL = {
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
}

# Offsets from <|endoftext|> that config.json of the release names by number (151687 and 151692 with 151643).
AUDIO_BOS_OFFSET = 44
TEXT_EOS_OFFSET = 49

# ChatML in its simplest form: the duplex loop builds its own prompt and never calls it, but loaders expect the key.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Vocabulary:
    """What the other files need to know: `size` entries with ids 0..size-1, `first_added` = id of <|endoftext|>."""

    size: int
    first_added: int
    ids: dict[str, int]

    @property
    def text_ids(self) -> list[int]:
        """Ids of plain text tokens."""
        return [i for i in range(self.first_added) if i != self.ids["<unk>"]]


def _train(merges: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of a byte-level BPE; the 256 bytes take ids 0..255 in GPT-2's order, as in the release."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), _pre_tokenizer()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(DOCUMENTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def write(folder: Path, merges: int) -> Vocabulary:
    """Writes the six tokenizer files into `folder`. Fewer merges than asked for are made when the text has no more
    pairs."""
    vocab, pairs = _train(merges)
    # The release carries <unk> inside the base vocabulary, a few entries before its end.
    unk = len(vocab) - 8
    vocab = {token: i + (i >= unk) for token, i in sorted(vocab.items(), key=lambda item: item[1])} | {"<unk>": unk}
    vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    first_added = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True, normalized=False)])
    for token in ADDED:
        special = token not in NOT_SPECIAL
        entry = AddedToken(token, special=special, normalized=False)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([entry])
    ids = {token: first_added + i for i, token in enumerate(ADDED)} | {"<unk>": unk}
    assert all(tokenizer.token_to_id(token) == i for token, i in ids.items()), (
        "added tokens must be contiguous. This is a bug."
    )
    tokenizer.save(str(folder / "tokenizer.json"))

    def dump(name: str, value: object) -> None:
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def entry(token: str) -> dict:
        return {"content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}

    dump("vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    dump("added_tokens.json", {token: ids[token] for token in ADDED})
    # The release lists neither of the turn tokens here, though both are flagged special.
    extra = ["<unk>", *(token for token in ADDED[ADDED.index("<image>") :] if not token.startswith("<|turn_"))]
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": "<unk>"}
    dump(
        "special_tokens_map.json",
        {"additional_special_tokens": [entry(token) for token in extra]} | {k: entry(v) for k, v in named.items()},
    )
    dump(
        "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": {
                str(i): entry(token) | {"special": token not in NOT_SPECIAL}
                for token, i in sorted(ids.items(), key=lambda item: item[1])
            },
            "additional_special_tokens": extra,
            **named,
            "auto_map": {"AutoTokenizer": ["tokenization_minicpmo_fast.MiniCPMOTokenizerFast", None]},
            "bad_token_ids": _bad_token_ids(vocab),
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "extra_special_tokens": {},
            "model_max_length": 131072,
            "split_special_tokens": False,
            "tokenizer_class": "MiniCPMOTokenizerFast",
        },
    )
    return Vocabulary(first_added + len(ADDED), first_added, ids)


def _bad_token_ids(vocab: dict[str, int]) -> list[int]:
    """Tokens the duplex decoder must never choose: round brackets, line breaks, lone bytes outside ASCII, and three
    ordinary words, so that forbidding a likely token is exercised too."""
    high = [i for token, i in vocab.items() if i < 256 and (94 <= i < 188 or i > 221)]
    ordinary = [i for token, i in vocab.items() if token in ("as", "el", "ir")]
    return sorted({vocab["("], vocab[")"], vocab["Ċ"], vocab["č"], *high, *ordinary})
