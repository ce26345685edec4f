"""The full-precision model beside the one that is measured, both reading the same tokens: whole KL, and
hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import open_backend
from edge.errors import OnNote, UserError
from edge.runs.record import ForcedValues
from edge.runs.records import ArtifactIdentity
from edge.runs.run_directory import Run
from edge.signals.comparison import hidden_distance, kl_exact
from edge.signals.definitions import Signals, surprisal
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps


def check_full(artifact: Artifact, reference: Run) -> None:
    """Raises UserError unless `artifact` is the one that made the reference run."""
    if ArtifactIdentity.of(artifact) != reference.manifest.artifact:
        raise UserError(
            f"{artifact.label} is not the artifact that made {reference.folder} "
            f"({reference.manifest.label}): "
            "give that one with --exact"
        )


class FullModel:
    """Opened as it was for the reference run, with a cache of `capacity` positions."""

    def __init__(
        self, artifact: Artifact, reference: Run, runtime: Runtime, capacity: int, on_note: OnNote
    ) -> None:
        usual = Runtime(
            runtime.threads, gpu_layers=runtime.gpu_layers, prepack=runtime.prepack, anyway=runtime.anyway
        )
        llama = reference.manifest.settings.llama
        opened_as = llama.applied_to(usual) if llama else usual
        self._backend = open_backend(artifact, opened_as, capacity, on_note)
        self._reader = SignalReader(artifact.manifest.model)

    def steps(self, prompt_ids: Sequence[int], tokens: Sequence[int]) -> Iterator[Taps]:
        """Taps before each of the tokens: views that the next step overwrites."""
        self._backend.rewind(0)
        for t in range(len(tokens)):
            yield self._backend.step(tokens[t - 1]) if t else self._backend.prefill(prompt_ids)

    def values(self, full: Taps, token: int, taps: Taps, signals: Signals) -> ForcedValues:
        """What this model's pass says of the other's: `taps` and `signals`, before `token`."""
        own, output = self._reader.output(full.logits), signals.output
        return ForcedValues(
            kl=kl_exact(full.logits, own.log_normaliser, taps.logits, output.log_normaliser),
            reference_surprisal=surprisal(full.logits, own.log_normaliser, token),
            same_top1=own.top1 == output.top1,
            hidden=None
            if full.hidden is None or taps.hidden is None
            else hidden_distance(full.hidden, taps.hidden),
        )

    def close(self) -> None:
        self._backend.close()
