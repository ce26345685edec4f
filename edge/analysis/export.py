"""Results of `edge paper` as flat tables for pandas, polars and R. Undefined values are null."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.analysis.auroc_change import AurocChange
from edge.analysis.intervals import Interval
from edge.analysis.published import published
from edge.analysis.study import Change, Study
from edge.analysis.tokens import MeanTrajectory
from edge.analysis.truth import Prediction, ScoreCurves
from edge.errors import UserError
from edge.runs.parts import write_table
from edge.spreadsheet import write_csv

Line = dict[str, Any]


def bounds_columns(name: str, value: Interval) -> Line:
    """Three columns for an interval: NAME, NAME_low and NAME_high."""
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def interval_columns(name: str, value: Interval) -> Line:
    """Four columns for an interval: those of `bounds_columns`, and NAME_few where few answers gave it."""
    return bounds_columns(name, value) | {f"{name}_few": value.few}


def measures(study: Study) -> Iterator[Line]:
    """One row for each measure of tables 1 to 7, and of table 8 for what is beyond the paper."""
    paper = study.paper
    for row in paper.rows:
        yield {
            "table": row.table,
            "measure": row.measure,
            **interval_columns("over_questions", row.questions),
            **interval_columns("over_tokens", row.tokens),
            "question_index": paper.question,
            "question_value": row.question,
            "paper": published().value(row.table, row.measure, paper.model_id),
        }


def classes(study: Study) -> Iterator[Line]:
    """One row: the run's class beside the paper's."""
    model_class, verdicts = study.paper.model_class, study.paper.verdicts
    yield {
        "class": model_class.label,
        **interval_columns("shift", model_class.shift),
        "delta": model_class.delta,
        "answers": model_class.answers,
        "left_out": model_class.left_out,
        "paper_abstract": verdicts.abstract if verdicts else None,
        "paper_section_4_1": verdicts.section if verdicts else None,
        "paper_sign_of_shift": verdicts.sign if verdicts else None,
    }


def correlations(study: Study) -> Iterator[Line]:
    """One row for each pair of metrics."""
    for c in study.paper.correlations:
        within = interval_columns("within_answers", c.within)
        yield {"x": c.x, "y": c.y, "over_tokens": c.over_tokens, **within}


def trajectory_lines(trajectory: MeanTrajectory, **keys: str) -> Iterator[Line]:
    """One row for each bin of a trajectory; `keys` are its first columns."""
    x, *bounds, questions = trajectory
    for place, mean, low, high in zip(x, *bounds, strict=True):
        yield {
            **keys,
            "place": float(place),
            "mean": float(mean),
            "low": float(low),
            "high": float(high),
            "questions": questions,
        }


def trajectories(study: Study) -> Iterator[Line]:
    """One row for each metric and bin."""
    for metric, trajectory in study.paper.trajectories.items():
        yield from trajectory_lines(trajectory, metric=metric)


def layers(study: Study) -> Iterator[Line]:
    """One row for each metric and layer."""
    if study.paper.layers is not None:
        yield from study.paper.layers.to_pylist()


def outcomes(study: Study) -> Iterator[Line]:
    """One row for each outcome: the number of answers that have it."""
    if study.truth:
        for outcome, count in study.truth.counts.items():
            yield {"source": study.truth.source, "outcome": outcome, "answers": count}


def record_line(record: Prediction | AurocChange) -> Line:
    """A record's fields as columns, three for an interval: no record is of few answers."""
    line: Line = {}
    for name, value in record._asdict().items():
        line |= bounds_columns(name, value) if isinstance(value, Interval) else {name: value}
    return line


def predictions(study: Study) -> Iterator[Line]:
    """One row for each score, with every measure and both corrections."""
    for prediction in study.truth.predictions if study.truth else ():
        yield record_line(prediction)


def score_columns(curves: ScoreCurves) -> Line:
    """The columns that name a score."""
    metric, summary = curves.score
    return {"metric": metric, "summary": summary}


def risk_coverage(study: Study) -> Iterator[Line]:
    """One row for each score with curves and each coverage."""
    for curves in study.truth.shown if study.truth else ():
        score = score_columns(curves)
        for coverage, risk, best in zip(*curves.risk, strict=True):
            yield {**score, "coverage": float(coverage), "risk": float(risk), "best": float(best)}


def reliability(study: Study) -> Iterator[Line]:
    """One row for each score with curves and each bin of probability."""
    for curves in study.truth.shown if study.truth else ():
        for reliability_bin in curves.reliability:
            yield {**score_columns(curves), **reliability_bin._asdict()}


def entropy_by_outcome(study: Study) -> Iterator[Line]:
    """One row for each bin of output entropy along true and untrue answers, and of their difference."""
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


# By file name. Names are kept for readers of older files: "courses" holds trajectories.
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
    """All tables by name; a table without rows is left out. The first columns name the run."""
    tables = {}
    for table, lines_of in TABLES.items():
        rows = [
            {"run": study.name, "model_id": study.paper.model_id, **line}
            for study in studies
            for line in lines_of(study)
        ]
        if rows:
            tables[table] = flat(rows)
    lines = [
        {"run": name, "against": first, **record_line(change)}
        for first, name, changes in compared
        for change in changes
    ]
    if lines:
        tables["auroc_changes"] = flat(lines)
    return tables


def json_fields(record: Any) -> dict[str, Any]:
    """Convert a dataclass to nested values, with the field names of its JSON."""
    return {JSON_NAMES.get(name, name): value for name, value in dataclasses.asdict(record).items()}


def flat(rows: list[Line]) -> pa.Table:
    """A table of these rows, with the columns of the first row; NaN becomes null."""
    return pa.table({name: pa.array([clean(row[name]) for row in rows]) for name in rows[0]})


def clean(value: Any) -> Any:
    """The value, or None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def write_tables(folder: Path, tables: dict[str, pa.Table], suffix: str) -> list[Path]:
    """Write NAME.csv or NAME.parquet for each table, each atomically. Raises UserError if the folder cannot
    be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder} ({error.strerror}): give another") from error
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.{suffix}"
        if suffix == "parquet":
            write_table(path, table)
        else:
            write_csv(
                path, table.column_names, zip(*(column.to_pylist() for column in table.columns), strict=True)
            )
        paths.append(path)
    return paths
