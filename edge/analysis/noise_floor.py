"""The noise floor of a precision: the KL of an artifact against itself when it reads the same tokens in
another way.

Kernels for one position and for several round differently, and 8-bit activations amplify that from layer to
layer. A KL between two artifacts that is not far above says little about their weights. The floors are
measured: `python -m benchmarks.noise_floor`, docs/measurements/noise-floor-2026-11-27.md.
"""

from __future__ import annotations

from typing import NamedTuple

from edge.runs.run_directory import Run

NEAR = 10.0  # a KL below so many floors is told with its floor
REAL = "smollm2-135m-instruct"  # stands for every model without floors of its own
DATE = "2026-11-27"
# Mean KL in nats a token by model and precision: the largest of all ways to read. Depth decides more than
# bits do: the nano models have a thousandth of the real one's.
FLOORS = {
    REAL: {
        "onnx-fp32": 1.5e-08,
        "onnx-int8": 0.0036,
        "onnx-int4": 0.0048,
        "gguf-f32": 9.8e-09,
        "gguf-q8_0": 0.0036,
        "gguf-q4_k_m": 0.0053,
        "gguf-q4_0": 0.0037,
        "gguf-q4_1": 0.003,
    },
    "nano-llama": {
        "onnx-fp32": 2.5e-09,
        "onnx-int8": 2.1e-06,
        "onnx-int4": 1.7e-06,
        "gguf-f32": 1.5e-09,
        "gguf-q8_0": 4.7e-07,
        "gguf-q4_k_m": 5.9e-06,
        "gguf-q4_0": 6.8e-08,
    },
    "nano-qwen2": {
        "onnx-fp32": 2.2e-09,
        "onnx-int8": 1.5e-06,
        "onnx-int4": 1.8e-06,
        "gguf-f32": 1.2e-09,
        "gguf-q8_0": 1.2e-07,
        "gguf-q4_k_m": 6.9e-06,
        "gguf-q4_0": 6e-11,
    },
    "nano-qwen3": {
        "onnx-fp32": 1.3e-09,
        "onnx-int8": 5.1e-06,
        "onnx-int4": 2.8e-06,
        "gguf-f32": 1.5e-09,
        "gguf-q8_0": 6.2e-06,
        "gguf-q4_k_m": 7.3e-06,
        "gguf-q4_0": 6e-07,
    },
    "nano-gemma3": {
        "onnx-fp32": 2e-09,
        "onnx-int8": 2.2e-06,
        "onnx-int4": 7.9e-07,
        "gguf-f32": 1.6e-09,
        "gguf-q8_0": 6.4e-07,
        "gguf-q4_k_m": 7.4e-06,
        "gguf-q4_0": 1.2e-10,
    },
}


class NoiseFloor(NamedTuple):
    """The noise floor that belongs to a comparison.

    `kl` is the mean KL in nats a token of `precision`, measured on the model `model_id` on the day `date`.
    `near` says whether the comparison's own mean KL is below NEAR times of it.
    """

    precision: str
    model_id: str
    date: str
    kl: float
    near: bool

    @property
    def text(self) -> str:
        """A sentence without its full stop where the KL is near, "" for others."""
        if not self.near:
            return ""
        return (
            f"KL is below {NEAR:g} times the noise floor of {self.precision}: the same artifact differs "
            f"from itself by {self.kl:.2g} nats when other kernels read it (measured on {self.model_id}, "
            f"{self.date})"
        )


def noise_floor(full: Run, quantised: Run, kl: float) -> NoiseFloor | None:
    """The larger floor of both runs' precisions, for their mean KL `kl` in nats; None unless both are
    measured."""
    floors = []
    for artifact in (full.manifest.artifact, quantised.manifest.artifact):
        model_id = artifact.model_id if artifact.model_id in FLOORS else REAL
        floor = FLOORS[model_id].get(artifact.precision)
        if floor is None:
            return None
        floors.append(NoiseFloor(artifact.precision, model_id, DATE, floor, kl < NEAR * floor))
    return max(floors, key=lambda floor: floor.kl)
