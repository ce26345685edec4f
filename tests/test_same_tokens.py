"""Artifacts whose tokenizers are different files: the same tokens are compared, others refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from edge.analysis.divergence import compare
from edge.artifact import Artifact
from edge.backends.gguf_file import open_artifact
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force, whole
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.report.model import build_groups
from edge.runs.job_directory import FINISHED
from edge.runs.run_directory import Run
from export.build import build
from tests.conftest import NANO_LLAMA, ONE_THREAD, write_questions

pytestmark = pytest.mark.slow
MODELS = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")


@pytest.fixture
def trace(questions_file, tmp_path):
    """Runs an artifact under a name; the run."""

    def call(artifact, name, asked=None):
        settings = DecodeSettings(6, reference_k=8)
        file = write_questions(tmp_path / "asked.csv", asked) if asked else questions_file
        questions = read_questions(file)
        run(artifact, questions, tmp_path / name, settings, date="2026-01-01", runtime=ONE_THREAD)
        return Run.open(tmp_path / name)

    return call


@pytest.mark.parametrize("model", MODELS)
def test_a_gguf_file_alone_is_compared_with_the_artifact_of_its_model(model, artifacts, trace, tmp_path):
    """The file's own tokenizer stands beside tokenizer.json."""
    shutil.copy(artifacts(model, "gguf-f32") / "model.gguf", tmp_path / "alone.gguf")
    alone, full = open_artifact(tmp_path / "alone.gguf"), Artifact.open(artifacts(model))
    assert alone.manifest.tokenizer_sha256 != full.manifest.tokenizer_sha256
    reference = trace(full, "full")
    assert compare(reference, trace(alone, "alone")).free is not None
    force(alone, reference.folder, tmp_path / "forced", exact=full, runtime=ONE_THREAD)
    forced = compare(reference, Run.open(tmp_path / "forced")).forced
    assert forced is not None
    assert forced.kl is not None
    assert forced.kl.mean < 1e-4
    assert forced.hidden_error is not None


def test_control_tokens_in_a_question_are_no_other_tokenizer(artifacts, trace, tmp_path):
    """They were read as text, which the text of the prompt does not show."""
    shutil.copy(artifacts("nano-llama", "gguf-f32") / "model.gguf", tmp_path / "alone.gguf")
    questions = ["Is the earth flat?", "What does <|eot_id|> mean?"]
    reference = trace(Artifact.open(artifacts("nano-llama")), "full", questions)
    assert any(reference.answers(["question_index", "note"])["note"].to_pylist())
    alone = open_artifact(tmp_path / "alone.gguf")
    assert force(alone, reference.folder, tmp_path / "forced", runtime=ONE_THREAD).state == FINISHED


def test_a_character_that_was_cut_is_the_same_text():
    assert whole("Hi \ufffd\ufffd") == whole("Hi \ufffd") != whole("Hi ")


def test_a_tokenizer_that_spells_an_answer_otherwise_is_refused(artifacts, trace, tmp_path):
    """Two ids that no prompt has changed places: prompts alone would not tell."""
    full = Artifact.open(artifacts("nano-llama"))
    reference = trace(full, "full")
    asked = reference.answers(["question_index", "prompt_ids"])
    prompts = {i for ids in asked["prompt_ids"].to_pylist() for i in ids}
    said = reference.steps(["question_index", "step", "token_id"])["token_id"].to_pylist()
    stops = full.manifest.model.stop_ids
    one = next(i for i in said if i not in prompts and i not in stops)
    other = next(i for i in range(300, 2000) if i not in prompts and i not in said)
    swapped = Artifact.open(swap(tmp_path / "checkpoint", one, other))
    with pytest.raises(UserError, match=r"another tokenizer \(nano-llama\) than checkpoint onnx-fp32"):
        force(swapped, reference.folder, tmp_path / "forced", runtime=ONE_THREAD)
    assert not (tmp_path / "forced").exists()


def test_a_tokenizer_that_reads_a_prompt_otherwise_is_refused(artifacts, trace, tmp_path):
    full = Artifact.open(artifacts("nano-llama"))
    reference = trace(full, "full")
    ids = reference.answers(["question_index", "prompt_ids"])["prompt_ids"][0].as_py()
    swapped = Artifact.open(swap(tmp_path / "checkpoint", ids[-1], 1999))
    with pytest.raises(UserError, match="another tokenizer"):
        force(swapped, reference.folder, tmp_path / "forced", runtime=ONE_THREAD)
    with pytest.raises(UserError, match="different tokenizers: compare runs of one model"):
        compare(reference, trace(swapped, "swapped"))


def swap(folder, one, other):
    """An artifact of nano-llama in which two tokens have each other's id."""
    shutil.copytree(NANO_LLAMA, folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    exchanged = {one: other, other: one}
    vocabulary = raw["model"]["vocab"]
    raw["model"]["vocab"] = {text: exchanged.get(i, i) for text, i in vocabulary.items()}
    for token in raw["added_tokens"]:
        token["id"] = exchanged.get(token["id"], token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    return build(str(folder), ["onnx-fp32"], folder / "built")[0].artifact.path


def test_a_report_shows_a_file_alone_beside_the_model_that_it_followed(artifacts, trace, tmp_path):
    """Whatever the file calls itself."""
    shutil.copy(artifacts("nano-llama", "gguf-f32") / "model.gguf", tmp_path / "alone.gguf")
    full, alone = Artifact.open(artifacts("nano-llama")), open_artifact(tmp_path / "alone.gguf")
    named = dataclasses.replace(alone, manifest=dataclasses.replace(alone.manifest, model_id="Another name"))
    runs = [trace(full, "full"), trace(named, "alone")]
    force(named, runs[0].folder, tmp_path / "forced", runtime=ONE_THREAD)
    (group,) = build_groups([*runs, Run.open(tmp_path / "forced")], 0.05)
    assert group.model_id == "nano-llama"
    assert [run.name for run in group.runs] == ["onnx-fp32", "gguf-f32 forced", "gguf-f32"]
    assert [each.model_id for each in build_groups(runs, 0.05)] == ["nano-llama", "Another name"]
