"""The paper's tables for one run as text, beside the paper's own numbers."""

from __future__ import annotations

import math

from edge.analysis.classes import TOO_FEW, answers_text
from edge.analysis.intervals import ENOUGH, Interval
from edge.analysis.paper import Diffusion, PaperRun, direction
from edge.analysis.paper_rows import BEYOND, TITLES, Row
from edge.analysis.published import LAYERS_MODEL, SHORT_NAMES, published
from edge.report.formatting import (
    ABSENT,
    FEW,
    FEW_NOTE,
    UNDEFINED_NOTE,
    interval,
    number,
    percent,
    series_name,
)
from edge.report.tables import Table

MEASURES = {
    "prompt_tokens": "Prompt tokens",
    "generated_tokens": "Generated tokens",
    "output_entropy_mean": "Output entropy",
    "output_entropy_sd": "Output entropy, SD over tokens",
    "top1_probability_mean": "Top-1 probability",
    "top1_probability_sd": "Top-1 probability, SD over tokens",
    "top1_top2_gap_mean": "Top-1 to top-2 gap",
    "attention_entropy_mean": "Attention entropy",
    "attention_entropy_sd": "Attention entropy, SD over tokens",
    "head_dispersion_mean": "Head dispersion",
    "head_dispersion_sd": "Head dispersion, SD over tokens",
    "kv_total_mb_max": "KV cache as the paper counts it, MiB",
    "kv_cached_mb": "KV cache as cached, MiB",
    "kv_cached_mb_largest": "largest KV cache of an answer, MiB",
    "p10": "10th percentile",
    "p90": "90th percentile",
    "min": "Minimum",
    "max": "Maximum",
    "layers": "Layers",
    "mean_layer_entropy": "Mean over layers",
    "sd_across_layers": "SD across layers",
    "lowest_layer_1based": "Layer of lowest entropy",
    "lowest_layer_entropy": "Its entropy",
    "highest_layer_1based": "Layer of highest entropy",
    "highest_layer_entropy": "Its entropy ",
    "hidden_l2_mean": "Norm of the hidden state",
    "hidden_l2_sd": "Norm of the hidden state, SD over tokens",
    "delta_l2_mean": "Change from layer to layer",
    "delta_l2_sd": "Change from layer to layer, SD over tokens",
    "entropy_step_mean": "|Change of output entropy| from token to token",
    "entropy_lag1_correlation": "Correlation of output entropy with the next token's",
    "attention_normalised_mean": "Attention entropy / ln K",
}
SIGNED = ("shift", "slope", "correlation")
SUBJECTS = {
    "output": "Output entropy",
    "attention": "Attention entropy",
    "attention_normalised": "Attention entropy / ln K",
    "token_delta": "Change from token to token",
    "token_cosine": "Cosine from token to token",
}
PARTS = {
    "early": "first 20%",
    "late": "last 20%",
    "shift": "late − early",
    "slope": "slope over the answer",
    "mean": "mean",
}
SIDES = {"lowest": "Lowest", "highest": "Highest"}
RANKED = {"layer": "layer", "attention_entropy": "attention entropy", "head_dispersion": "head dispersion"}


def measure_name(measure: str) -> str:
    """The title of a measure; raises KeyError for one that has none."""
    if measure in MEASURES:
        return MEASURES[measure].strip()
    side, _, rest = measure.partition("_")
    if side in SIDES:
        rank, _, quantity = rest.partition("_")
        return f"{SIDES[side]} {rank}: {RANKED[quantity]}"
    subject, _, part = measure.rpartition("_")
    return f"{SUBJECTS[subject]}, {PARTS[part]}"


def paper_columns(model_id: str, table: int) -> list[tuple[str, str]]:
    """The paper's columns beside a run as (heading, model): its own model, or all four for another model."""
    known = published()
    if model_id in known.models and (table != 6 or model_id == LAYERS_MODEL):
        return [("Paper", model_id)]
    if table == 6:
        return [("Llama", LAYERS_MODEL)]
    return [(name, model) for name, model in zip(SHORT_NAMES, known.models, strict=True)]


def plain_number(value: float, signed: bool = False) -> str:
    """A number as the paper prints it.

    Counts and layers are whole numbers, others have three decimals, small ones two significant digits.
    """
    if not math.isfinite(value):
        return ABSENT
    if value == int(value) and not signed:
        return str(int(value))
    if abs(value) < 0.01:
        return number(value, signed=signed, digits=2)
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")


def cell_text(value: Interval, signed: bool) -> str:
    """A value with its interval; the value alone where the interval has no width."""
    return plain_number(value.value, signed) if no_width(value) else interval(value, signed=signed)


