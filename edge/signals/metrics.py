"""The table of all metrics: what each is called, where it comes from, and what shows it.

Columns of runs, summaries of answers, predictions, tables, figures and the table of docs/metrics.md are made
from it. To add a metric: its row here, its definition in `edge.signals.definitions`, its C in `compiled.c`,
and its slow twin in `tests/reference.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from edge.signals.metric import LOWER, Kind, Level, Metric, Shape, Shown, Source, Summary, places

METRICS: tuple[Metric, ...] = (
    Metric(
        "output_entropy",
        Source.LOGITS,
        Shape.SCALAR,
        "nat",
        "Output entropy",
        "H = lse(z) - sum p z with p = softmax(z)",
        summary=Summary.PREDICTS,
        summaries=("slope", "early", "late", "shift"),
        warnings=("mean", "extreme"),
        shown=places(Shown.COMPARE, Shown.GLANCE, Shown.MATRIX, Shown.CURVE, Shown.LIVE),
    ),
    Metric(
        "output_entropy_normalised",
        Source.LOGITS,
        Shape.SCALAR,
        "share",
        "Output entropy / ln V",
        "output_entropy / ln V",
        level=Level.ANSWER,
        summary=Summary.KEPT,  # and no prediction: H / ln V ranks as H does
    ),
    Metric(
        "varentropy",
        Source.LOGITS,
        Shape.SCALAR,
        "nat²",
        "Varentropy",
        "sum p (ln p + H)^2",
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE, Shown.LIVE),
    ),
    Metric(
        "top1_probability",
        Source.LOGITS,
        Shape.SCALAR,
        "probability",
        "Top-1 probability",
        "largest probability",
        less_certain=LOWER,
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE, Shown.LIVE),
    ),
    Metric(
        "top1_top2_gap",
        Source.LOGITS,
        Shape.SCALAR,
        "probability",
        "Top-1 to top-2 gap",
        "largest probability less the second",
        less_certain=LOWER,
        summary=Summary.PREDICTS,
        shown=places(Shown.LIVE),
    ),
    Metric(
        "surprisal",
        Source.LOGITS,
        Shape.SCALAR,
        "nat",
        "Surprisal of the token",
        "-ln p of the emitted (or forced) token",
        summary=Summary.PREDICTS,
        warnings=("sum",),
        shown=places(Shown.COMPARE, Shown.LIVE),
    ),
    Metric(
        "attention_entropy",
        Source.ATTENTION,
        Shape.HEADS,
        "nat",
        "Attention entropy",
        "-sum a ln a over the keys, for each head",
        summary=Summary.PREDICTS,
        series="attention_entropy_layer",
        summaries=("shift",),
        warnings=("mean",),
        shown=places(Shown.COMPARE, Shown.GLANCE, Shown.MATRIX, Shown.CURVE),
    ),
    Metric(
        "attention_entropy_normalised",
        Source.ATTENTION,
        Shape.SCALAR,
        "share",
        "Attention entropy / ln K",
        "attention_entropy / ln K, 0 where K = 1: takes out the growth that a longer context alone brings",
        level=Level.ANSWER,
        summary=Summary.PREDICTS,
        series="attention_entropy_layer",
        shown=places(Shown.COMPARE, Shown.CURVE),
    ),
    Metric(
        "sink_mass",
        Source.ATTENTION,
        Shape.HEADS,
        "share",
        "Attention on the first position",
        "attention on position 0",
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE),
    ),
    Metric(
        "attention_entropy_layer",
        Source.ATTENTION,
        Shape.LAYERS,
        "nat",
        "Attention entropy",
        "mean over heads of attention_entropy",
        shown=places(Shown.LAYERS, Shown.PAPER_LAYERS, Shown.LIVE),
    ),
    Metric(
        "head_dispersion",
        Source.ATTENTION,
        Shape.LAYERS,
        "nat",
        "Head dispersion",
        "population SD over heads of attention_entropy: the paper's HDI, as far as its tables allow",
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE, Shown.LAYERS, Shown.GLANCE, Shown.CURVE, Shown.PAPER_LAYERS, Shown.LIVE),
    ),
    Metric(
        "head_divergence",
        Source.ATTENTION,
        Shape.LAYERS,
        "nat",
        "Head divergence",
        "entropy of the heads' mean row less the mean of their entropies "
        "(generalised Jensen-Shannon divergence)",
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE),
    ),
    Metric(
        "attention_renyi2",
        Source.ATTENTION,
        Shape.HEADS,
        "nat",
        "2-Renyi entropy of attention",
        "-ln sum a^2 over the keys, for each head (arXiv 2602.13699)",
        since="0.3.0",
    ),
    Metric(
        "hidden_norm",
        Source.HIDDEN,
        Shape.STREAMS,
        "L2 norm",
        "Norm of the hidden state",
        "L2 norm; entry 0 is what enters layer 1, the last is taken before the final norm",
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE, Shown.LAYERS, Shown.PAPER_LAYERS, Shown.LIVE),
    ),
    Metric(
        "layer_delta",
        Source.HIDDEN,
        Shape.LAYERS,
        "L2 norm",
        "Change from layer to layer",
        "norm of the change between consecutive layers",
        summary=Summary.PREDICTS,
        shown=places(Shown.COMPARE, Shown.PAPER_LAYERS),
    ),
    Metric(
        "layer_cosine",
        Source.HIDDEN,
        Shape.LAYERS,
        "cosine",
        "Cosine from layer to layer",
        "cosine between consecutive layers",
        less_certain=LOWER,
        summary=Summary.PREDICTS,
    ),
    Metric(
        "token_delta",
        Source.HIDDEN,
        Shape.STREAMS,
        "L2 norm",
        "Change from token to token",
        "norm of the change between consecutive positions",
        first_row=1,
        summary=Summary.PREDICTS,
        shown=places(Shown.PAPER_LAYERS),
    ),
    Metric(
        "token_cosine",
        Source.HIDDEN,
        Shape.STREAMS,
        "cosine",
        "Cosine from token to token",
        "cosine between consecutive positions",
        first_row=1,
        less_certain=LOWER,
        summary=Summary.PREDICTS,
        shown=places(Shown.PAPER_LAYERS),
    ),
    Metric(
        "reference_token_ids",
        Source.LOGITS,
        Shape.KEPT,
        "token id",
        "Likeliest tokens",
        "the K most likely tokens, most likely first",
        kind=Kind.REFERENCE,
        dtype="int32",
    ),
    Metric(
        "reference_logprobs",
        Source.LOGITS,
        Shape.KEPT,
        "nat",
        "Log-probabilities of the likeliest tokens",
        "ln p of each of them",
        kind=Kind.REFERENCE,
    ),
    Metric(
        "reference_rest",
        Source.LOGITS,
        Shape.SCALAR,
        "probability",
        "Probability of all other tokens",
        "probability of every token that is not among them",
        kind=Kind.REFERENCE,
    ),
    Metric(
        "kl",
        Source.FORCED,
        Shape.SCALAR,
        "nat",
        "KL(full ‖ quantised)",
        "KL(full ‖ this) over the reference's most likely tokens and one bucket for all others, "
        "a lower bound; with `--exact` over the whole vocabulary",
        kind=Kind.FORCED,
        summary=Summary.KEPT,
    ),
    Metric(
        "reference_surprisal",
        Source.FORCED,
        Shape.SCALAR,
        "nat",
        "Surprisal under the reference",
        "-ln p of the forced token under the reference's model",
        kind=Kind.FORCED,
        summary=Summary.KEPT,
    ),
    Metric(
        "same_top1",
        Source.FORCED,
        Shape.SCALAR,
        "true or false",
        "Same most likely token",
        "whether the most likely token is the same",
        less_certain=LOWER,
        kind=Kind.FORCED,
        dtype="bool",
    ),
    Metric(
        "same_top1_share",
        Source.FORCED,
        Shape.SCALAR,
        "share",
        "Share of tokens with the same most likely one",
        "mean of same_top1 over the answer's rows",
        level=Level.ANSWER,
        less_certain=LOWER,
        kind=Kind.FORCED,
    ),
    Metric(
        "hidden_error",
        Source.FORCED,
        Shape.STREAMS,
        "share",
        "Relative error of the hidden state",
        "norm of the difference of the residual streams over the full model's norm",
        kind=Kind.EXACT,
    ),
    Metric(
        "hidden_similarity",
        Source.FORCED,
        Shape.STREAMS,
        "cosine",
        "Cosine with the full model's hidden state",
        "cosine between the residual streams of the two models",
        less_certain=LOWER,
        kind=Kind.EXACT,
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def names(wanted: Callable[[Metric], bool]) -> tuple[str, ...]:
    """Names of the metrics for which `wanted` holds, in the order of the table."""
    return tuple(metric.name for metric in METRICS if wanted(metric))


def shown_in(place: Shown) -> tuple[str, ...]:
    """Names of the metrics that a table or figure shows."""
    return names(lambda metric: place in metric.shown)


def measured(source: Source) -> tuple[Metric, ...]:
    """What one pass gives from attention or hidden states, in the order of the signals' fields and of C."""
    return tuple(
        metric
        for metric in METRICS
        if metric.source == source and metric.level == Level.TOKEN and metric.kind == Kind.EVERY
    )


# What every answer has a summary of: one number a token.
SCALARS = names(lambda metric: metric.is_summarised and metric.kind == Kind.EVERY)
# The list columns of every run.
VECTORS = names(lambda m: m.is_list and m.level == Level.TOKEN and m.kind == Kind.EVERY)
BY_HEAD = names(lambda m: m.name in VECTORS and m.shape == Shape.HEADS)
BY_LAYER = names(lambda m: m.name in VECTORS and m.shape != Shape.HEADS)
# Metrics of `steps` that are one number a token: the column that they come from.
SERIES = {metric.name: metric.series_column for metric in METRICS if metric.series_column}
