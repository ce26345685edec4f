"""A long run does not grow: what each answer leaves behind in memory would add up over days."""

from __future__ import annotations

import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from tests.conftest import ROOT, write_questions

ANSWERS, WARM = 300, 60
GROWTH = 8 << 20  # 35 kB an answer would be found; 2,000 answers of nano-llama grew by 6 MB (docs/memory.md)


@pytest.mark.slow
def test_memory_stays_where_it_is(artifacts, tmp_path):
    questions = write_questions(tmp_path / "q.csv", [f"Is it {i} o'clock?" for i in range(ANSWERS)])
    out = tmp_path / "run"
    command = [
        "run",
        str(artifacts("odd")),
        "--questions",
        str(questions),
        "--out",
        str(out),
        "--max-new-tokens",
        "20",
        "--reference",
        "--threads",
        "1",
        "--quiet",
    ]
    # a part each, as on a slow board
    code = (
        "import edge.jobs.session, edge.cli.app; edge.jobs.session.FLUSH_SECONDS = 0.0; edge.cli.app.main()"
    )
    subprocess.run([sys.executable, "-c", code, *command], cwd=ROOT, check=True, capture_output=True)
    resident = pq.read_table(out / "device.parquet").column("rss_bytes").to_pylist()
    assert len(resident) == ANSWERS
    assert max(resident[-20:]) - max(resident[WARM : WARM + 20]) < GROWTH