def brief_text(value: Interval, signed: bool) -> str:
    """A value with its interval to three decimals, or one from 10 on: most rows fit 80 columns."""
    if no_width(value):
        return plain_number(value.value, signed)
    middle, low, high = (
        f"{bound:.1f}" if abs(bound) >= 10 and not signed else plain_number(bound, signed)
        for bound in value[:3]
    )
    return f"{middle} {FEW if value.marked else ''}[{low}, {high}]"


def no_width(value: Interval) -> bool:
    """Whether a value has no interval or one of width 0."""
    return math.isnan(value.low) or value.low == value.high


def cells(row: Row, columns: list[tuple[str, str]], with_question: bool, brief: bool) -> list[str]:
    """One row of a table: the run's values, those of one question if asked for, and the paper's."""
    signed = row.measure.endswith(SIGNED)
    return [
        measure_name(row.measure),
        brief_text(row.questions, signed) if brief else cell_text(row.questions, signed),
        plain_number(row.tokens.value, signed) if brief else cell_text(row.tokens, signed),
        *([plain_number(row.question, signed)] if with_question else []),
        *(plain_number(published().value(row.table, row.measure, model), signed) for _, model in columns),
    ]


def paper_tables(run: PaperRun, *, brief: bool = False) -> list[Table]:
    """Tables 1 to 7, what the paper left for later, and the class; tables without a measure are left out.

    `brief` leaves out the intervals over tokens, for a terminal of 80 columns.
    """
    tables = []
    for table, title in TITLES.items():
        rows = [row for row in run.rows if row.table == table]
        if not rows:
            continue
        columns = [] if table == BEYOND else paper_columns(run.model_id, table)
        question = [] if run.question is None else [f"Question {run.question}"]
        caption = f"Table {table}. {title}" if table < BEYOND else title
        headings = [*question, *(heading for heading, _ in columns)]
        other_models = bool(columns) and columns[0][0] != "Paper"
        note = "; Llama to Qwen: the paper’s models, of which this is none" if other_models else ""
        tables.append(
            Table(
                f"{caption}: {run.label}{note}",
                ["Measure", "Over questions [95%]", "Tokens" if brief else "Over tokens [95%]", *headings],
                [cells(row, columns, bool(question), brief) for row in rows],
            )
        )
    return [*tables, class_table(run)]


def paper_notes(run: PaperRun) -> list[str]:
    """What the marks in a run's tables mean, where they have them."""
    marked = {
        f"{FEW_NOTE}.": any(row.questions.marked for row in run.rows),
        f"{ABSENT} over questions: {UNDEFINED_NOTE}.": any(
            math.isnan(row.questions.value) for row in run.rows
        ),
    }
    return [note for note, needed in marked.items() if needed]


def class_table(run: PaperRun) -> Table:
    """Our class with its rule's input, beside the paper's two verdicts and the sign of its own shift."""
    model_class, verdicts = run.model_class, run.verdicts
    delta = model_class.delta
    rule = (
        f"deterministic: interval below −{delta:g}; exploratory: above +{delta:g}; balanced otherwise; "
        f"none below {ENOUGH} answers"
    )
    rows = [
        ["Our class", model_class.label if model_class.defined else f"{model_class.label}: {TOO_FEW}"],
        ["Answers that decide", answers_text(model_class)],
        ["Early to late shift of output entropy (nat)", interval(model_class.shift, signed=True)],
        ["Rule", rule],
        ["Paper, abstract", verdicts.abstract if verdicts else ABSENT],
        ["Paper, section 4.1", verdicts.section if verdicts else ABSENT],
        ["Paper, sign of its own shift (Table 5)", verdicts.sign if verdicts else ABSENT],
    ]
    return Table(f"Class: {run.label}", ["By", "Verdict"], rows)


def diffusion_text(diffusion: Diffusion) -> str:
    """Two sentences on whether attention spreads along the answer: in nats, and divided by ln K."""
    raw, normalised = diffusion.raw, diffusion.normalised
    if math.isnan(raw.value):
        return "Along the answer attention entropy has no slope: no answer has two tokens."
    return (
        f"Along the answer attention entropy {direction(raw)} (slope {interval(raw, signed=True)} nat; "
        f"it rises in {percent(diffusion.raw_rises)} of answers). "
        f"Divided by ln K, its bound, it {direction(normalised)} "
        f"(slope {interval(normalised, signed=True)}; "
        f"rises in {percent(diffusion.normalised_rises)} of answers)."
    )


def correlation_table(run: PaperRun) -> Table:
    """Correlations of every pair of series, over all tokens and along single answers."""
    rows = [
        [
            f"{series_name(pair.x)} and {series_name(pair.y)}",
            number(pair.over_tokens, signed=True, digits=3),
            interval(pair.within, signed=True),
        ]
        for pair in run.correlations
    ]
    return Table(
        f"Correlations (Figure 4): {run.label}",
        ["Pair", "Over all tokens (the paper’s way)", "Along one answer, mean over questions [95%]"],
        rows,
    )
