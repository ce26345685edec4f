"""Exports a checkpoint through optimum with raw attentions and hidden states.

The tensors are a yardstick that shares no code with our own graphs. model.onnx takes input_ids [B, S],
attention_mask [B, T], position_ids [B, S] (not gemma3) and past_key_values.*. It gives logits [B, S, V],
present.*, hidden_states.0..L [B, S, D] and attentions.0..L-1 [B, H, S, T]. Whether hidden_states.L was taken
before or after the final norm depends on architecture and library; reference.json has it as measured.

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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import edge
from edge.artifact import record_file
from edge.errors import UserError, ignore
from edge.files import sync_folder
from edge.paths import utf8_name
from export.checkpoint import Checkpoint
from export.download import Agree, refuse
from export.extra import import_extra
from export.graph.architectures import CONVERSIONS, read_config
from export.graph.config import DecoderConfig
from export.reference_graph import AFTER, BEFORE, REFERENCE_NAME, Reference, ReferenceGraph, final_norm
from export.source import open_checkpoint, resolve

VERSIONS_OF = ("optimum", "optimum-onnx", "torch", "transformers", "onnx", "onnxruntime", "numpy")
PROBE = 5  # positions of the pass that tells on which side of the final norm the last hidden state was taken


def reference(
    source: str,
    out: Path,
    *,
    revision: str | None = None,
    on_file: Callable[[str, int], None] = ignore,
    agree: Agree = refuse,
) -> Reference:
    """Exports a known model or a checkpoint folder through optimum to `out`, whole or not at all.

    `agree` decides on a large download. Raises UserError when `out` is there, optimum is not installed, or
    the checkpoint is refused.
    """
    if out.exists():
        raise UserError(f"{out} is there already: remove it or give another --out")
    exporters = import_extra("optimum.exporters.onnx", "edge-export reference")
    origin = resolve(source, revision=revision, on_file=on_file, agree=agree)
    working = out.with_name(f".{out.name}.building")
    with open_checkpoint(origin) as checkpoint:
        config = read_config(checkpoint.config, 1)
        try:
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir(parents=True)
            with quiet(), utf8_name(checkpoint.whole_folder()) as read, utf8_name(working) as written:
                run_optimum(exporters, read, written, config.model_type)
            last_hidden = measure_last_hidden(working, checkpoint, config)
            record = Reference(
                model_id=origin.model_id,
                source=origin.name,
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
            text = json.dumps(asdict(record), indent=2, sort_keys=True) + "\n"
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
    return record


def run_optimum(exporters: Any, folder: str, out: str, model_type: str) -> None:
    """Runs optimum's `main_export` with attentions and hidden states among the outputs."""
    settings = importlib.import_module("transformers").AutoConfig.from_pretrained(folder)
    onnx_config = tapped(model_type)(
        settings, task="text-generation", use_past=True, use_past_in_inputs=True
    )
    exporters.main_export(
        folder,
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
        axes: dict[str, dict[int, str]] = dict(base.outputs.fget(self))
        layers = self._config.num_hidden_layers
        total = "past_sequence_length + sequence_length"
        for index in range(layers + 1):
            axes[f"hidden_states.{index}"] = {0: "batch_size", 1: "sequence_length"}
        for layer in range(layers):
            axes[f"attentions.{layer}"] = {0: "batch_size", 2: "sequence_length", 3: total}
        return axes

    return type(f"Tapped{name}", (base,), {"outputs": property(outputs)})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the tracer's warnings about Python booleans; errors still come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def measure_last_hidden(folder: Path, checkpoint: Checkpoint, config: DecoderConfig) -> str:
    """The side of the final norm on which hidden_states.L lies, BEFORE or AFTER.

    It is the side from which the head gives the graph's own logits.

    Raises UserError when neither does: the graph does not compute what the checkpoint says.
    """
    graph = ReferenceGraph(folder)
    ids = [i % config.vocabulary for i in range(1, PROBE + 1)]
    logits, _, hidden = graph.run(ids, PROBE)
    head = "model.embed_tokens.weight" if config.tied else "lm_head.weight"
    # Enough of the vocabulary to tell.
    rows = next(checkpoint.row_blocks(head, (config.vocabulary, config.hidden)))
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
            "report this"
        )
    return nearest
