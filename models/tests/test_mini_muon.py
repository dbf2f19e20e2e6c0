"""The optimiser of the small model's trainings."""

import copy

import pytest
import torch

from mini.hearing import Hearing, HearingDims
from mini.muon import Optimizers, matrices, orthogonal

DIMS = HearingDims(vocab=20, apm_hidden=16, apm_layers=1, llm_hidden=16, llm_layers=1, head_dim=4, llm_ffn=24)


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24), (1, 16, 16)])
def test_singular_values_come_near_one_whatever_the_scale(shape):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for scale in (1e-6, 1e3):
        values = torch.linalg.svdvals(orthogonal(scale * stack))
        assert values.max() < 1.3 and values.median() > 0.6


def test_heads_embeddings_and_norms_stay_with_adamw():
    model = Hearing(DIMS)
    inner = {id(p) for p in matrices(model)}
    names = {name for name, p in model.named_parameters() if id(p) in inner}
    assert "apm.conv1.weight" in names and "llm.model.layers.0.mlp.up_proj.weight" in names
    assert all(name.endswith("weight") and "norm" not in name for name in names)
    assert not any(part in name for name in names for part in ("embed", "lm_head", "phones"))


def test_a_run_that_is_taken_up_goes_on_as_if_it_had_not_stopped():
    target, rows = torch.randn(16, 16), torch.randn(64, 16)

    def steps(model, optimizer, count) -> float:
        for _ in range(count):
            loss = (model(rows) - rows @ target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step(1.0)
        return loss.item()

    first = torch.nn.Linear(16, 16)
    optimizer = Optimizers(first, 1e-2, 1e-1, 0.01)
    begun = steps(first, optimizer, 20)
    second = torch.nn.Linear(16, 16)
    second.load_state_dict(first.state_dict())
    resumed = Optimizers(second, 1e-2, 1e-1, 0.01)
    assert resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ended = steps(first, optimizer, 20)
    assert steps(second, resumed, 20) == ended < begun
    assert not resumed.load_state_dict({"adamw": {}})
