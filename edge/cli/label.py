"""`edge label`: judgements of a run's answers: automatic, by hand in the terminal, or imported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from edge.analysis.agreement import RaterPair, agreement
from edge.analysis.plain import plain
from edge.cli import tables
from edge.cli.common import check_json, console, print_notice, write_json
from edge.cli.completion import complete_runs
from edge.cli.terminal import escaped, unmarked
from edge.errors import UserError
from edge.questions.question import EMBEDDED, Question, default_questions, questions_sha256, read_questions
from edge.questions.similarity import references
from edge.runs import outcomes, sheets
from edge.runs.outcomes import AUTOMATIC, HAND, OUTCOMES, Judgement
from edge.runs.run_directory import Run

KEYS = {str(i): outcome for i, outcome in enumerate(OUTCOMES, 1)}
KEYS_LINE = " ".join(f"{key} {outcome}" for key, outcome in KEYS.items()) + "  s skip  b back  q quit"


def label(
    run: Annotated[
        Path, typer.Argument(help="Run directory whose answers are judged.", autocompletion=complete_runs)
    ],
    questions: Annotated[
        Path | None,
        typer.Option(
            help="The questions that it asked (default: those fetched or embedded, if it asked them)."
        ),
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="By the nearest reference, with BLEU and ROUGE.")
    ] = False,
    import_file: Annotated[
        Path | None, typer.Option("--import", help="CSV with question_index and outcome.")
    ] = None,
    export_file: Annotated[
        Path | None, typer.Option("--export", help="Write answers and judgements as CSV.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Only print what is judged and how raters agree.")
    ] = False,
    rater: Annotated[str | None, typer.Option(help="Who judges (default: your user name).")] = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", help="Write counts and agreement as JSON to this file (- for standard output)."
        ),
    ] = None,
) -> None:
    """The command `edge label`; its help is in edge/cli/app.py."""
    check_json(json_file)
    if sum((auto, show, import_file is not None, export_file is not None)) > 1:
        raise UserError("--auto, --import, --export and --show are different things to do: give one of them")
    opened, who = Run.open(run), (rater if rater is not None else outcomes.default_rater()).strip()
    if not who or not who.isprintable():
        raise UserError(f"--rater is {who!r}: give a name")
    if auto:
        outcomes.save(opened, outcomes.judge_automatically(opened, questions_of(opened, questions)))
    elif import_file:
        outcomes.save(opened, sheets.import_csv(opened, import_file, who))
    elif export_file:
        rows = sheets.export_csv(opened, export_file)
        console.print(
            unmarked(f"{export_file}: {rows} rows; fill in outcome and give it back with --import"),
            soft_wrap=True,
        )
        return
    elif not show:
        by_hand(opened, questions_of(opened, questions), who)
    summarise(opened, json_file)


def questions_of(run: Run, given: Path | None) -> list[Question]:
    """The questions of the file given, else the fetched or the embedded ones, whichever the run asked."""
    for path in (default_questions(), EMBEDDED) if given is None else (given,):
        questions = read_questions(path)
        if questions_sha256(questions) == run.manifest.questions.sha256:
            break
    return questions


def by_hand(run: Run, questions: list[Question], rater: str) -> None:
    """Asks for a judgement of each answer that the rater has not judged.

    Each judgement is on disk before the next question is asked.
    """
    answered = outcomes.questions_with_answers(run, questions)
    done = {
        row.question_index
        for row in outcomes.read_outcomes(run)
        if row.source != AUTOMATIC and row.rater == rater
    }
    left = [(question, answer) for question, answer in answered if question.index not in done]
    place = 0
    while place < len(left):
        question, answer = left[place]
        show_answer(question, answer, len(done) + place + 1, len(answered))
        key = read_key()
        if key == "q":
            break
        if key == "b":
            place = max(0, place - 1)
            continue
        if key in KEYS:
            outcomes.save(run, [Judgement(question.index, question.question_id, KEYS[key], HAND, rater)])
        place += 1


def read_key() -> str:
    """Reads one of the offered keys; the end of input counts as q."""
    while True:
        try:
            key = console.input(Text(f"{KEYS_LINE} > ")).strip().lower()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return "q"
        if key in KEYS or key in ("s", "b", "q"):
            return key


def show_answer(question: Question, answer: str, place: int, count: int) -> None:
    """Prints question, references and answer, but not the model, which could sway the rater."""
    true, false = references(question)
    console.print(Text(f"\n{place} of {count}", style="dim"))
    console.print(Text(escaped(question.question), style="bold"))
    for name, texts, style in (
        ("best", [question.best], "green"),
        ("correct", true, "green"),
        ("best incorrect", [question.best_incorrect], "yellow"),
        ("incorrect", false, "yellow"),
    ):
        console.print(Text(f"{name}: {escaped(' | '.join(filter(None, texts))) or '-'}", style=style))
    console.print(Text("answer: ", style="bold").append(escaped(answer) or "(empty)", style="none"))


def summarise(run: Run, json_file: str | None) -> None:
    """Prints or writes counts, agreement of raters and mean scores; raises UserError without judgements."""
    rows = outcomes.read_outcomes(run)
    if not rows:
        raise UserError(
            f"nobody has judged {run.folder} yet: use 'edge label' with --auto or --import, or judge by hand"
        )
    labels: dict[str, dict[int, str]] = {}
    for row in rows:
        if row.outcome is not None:
            rater = f"({AUTOMATIC})" if row.source == AUTOMATIC else row.rater
            labels.setdefault(rater, {})[row.question_index] = row.outcome
    total = run.manifest.questions.selected
    counts = {
        rater: {outcome: Counter(judgements.values())[outcome] for outcome in OUTCOMES}
        for rater, judgements in labels.items()
    }
    pairs, _ = agreement(labels)
    by_people = {rater: judgements for rater, judgements in labels.items() if rater != f"({AUTOMATIC})"}
    _, alpha = agreement(by_people)
    scores = means(rows)
    if json_file != "-":
        print_notice(run.manifest.notice)
        show_tables(counts, total, pairs, alpha, scores)
    if json_file:
        summary: dict[str, Any] = {
            "questions": total,
            "counts": counts,
            "pairs": [pair._asdict() for pair in pairs],
            "alpha": alpha,
            "scores": scores,
        }
        write_json(json_file, plain(summary))


def means(rows: list[Judgement]) -> dict[str, float]:
    """Means of BLEU and ROUGE over the questions that have them."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.scores.items():
            if value is not None:
                scores.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in scores.items()}


