"""optimum's export of a checkpoint with raw attentions and hidden states: tensors for those who want them,
and a yardstick that shares no line with our own graphs.

model.onnx takes input_ids [B, S], attention_mask [B, T], position_ids [B, S] (not gemma3) and
past_key_values.*, and gives logits [B, S, V], present.*, hidden_states.0..L [B, S, D] and attentions.0..L-1
[B, H, S, T]. Whether hidden_states.L was taken before or after the final norm depends on architecture and
library; reference.json says which, as measured.

The whole model is traced by torch in float32: a model of 1.2 billion parameters takes 12 GB of memory.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import edge
from edge.artifact import FileRecord, check_file, record_file
from edge.backends.onnx import open_session
from edge.errors import UserError, ignore
from edge.files import sync_folder
from edge.machine.device import usable_cores
from export.checkpoint import Array, Checkpoint
from export.graph.architectures import CONVERSIONS, read_config
from export.graph.config import DecoderConfig
from export.source import resolve

SCHEMA_VERSION = 1
REFERENCE_NAME = "reference.json"
GRAPH_NAME = "model.onnx"
BEFORE, AFTER = "before", "after"
VERSIONS_OF = ("optimum", "optimum-onnx", "torch", "transformers", "onnx", "onnxruntime", "numpy")
PROBE = 5  # positions of the pass that tells on which side of the final norm the last hidden state was taken


@dataclass(frozen=True)
class Reference:
    """What `reference.json` holds. `last_hidden`: hidden_states.L was taken `before` or `after` the final
    norm.

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
    """What a reference graph says of the last N positions of one sequence of S tokens, without a cache.

    logits [N, V]; attention [L, H, N, S]; hidden [L+1, N, D], the last one on the side that reference.json
    says.
    """

    logits: Array
    attention: Array
    hidden: Array


def import_extra(name: str, purpose: str) -> Any:
    """An optional module, imported only now; raises UserError that names the extra when it is not usable."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{purpose} needs {name} ({detail}): install the extra edgetrace[reference], "
            "in a clone with 'make setup EXTRAS=export,reference'"
        ) from error


def reference(
    source: str, out: Path, *, revision: str | None = None, on_file: Callable[[str, int], None] = ignore
) -> Reference:
    """Exports a known model or a checkpoint folder through optimum to `out`, whole or not at all.

    Raises UserError when `out` is there, optimum is not installed, or the checkpoint is refused.
    """
    if out.exists():
        raise UserError(f"{out} is there already: remove it or give another --out")
    exporters = import_extra("optimum.exporters.onnx", "edge-export reference")
    origin = resolve(source, revision=revision, on_file=on_file)
    working = out.with_name(f".{out.name}.building")
    with Checkpoint(origin.folder) as checkpoint:
        config = read_config(checkpoint.config, 1)
        try:
            shutil.rmtree(working, ignore_errors=True)
            working.parent.mkdir(parents=True, exist_ok=True)
            with quiet():
                run_optimum(exporters, origin.folder, working, config.model_type)
            last_hidden = measure_last_hidden(working, checkpoint, config)
            made = Reference(
                model_id=origin.model_id,
                source=origin.hub or origin.folder.name,
                revision=origin.revision,
                architecture=config.model_type,
                layers=config.layers,
                checkpoint_sha256=checkpoint.sha256(),
                last_hidden=last_hidden,
                files={path.name: record_file(path) for path in sorted(working.iterdir())},
                versions={name: importlib.metadata.version(name) for name in VERSIONS_OF}
                | {"edgetrace": edge.__version__},
                notice=origin.notice,
            )
            text = json.dumps(asdict(made), indent=2, sort_keys=True) + "\n"
            (working / REFERENCE_NAME).write_text(text, encoding="utf-8")
            for path in working.iterdir():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
            working.rename(out)
            sync_folder(out.parent)
        except BaseException as error:
            shutil.rmtree(working, ignore_errors=True)
            if isinstance(error, OSError):
                raise UserError(
                    f"cannot write {out} ({error.strerror or error}): free space or give another --out"
                ) from error
            raise
    return made


def run_optimum(exporters: Any, folder: Path, out: Path, model_type: str) -> None:
    """optimum's `main_export` with attentions and hidden states among the outputs."""
    settings = importlib.import_module("transformers").AutoConfig.from_pretrained(folder)
    onnx_config = tapped(model_type)(
        settings, task="text-generation", use_past=True, use_past_in_inputs=True
    )
    exporters.main_export(
        str(folder),
        out,
        task="text-generation-with-past",
        library_name="transformers",
        dtype="fp32",
        do_validation=False,
        custom_onnx_configs={"model": onnx_config},
        fn_get_submodels=lambda model: {"model": model},
        model_kwargs={"output_attentions": True, "output_hidden_states": True},
    )


