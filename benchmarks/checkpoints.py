"""Checkpoints of real shapes, made once in a benchmark's work folder."""

from __future__ import annotations

from pathlib import Path

from export.synth import synth

LLAMA = "llama-3.2-1b-instruct"


def checkpoint(work: Path, model: str = LLAMA) -> Path:
    """Of a known model's exact shape with random weights, at WORK/MODEL."""
    path = work / model
    if not path.exists():
        synth(model, path)
    return path
