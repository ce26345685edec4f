"""Compiled code: where it comes from, and that nothing depends on its being there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edge.machine.native import compiled
from edge.signals.compiled import SOURCE
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def cache(nothing_compiled):
    return nothing_compiled


def test_it_is_compiled_once_for_its_user_alone(cache, monkeypatch):
    first = compiled(SOURCE)
    assert first.library
    assert first.problem == ""
    (kept,) = cache.iterdir()
    assert cache.stat().st_mode & 0o077 == 0
    compiled.cache_clear()
    monkeypatch.setenv("PATH", "")  # no compiler any more
    assert compiled(SOURCE).library._handle == first.library._handle  # the same file, loaded once a process
    assert list(cache.iterdir()) == [kept]


@pytest.mark.parametrize("why", ["absent", "broken", "read-only"])
def test_without_a_working_compiler_it_says_why(why, cache, tmp_path, monkeypatch):
    if why == "broken":
        fake = tmp_path / "bin" / "cc"
        fake.parent.mkdir()
        fake.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    elif why == "read-only":
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    found = compiled(SOURCE)
    assert found.library is None
    words = {"absent": "no C compiler", "broken": "no headers here", "read-only": "Not a directory"}
    assert words[why] in found.problem
    assert not list(cache.glob("*")) if why != "read-only" else True


def test_code_that_others_could_have_written_is_not_loaded(cache):
    compiled(SOURCE)
    (kept,) = cache.iterdir()
    inode = kept.stat().st_ino
    kept.chmod(0o777)
    compiled.cache_clear()
    assert compiled(SOURCE).library
    (again,) = cache.iterdir()
    assert again.stat().st_ino != inode
    assert again.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize("damage", ["no library", "half", "a page of zeros", "no symbols"])
def test_damaged_code_is_compiled_anew(damage, cache, tmp_path):
    """In processes of their own: loading half a library ends one, and one that has loaded it never reads the
    file again."""
    ask = "from edge.signals.compiled import compiled_code; print(bool(compiled_code().code))"
    command = [sys.executable, "-c", ask]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "True\n"
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    if damage == "no symbols":
        (tmp_path / "other.c").write_text("int other;")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", kept, tmp_path / "other.c"], check=True)
    else:
        half = len(whole) // 8192 * 4096
        zeros = whole[:half] + bytes(4096) + whole[half + 4096 :]
        damaged = {"no library": b"none", "half": whole[:half], "a page of zeros": zeros}
        kept.write_bytes(damaged[damage])
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "True\n"
    assert kept.read_bytes() == whole
    assert list(cache.iterdir()) == [kept]
