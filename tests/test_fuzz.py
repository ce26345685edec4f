"""Mutated files end a command with exit code 0, or with 2 and one sentence; the fuzzer sees other ends."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys

import pytest

from tests.fuzz import gguf
from tests.fuzz.forked import Ended, fault
from tests.fuzz.kinds import KINDS
from tests.fuzz.mutations import mutated
from tests.fuzz.tokenizer import CHANGES

COUNT = 40  # cases of each kind
TRACEBACK = 'Traceback (most recent call last):\n  File "/a/edge/files.py", line 1, in put\nValueError: no\n'


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> str:
    """What the fuzzer says of the first cases of every kind."""
    out = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, "-m", "tests.fuzz", "--count", str(COUNT), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_gives_no_more_than_one_sentence(kind, series):
    assert re.search(rf"^{kind}: {COUNT} of {COUNT} passed", series, re.MULTILINE), series


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        ((0, "", ""), ""),
        ((2, "", "note: much\nerror: a file is damaged: download it again\n"), ""),
        ((2, "", ""), "0 sentences"),
        ((2, "", "error: one\nerror: two\n"), "2 sentences"),
        ((2, "", "a library says\nerror: one\n"), "stray line: a library says"),
        ((2, "", f"error: {'x' * 2000}\n"), "a sentence of over 1500 characters"),
        ((2, "", "error: \x1b[31m\n"), "a sentence with control characters"),
        ((1, "", "error: one\n"), "exit code 1"),
        ((1, "", TRACEBACK), "ValueError at put in edge/files.py"),
        ((-signal.SIGSEGV, "", ""), "SIGSEGV"),
        (
            (-signal.SIGABRT, "", "x.cpp:1: GGML_ASSERT(n > 0) failed\nmore\n"),
            "SIGABRT x.cpp:N: GGML_ASSERT",
        ),
        ((-signal.SIGXCPU, "", ""), "hang"),
    ],
)
def test_any_other_end_is_a_fault(ended, told):
    found = fault(Ended(*ended, 1.0))
    assert found.startswith(told) and bool(found) == bool(told)


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_is_a_case(seed):
    content = b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [], "n": 1.5}'
    first, second = (mutated(content, random.Random(seed), *CHANGES, share=0.5) for _ in range(2))
    assert first == second


def test_a_gguf_file_taken_apart_is_put_together_again():
    keys = [
        gguf.Key(b"a", 8, b"text"),
        gguf.Key(b"b", 9, (8, [b"x", b""])),
        gguf.Key(b"c", 9, (6, [1.5])),
        gguf.Key(b"d", 10, 2**63),
        gguf.Key(b"e", 7, True),
    ]
    content = gguf.write(gguf.File(keys, [gguf.Tensor(b"w", [2, 2], 0, 0)], bytes(16)))
    assert gguf.write(gguf.read(content)) == content
    assert len({gguf.mutated(content, random.Random(seed)) for seed in range(50)}) > 25
