"""`edge doctor`: this machine and the backends that run on it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge.cli.common import check_json, console, write_json
from edge.cli.options import JsonFile
from edge.cli.terminal import unmarked
from edge.jobs.doctor import Findings, LlamaCpp, examine
from edge.machine.processors import Processors
from edge.machine.telemetry import Sample


def doctor(json_file: JsonFile = None) -> None:
    """The command `edge doctor`; its help is in edge/cli/app.py."""
    check_json(json_file)
    findings = examine(Path())
    if json_file != "-":
        console.print(doctor_table(findings))
    if json_file:
        write_json(json_file, findings.to_json())


def state(now: Sample) -> str:
    """Temperature, clock, power and throttling as one line."""
    parts = []
    if now.temperature_c is not None:
        parts.append(f"{now.temperature_c:.1f} °C")
    if now.frequency_mhz is not None:
        limit = f" of {now.frequency_limit_mhz:.0f}" if now.frequency_limit_mhz else ""
        parts.append(f"{now.frequency_mhz:.0f}{limit} MHz")
    if now.power_w is not None:
        parts.append(f"{now.power_w:.1f} W")
    if now.throttled is not None:
        earlier = "slowed down since boot" if now.throttled_before else "not slowed down"
        parts.append("slowed down" if now.throttled else earlier)
    return ", ".join(parts) or "no sensor can be read"


def doctor_table(findings: Findings) -> Group:
    """The tables that `edge doctor` prints: machine, libraries, backends."""
    return Group(
        heading("This machine"),
        machine_table(findings),
        heading("Libraries"),
        library_table(findings),
        heading("onnx-* artifacts"),
        *onnx_lines(findings),
        heading("GGUF files"),
        *gguf_lines(findings.llama_cpp),
    )


def heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def machine_table(findings: Findings) -> Table:
    """Board, processor, memory, sensors, disk and system."""
    machine = findings.device
    available = f"{gigabytes(findings.memory_available_bytes)} available"
    rows = Table.grid(padding=(0, 2))
    for name, value in (
        ("board", machine.board or "unknown"),
        ("processor", f"{machine.processor or 'unknown'} ({machine.machine}), {machine.cores} usable"),
        *([("cores", machine.core_kinds)] if machine.core_kinds else []),
        ("threads", thread_line(findings.processors)),
        ("SIMD", " ".join(machine.simd) or "none known"),
        ("memory", f"{gigabytes(machine.memory_bytes)}, {available}"),
        ("swap", gigabytes(machine.swap_bytes)),
        ("now", state(findings.now)),
        ("disk here", f"{gigabytes(findings.disk_free_bytes)} free"),
        ("system", machine.system),
    ):
        rows.add_row(name, unmarked(value))
    return rows


def thread_line(processors: Processors) -> str:
    """The number of threads that a model gets now, and why."""
    quota = "no quota" if processors.quota is None else f"a quota of {processors.quota:.3g} processors"
    busy = "an unknown part" if processors.busy is None else f"{processors.busy:.1f}"
    return (
        f"{processors.threads}: other processes use {busy} of our {processors.allowed} processors, {quota}"
    )


def library_table(findings: Findings) -> Table:
    """The installed version of each Python library."""
    rows = Table.grid(padding=(0, 2))
    for name, version in findings.versions.items():
        rows.add_row(name, version or "not installed")
    return rows


def onnx_lines(findings: Findings) -> list[Text]:
    """Sentences on ONNX artifacts: the runtime's version, and why the signals are slow where they are."""
    lines = [Text(f"run by onnxruntime {findings.versions['onnxruntime']}, with every tap")]
    if findings.signals:
        lines.append(Text(f"signals are computed in numpy, 1 to 2% slower: {findings.signals}", style="dim"))
    return lines


def gguf_lines(llama: LlamaCpp) -> list[Text]:
    """Sentences on GGUF files: the library's version, and for each architecture whether taps work."""
    if llama.problem:
        return [Text(f"cannot be run: {llama.problem}", style="yellow")]
    low, high = llama.tested
    versions = low if low == high else f"{low} to {high}"
    gpu = "with GPU" if llama.gpu else "without GPU"
    lines = [Text(f"run by llama-cpp-python {llama.installed} (tested: {versions}), {gpu}")]
    for architecture, problem in llama.taps.items():
        if problem:
            lines.append(Text(f"{architecture}: logits alone: {problem}", style="yellow"))
        else:
            lines.append(Text(f"{architecture}: attention and hidden states are traced"))
    if llama.callback:
        lines.append(Text(f"taps are read in Python, about 1% slower: {llama.callback}", style="dim"))
    lines.append(Text(llama.features, style="dim"))
    return lines
