"""Verifies artifacts against their checkpoint.

Do the stored weights follow from the checkpoint's, within a tolerance? Does the artifact compute what
transformers eager float32 computes with the stored weights, within a tolerance? The same against optimum's
graph, where one is given. Are its prompts those of transformers? Without a tolerance: how far is it from
full precision (KL in nats)?

At gemma-3-1b's shape the peak was 11.8 GB resident, pages of mapped files counted (optimum's reference of
1.2 billion parameters takes 12 GB as well).
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import edge
from edge.artifact import MANIFEST_NAME, Artifact
from edge.errors import UserError, ignore
from edge.files import write_whole
from edge.precision import PRECISIONS
from edge.registry import read_registry
from export.checkpoint import Checkpoint
from export.checks import compare, divergence
from export.download import Agree, refuse
from export.extra import import_extra
from export.graph.architectures import read_config
from export.graph.config import DecoderConfig
from export.reference_graph import Reference, open_reference
from export.source import Source, open_checkpoint, resolve
from export.stored import Stored, check_weights
from export.values import (
    Values,
    artifact_values,
    eager_values,
    float_activations,
    in_its_terms,
    probes,
    reference_values,
)
from export.verdict import (
    FLOAT_ACTIVATIONS,
    FULL,
    OPTIMUM,
    ROUNDED_ACTIVATIONS,
    TRANSFORMERS,
    Check,
    Probe,
    Verification,
)
from export.verify_tokens import check_tokens

VERSIONS_OF = ("onnxruntime", "torch", "transformers", "numpy")
VERIFIED = tuple(name for name, row in PRECISIONS.items() if row.weight_tolerance is not None)
DEQUANTISED = f"{TRANSFORMERS}, dequantised weights"


class Yardsticks(NamedTuple):
    """The values that all artifacts of one checkpoint are compared with.

    `full` has the values of transformers with the checkpoint's weights; `reference` and `optimum` are
    optimum's export and its values, None where none is given.
    """

    checkpoint: Checkpoint
    config: DecoderConfig
    probes: tuple[Probe, ...]
    full: list[Values]
    reference: Reference | None
    optimum: list[Values] | None
    threads: int | None


def verify(
    folder: Path,
    *,
    source: str | None = None,
    reference: Path | None = None,
    threads: int | None = None,
    on_start: Callable[[str], None] = ignore,
    on_file: Callable[[str, int], None] = ignore,
    agree: Agree = refuse,
) -> list[Verification]:
    """Verifies each ONNX artifact in `folder` (or the one it is) and stores the verdicts in their manifests.

    `source` is the checkpoint (folder or known model; embedded models are found by themselves), `reference`
    a folder of `edge-export reference`, set beside full precision. Raises UserError, before any model is
    loaded, when one of them is not what the artifacts were built from, or transformers is not installed.
    """
    artifacts = find(folder)
    import_extra("torch", "edge-export verify")
    import_extra("transformers", "edge-export verify")
    origin = checkpoint_of(artifacts[0], source, on_file, agree)
    opened = None if reference is None else open_reference(reference)
    with open_checkpoint(origin) as checkpoint:
        same_checkpoint(artifacts, checkpoint.sha256(), origin, opened)
        spec = min((a.manifest.model for a in artifacts), key=lambda model: model.context)
        config, chosen = read_config(checkpoint.config, spec.context), probes(artifacts[0], spec)
        on_start("transformers with the checkpoint's weights")
        full, optimum = eager_values(checkpoint.whole_folder(), chosen, threads=threads), None
        if reference is not None and not all(quantised(artifact) for artifact in artifacts):
            on_start("optimum's reference")
            optimum = reference_values(reference, chosen, threads)
        against = Yardsticks(checkpoint, config, chosen, full, opened, optimum, threads)
        results = []
        for artifact in artifacts:
            on_start(artifact.label)
            results.append(judge(artifact, against))
            store(artifact, results[-1])
    return results


def judge(artifact: Artifact, against: Yardsticks) -> Verification:
    """Verifies one artifact with all its yardsticks."""
    stored, chosen, reference = Stored(artifact), against.probes, against.reference
    values = artifact_values(artifact, chosen, against.threads)
    checks = [check_weights(stored, against.checkpoint, against.config, weight_tolerance(artifact))]
    versions = {name: importlib.metadata.version(name) for name in VERSIONS_OF}
    versions["edgetrace"] = edge.__version__
    if quantised(artifact):
        checks += check_quantised(artifact, stored, values, against)
    else:
        checks += compare(chosen, values, against.full, TRANSFORMERS, FULL)
        if reference is not None and against.optimum is not None:
            ours = in_its_terms(values, reference, against.checkpoint, against.config)
            checks += compare(chosen, ours, against.optimum, OPTIMUM, FULL)
            versions[OPTIMUM] = reference.versions.get(OPTIMUM, "")
    checks += check_tokens(artifact, against.checkpoint.folder)
    return Verification(
        artifact.path,
        artifact.label,
        artifact.manifest.notice,
        tuple(checks),
        divergence(chosen, against.full, values),
        chosen,
        versions,
        datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def check_quantised(
    artifact: Artifact, stored: Stored, values: list[Values], against: Yardsticks
) -> list[Check]:
    """Checks against transformers with the artifact's own weights.

    The artifact runs as it is, and with kernels that do not round activations.
    """
    chosen, threads = against.probes, against.threads
    yardstick = eager_values(against.checkpoint.folder, chosen, stored, threads)
    with float_activations(artifact) as exact:
        unrounded = artifact_values(exact, chosen, threads)
    return [
        *compare(chosen, unrounded, yardstick, f"{DEQUANTISED}, float activations", FLOAT_ACTIVATIONS),
        *compare(chosen, values, yardstick, DEQUANTISED, ROUNDED_ACTIVATIONS),
    ]


def quantised(artifact: Artifact) -> bool:
    return PRECISIONS[artifact.manifest.precision].quantized


def weight_tolerance(artifact: Artifact) -> float:
    tolerance = PRECISIONS[artifact.manifest.precision].weight_tolerance
    assert tolerance is not None, artifact.manifest.precision  # see `find`
    return tolerance


def find(folder: Path) -> list[Artifact]:
    """The artifact at `folder`, or those in it by precision; each is checked against its checksums."""
    if (folder / MANIFEST_NAME).is_file():
        paths = [folder]
    else:
        paths = [folder / name for name in VERIFIED if (folder / name / MANIFEST_NAME).is_file()]
    if not paths:
        raise UserError(
            f"{folder} holds no artifact to verify ({', '.join(VERIFIED)}): build one with 'edge-export "
            "build SOURCE --to onnx-fp32 --out DIR'"
        )
    artifacts = [Artifact.open(path) for path in paths]
    for artifact in artifacts:
        if artifact.manifest.precision not in VERIFIED:
            raise UserError(
                f"{artifact.path} is {artifact.manifest.precision}: those verified are {', '.join(VERIFIED)}"
            )
    return artifacts


def checkpoint_of(
    artifact: Artifact, source: str | None, on_file: Callable[[str, int], None], agree: Agree
) -> Source:
    """The checkpoint given (a hub model at the artifact's commit), or the embedded one of its model."""
    if source is not None:
        return resolve(source, revision=artifact.manifest.revision or None, on_file=on_file, agree=agree)
    model_id = artifact.manifest.model_id
    entry = read_registry().get(model_id)
    if entry is None or entry.checkpoint is None:
        raise UserError(
            f"{artifact.path} was built from {artifact.manifest.source!r}, which is not embedded: give that "
            "checkpoint with --source (its folder, or a known model's id)"
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
                f"{artifact.manifest.checkpoint_sha256[:12]}) than {origin.path} ({digest[:12]}): give "
                "the one it was built from with --source, or build it again"
            )
    if reference is not None and reference.checkpoint_sha256 != digest:
        raise UserError(
            f"the reference was made from another checkpoint (sha256 {reference.checkpoint_sha256[:12]}) "
            f"than the artifacts ({digest[:12]}): make it again with 'edge-export reference'"
        )


def store(artifact: Artifact, result: Verification) -> None:
    """Puts the verdict into the manifest, in one step; nothing else in it changes."""
    text = dataclasses.replace(artifact.manifest, verification=result.record()).to_json()
    write_whole(
        artifact.path / MANIFEST_NAME, lambda temporary: temporary.write_text(text, encoding="utf-8")
    )
