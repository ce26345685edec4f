"""Terminal tables of comparisons and models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.analysis.divergence import Divergence, ForcedPart, FreePart
from edge.analysis.intervals import Interval
from edge.analysis.perplexity import PROBABILITY
from edge.analysis.warning import TruthChange
from edge.artifact import MANIFEST_NAME, Artifact
from edge.cli.terminal import escaped, unmarked
from edge.errors import UserError
from edge.jobs.doctor import Findings
from edge.machine.telemetry import Sample
from edge.registry import RegistryEntry

SHOWN_METRICS = (
    "output_entropy",
    "varentropy",
    "top1_probability",
    "surprisal",
    "attention_entropy",
    "attention_entropy_normalised",
    "sink_mass",
    "head_dispersion",
    "head_divergence",
    "hidden_norm",
    "layer_delta",
)
PARTINGS = 5  # of the answers that part, in the terminal
WARNINGS = (
    ("output_entropy", "mean"),
    ("output_entropy", "extreme"),
    ("surprisal", "sum"),
    ("attention_entropy", "mean"),
)
SHOWN_LAYERS = ("attention_entropy_layer", "head_dispersion", "hidden_norm")


def number(value: float, signed: bool = False, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}g}"


def interval(value: Interval, signed: bool = False) -> str:
    """Value and bounds; a change is given to two digits, so that a row fits 80 columns."""
    shown = number(value.value, signed, 2 if signed else 3)
    if math.isnan(value.low):
        return shown
    low, high = (number(bound, signed, 2 if signed else 3) for bound in (value.low, value.high))
    return f"{shown} [{low}, {high}]"


def table(title: str, *columns: str) -> Table:
    made = Table(
        title=unmarked(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for i, column in enumerate(columns):
        made.add_column(
            column,
            justify="left" if i == 0 else "right",
            overflow="fold",
            no_wrap=i == 0 and len(columns) == 4,
        )
    return made


def comparison(d: Divergence) -> Group:
    """What `edge compare` prints: agreement, metrics, layers, classes."""
    head = Text(escaped(f"{d.quantised} against {d.full}, {d.questions} questions"), style="bold")
    if d.notice:
        head.append(f"\n{escaped(d.notice)}", style="dim")
    if not d.same_checkpoint:
        head.append(
            "\nThe two are not known to come from one checkpoint: a change may not be quantisation's alone.",
            style="yellow",
        )
    metrics = table(
        "Change by metric, mean over questions [95% interval]", "metric", "full", "quantised", "change"
    )
    for change in d.changes:
        if change.metric in SHOWN_METRICS:
            metrics.add_row(
                change.metric,
                number(change.full.value),
                number(change.quantised.value),
                interval(change.change, signed=True),
            )
    metrics.add_section()
    for change in d.course:
        metrics.add_row(
            change.metric,
            number(change.full.value),
            number(change.quantised.value),
            interval(change.change, signed=True),
        )
    parts: list[RenderableType] = [head, forced(d.forced) if d.forced else free(d.free), metrics]
    if d.layers:
        parts.append(layers(d))
    one, other = d.full_class, d.quantised_class
    parts.append(
        Text(
            f"class: {one.label} (early/late shift {interval(one.shift, True)}) -> "
            f"{other.label} ({interval(other.shift, True)}), delta {one.delta:g} nats: "
            f"{'the same' if d.same_class else 'changed'}"
        )
    )
    if d.truth:
        parts.append(truth(d.truth))
    return Group(*parts)


def truth(found: TruthChange) -> Group:
    """Whether answers turned untrue, and whether output and attention entropy still warn of those that
    are."""
    made = table(
        f"Truth of the answers ({unmarked(found.source)} labels) [95% interval]",
        "measure",
        "full",
        "quantised",
        "change",
    )
    if found.outcomes:
        o = found.outcomes
        made.add_row(
            "share untrue", number(o.full.value), number(o.quantised.value), interval(o.change, signed=True)
        )
        made.add_row("answers that turned untrue / true", "", "", f"{o.became_untrue} / {o.became_true}")
    shown = [each for name in WARNINGS if (each := found.of(*name))]
    for each in shown:
        name = f"AUROC of {each.metric} {each.summary}"
        made.add_row(name, number(each.first), number(each.second), interval(each.difference, signed=True))
    few = Text("AUROC is not judged: at least ten answers of each kind are needed.", style="dim")
    return Group(made) if shown else Group(made, few)


def forced(part: ForcedPart) -> Group:
    """llama-perplexity's list under its names, the error over questions beside its own over tokens; hidden
    states by layer."""
    known = (
        "whole vocabulary"
        if part.exact
        else f"{part.reference_k} most likely tokens and the rest: a lower bound"
    )
    note = (
        f"KL(full || quantised), {known}" if part.kl else "KL: not kept, trace the full run with --reference"
    )
    made = table(
        f"On the same {part.tokens} tokens. {note}", "statistic", "value", "± by question", "± by token"
    )
    section = part.statistics[0].section
    for found in part.statistics:
        if found.section != section:
            made.add_section()
            section = found.section
        scale, unit = (
            (100.0, "%") if found.section == PROBABILITY or found.name.startswith("Cor") else (1.0, "")
        )
        errors = (
            "" if math.isnan(error) else f"{scale * error:.2g}{unit}"
            for error in (found.error, found.token_error)
        )
        made.add_row(found.name, f"{scale * found.value:.6g}{unit}", *errors)
    parts: list[RenderableType] = [made]
    if part.hidden_error and part.hidden_similarity:
        hidden = table(
            "Residual stream against the full model's, mean over questions",
            "layer",
            "relative error",
            "cosine",
        )
        for layer, (error, cosine) in enumerate(
            zip(part.hidden_error.mean, part.hidden_similarity.mean, strict=True)
        ):
            hidden.add_row(str(layer), number(float(error)), f"{cosine:.6f}")
        parts.append(hidden)
    return Group(*parts)


def free(part: FreePart | None) -> Group:
    made = table("Each decoding alone", "statistic", "value")
    if part is not None:
        made.add_row("identical answers", interval(part.identical))
        made.add_row("share of the answer before the first difference", interval(part.common_prefix))
        made.add_row("median first differing step, where they differ", number(part.median_step))
    return Group(made, *([partings(part)] if part and part.first else []))


def partings(part: FreePart) -> Table:
    """The first token that differs, and what each model said there with how much probability."""
    shown = part.first[:PARTINGS]
    more = f"; all {len(part.first)} are in the JSON" if len(part.first) > len(shown) else ""
    made = table(
        f"Where answers part, the first {len(shown)}{more}",
        "question",
        "step",
        "full said",
        "quantised said",
    )
    made.columns[0].no_wrap = False

    def said(text: str, probability: float) -> str:
        return "(ended)" if math.isnan(probability) else unmarked(f"{text!r} {100 * probability:.0f}%")

    for each in shown:
        made.add_row(
            unmarked(each.question),
            str(each.step),
            said(each.full_token, each.full_probability),
            said(each.quantised_token, each.quantised_probability),
        )
    return made


def layers(d: Divergence) -> Table:
    """Change by layer; layer 0 of a hidden metric is the embedding output. Intervals are in the JSON."""
    changes = {change.metric: change for change in d.layers if change.metric in SHOWN_LAYERS}
    made = table(
        "Change by layer, mean over questions (* where the 95% interval leaves out 0)",
        "layer",
        *SHOWN_LAYERS,
    )
    depth = max(len(change.mean) for change in changes.values())
    for layer in range(depth):
        cells = []
        for name in SHOWN_LAYERS:
            change = changes[name]
            i = layer - (depth - len(change.mean))  # by-layer metrics have no row for the embedding
            sure = "*" if i >= 0 and (change.low[i] > 0 or change.high[i] < 0) else " "
            cells.append(f"{number(float(change.mean[i]), signed=True)}{sure}" if i >= 0 else "")
        made.add_row(str(layer), *cells)
    return made


class Found(NamedTuple):
    """A line of `edge models`: an artifact folder, readable (`artifact`) or not (`problem`)."""

    path: Path
    artifact: Artifact | None
    problem: str


def find_artifacts(root: Path) -> list[Found]:
    """Every folder below `root` with a manifest."""
    found = []
    for path in sorted(root.rglob(MANIFEST_NAME)):
        try:
            found.append(Found(path.parent, Artifact.open(path.parent, verify=False), ""))
        except UserError as error:
            found.append(Found(path.parent, None, str(error)))
    return found


def models(registry: dict[str, RegistryEntry], found: Sequence[Found]) -> Group:
    known = table("Known models", "id", "architecture", "licence", "checkpoint")
    for entry in registry.values():
        known.add_row(
            entry.model_id,
            entry.model_type,
            entry.licence,
            "embedded" if entry.folder else f"hub: {entry.hub}",
        )
    built = table("Built artifacts", "folder", "model", "precision", "taps", "MB")
    for folder, artifact, problem in found:
        if artifact is None:
            built.add_row(unmarked(str(folder)), unmarked(problem), "", "", "")
        else:
            manifest = artifact.manifest
            size = sum(record.size for record in manifest.files.values()) / 1e6
            built.add_row(
                unmarked(str(folder)),
                unmarked(manifest.model_id),
                manifest.precision,
                manifest.taps,
                f"{size:.1f}",
            )
    return Group(
        known,
        built if found else Text("No artifacts here: build one with 'edge-export build nano-llama ...'"),
    )


def state(now: Sample) -> str:
    """Temperature, clock and throttling in a line."""
    said = []
    if now.temperature_c is not None:
        said.append(f"{now.temperature_c:.1f} °C")
    if now.frequency_mhz is not None:
        limit = f" of {now.frequency_limit_mhz:.0f}" if now.frequency_limit_mhz else ""
        said.append(f"{now.frequency_mhz:.0f}{limit} MHz")
    if now.power_w is not None:
        said.append(f"{now.power_w:.1f} W")
    if now.throttled is not None:
        said.append(
            "slowed down"
            if now.throttled
            else "slowed down since boot"
            if now.throttled_before
            else "not slowed down"
        )
    return ", ".join(said) or "no sensor can be read"


def doctor(found: Findings) -> Group:
    """What `edge doctor` prints: the machine, the libraries, and for llama.cpp whether taps work."""

    def gigabytes(size: int | None) -> str:
        return "unknown" if size is None else f"{size / 1e9:.1f} GB"

    machine, llama = found.device, found.llama_cpp

    def heading(text: str) -> Text:
        return Text(f"\n{text}", style="bold")

    here = Table.grid(padding=(0, 2))
    for name, value in (
        ("board", machine.board or "unknown"),
        ("processor", f"{machine.processor or 'unknown'} ({machine.machine}), {machine.cores} usable"),
        *([("cores", machine.core_kinds)] if machine.core_kinds else []),
        ("SIMD", " ".join(machine.simd) or "none known"),
        (
            "memory",
            f"{gigabytes(machine.memory_bytes)}, {gigabytes(found.memory_available_bytes)} available",
        ),
        ("swap", gigabytes(machine.swap_bytes)),
        ("now", state(found.now)),
        ("disk here", f"{gigabytes(found.disk_free_bytes)} free"),
        ("system", machine.system),
    ):
        here.add_row(name, unmarked(value))
    libraries = Table.grid(padding=(0, 2))
    for name, version in found.versions.items():
        libraries.add_row(name, version or "not installed")
    said = [
        heading("onnx-* artifacts"),
        Text(f"run by onnxruntime {found.versions['onnxruntime']}, with every tap"),
    ]
    if found.signals:
        said.append(Text(f"signals are computed in numpy, 1 to 2% slower: {found.signals}", style="dim"))
    said.append(heading("GGUF files"))
    if llama.problem:
        said.append(Text(f"cannot be run: {llama.problem}", style="yellow"))
    else:
        low, high = llama.tested
        said.append(
            Text(
                f"run by llama-cpp-python {llama.installed} (tested: "
                f"{low if low == high else f'{low} to {high}'}), "
                f"{'with' if llama.gpu else 'without'} GPU"
            )
        )
        for architecture, problem in llama.taps.items():
            style, text = (
                ("yellow", f"logits alone: {problem}")
                if problem
                else ("", "attention and hidden states are traced")
            )
            said.append(Text(f"{architecture}: {text}", style=style))
        if llama.callback:
            said.append(Text(f"taps are read in Python, about 1% slower: {llama.callback}", style="dim"))
        said.append(Text(llama.features, style="dim"))
    return Group(heading("This machine"), here, heading("Libraries"), libraries, *said)
