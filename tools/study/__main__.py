"""Runs the study of one model and writes its tables and figures: `make study`."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import typer

from edge.cli.demo import call
from edge.cli.guard import run_app
from edge.errors import UserError
from edge.precision import GGUF_SUFFIX
from tools.study import figures, page
from tools.study.results import StudyResults, read_study
from tools.study.steps import REPORT, Plan, commands

MODEL = "smollm2-135m-instruct"
PRECISIONS = ("onnx-int8", "onnx-int4", "gguf-q8_0", "gguf-q4_k_m")
TOKENS, LIMIT = 320, 100


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.study", description=__doc__)
    add = parser.add_argument
    add("--model", default=MODEL, help="known model, checkpoint folder or GGUF file (default: %(default)s)")
    add("--to", action="append", metavar="PRECISION", help=f"default: {', '.join(PRECISIONS)}")
    add(
        "--limit",
        type=int,
        default=LIMIT,
        help="the first so many questions, 0 for all (default: %(default)s)",
    )
    add("--questions", type=Path, help="CSV in TruthfulQA's columns (default: those fetched, else embedded)")
    add("--tokens", type=int, default=TOKENS, help="longest answer in tokens (default: %(default)s)")
    add("--threads", type=int, help="processor threads (default: one for each free processor)")
    add("--models", type=Path, help="folder of the artifacts (default: models/MODEL)")
    add("--out", type=Path, help="folder of the study (default: runs/study/MODEL-LIMIT)")
    add(
        "--page", type=Path, help="also fill the tables of this Markdown page, figures in a folder beside it"
    )
    add("--only-page", action="store_true", help="run nothing: the results of a study that has run")
    return parser.parse_args()


def write(plan: Plan, target: Path | None) -> StudyResults:
    """Writes study.md with its figures, and fills the page of the documentation where one is given."""
    results = read_study(plan)
    drawn = figures.draw(results, plan.out)
    (plan.out / "study.md").write_text(page.whole_page(results, drawn), encoding="utf-8")
    if target:
        target.write_text(page.fill(target.read_text(encoding="utf-8"), results), encoding="utf-8")
        beside = target.with_suffix("")
        beside.mkdir(exist_ok=True)
        for figure in drawn:
            shutil.copy(figure, beside)
    return results


def main() -> None:
    """Parses the options, runs the commands and writes the results."""
    options = arguments()
    name = Path(options.model).name.removesuffix(GGUF_SUFFIX)
    plan = Plan(
        model=options.model,
        precisions=tuple(options.to or PRECISIONS),
        models=options.models or Path("models") / name,
        out=options.out or Path("runs/study") / (f"{name}-{options.limit}" if options.limit else name),
        tokens=options.tokens,
        limit=options.limit or None,
        questions=options.questions,
        threads=options.threads,
    )
    if options.page and not options.page.is_file():
        raise UserError(f"--page is {options.page}, which is no file: give a page with marks to fill")
    try:
        for command in () if options.only_page else commands(plan):
            call(command)
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    write(plan, options.page)
    print(f"{plan.out / 'study.md'} has the tables and figures, {plan.out / REPORT} the report")


if __name__ == "__main__":
    run_app(main)
