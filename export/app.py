"""The program `edge-export`: its commands in the order of its help."""

from __future__ import annotations

from edge.cli.program import Command, Debug, Version, app_of


def top(version: Version = False, debug: Debug = False) -> None:
    """Build what `edge` runs: graphs with taps on attention and hidden states."""


COMMANDS = (
    Command(
        "build",
        "export.cli",
        "Build artifacts of one model in one or more precisions.",
        "edge-export build nano-llama --to onnx-fp32 --to onnx-int4 --out models/nano-llama",
    ),
    Command(
        "mix",
        "export.cli",
        "Find what int4 should keep in int8: measures the KL that each group of matrices costs, and "
        "builds onnx-int4-mixed.",
        "edge-export mix nano-llama --out models/nano-llama --budget 1.15",
    ),
    Command(
        "synth",
        "export.cli",
        "Write a checkpoint of a model's exact shape with random weights, to measure speed and memory "
        "without the hub.",
        "edge-export synth llama-3.2-1b-instruct --out runs/llama-1b-shape",
    ),
    Command(
        "reference",
        "export.cli",
        "Export through optimum with raw attentions and hidden states, in float32; needs "
        "edgetrace[reference].",
        "edge-export reference nano-llama --out models/nano-llama/reference",
    ),
    Command(
        "verify",
        "export.cli",
        "Compare artifacts with their checkpoint and store the verdict in their manifests; exits with 1"
        " when one fails.",
        "edge-export verify models/nano-llama --reference models/nano-llama/reference",
    ),
)
app = app_of(COMMANDS, top)
