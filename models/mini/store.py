"""Where tensors live, small checkpoints for the repository, and vocabularies that change between runs."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from mini.vocabulary import Vocabulary

# Rows of these belong to tokens.
TABLES = ("llm.model.embed_tokens.weight", "llm.lm_head.weight")


def use(device: str) -> None:
    """Makes `device` ("cpu", "cuda") the place of all tensors made from now on. One thread: the machine has other
    work."""
    torch.set_default_device(device)
    torch.set_num_threads(1)


def tensor(array: np.ndarray) -> torch.Tensor:
    """An array on the device in use."""
    return torch.as_tensor(array, device=torch.get_default_device())


def save_small(path: Path, model: nn.Module, step: int, extra: dict) -> None:
    """Trained weights in bfloat16, without optimiser state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad} | {
        name for name, _ in model.named_buffers()
    }
    weights = {name: value.to("cpu", torch.bfloat16) for name, value in model.state_dict().items() if name in trained}
    part = path.with_suffix(".part")
    torch.save({"weights": weights, "step": step, **extra}, part)
    part.replace(path)


def load_small(path: Path) -> dict:
    """What `save_small` wrote, weights in float32."""
    state = torch.load(path, weights_only=True, map_location=torch.get_default_device())
    state["weights"] = {name: value.float() for name, value in state["weights"].items()}
    return state


def rows_by_word(
    weights: dict, words: list[str], model: nn.Module, vocabulary: Vocabulary, tables: tuple = TABLES
) -> None:
    """Loads `weights`, made with the vocabulary `words`, into `model`, made with `vocabulary`: rows move with their
    tokens, new words keep their fresh rows. Raises `RuntimeError` when other sizes differ."""
    own = model.state_dict()
    if words != vocabulary.words:
        old = Vocabulary(words)
        pairs = [(old.ids[token], index) for token, index in vocabulary.ids.items() if token in old.ids]
        source, target = (torch.tensor(x) for x in zip(*pairs, strict=True))
        moved = {}
        for name in tables:
            moved[name] = own[name].clone()
            moved[name][target] = weights[name][source]
        weights = {**weights, **moved}
    missing = {name for name in own if name not in weights}
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if missing & trained:
        raise RuntimeError(f"the checkpoint lacks {sorted(missing & trained)[:3]}; it belongs to another model")
    model.load_state_dict({**own, **weights})
