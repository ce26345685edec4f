"""The values that each model gives for a probe: transformers, an artifact, and optimum's graph.

One model is in memory at a time, but transformers holds it whole in float32, and so does the runtime for
onnx-fp32.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from edge.artifact import Artifact, ModelSpec
from edge.backends.base import CHUNK
from edge.backends.onnx import OnnxBackend
from edge.errors import UserError
from edge.machine.processors import usable_cores
from edge.precision import GRAPH_NAME
from edge.questions.prompt import Prompter
from edge.signals.definitions import Scratch, attention_signals
from export.checkpoint import Array, Checkpoint
from export.extra import import_extra
from export.graph.config import DecoderConfig
from export.reference_graph import AFTER, Reference, ReferenceGraph, final_norm
from export.stored import Stored, put
from export.verdict import Probe

# The probes: sequences read as a prompt up to `prefill`, then token by token.
STEPS = 8
SEED = 20
SHORT, LONG = 7, 300 - STEPS  # LONG takes three chunks of prefill
assert LONG > 2 * CHUNK
WINDOW_MARGIN = 20
TEXT = (
    "The ferry left the harbour at six, an hour after sunrise. On deck a girl asked her uncle why the "
    "water was green here and blue further out. He said that the bay is shallow and full of tiny plants, "
    "and that the open sea has few of them; then he pointed at the lighthouse. What do you think, is he "
    "right?"
)
TEXT_TOKENS = 64  # of which the second half is read token by token


class Values(NamedTuple):
    """The values of one model at the N compared positions of one probe.

    logits [N, V]; entropy [N, L, H] in nats and hidden [N, L+1, D] (the last before the final norm), None
    without taps.
    """

    logits: Array
    entropy: Array | None
    hidden: Array | None


def probes(artifact: Artifact, spec: ModelSpec) -> tuple[Probe, ...]:
    """The probes of a model, the same for all its artifacts: seeded random ids, and a real text.

    Random ids reach the whole vocabulary and keep every position apart; each probe is cut to the context.
    """
    rng = np.random.default_rng(SEED)
    lengths = {"one token": 1, "short": SHORT, "long": LONG}
    for window in sorted({window for window in spec.windows if window}):
        lengths[f"window {window}, prompt beyond it"] = window + WINDOW_MARGIN
        lengths[f"window {window}, crossed in decode"] = max(1, window - STEPS // 2)
    drawn = []
    for name, length in lengths.items():
        prefill = min(length, spec.context - STEPS)
        if prefill >= 1:
            drawn.append(
                Probe(name, tuple(rng.integers(0, spec.vocabulary, prefill + STEPS).tolist()), prefill)
            )
    ids = Prompter(artifact, "raw").prompt(TEXT).ids[: min(TEXT_TOKENS, spec.context)]
    return (*drawn, Probe("text", ids, max(1, len(ids) // 2)))


def eager_values(
    folder: Path, probes: Sequence[Probe], stored: Stored | None = None, threads: int | None = None
) -> list[Values]:
    """The values of transformers in float32 with eager attention.

    With `stored`, it computes with that artifact's matrices instead of its own.
    """
    torch = import_extra("torch", "edge-export verify")
    transformers = import_extra("transformers", "edge-export verify")
    verbosity, cores = transformers.utils.logging.get_verbosity(), torch.get_num_threads()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads or usable_cores())
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        model.eval()
        with torch.no_grad():
            if stored is not None:
                put(torch, dict(model.named_parameters()), stored)
            values = [eager_pass(torch, model, probe) for probe in probes]
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
        transformers.utils.logging.enable_progress_bar()
        torch.set_num_threads(cores)
    del model
    # modules refer to each other in circles: without this the next model would stand beside this one
    gc.collect()
    return values


def eager_pass(torch: Any, model: Any, probe: Probe) -> Values:
    """Runs the whole probe at once.

    Hooks keep the compared rows alone, and the last residual stream BEFORE the final norm.
    """
    keep, scratch = probe.compared, Scratch()
    hidden: list[Array] = []
    patterns: list[Array] = []

    def enters(module: Any, inputs: Any) -> None:
        hidden.append(inputs[0][0, -keep:].numpy().copy())

    def attended(module: Any, inputs: Any, outputs: Any) -> None:
        patterns.append(outputs[1][0, :, -keep:].numpy().copy())

    handles = [
        module.register_forward_pre_hook(enters) for module in (*model.model.layers, model.model.norm)
    ]
    handles += [layer.self_attn.register_forward_hook(attended) for layer in model.model.layers]
    try:
        logits = (
            model(torch.tensor([probe.ids]), logits_to_keep=keep, use_cache=False).logits[0].numpy().copy()
        )
    finally:
        for handle in handles:
            handle.remove()
    return Values(logits, entropies(np.stack(patterns), probe, scratch), np.stack(hidden, axis=1))


def entropies(patterns: Array, probe: Probe, scratch: Scratch) -> Array:
    """[L, H, N, S] -> [N, L, H]: entropy of each compared query's row over the keys it can see."""
    rows = []
    for index in range(probe.compared):
        keys = probe.prefill + index
        row = np.ascontiguousarray(patterns[:, :, index, :keys])
        rows.append(attention_signals(row, scratch).attention_entropy)
    return np.stack(rows)


