"""What memory and disk will take is said before anything is loaded, with what would fit."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

import edge.backends.memory
import edge.cli.app
from edge.artifact import Artifact, FileRecord
from edge.backends.base import Runtime
from edge.backends.memory import check_memory, memory_needed, needed_by
from edge.backends.runtime import open_backend
from edge.errors import UserError
from edge.jobs.force import force
from edge.machine.device import available_memory, group_memory
from edge.precision import MIXED, ONNX, PRECISIONS
from edge.runs.disk import check_disk, disk_needed, vector_values
from edge.runs.run_directory import Run
from export.precision import BLOCK_SIZE, Target
from tests.test_cli_errors import call

GB = 10**9


@pytest.fixture
def large(odd):
    """An artifact that says it is large; nothing of it is loaded."""
    files = odd.manifest.files | {"model.onnx.data": FileRecord(5 * GB, "0" * 64)}
    return Artifact(odd.path, odd.manifest.__class__(**vars(odd.manifest) | {"files": files}))


def test_the_formats_are_those_that_are_built():
    for name, row in PRECISIONS.items():
        exact = Target(row).bytes_of("model.layers.0.mlp.up_proj.weight", (8192, 2048)) / (8192 * 2048)
        assert row.weight_bytes == (0.0 if name == MIXED else pytest.approx(exact, rel=0.04)), name
        assert (row.laid_out > 1.0) == (row.backend == ONNX and row.quantized), name
        if row.backend == ONNX and row.quantized and name != MIXED:
            assert row.file_bits == row.bits + 32 / BLOCK_SIZE, name


def test_too_little_memory_is_one_sentence_with_what_fits(large):
    check_memory(large, 4, 100, free=6 * GB)
    with pytest.raises(
        UserError,
        match=r"needs about 5\.2 GB of memory with 100 positions and 4\.0 GB are free: build it as "
        r"onnx-int8",
    ):
        check_memory(large, 4, 100, free=4 * GB)
    with pytest.raises(UserError, match="build it as onnx-int4 "):
        check_memory(large, 4, 100, free=int(1.3 * GB))
    with pytest.raises(UserError) as refused:
        check_memory(large, 4, 100, free=GB // 10)
    assert "build it as" not in str(refused.value)
    assert str(refused.value).endswith("free: free some, or start all the same with --anyway")


def test_a_shorter_context_is_proposed_where_it_fits(large):
    free = needed_by(large, 4, 500).total
    with pytest.raises(UserError) as refused:
        check_memory(large, 4, 1000, free=free)
    positions = int(re.search(r"at most (\d+) positions", str(refused.value))[1])
    assert 495 <= positions <= 500
    check_memory(large, 4, positions, free=free)


def test_more_positions_and_more_bits_take_more(odd):
    spec = odd.manifest.model
    assert (
        memory_needed(spec, "onnx-fp32", GB, 0, 4, 200).total
        > memory_needed(spec, "onnx-fp32", GB, 0, 4, 100).total
    )
    assert (
        memory_needed(spec, "onnx-fp32", GB, 0, 4, 100).cache
        == 2 * memory_needed(spec, "onnx-fp32", GB, 0, 4, 50).cache
    )
    assert memory_needed(spec, "onnx-int4", GB, 0, 4, 100).weights == round(1.2 * GB)
    assert memory_needed(spec, "gguf-of-somebody", GB, 0, 2, 100).weights == GB


def test_a_run_that_does_not_fit_leaves_nothing_and_may_be_forced(
    artifacts, questions_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("edge.machine.device.read_text", few_bytes_free)
    out = tmp_path / "run"
    arguments = [
        "run",
        str(artifacts("odd")),
        "--questions",
        str(questions_file),
        "--out",
        str(out),
        "--max-new-tokens",
        "3",
    ]
    assert call(edge.cli.app.main, arguments, tmp_path) == 2
    said = capsys.readouterr().err
    assert "of memory" in said and "--anyway" in said and said.count("\n") == 1
    assert not out.exists()
    assert call(edge.cli.app.main, [*arguments, "--anyway", "--quiet"], tmp_path) == 0
    assert Run.open(out).answers().num_rows == 7


def few_bytes_free(path):
    return "MemAvailable:  2048 kB\n" if path.name == "meminfo" else None


def test_a_disk_that_will_not_do_is_told_with_what_does(tmp_path):
    check_disk(tmp_path / "new" / "run", 1, 1000)
    with pytest.raises(
        UserError,
        match=r"the run takes up to 3\.0 GB and 1\.5 GB are free .*follow a run of fewer questions",
    ):
        check_disk(tmp_path, 3 * GB, None, free=3 * GB // 2)
    with pytest.raises(
        UserError,
        match=r"answers of 1000 tokens at most take up to 3\.0 GB and 1\.5 GB are free .*: shorten them to "
        r"500 ",
    ):
        check_disk(tmp_path, 3 * GB, 1000, free=3 * GB // 2)


@pytest.mark.parametrize("reference", [False, True])
def test_predicted_disk_is_no_less_than_a_run_takes(artifacts, questions_file, tmp_path, reference):
    out = tmp_path / "run"
    arguments = [
        "run",
        str(artifacts("odd")),
        "--questions",
        str(questions_file),
        "--out",
        str(out),
        "--max-new-tokens",
        "40",
    ]
    assert (
        call(edge.cli.app.main, [*arguments, "--quiet", *(["--reference"] if reference else [])], tmp_path)
        == 0
    )
    run = Run.open(out)
    rows = run.steps()
    steps = sum(path.stat().st_size for path in out.glob("steps/*"))
    taken = steps + sum(path.stat().st_size for path in out.glob("answers/*"))
    spec = Artifact.open(artifacts("odd")).manifest.model
    predicted = disk_needed(spec, rows.num_rows, run.answers().num_rows, reference_k=256 if reference else 0)
    assert predicted > taken
    widest = sum(
        max(map(len, filter(None, rows[name].to_pylist())))
        for name in vectors(rows)
        if "reference" not in name
    )
    assert (
        widest <= vector_values(spec) <= widest + 2
    )  # two of the hidden metrics have no value for the embedding


def test_a_forced_run_asks_for_room_and_says_how_to_go_on(artifacts, questions_file, tmp_path, monkeypatch):
    artifact, like = Artifact.open(artifacts("odd")), tmp_path / "like"
    arguments = [
        "run",
        str(artifact.path),
        "--questions",
        str(questions_file),
        "--out",
        str(like),
        "--max-new-tokens",
        "9",
    ]
    assert call(edge.cli.app.main, [*arguments, "--quiet", "--reference-k", "16"], tmp_path) == 0
    assert {len(ids) for ids in Run.open(like).steps()["reference_token_ids"].to_pylist() if ids} == {16}
    monkeypatch.setattr("edge.runs.disk.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(
        UserError,
        match=r"the run takes up to .* and 0\.0 MB are free at .*or start all the same with --anyway",
    ):
        force(artifact, like, tmp_path / "forced", runtime=Runtime(1))
    assert not (tmp_path / "forced").exists()
    force(artifact, like, tmp_path / "forced", runtime=Runtime(1, anyway=True))
    assert Run.open(tmp_path / "forced").answers().num_rows == Run.open(like).answers().num_rows


def vectors(rows):
    return [field.name for field in rows.schema if str(field.type).startswith("list")]


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"proc/self/cgroup": "0::/user.slice\n", "sys/fs/cgroup/user.slice/memory.max": "max\n"}, []),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": "1000000",
                "sys/fs/cgroup/a/memory.current": "900000",
                "sys/fs/cgroup/a/memory.stat": "anon 5\ninactive_file 300000\n",
                "sys/fs/cgroup/a/b/memory.max": "max",
                "sys/fs/cgroup/a/b/memory.current": "100",
            },
            [400000],
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:cpuacct,memory:/docker/1\n",
                "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes": "5000",
                "sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes": "6000",
            },
            [0],
        ),
        ({"proc/self/cgroup": "nonsense\n"}, []),
        ({}, []),
    ],
)
def test_limits_of_control_groups_count(tmp_path, files, left):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert group_memory(tmp_path) == left
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 500 kB\n")
    assert available_memory(tmp_path) == min([512000, *left])


def test_a_backend_is_not_opened_without_the_memory(odd, monkeypatch):
    monkeypatch.setattr("edge.machine.device.read_text", few_bytes_free)
    with pytest.raises(UserError, match="of memory with 50 positions"):
        open_backend(odd, Runtime(1), 50, print)
    open_backend(odd, Runtime(1, anyway=True), 50, print).close()
