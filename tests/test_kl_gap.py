"""The bound from K kept tokens: never above the exact divergence, nearer to it with every token more, equal
with all of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.kl_gap import KEPT, Position, bytes_each, measure, measure_model, rounded
from edge.jobs.force import distributions
from edge.runs.columns import steps_schema
from edge.signals.comparison import TopK, kl_exact, kl_to_reference, top_k
from edge.signals.definitions import Scratch, output_signals
from export.build import build


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 2.0, 12.0]), st.sampled_from([0.01, 0.5, 5.0]))
def test_the_bound_rises_with_k_to_the_exact_divergence(seed, scale, noise):
    rng = np.random.default_rng(seed)
    full = rng.normal(0, scale, 300).astype(np.float32)
    quantised = full + rng.normal(0, noise, 300).astype(np.float32)
    one, other = (output_signals(logits, Scratch()).log_normaliser for logits in (full, quantised))
    exact = kl_exact(full, one, quantised, other)
    bounds = [kl_to_reference(top_k(full, one, k), quantised, other) for k in (1, 4, 16, 64, 256, 300)]
    assert all(bound <= exact + 1e-5 for bound in bounds)
    assert (np.diff(bounds) >= -1e-5).all()  # a finer split loses less (data processing)
    assert bounds[-1] == pytest.approx(exact, abs=2e-6 * max(1.0, exact))


def test_on_a_model_the_gap_shrinks_with_k_and_half_precision_is_coarser_than_it(checkpoints, tmp_path):
    build(str(checkpoints("nano-llama")), ["onnx-fp32", "onnx-int4"], tmp_path)
    gaps, kept = measure_model(tmp_path, "onnx-int4", 3, 24)
    found = [gaps[k] for k in KEPT]
    assert [gap.kl for gap in found] == [found[0].kl] * len(KEPT)
    assert found[0].kl > 1e-4
    assert all(gap.mean > -1e-7 for gap in found)
    assert found[0].mean > found[1].mean > found[2].mean > found[3].mean
    assert abs(found[4].mean) < 1e-6  # 4096 is more than the vocabulary
    assert found[2].half_error > found[2].mean
    assert len(kept[256]) == len(kept[16]) > 10
    sizes = [bytes_each(kept[256], kind) for kind in (np.float32, np.float16)]
    assert 2000 > sizes[0] > sizes[1] > 256


def test_the_gap_is_that_of_a_hand_worked_position():
    """Three tokens and a half: p = (1/2, 1/4, 1/4) against q = (1/4, 1/4, 1/2); with one kept, two buckets
    are left."""
    full, quantised = (np.log(np.array(p, np.float32)) for p in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    gaps, _ = measure(iter([Position(full, quantised)] * 2))
    assert gaps[16].kl == pytest.approx(0.25 * np.log(2), abs=1e-6)
    assert gaps[16].mean == pytest.approx(0.0, abs=1e-6)
    one = top_k(full, 0.0, 1)
    assert kl_to_reference(one, quantised, 0.0) == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75), abs=1e-6
    )
    assert rounded(one, np.float16).logprobs[0] == np.float32(np.float16(np.log(0.5)))


def test_kept_distributions_come_back_as_they_went_in():
    rng = np.random.default_rng(3)
    kept = [
        TopK(rng.integers(0, 99, n).astype(np.int32), rng.normal(size=n).astype(np.float32), 0.25)
        for n in (4, 4, 3)
    ]
    columns = {"reference_token_ids": "ids", "reference_logprobs": "logprobs", "reference_rest": "rest"}
    every = steps_schema(reference=True, forced=False)
    schema = pa.schema([every.field(name) for name in columns])
    table = pa.table(
        {name: [getattr(each, part) for each in kept] for name, part in columns.items()}, schema=schema
    )
    for one, other in zip(distributions(table.slice(1)), kept[1:], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert distributions(table.slice(0, 0)) == []
