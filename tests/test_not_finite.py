"""A model whose logits are NaN or infinite: every command refuses it in one sentence and leaves nothing."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from edge.artifact import Artifact
from edge.errors import NotFinite, UserError
from edge.jobs import score as score_job
from edge.jobs import session
from edge.jobs.bench import race, trace_rounds
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.live import answer
from edge.jobs.multiple_choice import by_question
from edge.jobs.run import run
from edge.jobs.score import log_softmax, score
from edge.questions.question import EMBEDDED, Question, read_questions
from edge.runs.score_directory import SCHEMA
from edge.signals.compiled import compiled_code
from edge.signals.definitions import Scratch, output_signals
from export.build import build
from tests.conftest import NANO_LLAMA, ONE_THREAD

ASKED = read_questions(EMBEDDED)
BACKENDS = {"onnx-fp32": ONE_THREAD, "gguf-f32": ONE_THREAD}
SENTENCE = (
    r"the logits are not finite, so the weights are damaged or too large: build from a whole checkpoint"
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """nano-llama whose weights are finite, but not the logit of token 1000 at many positions."""
    base = tmp_path_factory.mktemp("broken")
    shutil.copytree(NANO_LLAMA, base / "checkpoint")
    path = base / "checkpoint" / "model.safetensors"
    with safe_open(path, "np") as file:
        weights = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118
    row = weights["model.embed_tokens.weight"][1000]
    row[:] = row / np.abs(row).max() * np.float32(3e38)
    save_file(weights, path, metadata={"format": "pt"})
    built = build(str(base / "checkpoint"), list(BACKENDS), base / "out")
    return {one.artifact.path.name: one.artifact for one in built}


@pytest.fixture(scope="module")
def reference(artifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the sound model, for the broken one to follow."""
    out = tmp_path_factory.mktemp("reference") / "run"
    run(Artifact.open(artifacts("nano-llama")), ASKED, out, DecodeSettings(6), limit=3, runtime=ONE_THREAD)
    return out


@pytest.mark.parametrize("precision", BACKENDS)
def test_run_score_and_ask_refuse_and_leave_nothing(broken, tmp_path: Path, precision: str) -> None:
    artifact, runtime, settings = broken[precision], BACKENDS[precision], DecodeSettings(30)
    with pytest.raises(UserError, match=rf"^at question \d+ {SENTENCE}$"):
        run(artifact, ASKED, tmp_path / "deep" / "run", settings, limit=4, runtime=runtime)
    with pytest.raises(UserError, match=rf"^at question 0 {SENTENCE}$"):
        score(artifact, ASKED, tmp_path / "scores", limit=4, runtime=runtime)
    with pytest.raises(UserError, match=f"^{SENTENCE}$"):
        for question in ASKED[:4]:
            list(answer(artifact, question.question, settings, runtime=runtime))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", BACKENDS)
def test_force_refuses_a_broken_model_and_leaves_nothing(
    broken, reference: Path, tmp_path: Path, precision: str
) -> None:
    with pytest.raises(UserError, match=rf"^at question \d+ {SENTENCE}$"):
        force(broken[precision], reference, tmp_path / "out", runtime=BACKENDS[precision])
    assert list(tmp_path.iterdir()) == []


