"""`duologue-export tiny`: writes a small random checkpoint that has the true structure of a MiniCPM-o 4.5 release.

File names, key names, tensor layouts, the tokenizer's special tokens and the names inside the two ONNX front ends are
those of the release, so the official reference code and this exporter load it without a special case. Every size is
free (`dims.py`).

How the random weights are made to behave (the full reasons stand beside the numbers in the modules named):

- every weight is normal with deviation gain / sqrt(fan_in), which keeps activations near 1 at any width
  (`llm_weights.py`, `speech_weights.py`). At the true widths this is the 0.015 to 0.03 of a freshly initialised
  transformer, so the vision tower does not become chaotic;
- query and key norms of the LLM are about 1.6, so attention is selective and decisions depend on the audio and the
  history;
- rows of `lm_head` for listen, speak, chunk end, turn end and friends are calibrated on a synthetic duplex session
  (`calibrate.py`), so that a greedy session listens, speaks, ends chunks and ends turns;
- the end-of-speech row of the TTS head is longer than the others, so units sometimes end early;
- the vocoder's gains are chosen for speech with an RMS of some hundredths and a pitch that is voiced most of the time.
"""

from duologue_export.tiny.command import add_arguments, run

__all__ = ["add_arguments", "run"]
