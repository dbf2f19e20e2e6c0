"""Token ids of the duplex loop, read from the tokenizer files the way transformers does for a fast tokenizer."""

from duologue_export.checkpoint import Checkpoint
from duologue_export.errors import ExportError

# manifest key -> token (modeling_minicpmo_unified.py:4300-4321)
NAMES = {
    "unit": "<unit>",
    "unit_end": "</unit>",
    "image": "<image>",
    "image_end": "</image>",
    "slice": "<slice>",
    "slice_end": "</slice>",
    "listen": "<|listen|>",
    "speak": "<|speak|>",
    "tts_bos": "<|tts_bos|>",
    "tts_eos": "<|tts_eos|>",
    "tts_pad": "<|tts_pad|>",
    "chunk_eos": "<|chunk_eos|>",
    "chunk_tts_eos": "<|chunk_tts_eos|>",
    "turn_eos": "<|turn_eos|>",
    "audio_start": "<|audio_start|>",
    "audio_end": "<|audio_end|>",
}
# Tokens that StreamDecoder adds to the tokenizer's own special ones (utils.py:1195-1213): all of the above but tts_pad.
_STREAM_SPECIAL = [name for key, name in NAMES.items() if key != "tts_pad"]
_SPECIAL_KEYS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def _text(value) -> str:
    return value["content"] if isinstance(value, dict) else value


def _special_tokens(checkpoint: Checkpoint) -> tuple[list[str], str]:
    """(all special tokens, end-of-sequence token) as transformers' all_special_tokens and eos_token."""
    config = checkpoint.json("tokenizer_config.json")
    # With added_tokens_decoder in tokenizer_config.json transformers ignores special_tokens_map.json.
    section = config if "added_tokens_decoder" in config else {**config, **checkpoint.json("special_tokens_map.json")}
    found = [_text(section[key]) for key in _SPECIAL_KEYS if section.get(key)]
    found += [_text(value) for value in section.get("additional_special_tokens") or []]
    if not section.get("eos_token"):
        raise ExportError(f"{checkpoint.folder / 'tokenizer_config.json'}: eos_token is missing.")
    return list(dict.fromkeys(found)), _text(section["eos_token"])


def token_section(checkpoint: Checkpoint) -> dict:
    """The manifest's `tokenizer` section. Raises `ExportError` naming a token that the tokenizer does not know."""
    path, tokenizer = checkpoint.folder / "tokenizer.json", checkpoint.json("tokenizer.json")
    ids = dict(tokenizer["model"]["vocab"])
    ids.update({token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])})

    def lookup(token: str) -> int:
        if token not in ids:
            raise ExportError(f"{path}: token {token!r} is missing; this is no MiniCPM-o 4.5 tokenizer.")
        if ids[token] >= checkpoint.llm.vocab:
            raise ExportError(
                f"{path}: token {token!r} has id {ids[token]}, but config.json says vocab_size {checkpoint.llm.vocab}."
            )
        return ids[token]

    special, eos = _special_tokens(checkpoint)
    texts = sorted({*special, *_STREAM_SPECIAL})
    bad = checkpoint.json("tokenizer_config.json").get("bad_token_ids", [])
    return {
        "vocab": checkpoint.llm.vocab,
        "tokens": {**{key: lookup(token) for key, token in NAMES.items()}, "eos": lookup(eos)},
        "special_ids": sorted({lookup(token) for token in texts}),
        "special_texts": texts,
        # modeling_minicpmo_unified.py:4321-4323, then utils.py:1221.
        "forbidden_ids": [lookup(NAMES["tts_pad"]), *bad, lookup(NAMES["chunk_eos"])],
    }
