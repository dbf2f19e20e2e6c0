"""The torch modules: equal to the golden data of the official code, and the exact facts they rely on.

- every module reproduces `module_*.npz` (PCC >= 0.9999, relative error, equal codes); a golden file that
is missing fails its own row
- the position buckets differ from floor(grid * i / n) where the reference's float32 does
- the Euler widths add up to 1
- one chunk over a cache equals the same frames in any order of the cache's slots
"""

import shutil

import torch

from duologue_export.modules import cases
from duologue_export.modules.golden import check
from duologue_export.modules.torch_flow_cfm import Cfm, times
from duologue_export.modules.vision import bucket_table, grid_positions


def test_every_module_reproduces_the_golden_data(checkpoint, golden):
    rows = check(checkpoint, golden / "modules")
    names = ["llm", "apm", "vision", "tts_condition", "tts", "flow", "hift", "token2wav", "tts_codes"]
    assert [row.name for row in rows] == names
    assert {row.name: row.failures for row in rows if not row.ok} == {}
    compared = {row.name: set(row.outputs) for row in rows}
    assert {"embeds of a voice prompt", "projector and pool"} <= compared["apm"]
    assert {"mu", "z", "velocity of the first step"} <= compared["flow"]


def test_a_missing_golden_file_fails_its_rows_only(checkpoint, golden, tmp_path):
    shutil.copytree(golden / "modules", tmp_path / "modules")
    (tmp_path / "modules" / "module_hift.npz").unlink()
    shutil.copy(golden / "cfm_noise.npy", tmp_path)
    failed = {row.name: row.error for row in check(checkpoint, tmp_path / "modules") if not row.ok}
    assert list(failed) == ["hift"]
    assert "module_hift.npz: missing" in failed["hift"]


def test_bucket_table_has_the_float32_exceptions_of_the_reference():
    table = bucket_table(70)
    assert all(row[count:] == [-1] * (70 - count) for count, row in enumerate(table, start=1))
    exceptions = [n for n in range(1, 71) if table[n - 1][:n] != [70 * i // n for i in range(n)]]
    assert set(exceptions) == {25, 49, 50, 55, 58}


def test_grid_positions_encode_the_column_first():
    table = grid_positions(64, 5).unflatten(0, (5, 5))
    assert torch.equal(table[0, 3, :32], table[4, 3, :32])
    assert torch.equal(table[2, 0, 32:], table[2, 4, 32:])
    assert not torch.equal(table[0, 3, :32], table[0, 4, :32])


def test_euler_steps_cover_the_unit_interval():
    for steps in (1, 5, 10):
        starts, widths = times(steps)
        assert abs(float(widths.sum()) - 1) < 1e-6
        assert torch.allclose(starts, widths.cumsum(0) - widths, atol=1e-6)


def test_the_order_of_cache_slots_does_not_matter(checkpoint):
    module, d = Cfm(checkpoint), checkpoint.flow
    *_, case = cases.flow_cfm(checkpoint)
    feeds = {name: torch.from_numpy(value) for name, value in case.feeds.items()}
    slots = feeds["att_key.0"].shape[3]
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(1))
    layers = range(d.dit_layers)
    caches = [[feeds[f"{name}.{i}"] for i in layers] for name in ("cnn", "att_key", "att_value")]
    shuffled = [caches[0], *([value[:, :, :, order] for value in group] for group in caches[1:])]
    mask = feeds["mask"].clone()
    mask[:, :slots] = mask[:, order]
    with torch.inference_mode():
        mel, *_ = module(*(feeds[name] for name in ("z", "mu", "spk", "cond")), mask, *shuffled)
    assert torch.allclose(mel, torch.from_numpy(case.expected["mel"]), atol=1e-5)
