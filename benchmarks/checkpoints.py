"""Checkpoints of real shapes, written once into a benchmark's work folder."""

from __future__ import annotations

from pathlib import Path

from export.synth import synth

LLAMA = "llama-3.2-1b-instruct"


def checkpoint(work: Path, model: str = LLAMA) -> Path:
    """Folder WORK/MODEL with random weights of a known model's exact shape; written if it is missing."""
    path = work / model
    if not path.exists():
        synth(model, path)
    return path
