"""The full-precision model stepped beside the forced one: whole KL and distance of hidden states."""

from __future__ import annotations

from collections.abc import Sequence

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.runtime import Loader
from edge.errors import NotFinite, UserError
from edge.runs.provenance import ArtifactIdentity
from edge.runs.record import ForcedValues, Step
from edge.runs.run_directory import Run
from edge.signals.comparison import hidden_distance, kl_exact
from edge.signals.definitions import surprisal
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps


def full_loader(artifact: Artifact, reference: Run, runtime: Runtime) -> Loader:
    """Loader of the artifact that made the reference run, with that run's llama.cpp settings.

    Settings that decide no row are those of `runtime`. Raises UserError for another artifact.
    """
    if ArtifactIdentity.of(artifact) != reference.manifest.artifact:
        raise UserError(
            f"{artifact.label} is not the artifact that made {reference.folder} "
            f"({reference.manifest.label}): give that one with --exact"
        )
    neutral = Runtime(
        runtime.threads, gpu_layers=runtime.gpu_layers, prepack=runtime.prepack, anyway=runtime.anyway
    )
    llama = reference.manifest.settings.llama
    return Loader(artifact, llama.applied_to(neutral) if llama else neutral)


class FullModel:
    """Reads the forced model's tokens, each step after the forced model's. close() closes its backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._reader = SignalReader(backend.spec)
        self._prompt: Sequence[int] = ()
        self._last = 0

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Starts a new answer, whose steps follow in order."""
        self._backend.rewind(0)
        self._prompt = prompt_ids

    def values(self, step: Step, taps: Taps) -> ForcedValues:
        """Compares this model's next step with the forced model's `step`, which left `taps`."""
        full = self._backend.step(self._last) if step.step else self._backend.prefill(self._prompt)
        self._last = step.token_id
        try:
            own, output = self._reader.output(full.logits), step.signals.output
        except NotFinite as error:
            raise NotFinite(f"in the full model {error}") from error
        distance = None
        if full.hidden is not None and taps.hidden is not None:
            distance = hidden_distance(full.hidden, taps.hidden)
        return ForcedValues(
            kl=kl_exact(full.logits, own.log_normaliser, taps.logits, output.log_normaliser),
            reference_surprisal=surprisal(full.logits, own.log_normaliser, step.token_id),
            same_top1=own.top1 == output.top1,
            hidden=distance,
        )

    def close(self) -> None:
        self._backend.close()
