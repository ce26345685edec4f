"""Weights laid out once and mapped: the same bits, made again when anything differs, never in the way."""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import replace

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.backends import prepacked
from edge.backends.base import Runtime
from edge.backends.prepacked import FOLDER, LOCK_NAME, MADE_NAME, find, find_or_make, identity
from edge.backends.runtime import open_backend
from tests.conftest import tree

IDS = [1, 5, 9, 200, 33, 7]


@pytest.fixture
def copy(artifacts, tmp_path, monkeypatch):
    monkeypatch.setattr(prepacked, "WORTH", 0)

    def get(precision: str) -> Artifact:
        return Artifact.open(shutil.copytree(artifacts("untied", precision), tmp_path / precision))

    return get


def values(artifact: Artifact, runtime: Runtime, notes: list[str]) -> list[np.ndarray]:
    """Every tap of a prefill and of two steps."""
    backend = open_backend(artifact, runtime, 50, notes.append)
    taps = []
    for one in (lambda: backend.prefill(IDS), lambda: backend.step(4), lambda: backend.step(8)):
        passed = one()
        taps += [np.copy(passed.logits), np.copy(passed.attention), np.copy(passed.hidden)]
    backend.close()
    return taps


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int8", "onnx-int4"])
def test_the_same_bits_come_from_weights_laid_out_before(copy, precision):
    artifact, notes = copy(precision), []
    plain = values(artifact, Runtime(1, prepack=False), notes)
    assert not notes
    assert not (artifact.path / FOLDER).exists()
    first = values(artifact, Runtime(1), notes)
    assert len(notes) == 1
    assert f"in {artifact.path / FOLDER}, once (" in notes[0]
    made = tree(artifact.path / FOLDER)
    again = values(artifact, Runtime(1), notes)
    assert len(notes) == 1  # and only once
    assert tree(artifact.path / FOLDER) == made
    for of_plain, of_first, of_again in zip(plain, first, again, strict=True):
        np.testing.assert_array_equal(of_plain, of_first)
        np.testing.assert_array_equal(of_plain, of_again)
    assert Artifact.open(artifact.path).manifest == artifact.manifest  # the artifact is none the worse


@pytest.mark.parametrize("name", ["model.onnx", "weights.bin", MADE_NAME])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damaged_ones_are_made_again(copy, name, damage):
    artifact, notes = copy("onnx-int4"), []
    expected = values(artifact, Runtime(1), notes)
    path = artifact.path / FOLDER / name
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4
        path.write_bytes(content[: -1 if damage == "cut" else None])
    assert find(artifact) is None
    for of_first, of_again in zip(expected, values(artifact, Runtime(1), notes), strict=True):
        np.testing.assert_array_equal(of_first, of_again)
    assert len(notes) == 2
    assert find(artifact)


def test_those_of_another_processor_version_or_artifact_are_not_used(copy, artifacts, tmp_path, monkeypatch):
    artifact = copy("onnx-int4")
    graph = find_or_make(artifact, 1, print)
    assert find(artifact) == graph
    with monkeypatch.context() as changed:
        changed.setattr(prepacked, "RUNTIME_VERSION", "1.0.0")
        assert find(artifact) is None
    rebuilt = replace(artifact.manifest, checkpoint_sha256="0" * 64)  # a build that was put over this one
    assert find(Artifact(artifact.path, rebuilt)) is None
    other = Artifact.open(artifacts("untied", "onnx-int8"))
    shutil.copytree(artifact.path / FOLDER, tmp_path / "other" / FOLDER)
    assert find(Artifact(tmp_path / "other", other.manifest)) is None


def test_the_processor_is_told_by_what_it_is_and_can(copy, tmp_path):
    artifact = copy("onnx-int4")
    (tmp_path / "proc").mkdir()

    def of(cpuinfo: str) -> str:
        (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
        return identity(artifact, tmp_path)

    pi5 = (
        "processor : 0\nBogoMIPS : 108.00\nFeatures : fp asimd asimddp\n"
        "CPU implementer : 0x41\nCPU part : 0xd0b\n"
    )
    assert of(pi5) == of(pi5.replace("108", "48") + pi5)  # neither how many nor how fast
    assert len({of(pi5), of(pi5.replace("0xd0b", "0xd08")), of(pi5.replace(" asimddp", ""))}) == 3


def test_small_artifacts_full_disks_and_locks_do_without(copy, monkeypatch):
    artifact, notes = copy("onnx-int4"), []
    plain = artifact.path / "model.onnx"
    before = tree(artifact.path)
    with monkeypatch.context() as changed:
        changed.setattr(prepacked, "WORTH", 1 << 30)
        assert find_or_make(artifact, 1, notes.append) == plain
        assert tree(artifact.path) == before
    with monkeypatch.context() as changed:
        changed.setattr(prepacked, "SPARE", 1 << 60)
        assert find_or_make(artifact, 1, notes.append) == plain
    with (artifact.path / LOCK_NAME).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert find_or_make(artifact, 1, notes.append) == plain
    assert not notes
    assert not (artifact.path / FOLDER).exists()


def test_a_folder_that_cannot_be_written_is_told_and_run_all_the_same(copy, monkeypatch):
    artifact, notes = copy("onnx-int4"), []
    expected = values(artifact, Runtime(1, prepack=False), notes)
    (artifact.path / f".{FOLDER}.tmp").write_text(
        "in the way"
    )  # also where tests run as root, whom no mode stops
    for of_plain, of_this in zip(expected, values(artifact, Runtime(1), notes), strict=True):
        np.testing.assert_array_equal(of_plain, of_this)
    assert len(notes) == 1
    assert "could not be made (" in notes[0]
    assert not (artifact.path / FOLDER).exists()
