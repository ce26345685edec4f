"""The Python API: a path is text or a Path, everywhere."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import edge
from tests.conftest import ONE_THREAD


def public_functions() -> Iterator[tuple[str, Callable[..., object]]]:
    """What a user calls: the functions of edge, and those of its classes that make an object."""
    for name in edge.__all__:
        value = getattr(edge, name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for member, function in inspect.getmembers(value, inspect.isfunction):
                if not member.startswith("_"):
                    yield f"{name}.{member}", function


def test_no_function_takes_a_path_alone() -> None:
    seen, alone = 0, []
    for name, function in public_functions():
        hints = typing.get_type_hints(function)
        for parameter in inspect.signature(function).parameters:
            hint = hints.get(parameter)
            kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
            seen += Path in kinds
            if Path in kinds and str not in kinds:
                alone.append(f"{name}({parameter})")
    assert seen >= 6
    assert alone == []


def test_text_is_taken_from_first_to_last(artifacts, questions_file: Path, tmp_path: Path) -> None:
    artifact = edge.open_artifact(str(artifacts("odd")))
    assert edge.Artifact.open(str(artifacts("odd"))) == artifact
    questions = edge.read_questions(str(questions_file))
    assert questions == edge.read_questions(questions_file)
    out, forced = str(tmp_path / "run"), str(tmp_path / "forced")
    edge.run(artifact, questions, out, edge.DecodeSettings(4, reference_k=4), runtime=ONE_THREAD)
    edge.force(artifact, out, forced, runtime=ONE_THREAD)
    change = edge.compare(edge.Run.open(out), edge.Run.open(forced))
    assert change.forced is not None
