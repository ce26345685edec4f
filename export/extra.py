"""Libraries of the extra `reference`, imported only when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from edge.errors import UserError


def import_extra(name: str, purpose: str) -> Any:
    """An optional module, imported only now; raises UserError that names the extra when it is not usable."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{purpose} needs {name} ({detail}): install the extra edgetrace[reference], in a clone with "
            "'make setup EXTRAS=export,reference'"
        ) from error