def artifact_values(artifact: Artifact, probes: Sequence[Probe], threads: int | None) -> list[Values]:
    """The values of an artifact, run as `edge run` does: prefill in chunks, then step by step."""
    longest = max(len(probe.ids) for probe in probes)
    backend = OnnxBackend(artifact, capacity=longest, threads=threads)
    values, scratch = [], Scratch()
    try:
        for probe in probes:
            backend.rewind(0)
            logits, entropy, hidden = [], [], []
            for index in range(probe.compared):
                end = probe.prefill + index
                taps = backend.step(probe.ids[end - 1]) if index else backend.prefill(probe.ids[:end])
                logits.append(taps.logits.copy())
                if taps.attention is not None and taps.hidden is not None:
                    entropy.append(attention_signals(taps.attention, scratch).attention_entropy)
                    hidden.append(taps.hidden.copy())
            tapped = bool(hidden)
            values.append(
                Values(
                    np.stack(logits),
                    np.stack(entropy) if tapped else None,
                    np.stack(hidden) if tapped else None,
                )
            )
    finally:
        backend.close()
    return values


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the disk knows none."""
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise UserError(
                f"cannot copy {source} beside itself ({error.strerror or error}): free space there"
            ) from error


@contextlib.contextmanager
def float_activations(artifact: Artifact) -> Iterator[Artifact]:
    """A temporary copy of the artifact with kernels that multiply float32 activations (accuracy_level 0).

    Its weights and wiring can then be judged without the noise of rounded activations.
    """
    place = artifact.path.resolve()
    if not os.access(place.parent, os.W_OK):
        raise UserError(f"{place.parent} cannot be written: verify a copy of the artifact")
    graph = onnx.load(str(artifact.path / GRAPH_NAME), load_external_data=False)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    # Beside the artifact, because the runtime follows no link that leaves the graph's folder, and hard links
    # need one disk.
    folder = artifact.path.resolve().parent / f".{artifact.path.resolve().name}.verifying"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        onnx.save(graph, str(folder / GRAPH_NAME))
        for file in artifact.manifest.files:
            if file != GRAPH_NAME:
                link(artifact.path / file, folder / file)
        yield Artifact(folder, artifact.manifest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def reference_values(folder: Path, probes: Sequence[Probe], threads: int | None) -> list[Values]:
    """optimum's graph; the last hidden state is on the side of the final norm that reference.json names."""
    graph, scratch = ReferenceGraph(folder, threads), Scratch()
    values = []
    for probe in probes:
        out = graph.run(probe.ids, probe.compared)
        values.append(
            Values(out.logits, entropies(out.attention, probe, scratch), np.swapaxes(out.hidden, 0, 1))
        )
    return values


def in_its_terms(
    ours: list[Values], reference: Reference, checkpoint: Checkpoint, config: DecoderConfig
) -> list[Values]:
    """Our values with the last hidden state after the final norm, if that is where the reference took it."""
    if reference.last_hidden != AFTER:
        return ours
    norm = final_norm(checkpoint, config)
    moved = []
    for values in ours:
        hidden = values.hidden
        if hidden is not None:
            hidden = np.concatenate([hidden[:, :-1], norm(hidden[:, -1:])], axis=1)
        moved.append(values._replace(hidden=hidden))
    return moved
