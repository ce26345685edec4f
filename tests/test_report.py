"""The report: one file that needs nothing else, shows what the analysis found, and lets no text become
markup."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge.analysis.divergence import compare
from edge.analysis.dynamics import curves, describe, head_map
from edge.artifact import Artifact
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.report.html import json_block
from edge.report.model import unique_names
from edge.report.write import ReportSummary, write_report
from edge.runs.parts import part_stem, write_part
from edge.runs.run_directory import Run
from tests.conftest import Artifacts, write_questions
from tests.planted import Planted, write_run

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><!-- \u2028 {{ 7 * 7 }} &amp;",
)
NOTICE = "This model is <b>tiny</b> & says nothing."
LIMIT = 10_000_000
LOADERS = {"src", "href", "srcset", "data", "action", "poster", "xlink:href", "background", "formaction"}


class Page(HTMLParser):
    """What a browser would make of the file: elements, attributes, texts, and the JSON blocks."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, list[Any]] = {}
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.texts: list[str] = []
        self._open: tuple[str, dict[str, str | None]] | None = None
        self._raw: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open, self._raw = (tag, dict(attrs)), []

    def handle_endtag(self, tag: str) -> None:
        if self._open is None or tag != self._open[0]:
            return
        text, (_, attributes) = "".join(self._raw), self._open
        if tag == "style":
            self.styles.append(text)
        elif attributes.get("type") == "application/json":
            self.blocks.setdefault(str(attributes["class"]), []).append(json.loads(text))
        elif attributes.get("type") == "application/octet-stream":
            unpacked = json.loads(zlib.decompress(base64.b64decode(text, validate=True)))
            self.blocks.setdefault(str(attributes["class"]), []).append(unpacked)
        else:
            self.scripts.append(text)
        self._open = None

    def handle_data(self, data: str) -> None:
        (self._raw if self._open else self.texts).append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def trace(artifact: Path, questions: Path, out: Path, *, tokens: int = 12, reference: int = 0) -> Run:
    asked = read_questions(questions)
    run(
        Artifact.open(artifact),
        asked,
        out,
        DecodeSettings(tokens, reference_k=reference),
        prompt="raw",
        date="2026-01-02",
    )
    return Run.open(out)


