"""edge.runs.run_directory and edge.runs.record: what a run directory holds, and what is refused when it is
damaged or another's."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat

import numpy as np
import pyarrow.parquet as pq
import pytest

from edge.analysis.divergence import compare
from edge.analysis.dynamics import describe
from edge.artifact import Artifact
from edge.errors import UserError
from edge.files import write_whole
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.report.write import write_report
from edge.runs.columns import answers_schema, mean_column, steps_schema
from edge.runs.manifest import read_manifest
from edge.runs.run_directory import Run, RunWriter
from edge.signals.groups import BY_NAME, SCALARS, VECTORS
from tests import reference
from tests.conftest import ONE_THREAD, tree, write_questions

DAY = "2026-01-01"


@pytest.fixture(scope="module")
def module_run(artifacts, questions_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    settings = DecodeSettings(25, 0.9, 2, reference_k=8)
    run(
        Artifact.open(artifacts("odd")),
        read_questions(questions_file),
        out,
        settings,
        date=DAY,
        runtime=ONE_THREAD,
    )
    return Run.open(out)


@pytest.fixture
def trace(odd, questions_file, tmp_path):
    """Traces into tmp_path/run; the folder of a run of one's own to damage."""

    def make(**settings):
        defaults = {"max_new_tokens": 5}
        run(
            odd,
            read_questions(questions_file)[:3],
            tmp_path / "run",
            DecodeSettings(**defaults | settings),
            date=DAY,
            runtime=ONE_THREAD,
        )
        return tmp_path / "run"

    return make


# What it holds


def test_a_run_directory_holds_what_is_promised(module_run):
    names = {p.name for p in module_run.folder.iterdir()}
    assert names == {"run.json", "steps", "answers", "device.parquet", ".lock"}
    manifest = json.loads((module_run.folder / "run.json").read_text())
    assert manifest["schema_version"] == 1
    assert manifest["state"] == "finished"
    assert manifest["artifact"]["precision"] == "onnx-fp32"
    assert manifest["settings"] == {
        "max_new_tokens": 25,
        "temperature": 0.9,
        "seed": 2,
        "reference_k": 8,
        "prompt": "raw",
        "date": DAY,
        "limit": None,
        "shard": "1/1",
    }
    assert manifest["questions"]["count"] == 7
    assert module_run.steps().schema.equals(steps_schema(reference=True, forced=False))
    assert module_run.answers().schema.equals(answers_schema(forced=False))
    device = pq.read_table(module_run.folder / "device.parquet")
    assert device.column("question_index").to_pylist() == list(range(7))
    assert min(device.column("rss_bytes").to_pylist()) > 1e6


def test_every_list_column_has_its_length_and_nothing_is_nan(module_run):
    spec, steps = module_run.manifest.model, module_run.steps()
    for name in VECTORS:
        metric = BY_NAME[name]
        for cell, step in zip(steps.column(name).to_pylist(), steps.column("step").to_pylist(), strict=True):
            assert (cell is None) == (step < metric.first_row) == (name.startswith("token_") and step == 0)
            assert cell is None or len(cell) == metric.shape.size(spec)
            assert cell is None or not any(math.isnan(x) for x in cell)
    for table in (steps, module_run.answers()):
        for name in table.column_names:
            if str(table.schema.field(name).type) == "float":
                assert not any(x is not None and math.isnan(x) for x in table.column(name).to_pylist()), name


def test_rows_of_an_answer_follow_one_another(module_run):
    answers = {row["question_index"]: row for row in module_run.answers().to_pylist()}
    steps = module_run.steps().to_pylist()
    for index, answer in answers.items():
        rows = [row for row in steps if row["question_index"] == index]
        n, prompt = len(rows), len(answer["prompt_ids"])
        assert answer["tokens"] == n
        assert [row["step"] for row in rows] == list(range(n))
        assert [row["position"] for row in rows] == [prompt - 1 + t for t in range(n)]
        assert [row["phase"] for row in rows] == ["prompt"] + ["generation"] * (n - 1)
        assert {row["question_id"] for row in rows} == {answer["question_id"]}
        assert answer["kv_bytes"] == 2 * 3 * 1 * 40 * 4 * (prompt + n - 1)
        assert answer["prefill_ms"] == rows[0]["step_ms"]
        assert answer["decode_ms"] == pytest.approx(
            sum(row["step_ms"] for row in rows[1:]), rel=1e-5, abs=1e-9
        )


