"""Artifacts against their checkpoint: is what was built what the checkpoint says?

Three questions, each with a tolerance: do the stored weights follow from the checkpoint's, does the artifact
compute what transformers eager float32 computes with the weights it stores (and what optimum's graph
computes, where one is given), and, without a tolerance, how far is it from full precision (KL in nats)?

One model is in memory at a time, but transformers holds it whole in float32, and so does the runtime for
onnx-fp32: at gemma-3-1b's shape the peak was 11.8 GB resident, pages of mapped files counted (optimum's
reference of 1.2 billion parameters takes 12 GB as well).
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

import edge
from edge.artifact import MANIFEST_NAME, Artifact, Manifest, ModelSpec
from edge.backends.onnx import CHUNK, GRAPH_NAME, OnnxBackend
from edge.errors import UserError, ignore
from edge.files import write_whole
from edge.machine.device import usable_cores
from edge.questions.prompt import Prompter
from edge.registry import read_registry
from edge.signals.definitions import Scratch, attention_signals
from export.checkpoint import Array, Checkpoint
from export.graph import read_config
from export.graph.config import DecoderConfig
from export.precision import PRECISIONS
from export.reference import AFTER, Reference, ReferenceGraph, final_norm, import_extra, open_reference
from export.source import Source, resolve
from export.stored import Stored, check_weights, put
from export.verdict import (
    FLOAT_ACTIVATIONS,
    FULL,
    OPTIMUM,
    ROUNDED_ACTIVATIONS,
    TRANSFORMERS,
    WEIGHTS,
    Check,
    Distance,
    Probe,
    Tolerances,
    Verification,
    layer_name,
)

VERSIONS_OF = ("onnxruntime", "torch", "transformers", "numpy")
DEQUANTISED = f"{TRANSFORMERS}, dequantised weights"

# The probes: sequences read as a prompt up to `prefill`, then token by token.
STEPS = 8
SEED = 20
SHORT, LONG = 7, 300 - STEPS  # LONG takes three chunks of prefill
assert LONG > 2 * CHUNK
WINDOW_MARGIN = 20
TEXT = (
    "The ferry left the harbour at six, an hour after sunrise. On deck a girl asked her uncle why the water "
    "was green here and "
    "blue further out. He said that the bay is shallow and full of tiny plants, and that the open sea has "
    "few of them; then he "
    "pointed at the lighthouse. What do you think, is he right?"
)
TEXT_TOKENS = 64  # of which the second half is read token by token


class Values(NamedTuple):
    """What one model says at the N compared positions of one probe.

    logits [N, V]; entropy [N, L, H] in nats and hidden [N, L+1, D] (the last before the final norm), None
    without taps.
    """

    logits: Array
    entropy: Array | None
    hidden: Array | None


def verify(
    folder: Path,
    *,
    source: str | None = None,
    reference: Path | None = None,
    threads: int | None = None,
    on_start: Callable[[str], None] = ignore,
    on_file: Callable[[str, int], None] = ignore,
) -> list[Verification]:
    """Verifies each ONNX artifact in `folder` (or the one it is) and stores the verdicts in their manifests.

    `source` is the checkpoint (folder or known model; embedded models are found by themselves), `reference`
    a folder of `edge-export reference`, set beside full precision. Raises UserError, before any model is
    loaded, when one of them is not what the artifacts were built from, or transformers is not installed.
    """
    artifacts = find(folder)
    import_extra("torch", "edge-export verify")
    import_extra("transformers", "edge-export verify")
    origin = checkpoint_of(artifacts[0], source, on_file)
    opened = None if reference is None else open_reference(reference)
    with Checkpoint(origin.folder) as checkpoint:
        same_checkpoint(artifacts, checkpoint.sha256(), origin, opened)
        spec = min((a.manifest.model for a in artifacts), key=lambda model: model.context)
        config = read_config(checkpoint.config, spec.context)
        made = probes(artifacts[0], spec)
        on_start("transformers with the checkpoint's weights")
        full = eager_values(origin.folder, made, threads=threads)
        theirs = None
        if (
            reference is not None
            and opened is not None
            and any(a.manifest.precision == "onnx-fp32" for a in artifacts)
        ):
            on_start("optimum's reference")
            theirs = reference_values(reference, made, threads)
        results = []
        for artifact in artifacts:
            on_start(artifact.label)
            stored = Stored(artifact)
            checks = [check_weights(stored, checkpoint, config, WEIGHTS[artifact.manifest.precision])]
            ours = artifact_values(artifact, made, threads)
            if PRECISIONS[artifact.manifest.precision].quantized:
                yardstick = eager_values(origin.folder, made, stored, threads)
                with float_activations(artifact) as exact:
                    values = artifact_values(exact, made, threads)
                checks += compare(
                    made, values, yardstick, f"{DEQUANTISED}, float activations", FLOAT_ACTIVATIONS
                )
                checks += compare(made, ours, yardstick, DEQUANTISED, ROUNDED_ACTIVATIONS)
            else:
                checks += compare(made, ours, full, TRANSFORMERS, FULL)
                if theirs is not None and opened is not None:
                    checks += compare(
                        made, in_its_terms(ours, opened, checkpoint, config), theirs, OPTIMUM, FULL
                    )
            versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF} | {
                "edgetrace": edge.__version__
            }
            if opened is not None and not PRECISIONS[artifact.manifest.precision].quantized:
                versions[OPTIMUM] = opened.versions.get(OPTIMUM, "")
            result = Verification(
                artifact.path,
                artifact.label,
                artifact.manifest.notice,
                tuple(checks),
                divergence(made, full, ours),
                made,
                versions,
                datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
            store(artifact, result)
            results.append(result)
    return results


def find(folder: Path) -> list[Artifact]:
    """The artifact at `folder`, or those in it by precision; each is checked against its checksums."""
    if (folder / MANIFEST_NAME).is_file():
        paths = [folder]
    else:
        paths = [folder / name for name in WEIGHTS if (folder / name / MANIFEST_NAME).is_file()]
    if not paths:
        raise UserError(
            f"{folder} holds no artifact to verify ({', '.join(WEIGHTS)}): "
            "build one with 'edge-export build SOURCE --to onnx-fp32 --out DIR'"
        )
    artifacts = [Artifact.open(path) for path in paths]
    for artifact in artifacts:
        if artifact.manifest.precision not in WEIGHTS:
            raise UserError(
                f"{artifact.path} is {artifact.manifest.precision}: those verified are {', '.join(WEIGHTS)}"
            )
    return artifacts


def checkpoint_of(artifact: Artifact, source: str | None, on_file: Callable[[str, int], None]) -> Source:
    """The checkpoint given, at the artifact's own commit if it is a hub model, or the embedded one of the
    artifact's model."""
    if source is not None:
        return resolve(source, revision=artifact.manifest.revision or None, on_file=on_file)
    model_id = artifact.manifest.model_id
    entry = read_registry().get(model_id)
    if entry is None or entry.checkpoint is None:
        raise UserError(
            f"{artifact.path} was built from {artifact.manifest.source!r}, which is not embedded: "
            "give that checkpoint with --source (its folder, or a known model's id)"
        )
    return resolve(model_id)


