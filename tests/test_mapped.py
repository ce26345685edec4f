"""Pages that are let go come back with what the file has; what was written to stays."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.backends.mapped import Mapping, let_go, mappings
from edge.machine.device import meminfo
from edge.machine.system import read_text

SIZE = 32 << 20

SMAPS = """7f3a00000000-7f3a02000000 r--s 00001000 fe:01 1311 /models/a b/weights.gguf
Size:              32768 kB
Rss:               32768 kB
Anonymous:             0 kB
VmFlags: rd mr me ms sd
7f3a03000000-7f3a03001000 rw-p 00000000 00:00 0
Size:                  4 kB
Anonymous:             4 kB
7ffd6f9e0000-7ffd6fa01000 rw-p 00000000 00:00 0                          [stack]
Anonymous:            24 kB
"""


def resident() -> int:
    return meminfo(read_text(Path("/proc/self/status")) or "", "RssFile") or 0


def test_mappings_are_read_with_spaces_in_names():
    assert mappings(SMAPS) == [
        Mapping(0x7F3A00000000, 32 << 20, "/models/a b/weights.gguf", clean=True),
        Mapping(0x7F3A03000000, 4096, "", clean=False),
        Mapping(0x7FFD6F9E0000, 0x21000, "[stack]", clean=False),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own text")
@pytest.mark.parametrize("access", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_pages_leave_and_come_back(tmp_path, access):
    path = tmp_path / "weights file"
    content = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    path.write_bytes(content.tobytes())
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), SIZE, flags=access, prot=mmap.PROT_READ)
    array = np.frombuffer(mapped, np.uint8)
    total = int(array.sum())
    before = resident()
    assert let_go(path) == SIZE
    assert resident() < before - SIZE // 2
    assert int(array.sum()) == total
    assert resident() > before - SIZE // 2


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own text")
def test_what_was_written_to_a_private_mapping_stays(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    with path.open("rb") as stream:
        mapped = mmap.mmap(
            stream.fileno(), SIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    mapped[5] = 7
    assert let_go(path) == 0
    assert mapped[5] == 7


def test_a_file_that_is_not_mapped_and_a_system_that_does_not_tell(tmp_path):
    assert let_go(tmp_path / "none") == 0
    assert let_go(tmp_path / "none", root=tmp_path) == 0
