"""The paper's tables for one run as text, beside the paper's own numbers."""

from __future__ import annotations

import math

from edge.analysis.intervals import Interval
from edge.analysis.paper import Diffusion, PaperRun, direction
from edge.analysis.paper_rows import BEYOND, TITLES, Row
from edge.analysis.published import LAYERS_MODEL, SHORT_NAMES, published
from edge.report.tables import ABSENT, Table, interval, metric_name, number

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
WHAT = {"layer": "layer", "attention_entropy": "attention entropy", "head_dispersion": "head dispersion"}


def measure_name(measure: str) -> str:
    """In words."""
    if measure in MEASURES:
        return MEASURES[measure].strip()
    side, _, rest = measure.partition("_")
    if side in SIDES:
        rank, _, what = rest.partition("_")
        return f"{SIDES[side]} {rank}: {WHAT[what]}"
    subject, _, part = measure.rpartition("_")
    return f"{SUBJECTS[subject]}, {PARTS[part]}"


def paper_columns(model_id: str, table: int) -> list[tuple[str, str]]:
    """(heading, model) of the paper's columns beside a run: its own model's, or all four where the paper has
    not this one."""
    known = published()
    if model_id in known.models and (table != 6 or model_id == LAYERS_MODEL):
        return [("Paper", model_id)]
    if table == 6:
        return [("Llama", LAYERS_MODEL)]
    return [(name, model) for name, model in zip(SHORT_NAMES, known.models, strict=True)]


def plain_number(value: float, signed: bool = False) -> str:
    """Whole numbers as such (counts and layers), others to three decimals as in the paper, small ones to two
    digits."""
    if not math.isfinite(value):
        return ABSENT
    if value == int(value) and not signed:
        return str(int(value))
    if abs(value) < 0.01:
        return number(value, signed=signed, digits=2)
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")


def cell_text(value: Interval, signed: bool) -> str:
    """With its interval where it has one that is wider than nothing."""
    return plain_number(value.value, signed) if no_width(value) else interval(value, signed=signed)


def shown_briefly(value: Interval, signed: bool) -> str:
    """To three decimals, from 10 on to one, so that most rows fit 80 columns."""
    if no_width(value):
        return plain_number(value.value, signed)
    middle, low, high = (
        f"{v:.1f}" if abs(v) >= 10 and not signed else plain_number(v, signed) for v in value
    )
    return f"{middle} [{low}, {high}]"


def no_width(value: Interval) -> bool:
    return math.isnan(value.low) or value.low == value.high


def cells(row: Row, columns: list[tuple[str, str]], with_question: bool, brief: bool) -> list[str]:
    signed = row.measure.endswith(SIGNED)
    made = [measure_name(row.measure), (shown_briefly if brief else cell_text)(row.questions, signed)]
    made += [plain_number(row.tokens.value, signed) if brief else cell_text(row.tokens, signed)]
    made += [plain_number(row.question, signed)] if with_question else []
    return made + [
        plain_number(published().value(row.table, row.measure, model), signed) for _, model in columns
    ]


def paper_tables(run: PaperRun, *, brief: bool = False) -> list[Table]:
    """Tables 1 to 7 and what the paper left for later, in its order; those without a measure (no taps) are
    left out. `brief` leaves the interval over tokens to the other forms, for a terminal of 80 columns."""
    made = []
    for table, title in TITLES.items():
        rows = [row for row in run.rows if row.table == table]
        if not rows:
            continue
        columns = [] if table == BEYOND else paper_columns(run.model_id, table)
        asked = [] if run.question is None else [f"Question {run.question}"]
        caption = f"Table {table}. {title}" if table < BEYOND else title
        headings = [*asked, *(heading for heading, _ in columns)]
        note = (
            ""
            if not columns or columns[0][0] == "Paper"
            else "; Llama to Qwen: the paper’s models, of which this is none"
        )
        made.append(
            Table(
                f"{caption}: {run.label}{note}",
                ["Measure", "Over questions [95%]", "Tokens" if brief else "Over tokens [95%]", *headings],
                [cells(row, columns, bool(asked), brief) for row in rows],
            )
        )
    return [*made, class_table(run)]


def class_table(run: PaperRun) -> Table:
    """Our class with its rule's input, beside the paper's two verdicts and the sign of its own shift."""
    found, verdicts = run.model_class, run.verdicts
    rows = [
        ["Our class", found.label],
        ["Early to late shift of output entropy (nat)", interval(found.shift, signed=True)],
        [
            "Rule",
            f"deterministic: interval below −{found.delta:g}; exploratory: above +{found.delta:g}; balanced "
            f"otherwise",
        ],
        ["Paper, abstract", verdicts.abstract if verdicts else ABSENT],
        ["Paper, section 4.1", verdicts.section if verdicts else ABSENT],
        ["Paper, sign of its own shift (Table 5)", verdicts.sign if verdicts else ABSENT],
    ]
    return Table(f"Class: {run.label}", ["By", "Verdict"], rows)


def diffusion_text(found: Diffusion) -> str:
    """Whether "attention always spreads" survives dividing by the bound that grows with the context."""
    return (
        f"Along the answer attention entropy {direction(found.raw)} (slope "
        f"{interval(found.raw, signed=True)} nat; it rises in "
        f"{interval(found.raw_rises, scale=100, unit=' %')} of answers). Divided by ln K, its bound, it "
        f"{direction(found.normalised)} (slope {interval(found.normalised, signed=True)}; rises in "
        f"{interval(found.normalised_rises, scale=100, unit=' %')} of answers)."
    )


def correlation_table(run: PaperRun) -> Table:
    """Every pair: over all tokens, and along single answers."""
    rows = [
        [
            f"{series_name(c.x)} and {series_name(c.y)}",
            number(c.over_tokens, signed=True, digits=3),
            interval(c.within, signed=True),
        ]
        for c in run.correlations
    ]
    return Table(
        f"Correlations (Figure 4): {run.label}",
        ["Pair", "Over all tokens (the paper’s way)", "Along one answer, mean over questions [95%]"],
        rows,
    )


def series_name(name: str) -> str:
    return "Position (KV cache)" if name == "position" else metric_name(name)