@pytest.fixture(scope="module")
def runs(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Full, quantised and forced runs of one model over questions that try to break out, one too long for
    the context."""
    base = tmp_path_factory.mktemp("report")
    questions = write_questions(
        base / "questions.csv", [*HOSTILE, "Is the sea salty?", "Why?", "why " * 2000]
    )
    hostile = questions.read_text(encoding="utf-8").replace("Category 0", "<script>alert(2)</script>")
    questions.write_text(hostile, encoding="utf-8")
    full = trace(artifacts("odd"), questions, base / "fp32", reference=32)
    quantised = trace(artifacts("odd", "onnx-int4"), questions, base / "int4")
    force(Artifact.open(artifacts("odd", "onnx-int4")), full.folder, base / "int4-forced")
    found = {"full": full, "quantised": quantised, "forced": Run.open(base / "int4-forced")}
    for made in found.values():
        disguise(made.folder)
    return {name: Run.open(made.folder) for name, made in found.items()}


def disguise(folder: Path) -> None:
    """Gives the model a notice and an id of markup, and one token (the same in all runs) a text of
    markup."""
    path = folder / "run.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    for artifact in (raw["artifact"], *([raw["like"]["artifact"]] if raw["like"] else [])):
        artifact["notice"], artifact["model_id"] = NOTICE, "odd<img src=x>"
    path.write_text(json.dumps(raw), encoding="utf-8")
    for part in (folder / "steps").glob("*.parquet"):
        table = pq.read_table(part)
        tokens = table.column("token").to_pylist()
        tokens[0] = HOSTILE[0]
        place = table.schema.get_field_index("token")
        part.unlink()
        write_part(part.parent, part_stem(part.name), table.set_column(place, "token", pa.array(tokens)))


@pytest.fixture(scope="module")
def report(
    runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ReportSummary, Page, str]:
    out = tmp_path_factory.mktemp("out") / "report.html"
    summary = write_report([runs["forced"], runs["full"], runs["quantised"]], out)
    text = out.read_text(encoding="utf-8")
    return summary, Page(text), text


def shown(page: Page, figure: str, variant: int = 0) -> list[dict[str, Any]]:
    return page.blocks["figure-data"][0]["figures"][figure][variant]["panels"]


def same(values: Any, expected: Any) -> None:
    """Equal to the four digits that the page keeps."""
    np.testing.assert_allclose(
        np.array(values, np.float64), np.asarray(expected, np.float64), rtol=6e-4, atol=1e-12
    )


def test_one_file_that_asks_nobody(report: tuple[ReportSummary, Page, str]) -> None:
    summary, page, _ = report
    assert summary.bytes == summary.path.stat().st_size < LIMIT
    assert (summary.models, summary.runs, summary.questions) == (1, 3, 6)
    assert [p.name for p in summary.path.parent.iterdir()] == ["report.html"]
    for tag, attributes in page.tags:
        assert (
            tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
            or attributes.get("href") == "data:,"
        )
        for name in LOADERS & attributes.keys():
            assert str(attributes[name]).startswith(("#", "data:,")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert len(page.styles) == 1
    assert "@import" not in page.styles[0]
    assert "url(" not in page.styles[0]
    policy = next(
        a["content"]
        for t, a in page.tags
        if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_no_text_becomes_markup(report: tuple[ReportSummary, Page, str]) -> None:
    _, page, _ = report
    assert len(page.scripts) == 2  # plotly.js and ours
    assert page.count("script") == 4  # and the two blocks of data
    assert page.count("img") == page.count("b") == 0
    assert not [script for script in page.scripts if "alert(1)" in script or "alert(2)" in script]
    assert "odd<img src=x>" in page.words
    browser = page.blocks["browser-data"][0]
    assert [question for _, question, _ in browser["questions"][:3]] == [text.strip() for text in HOSTILE]
    assert browser["questions"][0][2] == "<script>alert(2)</script>"
    assert HOSTILE[0] in browser["vocabulary"]


def test_json_blocks_come_back_whole() -> None:
    value = {"</script>": ["<!--", "\u2028\u2029", "&lt;", "</ScRiPt\n>", "\\u003c", "\x00", "☃"]}
    block = str(json_block(value))
    assert json.loads(block) == value
    assert not set(block) & set("<>&\u2028\u2029")


def test_notice_stands_before_the_results(report: tuple[ReportSummary, Page, str]) -> None:
    _, page, text = report
    assert page.words.index(NOTICE) < page.words.index("Class")
    assert text.index("&lt;b&gt;tiny") < text.index("<main")


def test_figures_hold_what_the_analysis_found(
    report: tuple[ReportSummary, Page, str], runs: dict[str, Run]
) -> None:
    _, page, _ = report
    assert [look["name"] for look in page.blocks["figure-data"][0]["runs"]] == [
        "onnx-fp32",
        "onnx-int4 forced",
        "onnx-int4",
    ]
    for i, name in enumerate(("full", "forced", "quantised")):
        expected = curves(runs[name])["output_entropy"]
        line = next(trace for trace in shown(page, "entropy")[0]["data"] if trace["meta"] == [i, False])
        band = next(trace for trace in shown(page, "entropy")[0]["data"] if trace["meta"] == [i, True])
        same(line["x"], expected.x)
        same(line["y"], expected.mean)
        same(band["y"], np.concatenate([expected.high, expected.low[::-1]]))
    found = compare(runs["full"], runs["forced"])
    heat = [panel["data"][0]["z"] for panel in shown(page, "heads")]
    same(heat[0], head_map(runs["full"]))
    same(heat[1], head_map(runs["forced"]))
    same(heat[2], found.heads[0].mean)
    layers = {change.metric: change for change in found.layers}
    first = shown(page, "layers")[0]["data"][0]
    same(first["y"], layers["attention_entropy_layer"].mean)
    assert found.forced is not None
    assert found.forced.kl is not None
    kl = dict(zip(shown(page, "kl")[0]["data"][0]["x"], shown(page, "kl")[0]["data"][0]["y"], strict=True))
    same([kl["max"], kl["50"]], [found.forced.kl.max, found.forced.kl.median])


def test_attention_along_the_answer_is_the_mean_of_the_layers(
    report: tuple[ReportSummary, Page, str], runs: dict[str, Run]
) -> None:
    """Head dispersion and attention entropy have no column of their own for a step; answers hold their
    means."""
    _, page, _ = report
    for figure, column in (("attention", "attention_entropy_mean"), ("dispersion", "head_dispersion_mean")):
        line = next(trace for trace in shown(page, figure)[0]["data"] if trace["meta"] == [0, False])
        answers = runs["full"].answers(["question_index", column]).column(column).drop_null().to_numpy()
        same(np.mean(line["y"]), answers.mean())
    normalised = next(trace for trace in shown(page, "attention")[1]["data"] if trace["meta"] == [0, False])
    answers = runs["full"].answers(["question_index", "attention_entropy_normalised_mean"])
    same(np.mean(normalised["y"]), answers.column(1).drop_null().to_numpy().mean())


def test_first_screen_names_class_and_change(
    report: tuple[ReportSummary, Page, str], runs: dict[str, Run]
) -> None:
    _, page, _ = report
    found = describe(runs["full"]).model_class
    head = page.words[: page.words.index("Output entropy along the answer")]
    assert f"Class {found.label}" in head
    forced = compare(runs["full"], runs["forced"]).forced
    assert forced is not None
    assert forced.kl is not None
    assert f"{forced.kl.mean:.3g} ± {forced.kl.error:.2g}" in head
    assert "Identical answers" in head
    assert "Where change starts" in head


def test_delta_decides_the_class_and_is_named(runs: dict[str, Run], tmp_path: Path) -> None:
    run, _ = write_run(tmp_path / "run", Planted(slope=1.0), 3, 20, 15)
    write_report([run], tmp_path / "r.html", delta=77.5)
    words = Page((tmp_path / "r.html").read_text(encoding="utf-8")).words
    assert "Class balanced" in words
    assert "neither below −77.5 nor above +77.5 nat" in words
    with pytest.raises(UserError, match="delta"):
        write_report([runs["full"]], tmp_path / "none.html", delta=-1)


def test_answers_in_the_browser_are_those_of_the_run(
    report: tuple[ReportSummary, Page, str], runs: dict[str, Run]
) -> None:
    _, page, _ = report
    browser = page.blocks["browser-data"][0]
    for packed, name in zip(browser["runs"], ("full", "forced", "quantised"), strict=True):
        columns = ["token", "output_entropy", "surprisal", "top1_probability"]
        for at, (_, table) in enumerate(runs[name].each_question(columns)):
            tokens, entropies, surprisals, top1, *_ = packed["answers"][at]
            chances = np.exp(-np.array(surprisals) / 100) if top1 == 0 else np.array(top1)
            if top1 != 0:
                chances = np.where(chances == 0, np.exp(-np.array(surprisals) / 100), (chances - 1) / 100)
            np.testing.assert_allclose(chances, table.column("top1_probability").to_numpy(), atol=0.0101)
            tokens = tokens or browser["runs"][0]["answers"][at][0]
            assert [browser["vocabulary"][token] for token in tokens or []] == table.column(
                "token"
            ).to_pylist()
            np.testing.assert_allclose(
                np.array(entropies) / 100, table.column("output_entropy").to_numpy(), atol=0.0051
            )
            np.testing.assert_allclose(
                np.array(surprisals) / 100, table.column("surprisal").to_numpy(), atol=0.0051
            )
    assert packed["answers"][5][1] == []
    assert "1 of 6 questions did not fit the context" in page.words


def test_tables_can_be_read_aloud(report: tuple[ReportSummary, Page, str]) -> None:
    _, page, _ = report
    assert page.count("table") == page.count("caption") >= 8
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in page.tags if tag == "th")
    assert page.count("figure") == page.count("figcaption") == 11
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes["for"] for tag, attributes in page.tags if tag == "label" and "for" in attributes}
    assert labelled <= set(ids)


def test_untapped_run_gets_a_report_that_says_what_is_missing(
    artifacts: Artifacts, questions_file: Path, tmp_path: Path
) -> None:
    made = trace(artifacts("odd", "onnx-fp32", "none"), questions_file, tmp_path / "run", tokens=6)
    write_report([made], tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    # Answers of six tokens have no shift.
    assert set(page.blocks["figure-data"][0]["figures"]) == {"entropy", "relations", "correlations"}
    assert "without taps" in page.words


def test_runs_of_other_questions_are_no_comparison(
    runs: dict[str, Run], artifacts: Artifacts, questions_file: Path, tmp_path: Path
) -> None:
    made = trace(artifacts("untied"), questions_file, tmp_path / "untied", tokens=4)
    other = trace(artifacts("odd", "onnx-int4"), questions_file, tmp_path / "odd", tokens=4)
    full = trace(
        artifacts("odd"), write_questions(tmp_path / "q.csv", ["Why?"]), tmp_path / "full", tokens=4
    )
    assert write_report([made, other], tmp_path / "two.html").models == 2
    with pytest.raises(UserError, match="different questions"):
        write_report([full, other], tmp_path / "none.html")
    with pytest.raises(UserError, match="forced run"):
        write_report([runs["forced"]], tmp_path / "none.html")
    with pytest.raises(UserError, match="at least one"):
        write_report([], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_equal_labels_are_told_apart(runs: dict[str, Run]) -> None:
    full = runs["full"]
    other = Run(full.folder.parent / "again", full.manifest)
    names = unique_names([full, other, Run(Path("elsewhere") / "again", full.manifest), runs["forced"]])
    assert names == ["onnx-fp32 (fp32)", "onnx-fp32 (again)", "onnx-fp32 (again) #2", "onnx-int4 forced"]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [(lambda base: base, "is a folder"), (lambda base: base / "file" / "r.html", "cannot make the folder")],
)
def test_a_target_that_cannot_be_written(
    runs: dict[str, Run], tmp_path: Path, target: Callable[[Path], Path], complaint: str
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match=complaint):
        write_report([runs["full"]], target(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_report_replaces_an_older_one_whole(runs: dict[str, Run], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "r.html"
    first = write_report([runs["full"]], out)
    assert write_report([runs["full"]], out) == first
    assert [p.name for p in out.parent.iterdir()] == ["r.html"]


def test_without_plotly_one_sentence_says_what_to_install(runs: dict[str, Run], tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "from pathlib import Path\nfrom edge.errors import UserError\nfrom edge.report.write import "
        "write_report\n"
        "from edge.runs.run_directory import Run\n"
        "try:\n    write_report([Run.open(sys.argv[1])], Path(sys.argv[2]))\n"
        "except UserError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(runs["full"].folder), str(tmp_path / "r.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == 'edge report needs plotly: pip install "edgetrace[analysis]"\n'
    assert not (tmp_path / "r.html").exists()


def test_runs_without_a_single_token_or_with_one_question(artifacts: Artifacts, tmp_path: Path) -> None:
    nothing = trace(
        artifacts("odd"), write_questions(tmp_path / "long.csv", ["why " * 2000]), tmp_path / "nothing"
    )
    write_report([nothing], tmp_path / "nothing.html")
    page = Page((tmp_path / "nothing.html").read_text(encoding="utf-8"))
    assert page.count("figure") == 0
    assert "1 of 1 questions did not fit the context" in page.words
    questions = write_questions(tmp_path / "one.csv", ["Why?"])
    one = trace(artifacts("odd"), questions, tmp_path / "one", tokens=3)
    other = trace(artifacts("odd", "onnx-int4"), questions, tmp_path / "other", tokens=3)
    write_report([one, other], tmp_path / "one.html")
    words = Page((tmp_path / "one.html").read_text(encoding="utf-8")).words
    assert "no layer's 95% interval leaves out 0" in words
    assert "nan" not in words.lower().split()
