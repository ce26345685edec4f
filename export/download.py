"""Large downloads: said before they begin, and begun only where the user agrees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge.errors import UserError

LARGE = 500_000_000  # bytes above which a download needs the user's word


class Download(NamedTuple):
    """What is to be fetched: `bytes` still to come, from `place` into `folder`."""

    model_id: str
    bytes: int
    licence: str
    place: str
    folder: Path

    def __str__(self) -> str:
        size = f"{self.bytes / 1e9:.1f} GB"
        return (
            f"{self.model_id} is a download of {size} from {self.place} into {self.folder} "
            f"(licence {self.licence})"
        )


Agree = Callable[[Download], bool]  # takes a large download; False refuses it


def refuse(download: Download) -> bool:
    """Agrees to no large download: what a program that asks nobody does."""
    return False


def check_large(download: Download, agree: Agree) -> None:
    """Raises UserError for a download above LARGE that `agree` refuses."""
    if download.bytes > LARGE and not agree(download):
        raise UserError(f"{download}: give edge-export --yes to fetch it")