def test_summaries_of_an_answer_equal_the_slow_twin_of_its_rows(module_run):
    spec = module_run.manifest.model
    for answer in module_run.answers().to_pylist():
        rows = [
            row
            for row in module_run.steps().to_pylist()
            if row["question_index"] == answer["question_index"]
        ]
        n = len(rows)
        ln_k = [math.log(row["position"] + 1) for row in rows]
        for name in SCALARS:
            if name == "output_entropy_normalised":
                series = [row["output_entropy"] / math.log(spec.vocabulary) for row in rows]
            elif name == "attention_entropy_normalised":
                series = [
                    reference.mean(row["attention_entropy"]) / k for row, k in zip(rows, ln_k, strict=True)
                ]
            elif name in VECTORS:
                series = [reference.mean(row[name]) for row in rows if row[name] is not None]
            else:
                series = [row[name] for row in rows]
            wanted = reference.summary(series, first=n - len(series), rows=n)
            for part, value in zip(wanted._fields, wanted, strict=True):
                found = math.nan if answer[f"{name}_{part}"] is None else answer[f"{name}_{part}"]
                if part == "spearman":  # rows are rounded to float32, which may make or break a tie
                    assert found == pytest.approx(value, abs=0.02, nan_ok=True), name
                else:
                    assert found == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), (name, part)
        for name in VECTORS:
            cells = [row[name] for row in rows if row[name] is not None]
            found = answer[mean_column(name)]
            if not cells:
                assert found is None
            else:
                np.testing.assert_allclose(
                    found, np.asarray(cells, np.float64).mean(axis=0), rtol=1e-5, atol=1e-6
                )


def test_a_question_at_a_time_is_all_of_them(module_run):
    steps, seen = module_run.steps(["question_index", "step", "token_id"]), 0
    for index, table in module_run.each_question(["token_id", "step"]):
        rows = [row for row in steps.to_pylist() if row["question_index"] == index]
        assert table.column("token_id").to_pylist() == [row["token_id"] for row in rows]
        seen += 1
    assert seen == 7


def test_a_question_longer_than_the_context_gets_a_row_and_the_run_goes_on(odd, tmp_path):
    questions = read_questions(write_questions(tmp_path / "q.csv", ["Why?", "the " * 4000, "How?"]))
    run(odd, questions, tmp_path / "run", DecodeSettings(5), date=DAY, runtime=ONE_THREAD)
    opened = Run.open(tmp_path / "run")
    answers = opened.answers().to_pylist()
    assert [a["stop_reason"] for a in answers][1] == "context"
    assert [a["tokens"] for a in answers] == [5, 0, 5]
    assert (answers[1]["kv_bytes"], answers[1]["answer"], answers[1]["output_entropy_mean"]) == (0, "", None)
    assert answers[1]["attention_entropy_mean_vector"] is None
    assert [index for index, table in opened.each_question(["step"]) if len(table) == 0] == [1]
    forced = force(odd, tmp_path / "run", tmp_path / "forced", runtime=ONE_THREAD)
    assert forced.state == "finished"
    again = Run.open(tmp_path / "forced").answers().to_pylist()
    assert [(a["tokens"], a["stop_reason"]) for a in again] == [
        (a["tokens"], a["stop_reason"]) for a in answers
    ]


def test_the_same_question_twice_is_sampled_twice(odd, tmp_path):
    questions = read_questions(write_questions(tmp_path / "q.csv", ["Why?", "Why?"]))
    run(odd, questions, tmp_path / "run", DecodeSettings(20, 1.0), date=DAY, runtime=ONE_THREAD)
    first, second = Run.open(tmp_path / "run").answers().column("answer").to_pylist()
    assert first != second


# Forcing


