"""The compiled tap callback: where it comes from, and that nothing depends on its being there."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

import pytest

from edge.backends.llama_callback import SOURCE, CompiledPass, Pass, Stop, compiled_callback, stops
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own, and a process that has not compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled_callback.cache_clear()
    yield tmp_path / "cache" / "edgetrace"
    compiled_callback.cache_clear()


def test_it_is_compiled_once_for_its_user_alone(cache, monkeypatch):
    first = compiled_callback()
    assert first.address
    assert first.problem == ""
    (kept,) = cache.iterdir()
    assert cache.stat().st_mode & 0o077 == 0
    compiled_callback.cache_clear()
    monkeypatch.setenv("PATH", "")  # no compiler any more
    assert compiled_callback().address == first.address  # the same file, loaded once a process
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
    found = compiled_callback()
    assert found.address == 0
    words = {"absent": "no C compiler", "broken": "no headers here", "read-only": "Not a directory"}
    assert words[why] in found.problem
    assert not list(cache.glob("*")) if why != "read-only" else True


def test_code_that_others_could_have_written_is_not_loaded(cache):
    compiled_callback()
    (kept,) = cache.iterdir()
    inode = kept.stat().st_ino
    kept.chmod(0o777)
    compiled_callback.cache_clear()
    assert compiled_callback().address
    (again,) = cache.iterdir()
    assert again.stat().st_ino != inode
    assert again.stat().st_mode & 0o022 == 0


def test_damaged_code_is_compiled_anew(cache):
    """In processes of their own: one that has loaded the code once never reads the file again."""
    ask = "from edge.backends.llama_callback import compiled_callback; print(bool(compiled_callback().address))"
    command = [sys.executable, "-c", ask]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "True\n"
    (kept,) = cache.iterdir()
    kept.write_bytes(b"not a library")
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "True\n"
    assert kept.read_bytes()[:4] == b"\x7fELF"


def test_both_sides_lay_the_structures_out_alike(tmp_path):
    """Sizes and every offset, as the compiler has them."""
    fields = [(name, kind, field) for name, kind in (("pass", Pass), ("stop", Stop)) for field, *_ in kind._fields_]
    prints = "".join(f'printf("%zu ", offsetof(struct {name}, {field}));' for name, _, field in fields)
    main = f'#include <stdio.h>\n#include <stddef.h>\n#include "{SOURCE}"\n'
    main += f'int main(void) {{ {prints} printf("%zu %zu", sizeof(struct pass), sizeof(struct stop)); return 0; }}'
    (tmp_path / "layout.c").write_text(main)
    subprocess.run(
        [shutil.which("cc"), "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "layout", tmp_path / "layout.c"], check=True
    )
    said = [int(number) for number in subprocess.check_output([tmp_path / "layout"], text=True).split()]
    assert said == [getattr(kind, field).offset for _, kind, field in fields] + [ctypes.sizeof(Pass), ctypes.sizeof(Stop)]


def test_it_asks_python_while_learning_and_wants_nothing_at_rest():
    kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
    heard = []

    def hear(tensor, ask, data):
        heard.append((tensor, ask))
        return tensor == 8

    python = kind(hear)
    one = CompiledPass(
        ctypes.cast(python, ctypes.c_void_p).value, heads=1, stream_bytes=4, attention=0, capacity=0, hidden=0,
        name_at=0, data_at=0, sizes_at=0,
    )  # fmt: skip
    call = kind(compiled_callback().address)
    assert [call(8, True, one.address), call(9, True, one.address)] == [True, False]
    assert heard == [(8, True), (9, True)]
    one.rest()
    assert call(8, True, one.address) is False
    assert call(8, False, one.address) is True  # data that nobody asked for: go on
    one.begin(stops([(16, b"a", 0, 24, b"b", 0)]), 1)
    assert [call(tensor, True, one.address) for tensor in (8, 16, 24)] == [False, True, False]
    assert len(heard) == 2
    one.learn()
    assert call(8, True, one.address) is True
    assert len(heard) == 3
