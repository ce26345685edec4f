"""From groups to the text of the HTML file. Whatever came from a model or a file is escaped here, twice
over: markup by autoescape, JSON blocks by `json_block`; and a policy in the page runs none but our two
scripts."""

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

from edge.analysis.study import Study, changes_of
from edge.errors import UserError
from edge.report import figures, paper, paper_figures, pareto, side_by_side, tables, truth
from edge.report.browser import browser_data
from edge.report.matrix import matrices
from edge.report.model import ModelGroup
from edge.report.overview import overview
from edge.report.plots import COLOURS, DASHES, Figure
from edge.version import __version__

HERE = Path(__file__).parent
# A JSON string may hold these as escapes anywhere, so that no text can end its script element or begin
# another.
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class GroupView(NamedTuple):
    """A group with what the template shows of it."""

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
    """The same, deflated and in base64: letters, digits, +, / and =. `unpack` of questions.js reads it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii"))  # noqa: S704 - see above


def checksum(script: str) -> str:
    """The script's name in the page's Content-Security-Policy."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def view(group: ModelGroup) -> GroupView:
    drawn = [*figures.figures(group), *pareto.pareto_figures(group), *paper_figures.paper_figures(group)]
    free = {data.run.manifest.precision for data in group.runs if not data.forced}
    looks = [
        {
            "name": data.name,
            "colour": COLOURS[i % len(COLOURS)],
            "dash": DASHES[i % len(DASHES)],
            "repeats": data.forced and data.run.manifest.precision in free,
        }
        for i, data in enumerate(group.runs)
    ]
    return GroupView(
        group=group,
        figures=drawn,
        figure_data=json_block(
            {"runs": looks, "figures": {figure.name: figure.to_json() for figure in drawn}}
        ),
        browser=packed_block(browser_data(group)),
        notes=tables.notes(group),
        studies=[data.study for data in group.runs if data.study is not None],
        judged=any(data.study is not None and data.study.labels is not None for data in group.runs),
        side_by_side=side_by_side.side_by_side(group),
    )


def render(groups: Sequence[ModelGroup], plotly: str) -> str:
    """The whole file."""
    app = own("questions.js") + own("app.js")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {"t": tables, "p": paper, "u": truth, "changes_of": changes_of}
    environment.filters |= {
        "interval": tables.interval,
        "percent": tables.percent,
        "integer": tables.integer,
        "number": tables.number,
    }
    scripts = f"{checksum(app)} {checksum(plotly)}"
    return environment.get_template("template.html.j2").render(
        views=[view(group) for group in groups],
        overview=overview(groups),
        matrices=matrices(groups),
        style=Markup(own("style.css")),  # noqa: S704 - a file of this package
        app=Markup(app),  # noqa: S704 - a file of this package
        plotly=Markup(plotly),  # noqa: S704 - plotly's own
        policy=f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:",
        version=__version__,
    )
