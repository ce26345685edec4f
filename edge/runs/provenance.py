"""What a run keeps of the artifact that made it."""

from __future__ import annotations

from typing import Any

from edge.artifact import Artifact


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """What a run keeps of its artifact: enough to tell whether two runs used the same weights and
    tokenizer."""
    manifest = artifact.manifest
    return {
        "model_id": manifest.model_id,
        "precision": manifest.precision,
        "taps": manifest.taps,
        "manifest_sha256": manifest.identity(),
        "checkpoint_sha256": manifest.checkpoint_sha256,
        "tokenizer_sha256": manifest.tokenizer_sha256,
        "bytes": sum(record.size for record in manifest.files.values()),
        "notice": manifest.notice,
    }
