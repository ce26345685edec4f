"""Everything that `edge paper` found as flat tables, for pandas, polars and R: one row a number, undefined
is null."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from edge.analysis.auroc_change import AurocChange
from edge.analysis.intervals import Interval
from edge.analysis.published import published
from edge.analysis.study import Change, Study
from edge.analysis.tokens import MeanTrajectory
from edge.analysis.truth import Prediction, ScoreCurves
from edge.errors import UserError
from edge.files import write_whole
from edge.runs.parts import write_table

Line = dict[str, Any]


def spread_out(name: str, value: Interval) -> Line:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def measures(study: Study) -> Iterator[Line]:
    """Tables 1 to 7, and 8 for what is beyond the paper."""
    paper = study.paper
    for row in paper.rows:
        yield {
            "table": row.table,
            "measure": row.measure,
            **spread_out("over_questions", row.questions),
            **spread_out("over_tokens", row.tokens),
            "question_index": paper.question,
            "question_value": row.question,
            "paper": published().value(row.table, row.measure, paper.model_id),
        }


def classes(study: Study) -> Iterator[Line]:
    found, verdicts = study.paper.model_class, study.paper.verdicts
    yield {
        "class": found.label,
        **spread_out("shift", found.shift),
        "delta": found.delta,
        "paper_abstract": verdicts.abstract if verdicts else None,
        "paper_section_4_1": verdicts.section if verdicts else None,
        "paper_sign_of_shift": verdicts.sign if verdicts else None,
    }


def correlations(study: Study) -> Iterator[Line]:
    for c in study.paper.correlations:
        yield {"x": c.x, "y": c.y, "over_tokens": c.over_tokens, **spread_out("within_answers", c.within)}


def trajectory_lines(trajectory: MeanTrajectory, **more: str) -> Iterator[Line]:
    for x, mean, low, high in zip(
        trajectory.x, trajectory.mean, trajectory.low, trajectory.high, strict=True
    ):
        yield {
            **more,
            "place": float(x),
            "mean": float(mean),
            "low": float(low),
            "high": float(high),
            "questions": trajectory.questions,
        }


def trajectories(study: Study) -> Iterator[Line]:
    for metric, trajectory in study.paper.trajectories.items():
        yield from trajectory_lines(trajectory, metric=metric)


def layers(study: Study) -> Iterator[Line]:
    if study.paper.layers is not None:
        yield from study.paper.layers.to_pylist()


def outcomes(study: Study) -> Iterator[Line]:
    if study.truth:
        for outcome, count in study.truth.counts.items():
            yield {"source": study.truth.source, "outcome": outcome, "answers": count}


def record_line(record: Prediction | AurocChange) -> Line:
    """A record's fields, an interval as three."""
    line: Line = {}
    for name, value in record._asdict().items():
        line |= spread_out(name, value) if isinstance(value, Interval) else {name: value}
    return line


def predictions(study: Study) -> Iterator[Line]:
    """One row for each score, with every measure and both corrections."""
    for p in study.truth.predictions if study.truth else ():
        yield record_line(p)


def named(shown: ScoreCurves) -> Line:
    return dict(zip(("metric", "summary"), shown.score, strict=True))


def risk_coverage(study: Study) -> Iterator[Line]:
    for shown in study.truth.shown if study.truth else ():
        for coverage, risk, best in zip(*shown.risk, strict=True):
            yield {**named(shown), "coverage": float(coverage), "risk": float(risk), "best": float(best)}


def reliability(study: Study) -> Iterator[Line]:
    for shown in study.truth.shown if study.truth else ():
        for held in shown.reliability:
            yield {**named(shown), **held._asdict()}


def entropy_by_outcome(study: Study) -> Iterator[Line]:
    if study.truth is None:
        return
    kinds = {
        "true": study.truth.true_trajectory,
        "untrue": study.truth.untrue_trajectory,
        "untrue - true": study.truth.trajectory_difference,
    }
    for outcome, trajectory in kinds.items():
        if trajectory is not None:
            yield from trajectory_lines(trajectory, outcome=outcome)


# By the name of the file, which readers know: a trajectory is still called a course there.
TABLES: dict[str, Callable[[Study], Iterator[Line]]] = {
    "measures": measures,
    "classes": classes,
    "correlations": correlations,
    "courses": trajectories,
    "layers": layers,
    "outcomes": outcomes,
    "predictions": predictions,
    "risk_coverage": risk_coverage,
    "reliability": reliability,
    "entropy_by_outcome": entropy_by_outcome,
}
# Fields whose JSON keeps its name, for the same reason.
JSON_NAMES = {
    "trajectories": "courses",
    "true_trajectory": "true_course",
    "untrue_trajectory": "untrue_course",
    "trajectory_difference": "course_difference",
}


def tables(studies: Sequence[Study], compared: Sequence[Change]) -> dict[str, pa.Table]:
    """By name; a table without a row is left out. The first columns name the run."""
    made = {}
    for table, lines in TABLES.items():
        rows = [{"run": s.name, "model_id": s.paper.model_id, **line} for s in studies for line in lines(s)]
        if rows:
            made[table] = flat(rows)
    changes = [
        {"run": name, "against": first, **record_line(change)}
        for first, name, found in compared
        for change in found
    ]
    if changes:
        made["auroc_changes"] = flat(changes)
    return made


def json_fields(record: Any) -> dict[str, Any]:
    """A dataclass as nested values under the names that its JSON has."""
    return {JSON_NAMES.get(name, name): value for name, value in dataclasses.asdict(record).items()}


def flat(rows: list[Line]) -> pa.Table:
    """NaN becomes null; columns in the order of the first row."""
    return pa.table({name: pa.array([clean(row[name]) for row in rows]) for name in rows[0]})


def clean(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def write_tables(folder: Path, made: dict[str, pa.Table], suffix: str) -> list[Path]:
    """NAME.csv or NAME.parquet for each, whole or not at all. Raises UserError where the folder cannot be
    made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}): give another") from error
    paths = []
    for name, table in made.items():
        path = folder / f"{name}.{suffix}"
        if suffix == "parquet":
            write_table(path, table)
        else:
            write_whole(path, functools.partial(pyarrow.csv.write_csv, table))
        paths.append(path)
    return paths
