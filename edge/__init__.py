"""Traces of small language models as they answer, and the effects of quantisation on them.

The names in `__all__` are the public Python API (docs/api.md). Each is imported at its first use, so that
`import edge` is fast. It also switches off the telemetry of libraries (docs/no-telemetry.md).
"""

from __future__ import annotations

import os

from edge.version import __version__

# onnxruntime reads its switch when it is imported, huggingface_hub too; processes started from here inherit
# both. Set before any other import of ours, and left alone where the user has chosen.
for _switch in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "1")

TYPE_CHECKING = False  # as in typing, whose import would take longer than all of this module
if TYPE_CHECKING:
    from typing import Any

    from edge.analysis.divergence import compare as compare
    from edge.artifact import Artifact as Artifact
    from edge.backends.base import Runtime as Runtime
    from edge.backends.gguf_file import open_artifact as open_artifact
    from edge.errors import UserError as UserError
    from edge.jobs.decode import DecodeSettings as DecodeSettings
    from edge.jobs.force import force as force
    from edge.jobs.live import answer as answer
    from edge.jobs.run import run as run
    from edge.questions.question import read_questions as read_questions
    from edge.runs.run_directory import Run as Run

_MODULES = {
    "Artifact": "edge.artifact",
    "DecodeSettings": "edge.jobs.decode",
    "Run": "edge.runs.run_directory",
    "Runtime": "edge.backends.base",
    "UserError": "edge.errors",
    "answer": "edge.jobs.live",
    "compare": "edge.analysis.divergence",
    "force": "edge.jobs.force",
    "open_artifact": "edge.backends.gguf_file",
    "read_questions": "edge.questions.question",
    "run": "edge.jobs.run",
}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'edge' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
