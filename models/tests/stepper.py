"""Runs a step graph as the server does: past and present of every layer are the same memory."""

from pathlib import Path

import numpy as np
import onnxruntime

from duologue_export.dims import DecoderDims


class Stepper:
    """`slots` sequences in caches [slots, kv_heads, capacity, head_dim]; `lengths` holds what each cache contains."""

    def __init__(self, path: Path, dims: DecoderDims, capacity: int = 64, slots: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.capacity = capacity
        self.outputs = {value.name for value in self.session.get_outputs()}
        io = next(value.type for value in self.session.get_inputs() if value.name == "inputs_embeds")
        self.io = np.float16 if "float16" in io else np.float32
        shape = (slots, dims.kv_heads, capacity, dims.head_dim)
        self.caches = {
            f"{kind}.{layer}": onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, self.io))
            for layer in range(dims.layers)
            for kind in ("key", "value")
        }
        self.lengths = np.zeros(slots, np.int32)

    def step(self, embeds: np.ndarray) -> dict[str, np.ndarray]:
        """embeds [slots, S, hidden] -> logits [slots, vocab] and, for the LLM, hidden [slots, S, hidden]."""
        binding = self.session.io_binding()
        count = embeds.shape[1]
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(embeds.astype(self.io)))
        binding.bind_cpu_input("seqlens_k", self.lengths + np.int32(count - 1))
        binding.bind_cpu_input("total_sequence_length", np.array(self.capacity, np.int32))
        for name, value in self.caches.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        wanted = sorted(self.outputs & {"logits", "hidden"})
        for name in wanted:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        self.lengths += np.int32(count)
        return dict(zip(wanted, binding.copy_outputs_to_cpu()[-len(wanted) :], strict=True))

    def cache(self, kind: str, layer: int, slot: int = 0) -> np.ndarray:
        """[kv_heads, length, head_dim] of one layer."""
        return self.caches[f"{kind}.{layer}"].numpy()[slot, :, : self.lengths[slot]]