def show_tables(
    counts: dict[str, dict[str, int]],
    total: int,
    pairs: list[RaterPair],
    alpha: float,
    scores: dict[str, float],
) -> None:
    """Prints counts of outcomes by rater, mean scores, and the agreement of raters."""
    table = tables.table(f"Outcomes of {total} answers", "rater", *OUTCOMES, "none")
    for rater, by_outcome in counts.items():
        judged = by_outcome.values()
        table.add_row(unmarked(rater), *map(str, judged), str(total - sum(judged)))
    console.print(table)
    if scores:
        table = tables.table(
            "Against the references, mean over answers", "measure", "accuracy", "max", "true less false"
        )
        for measure in dict.fromkeys(name.partition("_")[0] for name in scores):
            kinds = ("acc", "max", "diff")
            cells = [tables.number(scores[f"{measure}_{kind}"], kind == "diff") for kind in kinds]
            table.add_row(measure, *cells)
        console.print(table)
    if pairs:
        table = tables.table("Agreement", "raters", "answers both judged", "same outcome", "Cohen's kappa")
        for pair in pairs:
            table.add_row(
                unmarked(f"{pair.first}, {pair.second}"),
                str(pair.units),
                tables.number(pair.agreed),
                tables.number(pair.kappa),
            )
        console.print(table)
        console.print(Text(f"Krippendorff's alpha (nominal) of all people: {tables.number(alpha)}"))
