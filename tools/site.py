"""mkdocs hook that adds files of the repository's root as pages of the site and adapts links to them."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Path in the repository -> path in the site; files in docs/ keep their names.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "license.txt",
    "examples/trace.ipynb": "trace.ipynb",
}
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside docs/."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites links that are relative to the file's place in the repository for its place in the site."""
    sources = {target: source for source, target in PAGES.items()}
    here = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    folder = PurePosixPath(here).parent

    def site_link(match: re.Match[str]) -> str:
        source = os.path.normpath(folder / match["path"])
        target = PAGES.get(source) or (source.removeprefix("docs/") if source.startswith("docs/") else None)
        if target is None:
            return match["path"]
        return os.path.relpath(target, PurePosixPath(page.file.src_uri).parent)

    return LINK.sub(site_link, markdown)
