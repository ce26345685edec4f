"""The import order that ARCHITECTURE draws: nothing upstream knows what is downstream."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import edge
from tests.conftest import ROOT

# Each module of edge with what it may import of edge; "edge" is the package itself (its version).
LLAMA = {"errors", "backends.llama_library"}
TYPES = {"errors", "artifact", "backends.base"}
METRICS = TYPES | {"signals", "signal_reader", "streaming"}
DECODING = METRICS | {"decode", "prompt", "questions"}
TRACING = DECODING | {"columns", "fit", "record", "job_directory", "parts", "trace", "device", "telemetry", "edge", "runtime"}
JOBS = TRACING | {"run"}
READING = METRICS | {"columns", "parts", "trace", "registry", "questions", "outcomes"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "artifact": {"errors"},
    "registry": {"errors"},
    "hub_questions": {"errors"},
    "questions": {"errors", "hub_questions"},
    "fetch": {"errors", "parts"},
    "device": set(),
    "telemetry": {"device"},
    "backends": set(),
    "backends.base": {"errors", "artifact"},
    "backends.mapped": {"device"},
    "backends.onnx": TYPES | {"device", "backends.mapped"},
    "backends.prepacked": TYPES | {"device", "backends.mapped", "backends.onnx"},
    "backends.llama_library": {"errors"},
    "backends.llama_header": LLAMA,
    "backends.llama_vocabulary": LLAMA,
    "compiled": {"artifact"},
    "compiled_signals": {"backends.base", "compiled", "device", "signals"},
    "signal_reader": TYPES | {"compiled_signals", "signals"},
    "backends.llama_callback": {"compiled"},
    "backends.llama_taps": TYPES | {"backends.llama_callback"},
    "backends.llamacpp": TYPES | LLAMA | {"device", "backends.llama_taps", "backends.mapped"},
    "tokenizer": {"errors", "artifact", "backends.llama_vocabulary"},
    "gguf_file": LLAMA | {"artifact", "tokenizer", "backends.llama_header", "backends.llama_vocabulary"},
    "prompt": {"errors", "artifact", "tokenizer"},
    "runtime": TYPES | {"edge", "device", "backends.onnx", "backends.prepacked", "backends.llamacpp", "fit"},
    "fit": {"edge", "errors", "artifact", "device", "columns"},
    "signals": TYPES,
    "streaming": TYPES,
    "decode": METRICS,
    "columns": METRICS,
    "record": DECODING | {"columns"},
    "parts": {"errors"},
    "job_directory": {"errors", "parts"},
    "trace": {"errors", "artifact", "columns", "job_directory", "parts"},
    "similarity": {"errors", "questions"},
    "outcomes": {"errors", "parts", "trace", "questions", "similarity"},
    "score_directory": {"errors", "artifact", "job_directory", "parts", "trace"},
    "score": JOBS | {"score_directory"},
    "cli_job": {"cli_common", "progress", "run", "terminal"},
    "doctor": TYPES
    | LLAMA
    | {
        "edge",
        "device",
        "telemetry",
        "gguf_file",
        "compiled_signals",
        "backends.llama_callback",
        "backends.llama_header",
        "backends.llama_vocabulary",
        "backends.llamacpp",
    },
    "run": TRACING,
    "exact": JOBS,
    "force": JOBS | {"exact"},
    "bench": JOBS | {"gguf_file"},
    "live": JOBS,
    "merge": JOBS,
    "watch": {"errors", "device", "job_directory", "parts", "trace"},
    "completion": {"artifact", "registry", "trace"},
    "terminal": set(),
    "screen": JOBS | {"live", "terminal"},
    "progress": JOBS | {"live", "terminal"},
    "cli_options": {"completion"},
    "cli_common": {"errors", "parts", "terminal", "questions"},
}
# Packages whose modules may import one another, and what they may import beside.
PACKAGES = {"analysis": READING, "report": READING | {"analysis", "edge"}}
DOORS = {
    "cli",
    "cli_bench",
    "cli_compare",
    "cli_demo",
    "cli_label",
    "cli_merge",
    "cli_paper",
    "cli_questions",
    "cli_score",
    "cli_watch",
    "tables",
    "tables_many",
    "__main__",
}  # may import everything in edge
NEVER_IN_EDGE = {
    "export",
    "torch",
    "transformers",
    "pandas",
    "scipy",
    "onnx",
    "safetensors",
    "ml_dtypes",
    "huggingface_hub",
    "tests",
}
NEVER_IN_EXPORT = {"pandas", "scipy", "tests"}
TORCH_IN_EXPORT = {"reference", "nano"}  # where the name says reference, and the trainer of the embedded models


def modules(package: str) -> dict[str, Path]:
    """Dotted name below the package -> file."""
    base = ROOT / package
    names = {
        p: ".".join(p.relative_to(base).with_suffix("").parts).removesuffix("__init__").rstrip(".") for p in base.rglob("*.py")
    }
    return {name or package: path for path, name in names.items()}


def imports(path: Path) -> set[str]:
    """Every module named by an import, also inside functions; `from a import b` names a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def within_edge(path: Path) -> set[str]:
    known = modules("edge")
    named = {name.removeprefix("edge.") for name in imports(path) if name.startswith("edge.")}
    found = {name for name in named if name in known}
    if "edge" in imports(path) and named - found:  # `from edge import __version__`
        found.add("edge")
    return found


EDGE = modules("edge")


@pytest.mark.parametrize("name", sorted(EDGE))
def test_edge_modules_import_upstream_only(name):
    found, package = within_edge(EDGE[name]), name.partition(".")[0]
    if name in DOORS or name == "edge":
        return
    if package in PACKAGES:
        downstream = {other for other in found if other.partition(".")[0] != package}
        allowed = PACKAGES[package]
        assert {other for other in downstream if other not in allowed and other.partition(".")[0] not in allowed} == set()
        return
    assert name in ALLOWED, f"edge/{name} is new: give it its place in this table"
    assert found - ALLOWED[name] == set()


def test_edge_modules_take_their_version_alone_from_the_package():
    """The public names that `edge` imports when asked would be a way around the table."""
    for name, path in EDGE.items():
        taken = {module.removeprefix("edge.") for module in imports(path) if module.startswith("edge.")}
        assert taken & set(edge.__all__) <= {"__version__"}, name


@pytest.mark.parametrize("name", sorted(EDGE))
def test_edge_needs_nothing_that_a_board_does_not_have(name):
    assert {module.partition(".")[0] for module in imports(EDGE[name])} & NEVER_IN_EDGE == set()


@pytest.mark.parametrize("name", sorted(EDGE))
def test_a_runtime_is_imported_by_its_backend_alone(name):
    uses = any(module.partition(".")[0] == "onnxruntime" for module in imports(EDGE[name]))
    assert uses == (name == "backends.onnx")
    # llama_cpp by name, when it is needed: the base install does without.
    assert ('"llama_cpp' in EDGE[name].read_text()) == (name == "backends.llama_library")


@pytest.mark.parametrize("name", sorted(modules("export")))
def test_export_needs_torch_only_where_its_name_says_so(name):
    found = {module.partition(".")[0] for module in imports(modules("export")[name])}
    assert found & NEVER_IN_EXPORT == set()
    if name not in TORCH_IN_EXPORT:
        assert found & {"torch", "transformers", "optimum"} == set()
