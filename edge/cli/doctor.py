"""`edge doctor`: this machine and what can run on it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from edge.cli.common import check_json, console, write_json
from edge.cli.options import JsonFile
from edge.cli.terminal import unmarked
from edge.jobs.doctor import Findings, examine
from edge.machine.telemetry import Sample


def doctor(json_file: JsonFile = None) -> None:
    """Say what this machine is, what can run on it, and whether llama.cpp's attention and hidden states can
    be read."""
    check_json(json_file)
    found = examine(Path())
    if json_file != "-":
        console.print(doctor_table(found))
    if json_file:
        write_json(json_file, found.to_json())


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


def doctor_table(found: Findings) -> Group:
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