def test_force_exact_says_which_of_two_models_is_broken(
    broken, artifacts, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = Artifact.open(artifacts("nano-llama"))
    with pytest.raises(UserError, match=r"^at question \d+ the logits are not finite"):
        force(broken["onnx-fp32"], reference, tmp_path / "a", exact=sound, runtime=ONE_THREAD)
    run(sound, ASKED, tmp_path / "like", DecodeSettings(6), limit=3, runtime=ONE_THREAD)
    from edge.jobs import exact
    from edge.runs.provenance import ArtifactIdentity

    # The broken model never finishes a run to follow: the sound one's is given out as its own.
    identity = ArtifactIdentity.of(sound)
    monkeypatch.setattr(exact.ArtifactIdentity, "of", staticmethod(lambda artifact: identity))
    with pytest.raises(UserError, match=r"^at question \d+ in the full model the logits are not finite"):
        force(sound, tmp_path / "like", tmp_path / "b", exact=broken["onnx-fp32"], runtime=ONE_THREAD)
    assert [path.name for path in tmp_path.iterdir()] == ["like"]


def test_bench_refuses_it(broken) -> None:
    with pytest.raises(UserError, match=SENTENCE):
        race({"broken": (trace_rounds, (broken["onnx-fp32"].path, ONE_THREAD, 200))}, [100], 1, 60)


def test_answers_that_were_written_before_are_kept(
    broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a sound answer is on disk already, the run stays and can be looked at."""

    def is_sound(question: Question) -> bool:
        try:
            list(answer(broken["onnx-fp32"], question.question, settings, runtime=ONE_THREAD))
        except NotFinite:
            return False
        return True

    settings, out = DecodeSettings(1), tmp_path / "run"
    sound = next(question for question in ASKED if is_sound(question))
    damaged = next(question for question in ASKED if not is_sound(question))
    asked = [replace(question, index=i) for i, question in enumerate((sound, damaged, sound))]
    monkeypatch.setattr(session, "FLUSH_SECONDS", 0.0)
    for _ in range(2):  # going on meets the same question
        with pytest.raises(UserError, match=r"^at question 1 the logits are not finite"):
            run(broken["onnx-fp32"], asked, out, settings, runtime=ONE_THREAD)
    assert json.loads((out / "run.json").read_text())["state"] == "running"
    (part,) = (out / "answers").iterdir()
    assert pq.read_table(part).column("question_index").to_pylist() == [0]


@pytest.mark.parametrize("written", [0, 1])
def test_scores_refused_before_their_first_part_leave_no_folder(
    artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Two questions are finished when it is refused: on disk they stay, in memory they do not."""
    monkeypatch.setattr(score_job, "FLUSH_ROWS", 1 if written else 10_000)
    artifact, out = Artifact.open(artifacts("nano-llama")), tmp_path / "scores"

    def refuse(progress: session.Progress) -> None:
        if progress.done == 2:
            raise NotFinite("the logits are not finite")

    with pytest.raises(NotFinite):
        score(artifact, ASKED, out, limit=3, runtime=ONE_THREAD, on_progress=refuse)
    assert len(list(out.glob("choices/*"))) == 2 * written
    assert out.exists() == bool(written)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_one_bad_logit_among_sound_ones_is_enough(bad: float, place: int) -> None:
    logits = np.linspace(-1.0, 1.0, 7, dtype=np.float32)
    logits[place] = bad
    code = compiled_code().code
    readers = [
        log_softmax,
        lambda logits: output_signals(logits, Scratch()),
        *([code.output] if code else []),
    ]
    for read in readers:
        with pytest.raises(NotFinite):
            read(logits)
    with pytest.raises(NotFinite):
        log_softmax(np.full(7, -np.inf, np.float32))


def test_a_token_that_is_ruled_out_is_no_fault() -> None:
    logits = np.asarray([0.0, -np.inf, 0.0], np.float32)
    assert log_softmax(logits).tolist() == [-math.log(2.0), -math.inf, -math.log(2.0)]


def scored(*logprobs: float):
    names = ("question_index", "task", "choice", "true", "logprob")
    rows = [
        dict(zip(names, (0, task, i, i == 0, value), strict=True))
        for task in ("mc1", "mc2", "binary")
        for i, value in enumerate(logprobs)
    ]
    return SCHEMA.empty_table().from_pylist(rows, schema=SCHEMA)


def test_scores_of_numbers_that_are_none_are_refused_or_undefined() -> None:
    """Also those that version 0.2 wrote: the first choice, the true one, is never right by default."""
    assert by_question(scored(-1.0, -math.inf)) == {"mc1": {0: 1.0}, "mc2": {0: 1.0}, "binary": {0: 1.0}}
    assert by_question(scored(-math.inf, -1.0)) == {"mc1": {0: 0.0}, "mc2": {0: 0.0}, "binary": {0: 0.0}}
    assert by_question(scored(-math.inf, -math.inf)) == {"mc1": {}, "mc2": {}, "binary": {}}
    with pytest.raises(UserError, match="the log-likelihoods of question 0 are no numbers"):
        by_question(scored(-1.0, math.nan))