def test_forcing_an_artifact_on_its_own_run_repeats_it(module_run, odd, tmp_path):
    force(odd, module_run.folder, tmp_path / "forced", runtime=ONE_THREAD)
    free, forced = module_run.steps().to_pylist(), Run.open(tmp_path / "forced").steps().to_pylist()
    for a, b in zip(free, forced, strict=True):
        for name in (
            "question_index",
            "step",
            "position",
            "token_id",
            "output_entropy",
            "attention_entropy",
            "hidden_norm",
        ):
            assert a[name] == b[name], name
        assert b["reference_surprisal"] == a["surprisal"] == b["surprisal"]
        assert b["kl"] == pytest.approx(0.0, abs=1e-6)
        assert b["same_top1"] is True


def test_forcing_gives_the_divergence_that_the_slow_twin_finds(artifacts, questions_file, tmp_path):
    full, quantised = (
        Artifact.open(artifacts("odd", precision)) for precision in ("onnx-fp32", "onnx-int4")
    )
    questions = read_questions(questions_file)[:2]
    vocabulary = full.manifest.model.vocabulary
    run(
        full,
        questions,
        tmp_path / "full",
        DecodeSettings(10, reference_k=vocabulary),
        date=DAY,
        runtime=ONE_THREAD,
    )
    force(quantised, tmp_path / "full", tmp_path / "forced", runtime=ONE_THREAD)
    from edge.backends.onnx import OnnxBackend

    logits = [OnnxBackend(artifact, threads=1) for artifact in (full, quantised)]
    answers = Run.open(tmp_path / "full").answers().to_pylist()
    for answer in answers:
        rows = [
            r
            for r in Run.open(tmp_path / "forced").steps().to_pylist()
            if r["question_index"] == answer["question_index"]
        ]
        for t, row in enumerate(rows):
            if t == 0:
                for backend in logits:
                    backend.rewind(0)
            p, q = (
                np.copy((b.step(rows[t - 1]["token_id"]) if t else b.prefill(answer["prompt_ids"])).logits)
                .astype(float)
                .tolist()
                for b in logits
            )
            assert row["kl"] == pytest.approx(reference.kl(p, q), rel=1e-3, abs=1e-6)
            assert row["surprisal"] == pytest.approx(
                reference.surprisal(q, row["token_id"]), rel=1e-4, abs=1e-5
            )
            assert row["reference_surprisal"] == pytest.approx(
                reference.surprisal(p, row["token_id"]), rel=1e-4, abs=1e-5
            )
            assert row["same_top1"] == (p.index(max(p)) == q.index(max(q)))
    assert max(row["kl"] for row in Run.open(tmp_path / "forced").steps().to_pylist()) > 0.01


def test_forcing_without_kept_distributions_has_no_divergence(trace, odd, tmp_path):
    force(odd, trace(), tmp_path / "forced", runtime=ONE_THREAD)
    forced = Run.open(tmp_path / "forced")
    assert forced.steps().column("kl").null_count == forced.steps().num_rows
    assert forced.answers().column("kl_mean").null_count == forced.answers().num_rows
    assert forced.answers().column("same_top1_share").to_pylist() == [1.0] * 3


def test_what_cannot_be_forced_is_refused_before_anything_is_written(
    trace, artifacts, odd, tmp_path, checkpoints
):
    from export.build import build

    out = tmp_path / "forced"
    with pytest.raises(UserError, match="another tokenizer"):
        force(Artifact.open(artifacts("untied")), trace(), out, runtime=ONE_THREAD)
    short = build(str(checkpoints("odd")), ["onnx-fp32"], tmp_path / "short", context=12)[0].artifact
    with pytest.raises(UserError, match=r"more than the 12 this artifact was built for: .* --context"):
        force(short, tmp_path / "run", out, runtime=ONE_THREAD)
    assert not out.exists()
    force(odd, tmp_path / "run", out, runtime=ONE_THREAD)
    with pytest.raises(UserError, match="is itself a forced run"):
        force(odd, out, tmp_path / "again", runtime=ONE_THREAD)


# Resuming


def test_a_finished_run_is_left_as_it_is(trace):
    before = tree(trace())
    assert tree(trace()) == before


