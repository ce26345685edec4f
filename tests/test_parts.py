"""Checksums of a run's parts: every kind of damage is found, told, and traced again."""

from __future__ import annotations

import random
import shutil

import duckdb
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import edge.cli.app
from edge.errors import UserError
from edge.runs.parts import checksum, is_damaged, part_stem, write_part
from edge.runs.run_directory import Run
from tests.test_cli_errors import call
from tests.test_crash_run import arguments, assert_same_rows

TABLE = pa.table({"question_index": pa.array([0, 0, 1], pa.int32()), "x": [0.5, 1.5, 2.5]})


def test_a_part_is_named_by_its_content(tmp_path):
    path = write_part(tmp_path, "part-2of3-000001-000009", TABLE)
    assert path.name == f"part-2of3-000001-000009.{checksum(path)}.parquet"
    assert part_stem(path.name) == "part-2of3-000001-000009"
    assert pq.read_table(path).equals(TABLE)
    assert not is_damaged(path)
    assert write_part(tmp_path, "part-2of3-000001-000009", TABLE) == path
    assert [
        part_stem(name) for name in ("part-1of1-000000-000003.parquet", "part-1of1.parquet", "notes.parquet")
    ] == [
        "part-1of1-000000-000003",
        None,
        None,
    ]


def test_other_readers_read_a_run_as_it_was_written(whole, tmp_path):
    """The encodings are chosen for size; duckdb and polars (Rust) have readers of their own."""
    for kind in ("steps", "answers"):
        (path, *_) = sorted((whole / kind).glob("*.parquet"))
        table = pq.read_table(path)
        assert table.num_rows
        assert polars.read_parquet(path, use_pyarrow=False).to_arrow().cast(table.schema).equals(table)
        rows = duckdb.sql(f"select * from read_parquet('{path}')").arrow()
        rows = rows if isinstance(rows, pa.Table) else rows.read_all()
        assert rows.cast(table.schema).equals(table)
        group = pq.ParquetFile(path).metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        floats = [column for column in columns if column.physical_type in ("FLOAT", "DOUBLE")]
        assert floats
        assert all("BYTE_STREAM_SPLIT" in column.encodings for column in floats)


def test_one_flipped_bit_anywhere_is_found(tmp_path):
    path = write_part(tmp_path, "part-1of1-000000-000001", TABLE)
    content, rng = path.read_bytes(), random.Random(1)
    bits = range(8 * len(content))
    for bit in rng.sample(bits, 200):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert is_damaged(path), bit
    path.write_bytes(content)
    assert not is_damaged(path)


def damage(part, how):
    content = part.read_bytes()
    if how == "flipped":
        part.write_bytes(content[:100] + bytes([content[100] ^ 4]) + content[101:])
    elif how == "swapped":
        other = next(p for p in part.parent.glob("part-*") if p != part)
        part.write_bytes(other.read_bytes())
    else:
        part.write_bytes(content[: {"emptied": 0, "cut": 3, "halved": len(content) // 2}[how]])


@pytest.fixture(scope="module")
def whole(artifacts, questions_file, tmp_path_factory):
    """A finished run in several parts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edge.jobs.session, "FLUSH_SECONDS", 0.0)
        assert (
            call(
                edge.cli.app.main,
                arguments(artifacts("odd"), questions_file, out, "--temperature", "0.8"),
                out.parent,
            )
            == 0
        )
    assert len(Run.open(out).parts()) == 7
    return out


@pytest.mark.parametrize("kind", ["steps", "answers"])
@pytest.mark.parametrize("how", ["flipped", "emptied", "cut", "halved", "swapped"])
def test_a_part_damaged_afterwards_is_named_to_readers_and_traced_again(
    how, kind, whole, artifacts, questions_file, tmp_path, capsys
):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    parts = sorted((out / kind).glob("part-*"))
    damage(parts[3], how)
    run = Run.open(out)
    with pytest.raises(UserError, match=rf"{parts[3].name} is damaged .*: run the same command again"):
        run.steps() if kind == "steps" else run.answers()
    stamps = {path: path.stat().st_mtime_ns for path in parts if path != parts[3]}
    command = arguments(artifacts("odd"), questions_file, out, "--temperature", "0.8")
    assert call(edge.cli.app.main, command, tmp_path) == 0
    assert (
        f"{parts[3].name} was damaged: removed, its questions are traced again"
        in capsys.readouterr().err.replace("\n", "")
    )
    assert_same_rows(out, whole)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert call(edge.cli.app.main, command, tmp_path) == 0
    assert "damaged" not in capsys.readouterr().err


def test_damaged_telemetry_is_begun_anew(whole, artifacts, questions_file, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "device.parquet").write_bytes(b"rubbish")
    next((out / "answers").glob("part-*")).unlink()
    assert (
        call(
            edge.cli.app.main,
            arguments(artifacts("odd"), questions_file, out, "--temperature", "0.8"),
            tmp_path,
        )
        == 0
    )
    assert pq.read_table(out / "device.parquet").num_rows == 1
    assert_same_rows(out, whole)


def test_parts_of_older_versions_have_no_checksum_and_are_read(whole, artifacts, questions_file, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in out.glob("*/part-*"):
        path.rename(path.with_name(f"{part_stem(path.name)}.parquet"))
    assert_same_rows(out, whole)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("*/part-*")}
    assert (
        call(
            edge.cli.app.main,
            arguments(artifacts("odd"), questions_file, out, "--temperature", "0.8"),
            tmp_path,
        )
        == 0
    )
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/part-*")} == stamps
    path = sorted(stamps)[0]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"cannot be read .* delete it"):
        Run.open(out).answers()
    assert (
        call(
            edge.cli.app.main,
            arguments(artifacts("odd"), questions_file, out, "--temperature", "0.8"),
            tmp_path,
        )
        == 0
    )
    assert_same_rows(out, whole)


def test_a_part_that_is_there_twice_is_refused(whole, artifacts, questions_file, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    part = next((out / "steps").glob("part-*"))
    shutil.copy(part, part.with_name(f"{part_stem(part.name)}.parquet"))
    with pytest.raises(UserError, match="there more than once"):
        Run.open(out).steps()
    assert (
        call(
            edge.cli.app.main,
            arguments(artifacts("odd"), questions_file, out, "--temperature", "0.8"),
            tmp_path,
        )
        == 2
    )
    assert "more than once" in capsys.readouterr().err
