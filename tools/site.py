"""mkdocs hook: files of the repository's root as pages of the site, and links that mean them on a forge mean
them here too."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Path in the repository -> path in the site; what lies in docs/ keeps its name.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.txt",
    "examples/trace.ipynb": "trace.ipynb",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    for source, target in PAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page are relative to where its file lies in the repository; here to where it lies in the
    site."""
    here = next(
        (source for source, target in PAGES.items() if target == page.file.src_uri),
        f"docs/{page.file.src_uri}",
    )
    folder = PurePosixPath(here).parent

    def rewritten(match: re.Match[str]) -> str:
        meant = os.path.normpath(folder / match["path"])
        target = PAGES.get(meant) or (meant.removeprefix("docs/") if meant.startswith("docs/") else None)
        return (
            match["path"]
            if target is None
            else os.path.relpath(target, PurePosixPath(page.file.src_uri).parent)
        )

    return LINK.sub(rewritten, markdown)
