"""A reference read from its folder: reference.json, and its graph run without a cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge.artifact import FileRecord, check_file
from edge.backends.onnx import open_session
from edge.errors import UserError
from edge.machine.processors import usable_cores
from export.checkpoint import Array, Checkpoint
from export.graph.config import DecoderConfig

SCHEMA_VERSION = 1
REFERENCE_NAME = "reference.json"
GRAPH_NAME = "model.onnx"  # optimum's own name
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Reference:
    """The content of `reference.json`.

    `last_hidden`: hidden_states.L was taken `before` or `after` the final norm.
    `source` and `revision` are the hub's id and commit, or the folder's name and "".
    """

    model_id: str
    source: str
    revision: str
    architecture: str
    layers: int
    checkpoint_sha256: str
    last_hidden: str
    files: Mapping[str, FileRecord]
    versions: Mapping[str, str]
    notice: str = ""
    schema_version: int = SCHEMA_VERSION


class Outputs(NamedTuple):
    """The values of a reference graph at the last N positions of one sequence of S tokens, without a cache.

    logits [N, V]; attention [L, H, N, S]; hidden [L+1, N, D], the last one on the side that reference.json
    says.
    """

    logits: Array
    attention: Array
    hidden: Array


def open_reference(folder: Path) -> Reference:
    """Reads reference.json and checks its files; raises UserError when one is missing, cut or altered."""
    location = folder / REFERENCE_NAME
    if not location.is_file():
        raise UserError(
            f"{folder} has no {REFERENCE_NAME}: make one with 'edge-export reference SOURCE --out {folder}'"
        )
    try:
        raw = json.loads(location.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {raw['schema_version']}, this Edgetrace reads {SCHEMA_VERSION}"
            )
        files = {name: FileRecord.from_json(record) for name, record in raw.pop("files").items()}
        opened = Reference(files=files, **raw)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{location} cannot be read ({error}): make the reference again") from error
    for name, record in opened.files.items():
        if Path(name).name != name:
            raise UserError(
                f"{location} names the file {name!r}, which is not a plain name: make the reference again"
            )
        try:
            check_file(folder / name, record, verify=True)
        except UserError as error:
            raise UserError(
                str(error).replace("build the artifact again", "make the reference again")
            ) from error
    return opened


class ReferenceGraph:
    """A session of a reference's model.onnx; `run` gives the last `keep` positions of a sequence."""

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self._session: Any = open_session(folder / GRAPH_NAME, threads or usable_cores())
        self.outputs = [output.name for output in self._session.get_outputs()]
        self.layers = sum(name.startswith("attentions.") for name in self.outputs)

    def run(self, ids: Sequence[int], keep: int) -> Outputs:
        """Runs the whole sequence with an empty cache."""
        names = [
            "logits",
            *(f"attentions.{layer}" for layer in range(self.layers)),
            *(f"hidden_states.{index}" for index in range(self.layers + 1)),
        ]
        values = self._session.run(names, self.feed(ids))
        attention, hidden = values[1 : 1 + self.layers], values[1 + self.layers :]
        return Outputs(
            values[0][0, -keep:],
            np.stack([value[0, :, -keep:] for value in attention]),
            np.stack([value[0, -keep:] for value in hidden]),
        )

    def feed(self, ids: Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs for the ids, with an empty cache."""
        inputs: dict[str, np.ndarray[Any, Any]] = {
            "input_ids": np.asarray([ids], np.int64),
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        }
        declared = self._session.get_inputs()
        for value in declared:
            if value.name.startswith("past_key_values."):
                inputs[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        wanted = {value.name for value in declared}
        return {name: array for name, array in inputs.items() if name in wanted}


def final_norm(checkpoint: Checkpoint, config: DecoderConfig) -> Callable[[Array], Array]:
    """The model's final RMS norm on vectors [..., D]."""
    weight = checkpoint.tensor("model.norm.weight", (config.hidden,)) + np.float32(config.norm_offset)

    def norm(x: Array) -> Array:
        square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
        normed: Array = (x / np.sqrt(square + config.norm_eps) * weight).astype(np.float32)
        return normed

    return norm
