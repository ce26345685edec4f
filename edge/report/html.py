"""Renders groups of runs as the text of the HTML file.

Whatever came from a model or a file is escaped: markup by autoescape, JSON by `json_block`. In addition a
policy in the page allows no script but our own two.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from edge.analysis.intervals import ENOUGH
from edge.analysis.study import Study, changes_of
from edge.errors import UserError
from edge.report import formatting, paper, sentences, tables, truth
from edge.report.browser import browser_data
from edge.report.figures import figures
from edge.report.matrix import matrices
from edge.report.model import ModelGroup
from edge.report.overview import overview
from edge.report.plots import Figure, colour_of, dash_of
from edge.report.side_by_side import side_by_side
from edge.version import __version__

HERE = Path(__file__).parent
# A JSON string may hold these as escapes, so that no text can end its script element or begin another.
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class GroupView(NamedTuple):
    """A group and what the template needs of it.

    `figure_data` is JSON, `browser` packed JSON, `side_by_side` an HTML fragment.
    `judged` says whether any run has labels.
    """

    group: ModelGroup
    figures: list[Figure]
    figure_data: Markup
    browser: Markup
    notes: list[str]
    studies: list[Study]
    judged: bool
    side_by_side: Markup


def plotly_js() -> str:
    """plotly.js from the installed package; raises UserError where there is none."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError('edge report needs plotly: pip install "edgetrace[analysis]"') from None
    return str(get_plotlyjs())


def json_block(value: Any) -> Markup:
    """Compact JSON for a script element, safe whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(ESCAPES))  # noqa: S704 - the line above leaves no markup


def packed_block(value: Any) -> Markup:
    """Compact JSON, deflated and in base64 (letters, digits, +, / and =), for `unpack` of questions.js."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    packed = base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")
    return Markup(packed)  # noqa: S704 - base64 holds no markup


def checksum(script: str) -> str:
    """The script's SHA-256 as the page's Content-Security-Policy names it."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def package_file(name: str) -> str:
    """The text of a file beside this module."""
    return (HERE / name).read_text(encoding="utf-8")


def view(group: ModelGroup) -> GroupView:
    """Everything that the template needs of one group."""
    drawn = figures(group)
    free_precisions = {data.run.manifest.precision for data in group.runs if not data.forced}
    lines = [
        {
            "name": data.name,
            "colour": colour_of(i),
            "dash": dash_of(i),
            "repeats": data.forced and data.run.manifest.precision in free_precisions,
        }
        for i, data in enumerate(group.runs)
    ]
    by_name = {figure.name: figure.to_json() for figure in drawn}
    return GroupView(
        group=group,
        figures=drawn,
        figure_data=json_block({"runs": lines, "figures": by_name}),
        browser=packed_block(browser_data(group)),
        notes=sentences.notes(group),
        studies=[data.study for data in group.runs if data.study is not None],
        judged=any(data.study is not None and data.study.labels is not None for data in group.runs),
        side_by_side=side_by_side(group),
    )


def render(groups: Sequence[ModelGroup], plotly: str) -> str:
    """The text of the whole file; `plotly` is the source of plotly.js."""
    app = package_file("questions.js") + package_file("app.js")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {
        "tables": tables,
        "sentences": sentences,
        "paper": paper,
        "truth": truth,
        "changes_of": changes_of,
        "absent": formatting.ABSENT,
        "enough": ENOUGH,
    }
    environment.filters |= {"integer": formatting.integer}
    scripts = f"{checksum(app)} {checksum(plotly)}"
    return environment.get_template("template.html.j2").render(
        views=[view(group) for group in groups],
        overview=overview(groups),
        matrices=matrices(groups),
        style=Markup(package_file("style.css")),  # noqa: S704 - a file of this package
        app=Markup(app),  # noqa: S704 - a file of this package
        plotly=Markup(plotly),  # noqa: S704 - plotly's own
        policy=f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:",
        version=__version__,
    )
