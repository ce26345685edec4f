"""The columns of a run directory's tables, in one place for writer and reader."""

from __future__ import annotations

import pyarrow as pa

from edge.signals.definitions import SCALARS
from edge.signals.streaming import SeriesSummary

FLOAT = pa.float32()
FLOATS = pa.list_(FLOAT)

ATTENTION_BY_HEAD = ("attention_entropy", "sink_mass")  # [L*H], row-major
ATTENTION_BY_LAYER = ("attention_entropy_layer", "head_dispersion", "head_divergence")  # [L]
HIDDEN = ("hidden_norm", "layer_delta", "layer_cosine", "token_delta", "token_cosine")  # [L+1] or [L]
VECTORS = (*ATTENTION_BY_HEAD, *ATTENTION_BY_LAYER, *HIDDEN)
FORCED_SCALARS = ("kl", "reference_surprisal")

STEPS = pa.schema(
    [
        ("question_index", pa.int32()),
        ("question_id", pa.string()),
        ("step", pa.int32()),
        ("phase", pa.string()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("token", pa.string()),
        ("output_entropy", FLOAT),
        ("varentropy", FLOAT),
        ("top1_probability", FLOAT),
        ("top1_top2_gap", FLOAT),
        ("surprisal", FLOAT),
        *((name, FLOATS) for name in VECTORS),
        ("step_ms", FLOAT),
    ]
)
REFERENCE = [
    pa.field("reference_token_ids", pa.list_(pa.int32())),  # [K], most likely first
    pa.field("reference_logprobs", FLOATS),  # [K]
    pa.field("reference_rest", FLOAT),  # mass of all other tokens
]
FORCED = [pa.field("kl", FLOAT), pa.field("reference_surprisal", FLOAT), pa.field("same_top1", pa.bool_())]
EXACT = ("hidden_error", "hidden_similarity")  # [L+1], forced with both models at hand

ANSWERS = pa.schema(
    [
        ("question_index", pa.int32()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("category", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("prompt_text", pa.string()),
        ("answer", pa.string()),
        ("tokens", pa.int32()),
        ("stop_reason", pa.string()),
        ("kv_bytes", pa.int64()),
        ("prefill_ms", FLOAT),
        ("decode_ms", FLOAT),
    ]
)


def mean_column(vector: str) -> str:
    """Name of the answers column that holds a vector's mean over the answer's rows."""
    return f"{vector}_mean_vector"


def steps_schema(*, reference: bool, forced: bool, exact: bool = False) -> pa.Schema:
    """Columns of `steps`: those of every run, and those of a reference, a forced or an exactly forced
    one."""
    vectors = [pa.field(name, FLOATS) for name in EXACT] if exact else []
    return pa.schema([*STEPS, *(REFERENCE if reference else []), *(FORCED if forced else []), *vectors])


def scalar_names(*, forced: bool) -> tuple[str, ...]:
    """Metrics that every answer has a summary of."""
    return (*SCALARS, *(FORCED_SCALARS if forced else ()))


def answers_schema(*, forced: bool, exact: bool = False) -> pa.Schema:
    """Columns of `answers`: METRIC_STATISTIC for each summary, METRIC_mean_vector for each vector."""
    summaries = [
        (f"{name}_{part}", FLOAT) for name in scalar_names(forced=forced) for part in SeriesSummary._fields
    ]
    means = [(mean_column(name), FLOATS) for name in (*VECTORS, *(EXACT if exact else ()))]
    share = [("same_top1_share", FLOAT)] if forced else []
    return pa.schema([*ANSWERS, *(pa.field(*column) for column in [*summaries, *means, *share])])
