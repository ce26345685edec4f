"""What `make test-arm` is made of, without the emulator: the comparison, its bounds, and how it finds its
packages."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pytest

from edge.artifact import Artifact
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.runs.columns import answers_schema, steps_schema
from edge.runs.run_directory import Run
from tests.arm import __main__ as job
from tests.arm import emulator
from tests.arm.bounds import FULL, beyond, bound
from tests.arm.compare import Difference, differences, table_differences
from tests.conftest import ONE_THREAD, Artifacts
from tests.noise import ACTIVATION_NOISE

FLOATS = pa.list_(pa.float32())
NAMES = ["token_id", "hidden_norm", "surprisal", "sink_mass", "answer", "same_top1", "step_ms"]
TYPES = [pa.int32(), FLOATS, pa.float32(), FLOATS, pa.string(), pa.bool_(), pa.float32()]
ROW = [7, [100.0, 0.5], 2.0, None, "yes", True, 1.0]


def table(**changes: object) -> pa.Table:
    row = dict(zip(NAMES, ROW, strict=True)) | changes
    return pa.table({name: pa.array([row[name]], kind) for name, kind in zip(NAMES, TYPES, strict=True)})


def changed(**changes: object) -> dict[str, Difference]:
    return {d.column: d for d in table_differences("steps", table(), table(**changes)) if d.largest}


def test_equal_tables_do_not_differ_and_time_is_no_difference() -> None:
    assert changed(step_ms=9.0) == {}


@pytest.mark.parametrize(
    ("column", "value", "largest"),
    [
        ("hidden_norm", [101.0, 0.5], 0.01),  # relative above a length of 1
        ("hidden_norm", [100.0, 0.75], 0.25),  # absolute below
        ("surprisal", 2.25, 0.25),
        ("same_top1", False, 1.0),
        ("token_id", 8, math.inf),
        ("answer", "no", math.inf),
        ("sink_mass", [0.5], math.inf),  # null on one side
        ("hidden_norm", [100.0], math.inf),
        ("surprisal", math.nan, math.inf),
    ],
)
def test_a_change_is_found_in_its_column_alone(column: str, value: object, largest: float) -> None:
    found = changed(**{column: value})
    assert list(found) == [column] and found[column].largest == pytest.approx(largest)


def test_tables_of_other_rows_or_columns_are_not_alike() -> None:
    twice = pa.concat_tables([table(), table()])
    for other in (twice, table().drop_columns(["answer"])):
        assert [d.largest for d in table_differences("steps", table(), other)] == [math.inf]


def test_the_rms_is_over_all_numbers_of_a_column() -> None:
    (found,) = changed(hidden_norm=[100.0, 0.8]).values()
    assert found.rms == pytest.approx(0.3 / math.sqrt(2))


def top(ids: list[int], logprobs: list[float]) -> pa.Table:
    return pa.table(
        {"reference_token_ids": pa.array([ids]), "reference_logprobs": pa.array([logprobs], FLOATS)}
    )


def test_near_ties_among_the_likeliest_tokens_may_change_places() -> None:
    (found,) = table_differences(
        "steps", top([1, 2, 3], [-1.0, -2.0, -2.5]), top([1, 3, 4], [-1.0, -2.25, -2.75])
    )
    assert (found.column, found.largest) == (
        "reference_logprobs",
        0.75,
    )  # token 2 is at most as likely there as token 4


def test_every_column_of_real_runs_is_compared(
    artifacts: Artifacts, questions_file: Path, tmp_path: Path
) -> None:
    artifact, questions = Artifact.open(artifacts("odd")), read_questions(questions_file)[:2]
    for name, limit in (("a", 4), ("b", 4), ("c", 5)):
        run(
            artifact,
            questions,
            tmp_path / name,
            DecodeSettings(limit, 0.0, 0, reference_k=8),
            prompt="raw",
            runtime=ONE_THREAD,
        )
    a, b, c = (Run.open(tmp_path / name) for name in "abc")
    found = differences(a, b)
    names = {*steps_schema(reference=True, forced=False).names, *answers_schema(forced=False).names}
    assert {d.column for d in found} == {n for n in names if not n.endswith("_ms")} - {"reference_token_ids"}
    assert not any(d.largest for d in found)
    assert beyond(FULL, differences(a, c))


def test_bounds_hold_every_column_of_every_precision() -> None:
    assert bound(FULL, "attention_entropy") == bound(FULL, "surprisal_slope") == ("largest", 1e-3)
    assert bound("onnx-int4", "sink_mass_mean_vector") == ("rms", 2 * ACTIVATION_NOISE["sink_mass"])
    assert bound("onnx-int8", "top1_top2_gap_early") == ("rms", 2 * ACTIVATION_NOISE["top1_top2_gap"])
    assert bound("onnx-int8", "tokens") == ("rms", 0.0)
    assert bound("onnx-int8", "surprisal_slope")[1] == math.inf
    # No column of numbers is forgotten, or it would have to be bitwise equal.
    for field in (*steps_schema(reference=True, forced=True), *answers_schema(forced=True)):
        kind = field.type.value_type if pa.types.is_list(field.type) else field.type
        if (
            pa.types.is_floating(kind)
            and not field.name.endswith("_ms")
            and not field.name.startswith("reference_surprisal")
        ):
            assert bound("onnx-int4", field.name)[1] > 0, field.name


@pytest.mark.parametrize(
    ("precision", "difference", "fails"),
    [
        (FULL, Difference("steps", "surprisal", 9e-4, 9e-4), False),
        (FULL, Difference("steps", "surprisal", 1.1e-3, 1e-5), True),
        ("onnx-int8", Difference("steps", "surprisal", 2.0, 0.5), False),
        ("onnx-int8", Difference("steps", "surprisal", 2.0, 0.7), True),
        ("onnx-int8", Difference("answers", "surprisal_slope", 50.0, 50.0), False),
        ("onnx-int8", Difference("answers", "surprisal_slope", math.inf, math.inf), True),
        ("onnx-int8", Difference("answers", "answer", math.inf, math.inf), True),
    ],
)
def test_a_column_beyond_its_bound_fails_the_job(
    precision: str, difference: Difference, fails: bool
) -> None:
    found = [job.Found("max", "nano-llama", precision, "forced", [difference])]
    assert bool(job.failures(found)) == fails
    assert difference.column in job.table(found)


def test_the_debian_archive_is_found_among_the_repositories_of_apt() -> None:
    listed = (
        "http://other.example/apt/ main\nhttp://a.example/debian-security/ main\n"
        "http://a.example/debian/ main\n"
    )
    assert emulator.debian_repository(listed) == "http://a.example/debian/"
    assert "URIs: http://a.example/debian/\nSuites: trixie\n" in emulator.sources("http://a.example/debian/")
    with pytest.raises(UserError, match="run this on Debian"):
        emulator.debian_repository("http://a.example/ubuntu/ main\n")


@pytest.mark.parametrize(
    ("said", "major"),
    [("qemu-aarch64 version 7.2.17 (Debian)", 7), ("qemu-aarch64 version 10.0.13", 10), ("", 0)],
)
def test_the_version_of_an_installed_emulator_is_read(said: str, major: int) -> None:
    assert emulator.qemu_major(said) == major


def test_what_cannot_be_fetched_is_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    apt = tools / "apt-get"
    apt.write_text(
        '#!/bin/sh\n[ "$1" = indextargets ] && echo "http://a.example/debian/ main" && exit\necho "E: no '
        'network" >&2; exit 100\n'
    )
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(
        "sys.argv", ["tests.arm", "--cache", str(tmp_path / "cache"), "--work", str(tmp_path / "work")]
    )
    assert job.main() == 2
    assert capfd.readouterr().err == (
        "error: cannot read Debian trixie's package lists (E: no network): check the network and the "
        "configured package sources, "
        "then try again\n"
    )
    apt.unlink()
    monkeypatch.setenv("PATH", str(tools))
    assert job.main() == 2
    assert capfd.readouterr().err.startswith("error: apt-get is missing")


def test_a_failure_under_the_emulator_is_told_with_all_it_said(tmp_path: Path) -> None:
    broken = emulator.Emulator(tmp_path)
    broken.qemu = str(tmp_path / "qemu")
    Path(broken.qemu).write_text("#!/bin/sh\necho Illegal instruction >&2; exit 4\n")
    Path(broken.qemu).chmod(0o755)
    with pytest.raises(RuntimeError, match=r"exit code 4 on max:\n\n.*Illegal instruction"):
        broken.run(["script.py"], "max")


def test_the_wheels_fetched_are_the_base_dependencies() -> None:
    names = {requirement.split(">")[0] for requirement in emulator.requirements()}
    assert {"numpy", "onnxruntime", "tokenizers", "pyarrow", "typer"} <= names and "torch" not in names
