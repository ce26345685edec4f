"""GGUF files on which llama.cpp ends the process are refused in one sentence, before they are loaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.backends import gguf_check
from edge.backends.gguf_check import checked_record
from edge.backends.gguf_file import open_artifact
from edge.errors import UserError
from tests.fuzz import gguf

# Heads that llama.cpp does not refuse by itself: an assertion, an exception that nothing catches.
FATAL = {
    "nano-gemma3": (b"gemma3.rope.dimension_count", 4, 3, "GGML_ASSERT"),
    "nano-llama": (b"tokenizer.ggml.model", 8, b"rwkv", "vector::_M_range_check"),
}


# By a signal: whether it is the file's fault, and whether that is certain to come again.
ENDS = (
    ("SIGTERM", False, False),
    ("SIGKILL", True, False),
    ("SIGXCPU", True, False),
    ("SIGSEGV", True, True),
)


@pytest.fixture
def bare(artifacts, tmp_path, monkeypatch) -> Callable[[str], Path]:
    """A model's GGUF file alone in a folder, and a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "one"
    folder.mkdir()
    return lambda model: Path(
        shutil.copyfile(artifacts(model, "gguf-q8_0") / "model.gguf", folder / "model.gguf")
    )


@pytest.fixture
def sound(bare) -> Path:
    return bare("nano-llama")


def spoil(path: Path, name: bytes, kind: int, value: int | bytes) -> Path:
    """The file with another value of a key."""
    file = gguf.read(path.read_bytes())
    file.keys = [key for key in file.keys if key.name != name] + [gguf.Key(name, kind, value)]
    path.write_bytes(gguf.write(file))
    return path


def verdicts(folder: Path) -> list[Path]:
    return list((folder / "edgetrace" / "gguf").glob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("model", FATAL)
def test_a_file_that_ends_llama_cpp_is_refused_in_one_sentence(model, bare):
    *change, reason = FATAL[model]
    path = spoil(bare(model), *change)
    code = "import sys; from edge.cli.app import main; sys.argv = ['edge', *sys.argv[1:]]; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "ask", str(path), "Do bats see?"], capture_output=True, text=True
    )
    assert ended.returncode == 2, ended
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("error: llama.cpp ") and reason in ended.stderr


@pytest.mark.slow
def test_a_verdict_is_kept_and_found_again(sound, tmp_path, monkeypatch):
    assert open_artifact(sound).manifest.model.layers > 0
    (kept,) = verdicts(tmp_path / "cache")
    assert {folder.stat().st_mode & 0o777 for folder in (kept.parent, kept.parent.parent)} == {0o700}
    monkeypatch.setattr(gguf_check, "PROBE", "no.such.module")  # it would end with 1: no verdict to keep
    assert checked_record(sound).size == sound.stat().st_size
    kept.write_text("SIGABRT: as before\n")
    with pytest.raises(UserError, match="as before"):
        checked_record(sound)


@pytest.mark.slow
def test_without_a_cache_folder_the_file_is_tried_each_time(sound, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    assert checked_record(sound).sha256
    spoil(sound, *FATAL["nano-llama"][:3])
    for _ in range(2):
        with pytest.raises(UserError, match="vector::_M_range_check"):
            checked_record(sound)


def test_without_home_there_is_no_cache(monkeypatch):
    record = gguf_check.FileRecord(1, "0" * 64)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError())))
    assert gguf_check.verdict_path(record) is None


def test_a_stopped_or_starved_process_is_no_verdict(tmp_path, monkeypatch):
    """A stop from outside says nothing about the file, and want of memory or time nothing for good."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, fault, final in ENDS:
        # A module for each: Python's cache knows a changed one by whole seconds and its size alone.
        (tmp_path / f"ended_{name}.py").write_text(
            f"import os, signal\nos.kill(os.getpid(), signal.{name})\n"
        )
        monkeypatch.setattr(gguf_check, "PROBE", f"ended_{name}")
        told, certain = gguf_check.try_load(tmp_path, 1)
        assert (bool(told), certain) == (fault, final), name


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        checked_record(tmp_path / "none.gguf")
    assert not list(tmp_path.iterdir())