@pytest.mark.parametrize(
    ("limit", "shard", "indices"), [(4, "1/1", [0, 1, 2, 3]), (None, "2/3", [1, 4]), (5, "2/2", [1, 3])]
)
def test_a_part_of_the_questions_is_a_run_of_its_own(limit, shard, indices, odd, questions_file, tmp_path):
    for _ in range(2):
        run(
            odd,
            read_questions(questions_file),
            tmp_path / "run",
            DecodeSettings(3),
            limit=limit,
            shard=shard,
            date=DAY,
            runtime=ONE_THREAD,
        )
        opened = Run.open(tmp_path / "run")
        assert opened.answers().column("question_index").to_pylist() == indices
        stamps = {p: p.stat().st_mtime_ns for p in opened.folder.rglob("*") if p.name != ".lock"}
    run(
        odd,
        read_questions(questions_file),
        tmp_path / "run",
        DecodeSettings(3),
        limit=limit,
        shard=shard,
        date=DAY,
        runtime=ONE_THREAD,
    )
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


@pytest.mark.parametrize("kind", ["steps", "answers"])
def test_deleting_either_half_of_a_part_makes_its_questions_run_again(kind, trace):
    folder = trace()
    before = Run.open(folder).steps().drop_columns("step_ms")
    (part,) = (folder / kind).glob("part-*")
    part.unlink()
    with pytest.raises(UserError):
        Run.open(folder).steps()
    trace()
    assert Run.open(folder).steps().drop_columns("step_ms").equals(before)
    assert read_manifest(folder).state == "finished"


def test_orphans_and_temporary_files_are_swept_on_resume(trace):
    folder = trace()
    (part,) = (folder / "steps").glob("part-*")
    manifest = json.loads((folder / "run.json").read_text())
    manifest["state"] = "running"
    (folder / "run.json").write_text(json.dumps(manifest))
    orphan = folder / "steps" / "part-1of1-000007-000009.parquet"
    orphan.write_bytes(part.read_bytes())
    half = [
        folder / name
        for name in (".run.json.tmp", ".device.parquet.tmp", "answers/.part-1of1-000000-000002.tmp")
    ]
    for path in half:
        path.write_bytes(b"half")
    trace()
    assert not any(path.exists() for path in [orphan, *half])
    assert Run.open(folder).steps().num_rows == 15


def test_an_unfinished_run_is_not_read_by_mistake(trace):
    folder = trace()
    manifest = json.loads((folder / "run.json").read_text()) | {"state": "running"}
    (folder / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is unfinished: run the same 'edge run' command again"):
        Run.open(folder)
    assert Run.open(folder, unfinished=True).answers().num_rows == 3


# Refusals


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 6}, {"temperature": 0.5}, {"seed": 9}, {"reference_k": 3}]
)
def test_another_run_in_the_folder_is_refused_by_what_differs(change, trace):
    before = tree(trace())
    with pytest.raises(
        UserError,
        match=f"holds another run \\(it differs in settings.{next(iter(change))}\\): give another --out",
    ):
        trace(**change)
    assert tree(trace()) == before


def test_a_run_of_another_artifact_or_other_questions_is_refused(trace, artifacts, odd, questions_file):
    folder = trace()
    with pytest.raises(UserError, match=r"differs in artifact\.bytes, artifact\.checkpoint_sha256"):
        run(
            Artifact.open(artifacts("narrow")),
            read_questions(questions_file)[:3],
            folder,
            DecodeSettings(5),
            prompt="raw",
            date=DAY,
        )
    with pytest.raises(UserError, match=r"differs in questions\.sha256"):
        run(odd, read_questions(questions_file)[1:4], folder, DecodeSettings(5), date=DAY)


def test_a_folder_with_other_things_is_refused_and_left_alone(odd, questions_file, tmp_path):
    questions = read_questions(questions_file)
    for name in ("notes.txt", "steps/part-1of1-000000-000000.parquet"):
        out = tmp_path / name.partition("/")[0]
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        before = tree(out)
        with pytest.raises(UserError, match="is not empty and holds no run"):
            run(odd, questions, out, DecodeSettings(5))
        assert tree(out) == before
    with pytest.raises(UserError, match="is a file"):
        run(odd, questions, tmp_path / "notes.txt" / "notes.txt", DecodeSettings(5))