def same_checkpoint(
    artifacts: Sequence[Artifact], digest: str, origin: Source, reference: Reference | None
) -> None:
    """Raises UserError when an artifact or the reference was made from another checkpoint."""
    for artifact in artifacts:
        if artifact.manifest.checkpoint_sha256 != digest:
            raise UserError(
                f"{artifact.path} was built from another checkpoint (sha256 "
                f"{artifact.manifest.checkpoint_sha256[:12]}) than "
                f"{origin.folder} ({digest[:12]}): give the one it was built from with --source, or build "
                f"it again"
            )
    if reference is not None and reference.checkpoint_sha256 != digest:
        raise UserError(
            f"the reference was made from another checkpoint (sha256 {reference.checkpoint_sha256[:12]}) "
            f"than the artifacts "
            f"({digest[:12]}): make it again with 'edge-export reference'"
        )


def store(artifact: Artifact, result: Verification) -> None:
    """Puts the verdict into the manifest, in one step; nothing else in it changes."""
    text = Manifest(**{**vars(artifact.manifest), "verification": result.record()}).to_json()
    write_whole(
        artifact.path / MANIFEST_NAME, lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def probes(artifact: Artifact, spec: ModelSpec) -> tuple[Probe, ...]:
    """The same for every artifact of a model: seeded random ids, and a real text through the tokenizer.

    Random ids reach the whole vocabulary and keep every position apart; each probe is cut to the context.
    """
    rng = np.random.default_rng(SEED)
    lengths = {"one token": 1, "short": SHORT, "long": LONG}
    for window in sorted({window for window in spec.windows if window}):
        lengths[f"window {window}, prompt beyond it"] = window + WINDOW_MARGIN
        lengths[f"window {window}, crossed in decode"] = max(1, window - STEPS // 2)
    made = []
    for name, length in lengths.items():
        prefill = min(length, spec.context - STEPS)
        if prefill >= 1:
            made.append(
                Probe(name, tuple(rng.integers(0, spec.vocabulary, prefill + STEPS).tolist()), prefill)
            )
    ids = Prompter(artifact, "raw").prompt(TEXT).ids[: min(TEXT_TOKENS, spec.context)]
    return (*made, Probe("text", ids, max(1, len(ids) // 2)))


# What each model says of a probe


def eager_values(
    folder: Path, made: Sequence[Probe], stored: Stored | None = None, threads: int | None = None
) -> list[Values]:
    """transformers in float32 with eager attention; with `stored`, the matrices of that artifact in place of
    its own."""
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
            values = [eager_pass(torch, model, probe) for probe in made]
    finally:
        transformers.utils.logging.set_verbosity(verbosity)
        transformers.utils.logging.enable_progress_bar()
        torch.set_num_threads(cores)
    del model
    # modules refer to each other in circles: without this the next model would stand beside this one
    gc.collect()
    return values


def eager_pass(torch: Any, model: Any, probe: Probe) -> Values:
    """One pass over the whole probe. Hooks keep the compared rows alone, and the last residual stream BEFORE
    the final norm."""
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


def artifact_values(artifact: Artifact, made: Sequence[Probe], threads: int | None) -> list[Values]:
    """The artifact through the backend that `edge run` uses: prefill in chunks, then step by step."""
    longest = max(len(probe.ids) for probe in made)
    backend = OnnxBackend(artifact, capacity=longest, threads=threads)
    values, scratch = [], Scratch()
    try:
        for probe in made:
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
    """The same artifact for a while elsewhere, with kernels that multiply float32 activations
    (accuracy_level 0): its weights and wiring can then be judged without the noise of rounded
    activations."""
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


def reference_values(folder: Path, made: Sequence[Probe], threads: int | None) -> list[Values]:
    """optimum's graph; the last hidden state is on the side of the final norm that reference.json names."""
    graph, scratch = ReferenceGraph(folder, threads), Scratch()
    values = []
    for probe in made:
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


# Comparing


def compare(
    made: Sequence[Probe], ours: list[Values], theirs: list[Values], against: str, allowed: Tolerances
) -> list[Check]:
    """Logits, attention entropy by layer and hidden states by layer."""
    places = [probe.at(index) for probe in made for index in range(probe.compared)]
    mine, wanted = stacked(ours, "logits"), stacked(theirs, "logits")
    error = mine - wanted
    by_place = reduce(error, 1, allowed.mean_square) / max(
        1.0, float(reduce(wanted, None, mean_square=True))
    )
    value, place = float(reduce(by_place, None, allowed.mean_square)), places[int(by_place.argmax())]
    found = [Check("logits", against, value, allowed.logits, place, "", absolute=float(np.abs(error).max()))]
    mine, wanted = stacked(ours, "entropy"), stacked(theirs, "entropy")
    if mine.size:
        error = mine - wanted
        keys = np.array([probe.prefill + index for probe in made for index in range(probe.compared)])
        scaled = error / np.maximum(np.log(keys), 1.0)[:, None, None]
        layers = reduce(scaled, (0, 2), allowed.mean_square)
        absolute = float(np.abs(error).max())
        found.append(
            by_layer(
                "attention entropy", against, layers, allowed.attention_entropy, start=1, absolute=absolute
            )
        )
        mine, wanted = stacked(ours, "hidden"), stacked(theirs, "hidden")
        relative = np.linalg.norm(mine - wanted, axis=2) / np.maximum(
            np.linalg.norm(wanted, axis=2), np.finfo(np.float32).tiny
        )
        layers = reduce(relative, 0, allowed.mean_square)
        found.append(by_layer("hidden states", against, layers, allowed.hidden, start=0, absolute=None))
    return found


def stacked(side: list[Values], name: str) -> Array:
    """One kind of values of all probes, [positions, ...]; empty where the artifact has no taps."""
    parts = [getattr(values, name) for values in side]
    return np.empty(0, np.float32) if parts[0] is None else np.concatenate(parts)


def reduce(
    error: npt.NDArray[Any], axis: int | tuple[int, ...] | None, mean_square: bool
) -> npt.NDArray[np.float64]:
    """Root mean square, or the largest absolute value, over the axes (None: all)."""
    wide = np.asarray(error, np.float64)
    return np.asarray(
        np.sqrt(np.mean(np.square(wide), axis=axis)) if mean_square else np.abs(wide).max(axis=axis)
    )


def by_layer(
    number: str,
    against: str,
    error: npt.NDArray[np.float64],
    tolerance: float,
    *,
    start: int,
    absolute: float | None,
) -> Check:
    """A check of one number for each layer, named from `start` (residual stream 0 is the embedding)."""
    worst = int(error.argmax())  # the first NaN, if there is one
    beyond = np.flatnonzero(~(error <= tolerance))
    first = layer_name(int(beyond[0]) + start) if beyond.size else ""
    values = tuple(float(value) for value in error)
    return Check(
        number, against, float(error[worst]), tolerance, layer_name(worst + start), first, absolute, values
    )


def divergence(made: Sequence[Probe], full: list[Values], ours: list[Values]) -> Distance:
    """KL(full || ours) of every compared position."""
    by_probe = [kl(a.logits, b.logits) for a, b in zip(full, ours, strict=True)]
    every = np.concatenate(by_probe)
    text = np.concatenate(
        [values for probe, values in zip(made, by_probe, strict=True) if probe.name == "text"]
    )
    return Distance(float(every.mean()), float(every.max()), float(text.mean()), every.size)


def kl(full: Array, other: Array) -> npt.NDArray[np.float64]:
    """KL(full || other) in nats of logits [N, V] -> [N], 0 or above."""
    log_p, log_q = log_softmax(full), log_softmax(other)
    divergences: npt.NDArray[np.float64] = np.maximum(
        np.einsum("nv,nv->n", np.exp(log_p), log_p - log_q), 0.0
    )
    return divergences


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