def tapped(model_type: str) -> Any:
    """optimum's configuration class of the architecture, with our outputs added to its own."""
    name = CONVERSIONS[model_type].onnx_config
    base = getattr(importlib.import_module("optimum.exporters.onnx.model_configs"), name)

    def outputs(self: Any) -> dict[str, dict[int, str]]:
        named: dict[str, dict[int, str]] = dict(base.outputs.fget(self))
        layers = self._config.num_hidden_layers
        total = "past_sequence_length + sequence_length"
        for index in range(layers + 1):
            named[f"hidden_states.{index}"] = {0: "batch_size", 1: "sequence_length"}
        for layer in range(layers):
            named[f"attentions.{layer}"] = {0: "batch_size", 2: "sequence_length", 3: total}
        return named

    return type(f"Tapped{name}", (base,), {"outputs": property(outputs)})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The tracer's remarks on every Python boolean say nothing to a user; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def open_reference(folder: Path) -> Reference:
    """Reads reference.json and checks its files; raises UserError when something is missing, cut or
    altered."""
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
        files = {name: FileRecord(**record) for name, record in raw.pop("files").items()}
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
        """One pass over the whole sequence with an empty cache."""
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

    def feed(
        self, ids: Sequence[int], past: Mapping[str, Array] | None = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        """Inputs for the ids, after the cache `past` (by input name; None: empty)."""
        before = 0 if past is None else next(iter(past.values())).shape[2]
        made: dict[str, np.ndarray[Any, Any]] = {
            "input_ids": np.asarray([ids], np.int64),
            "attention_mask": np.ones((1, before + len(ids)), np.int64),
            "position_ids": np.arange(before, before + len(ids), dtype=np.int64)[None],
        }
        for value in self._session.get_inputs():
            if value.name.startswith("past_key_values."):
                shape = (1, value.shape[1], 0, value.shape[3])
                made[value.name] = np.zeros(shape, np.float32) if past is None else past[value.name]
        wanted = {value.name for value in self._session.get_inputs()}
        return {name: array for name, array in made.items() if name in wanted}


def final_norm(checkpoint: Checkpoint, config: DecoderConfig) -> Callable[[Array], Array]:
    """The model's final RMS norm on vectors [..., D]."""
    weight = checkpoint.tensor("model.norm.weight", (config.hidden,)) + np.float32(config.norm_offset)

    def norm(x: Array) -> Array:
        square = np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True)
        normed: Array = (x / np.sqrt(square + config.norm_eps) * weight).astype(np.float32)
        return normed

    return norm


def measure_last_hidden(folder: Path, checkpoint: Checkpoint, config: DecoderConfig) -> str:
    """On which side of the final norm hidden_states.L lies: the side from which the head gives the graph's
    own logits.

    Raises UserError when neither does: the graph does not compute what the checkpoint says.
    """
    graph = ReferenceGraph(folder)
    ids = [i % config.vocabulary for i in range(1, PROBE + 1)]
    logits, _, hidden = graph.run(ids, PROBE)
    head = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    rows = next(
        checkpoint.row_blocks(head, (config.vocabulary, config.hidden))
    )  # enough of the vocabulary to tell
    wanted = logits[:, : len(rows)]
    sides = {BEFORE: final_norm(checkpoint, config)(hidden[-1]), AFTER: hidden[-1]}
    errors = {
        side: float(np.linalg.norm(x @ rows.T - wanted) / np.linalg.norm(wanted))
        for side, x in sides.items()
    }
    nearest = min(errors, key=lambda side: errors[side])
    if not errors[nearest] < 1e-2:  # the right side agrees to 1e-6, the wrong one by more than half
        raise UserError(
            f"the exported graph's logits do not follow from its hidden states (they differ by {errors}): "
            f"report this"
        )
    return nearest
