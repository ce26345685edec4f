"""`python -m edge.backends.gguf_probe FILE`: does all that `edge ask` does with a GGUF file, for one token.

It ends with 0 whatever Python finds wrong, since the caller meets that itself. A file that llama.cpp cannot
bear ends it by a signal.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
import time
from pathlib import Path

from edge.artifact import FileRecord
from edge.backends.base import Runtime
from edge.backends.gguf_file import read_gguf
from edge.backends.llamacpp import LlamaBackend
from edge.backends.tokenizer import open_tokenizer

TEXT = "Do bats see? 1 + 2 <s></s>\n"
POSITIONS = 8
STARTS = 50  # processor time of this process, as a multiple of what its start took: boards differ tenfold
SLOWEST = 20_000_000  # bytes of the file for each further second
GRACE = 5  # seconds
SPACE = 4 << 30  # bytes of addresses beside the file, which may be mapped and copied


def limit(size: int) -> None:
    """Bounds processor time and memory; the system's killer takes this process first."""
    seconds = math.ceil((1 + STARTS) * time.process_time() + size / SLOWEST)
    bounds = (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, seconds, seconds + GRACE),  # equal ones would end it as want of memory does
        (resource.RLIMIT_AS, SPACE + 3 * size, SPACE + 3 * size),
    )
    for what, soft, hard in bounds:
        with contextlib.suppress(OSError, ValueError):  # this process may be bounded more tightly already
            resource.setrlimit(what, (soft, hard))
    with contextlib.suppress(OSError):  # Linux has the file, others do not
        Path("/proc/self/oom_score_adj").write_text("1000")


def probe(path: Path) -> None:
    """Opens the file, encodes and decodes a text, and runs two passes."""
    size = path.stat().st_size
    limit(size)
    artifact = read_gguf(path, FileRecord(size, ""))
    tokenizer = open_tokenizer(artifact)
    tokenizer.decode(tokenizer.encode(TEXT, special=True), special=False)
    spec = artifact.manifest.model
    tokenizer.decode(range(min(256, spec.vocabulary)), special=True)
    backend = LlamaBackend(artifact, capacity=POSITIONS, runtime=Runtime(threads=1, low_memory=True))
    backend.prefill([spec.vocabulary - 1] * min(2, backend.capacity))
    if backend.length < backend.capacity:
        backend.step(0)
    backend.close()


if __name__ == "__main__":
    with contextlib.suppress(Exception):
        probe(Path(sys.argv[1]))
