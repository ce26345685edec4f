"""Compares `edge score` with lm-evaluation-harness through transformers, on the same questions, offline.

    python -m benchmarks.harness models/nano/nano-llama models/nano-llama/onnx-fp32 --questions
    truthfulqa_817.csv --limit 100

Needs the extra dev.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # before the libraries are imported

import datasets
import lm_eval
import numpy as np
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.jobs.score import score
from edge.questions.question import Question, read_questions

TASKS = ("mc1", "mc2")


def documents(questions: list[Question]) -> datasets.Dataset:
    """The questions in the columns of the hub's `multiple_choice` form."""

    def targets(true: tuple[str, ...], false: tuple[str, ...]) -> dict[str, list]:
        return {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}

    return datasets.Dataset.from_list(
        [
            {
                "question": q.question,
                "mc1_targets": targets((q.best,), q.incorrect),
                "mc2_targets": targets(q.correct, q.incorrect),
            }
            for q in questions
        ]
    )


def task(name: str, questions: list[Question]) -> ConfigurableTask:
    """A task in the harness's own configuration, with our questions instead of the hub's."""
    folder = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"
    config = load_yaml(folder / f"truthfulqa_{name}.yaml")
    config.update(
        dataset_path=None,
        dataset_name=None,
        dataset_kwargs=None,
        custom_dataset=lambda **_: datasets.DatasetDict(validation=documents(questions)),
    )
    return ConfigurableTask(config=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    questions = read_questions(options.questions)[: options.limit]

    model = HFLM(pretrained=options.checkpoint, device="cpu", dtype="float32", batch_size=1)
    started = time.perf_counter()
    results = lm_eval.simple_evaluate(
        model=model, tasks=[task(name, questions) for name in TASKS], log_samples=True, bootstrap_iters=0
    )
    theirs_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        ours = score(open_artifact(options.artifact), questions, Path(folder) / "scores", runtime=Runtime())
        ours_s = time.perf_counter() - started
    print(
        f"lm-eval {lm_eval.__version__}: {theirs_s:.1f} s; edge score: {ours_s:.1f} s; "
        f"{len(questions)} questions"
    )
    for name in TASKS:
        samples = sorted(results["samples"][f"truthfulqa_{name}"], key=lambda sample: sample["doc_id"])
        theirs = np.array([sample["acc"] for sample in samples])
        mine = np.array([ours.values[name][sample["doc_id"]] for sample in samples])
        worst = float(np.abs(theirs - mine).max())
        means = f"lm-eval {theirs.mean():.6f}, edge {mine.mean():.6f}"
        print(f"{name}: {means}, largest difference of a question {worst:.2e}")
        assert abs(theirs.mean() - mine.mean()) < 1e-3


if __name__ == "__main__":
    main()
