"""A page of all tables and figures of a study, and the tables between marks of a page that people write."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from edge.errors import UserError
from tools.study import tables
from tools.study.results import StudyResults

BLOCKS: dict[str, Callable[[StudyResults], str]] = {
    "answers": tables.answers,
    "classes": tables.classes,
    "damage": tables.damage,
    "alone": tables.alone,
    "layers": tables.layers,
    "along": tables.along,
    "sinks": tables.sinks,
    "scores": tables.scores,
    "warnings": tables.warnings,
    "strongest": tables.strongest,
    "paper": tables.paper,
}
TITLES = {
    "answers": "Answers",
    "classes": "Class",
    "damage": "Damage on the same tokens",
    "alone": "Answers of their own",
    "layers": "Where damage starts",
    "along": "Along an answer",
    "sinks": "Sinks",
    "scores": "Truth",
    "warnings": "Warnings of untrue answers",
    "strongest": "The strongest warnings",
    "paper": "Beside the paper",
}
FIGURE_OF = {
    "classes": "shifts",
    "damage": "damage",
    "layers": "layers",
    "along": "trajectories",
    "warnings": "warnings",
}


def whole_page(results: StudyResults, figures: Sequence[Path]) -> str:
    """A page of all tables and figures; figures lie beside it."""
    names = {path.stem: path.name for path in figures}
    parts = [
        f"# {results.model_id}: {results.questions} questions, at most {results.tokens} tokens an answer"
    ]
    parts += [results.notice] if results.notice else []
    for name, block in BLOCKS.items():
        parts += [f"## {TITLES[name]}", block(results)]
        if FIGURE_OF.get(name) in names:
            parts.append(f"![{TITLES[name]}]({names[FIGURE_OF[name]]})")
    return "\n\n".join(part for part in parts if part) + "\n"


def fill(text: str, results: StudyResults) -> str:
    """The page with the blocks of this study between its marks, such as `<!-- study: classes -->`.

    Raises UserError for a mark of no block, and for one that is not closed.
    """

    def block(match: re.Match[str]) -> str:
        if match["name"] not in BLOCKS:
            raise UserError(f"the page has a mark of {match['name']!r}: choose from {', '.join(BLOCKS)}")
        return f"{match['open']}\n{BLOCKS[match['name']](results)}\n<!-- study: end -->"

    pattern = re.compile(r"(?P<open><!-- study: (?P<name>[a-z]+) -->)\n.*?<!-- study: end -->", re.DOTALL)
    opened = len(re.findall(r"<!-- study: (?!end)[a-z]+ -->", text))
    filled, closed = pattern.subn(block, text)
    if closed != opened:
        raise UserError(
            f"the page opens {opened} blocks and closes {closed}: end each with <!-- study: end -->"
        )
    return filled
