"""Traces of small language models as they answer, and what quantisation does to them. docs/api.md shows the use.

The names in `__all__` are the public Python API, each imported when it is first asked for, so that `import edge` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.analysis.divergence import compare as compare
    from edge.artifact import Artifact as Artifact
    from edge.backends.base import Runtime as Runtime
    from edge.decode import DecodeSettings as DecodeSettings
    from edge.errors import UserError as UserError
    from edge.gguf_file import open_artifact as open_artifact
    from edge.live import answer as answer
    from edge.questions import read_questions as read_questions
    from edge.trace import Run as Run

__version__ = "0.2.0"

_HOMES = {
    "Artifact": "edge.artifact",
    "DecodeSettings": "edge.decode",
    "Run": "edge.trace",
    "Runtime": "edge.backends.base",
    "UserError": "edge.errors",
    "answer": "edge.live",
    "compare": "edge.analysis.divergence",
    "open_artifact": "edge.gguf_file",
    "read_questions": "edge.questions",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
