"""The order of the rooms that ARCHITECTURE draws: imports run downwards, and nothing private leaves its
room."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import edge
from edge.architectures import ARCHITECTURES
from edge.registry import read_registry
from export.graph.architectures import CONVERSIONS
from tests.conftest import ROOT

# From the bottom up, each with what it may import beside itself. The base modules stand in their own order.
BASE = (
    "errors",
    "version",
    "paths",
    "files",
    "spreadsheet",
    "fields",
    "precision",
    "architectures",
    "tokenizer_rules",
    "artifact",
    "registry",
)
ROOMS: dict[str, set[str]] = {
    "machine": {*BASE},
    "signals": {*BASE, "machine"},
    "backends": {*BASE, "machine", "signals"},
    "questions": {*BASE, "machine", "signals", "backends"},
    "runs": {*BASE, "machine", "signals", "backends", "questions"},
    "jobs": {*BASE, "machine", "signals", "backends", "questions", "runs"},
    "analysis": {
        *BASE,
        "machine",
        "signals",
        "questions",
        "runs",
    },  # from run directories alone: no backend, no job
    "report": {*BASE, "machine", "signals", "questions", "runs", "analysis"},
    "cli": {*BASE, "machine", "signals", "backends", "questions", "runs", "jobs", "analysis", "report"},
}
EDGE_AND_MAIN = ("edge", "__main__")  # the public names, imported when asked for, and `python -m edge`
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
TORCH_IN_EXPORT = {"nano_train", "nano_measure"}  # the trainer of the embedded models


def modules(package: str) -> dict[str, Path]:
    """Dotted name below the package -> file; the package itself under its own name."""
    base = ROOT / package
    names = {path: ".".join(path.relative_to(base).with_suffix("").parts) for path in base.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip(".") or package: path for path, name in names.items()}


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


EDGE = modules("edge")


def within_edge(name: str) -> set[str]:
    """Modules of edge that a module imports."""
    found = {
        module.removeprefix("edge.") for module in imports(EDGE[name]) if module.startswith("edge.")
    } & EDGE.keys()
    return found - ROOMS.keys()  # `from edge.ROOM import MODULE` takes the module


def room(name: str) -> str:
    return name.partition(".")[0]


def test_every_module_has_a_room():
    assert {room(name) for name in EDGE} == {*BASE, *ROOMS, *EDGE_AND_MAIN}


@pytest.mark.parametrize("name", sorted(set(EDGE) - set(EDGE_AND_MAIN)))
def test_imports_run_downwards(name):
    allowed = set(BASE[: BASE.index(name)]) if name in BASE else ROOMS[room(name)] | {room(name)}
    assert {found for found in within_edge(name) if room(found) not in allowed} == set()


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_modules_of_a_room_do_not_import_in_a_circle(name):
    own = {
        module: {found for found in within_edge(module) if room(found) == name}
        for module in EDGE
        if room(module) == name
    }
    while free := {module for module, needs in own.items() if not needs & own.keys()}:
        for module in free:
            del own[module]
    assert not own


@pytest.mark.parametrize(
    "path",
    [path for package in ("edge", "export", "benchmarks", "tools") for path in modules(package).values()],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_module_takes_a_private_name_of_another(path):
    ours = {module for module in imports(path) if room(module) in ("edge", "export", "benchmarks", "tools")}
    private = {module for module in ours if module.rpartition(".")[2].startswith("_")}
    assert private <= {"edge.version.__version__", "edge.__version__"}


@pytest.mark.parametrize("name", sorted(set(ROOMS) - {"cli"}))
def test_a_room_names_public_functions_that_are_there_and_holds_nothing_else(name):
    package = importlib.import_module(f"edge.{name}")
    named = re.findall(r"`(\w+)\.(\w+)`", package.__doc__)
    assert named
    for module, public in named:
        assert hasattr(importlib.import_module(f"edge.{name}.{module}"), public)
    assert len(ast.parse(EDGE[name].read_text()).body) == 1


def test_edge_modules_do_not_use_the_package_itself():
    """The public names that `edge` imports when asked would be a way around the table."""
    for name, path in EDGE.items():
        taken = {module.removeprefix("edge.") for module in imports(path) if module.startswith("edge.")}
        assert not taken & set(edge.__all__), name


@pytest.mark.parametrize("name", sorted(EDGE))
def test_edge_needs_nothing_that_a_board_does_not_have(name):
    assert {module.partition(".")[0] for module in imports(EDGE[name])} & NEVER_IN_EDGE == set()


@pytest.mark.parametrize("name", sorted(EDGE))
def test_a_runtime_is_imported_by_its_backend_alone(name):
    uses = any(module.partition(".")[0] == "onnxruntime" for module in imports(EDGE[name]))
    assert uses == (name == "backends.onnx")
    # llama_cpp by name, when it is needed: the base install does without.
    assert ('"llama_cpp' in EDGE[name].read_text()) == (name == "backends.llama_library")


def test_an_architecture_is_named_by_its_own_file_and_by_rows_alone():
    """docs/adding-an-architecture.md says where they are."""
    names = {name for row in ARCHITECTURES.values() for name in (row.model_type, row.gguf)}
    rows = {"edge/architectures.py", "export/graph/architectures.py", "export/nano_train.py"}
    # llama.cpp's names of tokenizers, and a run's settings of llama.cpp.
    other = {"export/gguf_tokenizer.py", "export/gguf_tokenizer_files.py", "edge/runs/provenance.py"}
    own = {f"export/graph/{model_type}.py" for model_type in ARCHITECTURES}
    found = {
        str(path.relative_to(ROOT))
        for path in (*modules("edge").values(), *modules("export").values())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert found <= rows | other | own
    assert ARCHITECTURES.keys() == CONVERSIONS.keys()
    assert all((ROOT / path).is_file() for path in own)
    assert {entry.model_type for entry in read_registry().values()} <= ARCHITECTURES.keys()


@pytest.mark.parametrize("name", sorted(modules("export")))
def test_export_needs_torch_only_to_train_the_embedded_models(name):
    found = {module.partition(".")[0] for module in imports(modules("export")[name])}
    assert found & NEVER_IN_EXPORT == set()
    if name not in TORCH_IN_EXPORT:
        assert found & {"torch", "transformers", "optimum"} == set()
