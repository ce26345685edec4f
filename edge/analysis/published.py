"""Numbers of arXiv 2604.03589 by table, measure and model, from the package's `data/paper.json`."""

from __future__ import annotations

import functools
import json
import math
from typing import NamedTuple

from edge.artifact import ModelSpec
from edge.files import DATA

PAPER = DATA / "paper.json"
TABLES = {
    1: "table1_summary",
    2: "table2_output_entropy",
    3: "table3_step_attention_entropy",
    4: "table4_layers",
    5: "table5_early_late",
    7: "table7_hidden",
}
LAYER_TABLE = "table6_llama_layers"  # of one model
LAYERS_MODEL = "llama-3.2-1b-instruct"
SHORT_NAMES = ("Llama", "Gemma", "DeepSeek", "Qwen")
MEBIBYTE = 2**20


class PublishedClass(NamedTuple):
    """The paper's verdicts on one model. Abstract and section 4.1 differ; the sign of its shift (Table 5)
    may differ from both."""

    abstract: str
    section: str
    sign: str


class Published(NamedTuple):
    """The paper's numbers. `values` has one for each of `models` by (table, measure), NaN for none."""

    source: str
    models: tuple[str, ...]
    values: dict[tuple[int, str], tuple[float, ...]]
    classes: dict[str, PublishedClass]

    def value(self, table: int, measure: str, model_id: str) -> float:
        """One number of a table; NaN if the paper has none."""
        row = self.values.get((table, measure))
        return row[self.models.index(model_id)] if row and model_id in self.models else math.nan


def layer_measures(side: str, rank: int) -> tuple[str, str, str]:
    """Names of Table 6's measures: the layer's number (from 1), its attention entropy and its head
    dispersion."""
    return f"{side}_{rank}_layer", f"{side}_{rank}_attention_entropy", f"{side}_{rank}_head_dispersion"


@functools.cache
def published() -> Published:
    """Read the paper's numbers, once for each process."""
    raw = json.loads(PAPER.read_text(encoding="utf-8"))
    models = tuple(raw["models"])
    values: dict[tuple[int, str], tuple[float, ...]] = {}
    for number, name in TABLES.items():
        for measure, row in raw[name].items():
            if isinstance(row, list):
                values[number, measure] = tuple(float(value) for value in row)
    for side in ("lowest", "highest"):
        for rank, triple in enumerate(raw[LAYER_TABLE][side], start=1):
            for measure, value in zip(layer_measures(side, rank), triple, strict=True):
                by_model = (float(value) if model == LAYERS_MODEL else math.nan for model in models)
                values[6, measure] = tuple(by_model)
    verdicts = [raw["classes"][key] for key in ("abstract", "section_4_1", "sign_of_output_shift")]
    classes = {model: PublishedClass(*verdict) for model, *verdict in zip(models, *verdicts, strict=True)}
    return Published(raw["source"], models, values, classes)


def paper_kv_mebibytes(spec: ModelSpec, prompt_tokens: int, generated_tokens: int) -> float:
    """Size of the cache in MiB as the paper's Table 1 counts it: FP32, prompt + generated positions.

    The paper's loop feeds the last prompt token twice. A decoder that does not caches one position fewer.
    """
    return spec.kv_bytes(prompt_tokens + generated_tokens, 4) / MEBIBYTE
