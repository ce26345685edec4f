"""The commands of a study, each of which goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.precision import FULL
from edge.registry import read_registry

SCORES, FORCED, PUBLISHED = "-scores", "-forced", "published"
REPORT, TABLES = "report.html", "tables"


@dataclass(frozen=True)
class Plan:
    """What a study runs.

    FULL and the `precisions` are built. A model whose source is a GGUF file is traced from that file as
    well, under the name PUBLISHED. Answers have at most `tokens` tokens. `questions` None means those
    that are fetched, else the embedded ones. `limit` None means all, `threads` None as many as are free.
    """

    model: str
    precisions: tuple[str, ...]
    models: Path
    out: Path
    tokens: int
    limit: int | None = None
    questions: Path | None = None
    threads: int | None = None

    @property
    def published(self) -> Path | None:
        """The GGUF file that the model comes in, None for another source."""
        entry = read_registry().get(self.model)
        if entry is not None:
            return entry.published_file
        source = Path(self.model)
        return source if source.is_file() else None

    @property
    def artifacts(self) -> dict[str, str]:
        """Name of a run -> artifact folder or GGUF file, the reference first."""
        named = {name: str(self.models / name) for name in (FULL, *self.precisions)}
        return named | ({PUBLISHED: str(self.published)} if self.published else {})

    def run(self, name: str) -> Path:
        """The run directory of an artifact that decodes alone."""
        return self.out / name

    def forced(self, name: str) -> Path:
        """The run directory of an artifact on the reference's tokens."""
        return self.out / f"{name}{FORCED}"

    def scores(self, name: str) -> Path:
        """The score directory of an artifact; its result lies beside it as JSON."""
        return self.out / f"{name}{SCORES}"


def commands(plan: Plan) -> Iterator[list[str]]:
    """The command lines of a study in their order."""
    asked = ["--questions", str(plan.questions)] if plan.questions else []
    few = ["--limit", str(plan.limit)] if plan.limit else []
    threads = ["--threads", str(plan.threads)] if plan.threads else []
    built = [word for name in dict.fromkeys((FULL, *plan.precisions)) for word in ("--to", name)]
    yield ["edge-export", "build", plan.model, *built, "--out", str(plan.models)]
    for name, artifact in plan.artifacts.items():
        kept = ["--reference"] if name == FULL else []
        run = ["edge", "run", artifact, "--out", str(plan.run(name)), *asked, *few, *threads, *kept]
        yield [*run, "--max-new-tokens", str(plan.tokens)]
        yield ["edge", "label", str(plan.run(name)), "--auto", *asked]
    full = plan.artifacts[FULL]
    for name, artifact in plan.artifacts.items():
        if name != FULL:
            like = ["--like", str(plan.run(FULL)), "--exact", full]
            yield ["edge", "force", artifact, *like, "--out", str(plan.forced(name)), *threads]
    for name, artifact in plan.artifacts.items():
        score = ["edge", "score", artifact, "--out", str(plan.scores(name)), *asked, *few, *threads]
        yield [*score, "--json", f"{plan.scores(name)}.json"]
    runs = [str(plan.run(name)) for name in plan.artifacts]
    forced = [str(plan.forced(name)) for name in plan.artifacts if name != FULL]
    yield ["edge", "paper", *runs, "--csv", str(plan.out / TABLES)]
    if forced:
        yield ["edge", "compare", runs[0], *runs[1:], *forced, "--json", str(plan.out / "compare.json")]
    yield ["edge", "report", *runs, *forced, "--out", str(plan.out / REPORT)]
