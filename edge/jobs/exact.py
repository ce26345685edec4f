"""The full-precision model beside the one that is measured, both reading the same tokens: whole KL, and
hidden states."""

from __future__ import annotations

from collections.abc import Sequence

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.runtime import Loader
from edge.errors import UserError
from edge.runs.record import ForcedValues, Step
from edge.runs.records import ArtifactIdentity
from edge.runs.run_directory import Run
from edge.signals.comparison import hidden_distance, kl_exact
from edge.signals.definitions import surprisal
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps


def full_loader(artifact: Artifact, reference: Run, runtime: Runtime) -> Loader:
    """The artifact that made the reference run, run as it was then; `runtime` gives what decides no row.

    Raises UserError for another artifact.
    """
    if ArtifactIdentity.of(artifact) != reference.manifest.artifact:
        raise UserError(
            f"{artifact.label} is not the artifact that made {reference.folder} "
            f"({reference.manifest.label}): give that one with --exact"
        )
    usual = Runtime(
        runtime.threads, gpu_layers=runtime.gpu_layers, prepack=runtime.prepack, anyway=runtime.anyway
    )
    llama = reference.manifest.settings.llama
    return Loader(artifact, llama.applied_to(usual) if llama else usual)


class FullModel:
    """Reads what the other model reads, one token behind the measured step. Closes its backend."""

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
        """What the other model's step, which left `taps`, is beside this one's."""
        full = self._backend.step(self._last) if step.step else self._backend.prefill(self._prompt)
        self._last = step.token_id
        own, output = self._reader.output(full.logits), step.signals.output
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
