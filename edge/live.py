"""One answer as it comes: tokens coloured by their output entropy, statistics as they change."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.decode import DecodeSettings, Step, generate
from edge.errors import UserError
from edge.prompt import Prompter
from edge.record import AnswerRecord
from edge.run import capacity_for, ignore, stop_on_signal
from edge.runtime import open_backend
from edge.signals import SignalReader

# From sure to unsure; the edges are nats. Shade and hue both change, so that the order survives colour blindness.
LEVELS = ((0.1, "grey62"), (0.7, "green"), (1.5, "yellow"), (2.5, "dark_orange"), (math.inf, "bold red"))
BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 60
REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 4  # tokens that may be needed for one UTF-8 character


class LiveStep(NamedTuple):
    """A step with the text that it completes ("" while a character is unfinished) and the answer so far."""

    step: Step
    text: str
    record: AnswerRecord


def colour(entropy: float) -> str:
    return next(style for edge, style in LEVELS if entropy <= edge)


def answer(
    artifact: Artifact, question: str, settings: DecodeSettings, *,
    prompt: str | None = None, date: str | None = None, runtime: Runtime | None = None,
    on_note: Callable[[str], None] = ignore,
) -> Iterator[LiveStep]:  # fmt: skip
    """Answers one question step by step. Raises UserError when it does not fit the context, Interrupted on a signal."""
    prompter = Prompter(artifact, prompt, date)
    made = prompter.prompt(question)
    limit = artifact.manifest.model.context
    if len(made.ids) > limit:
        raise UserError(f"the question has {len(made.ids)} tokens, the artifact was built for {limit}: ask a shorter one")
    backend = open_backend(artifact, runtime or Runtime(), capacity_for([made], settings, limit))
    try:
        record = AnswerRecord(backend.spec, prompter, made, 0, "", question, "", cache_bytes_each=backend.cache_bytes_each)
        pending: list[int] = []
        told = False
        with stop_on_signal() as check:
            for step in generate(backend, SignalReader(backend.spec), made.ids, settings):
                if backend.taps_lost and not told:
                    told = True
                    on_note(f"attention and hidden states are not traced: {backend.taps_lost}")
                record.add(step)
                pending.append(step.token_id)
                text = prompter.text(pending)
                if text.endswith(REPLACEMENT) and len(pending) < LONGEST_CHARACTER and not step.stop_reason:
                    text = ""
                else:
                    pending.clear()
                yield LiveStep(step, text, record)
                check()
    finally:
        backend.close()


def as_json(live: LiveStep) -> dict[str, Any]:
    """One step as plain values, for a stream of JSON lines; null stands for what is undefined."""
    step, record = live.step, live.record
    output, attention, hidden = step.signals
    return {
        "step": step.step,
        "phase": step.phase,
        "position": step.position,
        "token_id": step.token_id,
        "token": record.prompter.piece(step.token_id),
        "text": live.text,
        "output_entropy": output.output_entropy,
        "varentropy": output.varentropy,
        "top1_probability": output.top1_probability,
        "top1_top2_gap": output.top1_top2_gap,
        "surprisal": step.surprisal,
        "attention_entropy_layer": None if attention is None else attention.attention_entropy_layer.tolist(),
        "head_dispersion": None if attention is None else attention.head_dispersion.tolist(),
        "hidden_norm": None if hidden is None else hidden.hidden_norm.tolist(),
        "output_entropy_mean": record.statistics.live("output_entropy")[0],
        "step_ms": step.step_ms,
        "stop_reason": step.stop_reason,
    }


class Screen:
    """The terminal view of one answer."""

    def __init__(self, title: str, notice: str) -> None:
        self._head = Text(title, style="bold")
        if notice:
            self._head.append(f"\n{notice}", style="dim")
        self._body = Text()
        self._entropies: list[float] = []
        self._status = Text()

    def add(self, live: LiveStep) -> None:
        entropy = live.step.signals.output.output_entropy
        self._entropies.append(entropy)
        # A terminal obeys escape sequences: what a model says may not carry any.
        self._body.append(printable(live.text), style=colour(entropy))
        self._status = status(live)

    def render(self, console: Console | None = None) -> Group:
        """The whole view; for a console, as much of the answer's end as fits its height, since Live cannot redraw more."""
        below = [Text(f"entropy {sparkline(self._entropies)}", style="dim"), self._status] if self._entropies else []
        body = self._body
        if console is not None:
            rest = [self._head, legend(), *below]
            taken = sum(len(part.wrap(console, console.width)) for part in rest)
            lines = body.wrap(console, console.width)
            body = Text("\n").join(lines[-max(1, console.height - taken - 1) :])
        return Group(self._head, legend(), body, *below)


def printable(text: str) -> str:
    """The text without control characters, line breaks and tabs kept."""
    return "".join(c for c in text if c in "\n\t" or not (ord(c) < 32 or 0x7F <= ord(c) < 0xA0))


def legend() -> Text:
    line = Text("entropy in nats: ", style="dim")
    for edge, style in LEVELS:
        line.append(f"to {edge:g} " if math.isfinite(edge) else "above", style=style)
    return line


def sparkline(values: list[float]) -> str:
    """The last values as bars, the tallest for the largest shown (at least one nat)."""
    shown = values[-SPARK_WIDTH:]
    top = max(1.0, *shown)
    return "".join(BARS[min(len(BARS) - 1, int(v / top * len(BARS)))] for v in shown)


def status(live: LiveStep) -> Text:
    """Running statistics of the answer: means so far, slope, speed."""
    statistics, steps = live.record.statistics, live.record.steps
    entropy, slope = statistics.live("output_entropy")
    parts = [f"{len(steps)} tokens", f"entropy {entropy:.3f}"]
    if math.isfinite(slope):
        parts.append(f"slope {slope:+.4f} a token")
    for label, name in (("attention", "attention_entropy"), ("dispersion", "head_dispersion")):
        mean = statistics.live(name)[0]
        if math.isfinite(mean):
            parts.append(f"{label} {mean:.3f}")
    if len(steps) > 1:
        parts.append(f"{1e3 * (len(steps) - 1) / sum(s.step_ms for s in steps[1:]):.1f} tokens/s")
    if live.step.stop_reason:
        parts.append(f"stopped: {live.step.stop_reason}")
    return Text(" · ".join(parts), style="dim")


def show(console: Console, artifact: Artifact, steps: Iterator[LiveStep]) -> None:
    """Draws the answer as it comes; into a pipe it writes the plain text and a line of statistics."""
    screen = Screen(artifact.label, artifact.manifest.notice)
    last = None
    if console.is_terminal:
        try:
            with Live(console=console, refresh_per_second=12, transient=True) as live_view:
                for live in steps:
                    screen.add(live)
                    live_view.update(screen.render(console))
        finally:
            console.print(screen.render())
        return
    for live in steps:
        console.print(Text(printable(live.text)), end="", soft_wrap=True)
        last = live
    console.print()
    if last is not None:
        console.print(status(last), soft_wrap=True)
        if artifact.manifest.notice:
            console.print(Text(artifact.manifest.notice), soft_wrap=True)