def test_a_template_that_fails_leaves_no_run_behind(artifacts, questions_file, tmp_path):
    from tests.test_prompt import with_template

    broken = with_template(
        Artifact.open(artifacts("untied")), tmp_path / "artifact", "{{ raise_exception('no') }}"
    )
    with pytest.raises(UserError, match="the chat template fails"):
        run(broken, read_questions(questions_file), tmp_path / "run", DecodeSettings(5))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "\xff", '{"schema_version": 2}', '{"schema_version": 1, "model": {}}']
)
def test_a_damaged_manifest_is_refused(text, trace):
    folder = trace()
    (folder / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        Run.open(folder)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no run directory"):
        Run.open(tmp_path)


def test_a_failed_write_leaves_neither_file_nor_rest(tmp_path):
    def full_disk(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        write_whole(tmp_path / "part.parquet", full_disk)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_free_again_when_a_writer_ends_or_fails(trace, odd):
    folder = trace()
    manifest = Run.open(folder).manifest
    with RunWriter(folder, manifest), pytest.raises(UserError, match="another process"):
        RunWriter(folder, manifest)
    with RunWriter(folder, manifest) as writer:
        assert writer.done == {0, 1, 2}


def test_only_a_plain_file_is_replaced_and_a_link_is_followed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is no plain file"):
        write_whole(tmp_path / "pipe", lambda path: path.write_text("x"))
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", lambda path: path.write_text("new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize("change", [{"context": "x"}, {"layers": 0}, {"windows": [1]}, {"stop_ids": "2"}])
def test_a_manifest_with_wrong_values_is_refused_and_leaves_no_run(change, odd, questions_file, tmp_path):
    folder = shutil.copytree(odd.path, tmp_path / "artifact")
    raw = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(raw | {"model": raw["model"] | change}))
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        Artifact.open(folder)
    (folder / "manifest.json").write_text(json.dumps(raw | {"special_tokens": ["a"]}))
    with pytest.raises(UserError, match="special_tokens"):
        Artifact.open(folder)


def test_a_model_that_does_not_load_leaves_no_run_behind(odd, questions_file, tmp_path):
    folder = shutil.copytree(odd.path, tmp_path / "artifact")
    (folder / "model.onnx").write_bytes(b"no graph")
    artifact = Artifact(folder, odd.manifest)  # as if the checksum had been right
    for out in (tmp_path / "new", tmp_path / "there"):
        if out.name == "there":
            out.mkdir()
        before = tree(tmp_path)
        with pytest.raises(UserError, match="cannot load"):
            run(artifact, read_questions(questions_file), out, DecodeSettings(3))
        assert tree(tmp_path) == before


@pytest.mark.parametrize("change", [{"settings": []}, {"questions": {}}, {"artifact": "x"}])
def test_a_run_manifest_with_wrong_values_is_refused(change, trace):
    folder = trace()
    raw = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(raw | change))
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        Run.open(folder)


def test_answers_of_one_token_are_compared_and_reported_without_drift(odd, questions_file, tmp_path):
    """Every answer has row 0 alone, in which the drift between tokens is undefined."""
    questions = read_questions(questions_file)
    for name in ("a", "b"):
        run(odd, questions, tmp_path / name, DecodeSettings(1))
    force(odd, tmp_path / "a", tmp_path / "c")
    full = Run.open(tmp_path / "a")
    for other in ("b", "c"):
        found = {change.metric: change for change in compare(full, Run.open(tmp_path / other)).layers}
        assert np.isnan(found["token_delta"].mean).all()
        assert (found["hidden_norm"].mean == 0).all()
    assert write_report([full, Run.open(tmp_path / "b")], tmp_path / "report.html").runs == 2


def test_means_over_tokens_weigh_only_the_rows_that_have_the_metric(module_run):
    opened = module_run
    cells = [cell for cell in opened.steps().column("token_delta").to_pylist() if cell is not None]
    line = next(line for line in describe(opened).lines if line.metric == "token_delta")
    assert line.over_tokens.value == pytest.approx(np.mean([np.mean(cell) for cell in cells]), rel=1e-5)
    assert line.token_sd == pytest.approx(np.std([np.mean(cell) for cell in cells]), rel=1e-5)


def test_a_question_that_stands_twice_is_refused(trace):
    folder = trace()
    for kind in ("steps", "answers"):
        (part,) = (folder / kind).glob("part-*")
        shutil.copy(part, part.with_name(part.name.replace("1of1", "1of2")))
    with pytest.raises(UserError, match="more than once"):
        Run.open(folder).answers()
