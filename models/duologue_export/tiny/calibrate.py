"""Fits the rows of lm_head that steer a duplex session, so that a greedy session shows every kind of decision.

With unfitted random rows one token would win for ever. So short sessions are rehearsed (`rehearsal.py`), first with
random decisions, then with those of the head fitted so far, and the hidden states met in three situations are
collected: after audio (listen or speak?), inside text (more text, or an end?), after turn_eos. Each event row is made
of two parts: the smallest vector that gives the wanted mean logit in each situation, and a random combination of the
states' fluctuations within a session, scaled to the wanted deviation. Means set how often an event wins and are
corrected after each round; deviations make the winner depend on audio, text and history. Text logits have deviation 2,
so the best of a thousand lies near 6.5: that is the mark to compare means with."""

import math
from dataclasses import dataclass

import torch
from tqdm import tqdm

from duologue_export.tiny.dims import Dims
from duologue_export.tiny.llm_weights import all_specs
from duologue_export.tiny.random_tensors import TensorSpec, generator_for
from duologue_export.tiny.rehearsal import AUDIO, TEXT, Rehearsal
from duologue_export.tiny.vocabulary import Vocabulary


@dataclass(frozen=True)
class Row:
    """Mean logit to start from (after audio, inside text, after turn_eos), the situation that it decides, the wanted
    share of decisions there (None: as it comes), and the deviation there."""

    means: tuple[float, float, float]
    decides: int
    share: float | None
    std: float = 3.0


# tts_pad is always forbidden by the decoder: it must sometimes be the raw winner to show that.
EVENTS = {
    "<|listen|>": Row((12.0, -4.0, 5.0), AUDIO, 0.55),
    "<|speak|>": Row((12.0, -6.0, 0.0), AUDIO, None),
    "<|chunk_eos|>": Row((3.0, 2.0, 11.0), TEXT, 0.09),
    "<|turn_eos|>": Row((2.0, 2.4, 2.0), TEXT, 0.03),
    "<|chunk_tts_eos|>": Row((0.0, -1.0, 2.0), TEXT, 0.01),
    "<|tts_pad|>": Row((2.0, 1.0, 2.0), TEXT, None),
}
TEXT_MEANS = (-2.0, 0.0, 0.0)
# Every other special token: never.
OTHER_MEANS = (-14.0, -14.0, -14.0)

ROUNDS = 4
SESSIONS_PER_ROUND = 3
# Correction of a mean in logits per factor e of its share, and its limit per round.
STEP, STEP_LIMIT = 1.0, 2.0


def fitted_lm_head(
    dims: Dims, vocabulary: Vocabulary, rows: int, text_rows: int, seed: int, dtype: torch.dtype
) -> torch.Tensor:
    """lm_head [rows, hidden] for the weights of `all_specs` under `seed`, as they will be stored (`dtype`)."""
    is_text = text_mask(vocabulary, rows)
    rehearsal = Rehearsal(dims, vocabulary, all_specs(dims, rows, text_rows, is_text, seed), seed, dtype)
    means = {token: list(row.means) for token, row in EVENTS.items()}
    sessions: list[list[torch.Tensor]] = []
    head = None
    for number in tqdm(range(ROUNDS), desc="calibration", disable=None):
        counts: dict[str, list[int]] = {}
        for i in range(SESSIONS_PER_ROUND):
            states, chosen = rehearsal.play(head, generator_for(seed, f"rehearsal {number} {i}"))
            sessions.append(states)
            for token, (times, chances) in chosen.items():
                total = counts.setdefault(token, [0, 0])
                total[0], total[1] = total[0] + times, total[1] + chances
        if head is not None:
            _correct(means, counts)
        head = _fit(rehearsal.lm_head, sessions, means, vocabulary, is_text, seed)
    return head


def _correct(means: dict[str, list[float]], counts: dict[str, list[int]]) -> None:
    for token, (times, chances) in counts.items():
        row = EVENTS[token]
        # Half a decision is added on both sides, so that a share of 0 or 1 stays finite.
        odds = (times + 0.5) / (chances - times + 0.5)
        step = STEP * (math.log(row.share / (1 - row.share)) - math.log(odds))
        means[token][row.decides] += max(-STEP_LIMIT, min(STEP_LIMIT, step))


def _fit(
    raw: torch.Tensor,
    sessions: list,
    wanted: dict[str, list[float]],
    vocabulary: Vocabulary,
    is_text: torch.Tensor,
    seed: int,
) -> torch.Tensor:
    states = [torch.cat(parts) for parts in zip(*sessions, strict=True)]
    means = torch.stack([s.mean(0) for s in states])  # [3, hidden]
    # Rows of `dual` belong to the means: dual @ means.T is the identity.
    dual = torch.linalg.pinv(means).T
    # Directions in which whole sessions differ from each other. Event rows must not see them, else one voice only ever
    # listens.
    averages = torch.stack([s.mean(0) for session in sessions for s in session[:2] if len(s)])
    steady = torch.linalg.qr(torch.cat([means, averages]).T).Q
    head = raw - (raw @ means.T) @ dual
    head += torch.where(is_text[:, None], torch.tensor(TEXT_MEANS), torch.tensor(OTHER_MEANS)) @ dual
    for token, row in EVENTS.items():
        centred = states[row.decides] - means[row.decides]
        vector = torch.randn(len(centred), generator=generator_for(seed, token)) @ centred
        vector -= steady @ (steady.T @ vector)
        vector *= row.std / (centred @ vector).std()
        head[vocabulary.ids[token]] = vector + torch.tensor(wanted[token]) @ dual
    return head


def text_mask(vocabulary: Vocabulary, rows: int) -> torch.Tensor:
    """bool [rows]: True for plain text tokens."""
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[vocabulary.text_ids] = True
    return mask


def with_fitted_head(spec: TensorSpec, head: torch.Tensor) -> TensorSpec:
    """The spec of lm_head whose blocks are the rows of `head`."""
    return TensorSpec(spec.name, spec.shape, spec.std, edit=lambda first, block: head[first : first + len(block)])
