"""The report in a real Chromium: nothing asked of any server, no error, usable by mouse, keyboard and screen
reader."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from edge.analysis.classes import DELTA
from edge.artifact import Artifact
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run as run_questions
from edge.questions.question import read_questions
from edge.report.html import plotly_js, render
from edge.report.model import build_groups
from edge.report.overview import overview
from edge.report.write import write_report
from edge.runs.parts import write_table
from edge.runs.run_directory import Run
from tests.conftest import write_questions
from tests.planted import Planted, write_run
from tests.test_report import HOSTILE, runs  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
WIDE = Planted(slope=-1.2, profile=(2.0, 1.5, 1.2, 1.0), heads=4, effect=0.6)
MODELS, PRECISIONS = ("one", "two", "three", "four"), ("onnx-fp32", "onnx-int8", "onnx-int4")
QUESTIONS, TOKENS = 790, 30


def program() -> str:
    """Where Chromium is. In the checks its absence is a failure."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium: the checks install Debian's package")
        pytest.skip("there is no Chromium: apt install chromium")
    return found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@dataclasses.dataclass
class Opened:
    """A page and what it said and asked for since it was opened."""

    page: Page
    said: list[str]
    asked: list[str]


@pytest.fixture
def visit(chromium):
    """Opens a file; at the end nothing may have been said or asked for."""
    contexts, visits = [], []

    def open_it(path: Path, *, size=DESKTOP, scheme: str = "light") -> Page:
        contexts.append(chromium.new_context(viewport=size, color_scheme=scheme, accept_downloads=True))
        page = contexts[-1].new_page()
        made = Opened(page, [], [])
        page.on("console", lambda message: made.said.append(message.text))
        page.on("pageerror", lambda error: made.said.append(str(error)))
        page.on("dialog", lambda dialog: (made.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: made.asked.append(request.url))
        page.goto(path.as_uri())
        visits.append((made, path))
        return page

    yield open_it
    for made, path in visits:
        assert made.said == []
        elsewhere = [
            url for url in made.asked if url != path.as_uri() and not url.startswith(("data:", "blob:"))
        ]
        assert elsewhere == []
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def hostile(runs, tmp_path_factory) -> Path:  # noqa: F811
    """Questions, categories, a token, a notice and a model id that are markup; two of the answers are
    judged."""
    folder = tmp_path_factory.mktemp("browser")
    judged = shutil.copytree(runs["full"].folder, folder / "full")
    rows = Run.open(judged).answers(["question_index", "question_id"])
    label(judged, rows.slice(0, 2), ["best", "incorrect"])
    out = folder / "report.html"
    write_report([runs["forced"], Run.open(judged), runs["quantised"]], out)
    return out


def label(folder: Path, rows: pa.Table, outcomes: list[str]) -> None:
    made = rows.append_column("outcome", pa.array(outcomes)).append_column(
        "source", pa.array(["hand"] * len(outcomes))
    )
    made = made.append_column("rater", pa.array(["me"] * len(outcomes)))
    write_table(
        folder / "outcomes.parquet", made.append_column("margin", pa.nulls(len(outcomes), pa.float32()))
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """Four models in three precisions over as many questions as the paper has, one run of each judged. The
    analysis of one model stands for all four, for it takes ten times as long as all that is tested here."""
    folder = tmp_path_factory.mktemp("large")
    made = []
    for p, precision in enumerate(PRECISIONS):
        run, untrue = write_run(folder / precision, WIDE, p, QUESTIONS, TOKENS, "one", precision)
        if p == 0:
            rows = run.answers(["question_index", "question_id"])
            label(run.folder, rows, np.where(untrue, "incorrect", "correct").tolist())
        made.append(Run.open(run.folder))
    group = build_groups(made, DELTA)[0]
    out = folder / "report.html"
    out.write_text(
        render([dataclasses.replace(group, model_id=model) for model in MODELS], plotly_js()),
        encoding="utf-8",
    )
    return out


@pytest.fixture(scope="module")
def demo(artifacts, tmp_path_factory) -> Path:
    """The report of what `edge demo` makes, of fewer questions; one model stands for all four, each with its
    notice."""
    folder = tmp_path_factory.mktemp("demo")
    asked = read_questions(
        write_questions(
            folder / "questions.csv", ["Is the sea salty?", "Why?", "How many legs has a spider?"]
        )
    )
    made = []
    for precision in PRECISIONS:
        artifact = Artifact.open(artifacts("nano-llama", precision))
        full = precision == PRECISIONS[0]
        made.append(folder / precision)
        run_questions(artifact, asked, made[-1], DecodeSettings(24, reference_k=64 if full else 0))
        if not full:
            made.append(folder / f"{precision}-forced")
            force(artifact, made[0], made[-1])
    group = build_groups([Run.open(each) for each in made], DELTA)[0]
    assert group.notice
    shown = [
        dataclasses.replace(group, model_id=model, notice=f"{model}: {group.notice}") for model in MODELS
    ]
    out = folder / "report.html"
    out.write_text(render(shown, plotly_js()), encoding="utf-8")
    return out


def faults(page: Page) -> list[str]:
    """Serious accessibility faults, as axe-core finds them."""
    found = Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {node['html'][:200]}" for each in serious for node in each["nodes"]]


def fits(page: Page) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_texts_of_models_and_files_are_shown_and_not_run(visit, hostile):
    page = visit(hostile)
    section = page.locator("section.model").first
    section.locator(".browser").scroll_into_view_if_needed()
    buttons = section.locator(".list button span")
    expect(buttons).to_have_count(len(HOSTILE) + 3)
    for number, text in enumerate(HOSTILE):
        assert buttons.nth(number).text_content() == text
    section.locator(".list button").first.click()
    assert section.locator(".answers .question").text_content() == HOSTILE[0]
    assert HOSTILE[0] in (section.locator(".answers .token").first.text_content() or "")
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2 + 2 * page.locator("section.model").count()
    assert page.evaluate("Object.keys(window).filter((name) => /pwned|xss/i.test(name))") == []


def test_questions_are_searched_filtered_and_read_by_mouse(visit, hostile):
    page = visit(hostile)
    section = page.locator("section.model").first
    section.locator(".browser").scroll_into_view_if_needed()
    shown = section.locator(".list li:visible")
    total = len(HOSTILE) + 3
    expect(shown).to_have_count(total)
    section.locator(".search").fill("salty")
    expect(shown).to_have_count(1)
    expect(section.locator(".count")).to_have_text(f"1 of {total} questions")
    section.locator(".search").fill("")
    section.locator(".category").select_option(index=1)
    assert 0 < shown.count() < total
    section.locator(".category").select_option("")
    section.locator(".outcome").select_option("incorrect")
    expect(shown).to_have_count(1)
    section.locator(".outcome").select_option("-")
    expect(shown).to_have_count(total - 2)
    section.locator(".outcome").select_option("")
    section.locator(".list li:visible button").nth(1).click()
    expect(section.locator(".answers")).to_contain_text("judged incorrect")
    section.locator(".answers .token").nth(2).hover()
    expect(section.locator(".reading")).to_contain_text(
        re.compile(r"token 3 .*entropy \d\.\d\d nat, top-1 probability \d\.\d\d")
    )


def test_values_of_tokens_are_those_of_the_runs(visit, hostile, runs):  # noqa: F811
    section = visit(hostile).locator("section.model").first
    section.locator(".browser").scroll_into_view_if_needed()
    section.locator(".list button").nth(3).click()
    expect(section.locator(".answers")).to_contain_text("Question 4")
    for i, name in enumerate(("full", "forced", "quantised")):
        tokens = section.locator(".answers .answer").nth(i).locator(".token")
        said = [
            re.search(r"entropy (\S+) nat, top-1 probability (\S+), surprisal (\S+) nat", t)
            for t in tokens.evaluate_all("spans => spans.map((span) => span.title)")
        ]
        table = dict(runs[name].each_question(["output_entropy", "top1_probability", "surprisal"]))[3]
        for place, column in enumerate(("output_entropy", "top1_probability", "surprisal")):
            values = table.column(column).to_pylist()
            assert [float(found[place + 1]) for found in said] == pytest.approx(values, abs=0.0101), (
                name,
                column,
            )
        likely = (
            np.abs(np.exp(-np.array(table.column("surprisal"))) - np.array(table.column("top1_probability")))
            < 0.005
        )
        assert likely.any()
        assert likely.all() == (
            name != "forced"
        )  # another model's tokens: both ways of keeping a probability are read


def test_everything_is_reached_by_keyboard(visit, hostile):
    page = visit(hostile)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "theme"
    section = page.locator("section.model").first
    section.locator(".browser").scroll_into_view_if_needed()
    section.locator(".list button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(section.locator(".list button").nth(1)).to_have_attribute("aria-current", "true")
    section.locator(".answers .token").first.focus()
    page.keyboard.press("ArrowRight")
    expect(section.locator(".reading")).to_contain_text("token 2 ")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    expect(section.locator(".reading")).to_contain_text("token 1 ")


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop-light", "phone-dark"]
)
def test_no_serious_fault_of_accessibility_and_no_sideways_scrolling(visit, hostile, scheme, size):
    page = visit(hostile, size=size, scheme=scheme)
    page.locator(".browser").first.scroll_into_view_if_needed()
    page.locator(".answers .token").first.wait_for()
    for figure in page.locator("figure").all():
        figure.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelectorAll('figure .plot .main-svg').length > 0")
    assert faults(page) == []
    assert fits(page)


@pytest.mark.parametrize(("size", "share"), [(DESKTOP, 0.9), (PHONE, 0.5)], ids=["desktop", "phone"])
def test_the_first_screen_of_the_demo_answers_in_sentences(visit, demo, size, share):
    page = visit(demo, size=size)
    expect(page.locator(".short")).to_have_count(len(MODELS))
    short = page.locator(".short").first
    expect(short).to_be_in_viewport(ratio=share)
    expect(short.locator(".notice")).to_contain_text(f"{MODELS[0]}: ")
    expect(short).to_contain_text(re.compile(r"onnx-int4: KL \S+ ± \S+ nat a token, output entropy [+−]"))
    expect(short).to_contain_text("Not known: no outcomes are labelled")


def test_the_figures_of_the_demo_are_drawn(visit, demo):
    section = visit(demo).locator("section.model").first
    for figure in section.locator("figure").all():
        figure.scroll_into_view_if_needed()
    expect(section.locator(".panels:empty")).to_have_count(0)


def test_what_a_bad_page_asks_and_does_would_be_seen(chromium, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<html><img src='http://127.0.0.1:9/a.png'><script>throw new Error('mine')</script>",
        encoding="utf-8",
    )
    page = chromium.new_page()
    seen = []
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(path.as_uri())
    assert {"mine", "http://127.0.0.1:9/a.png"} <= set(seen)
    assert any(fault.startswith("image-alt") for fault in faults(page))
    page.close()


def test_without_a_browser_checks_fail_and_others_skip(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        program()
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        program()


def test_colours_are_chosen_in_the_page(visit, hostile):
    page = visit(hostile, scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").select_option("light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark


def test_figures_are_drawn_hovered_and_saved(visit, hostile, tmp_path):
    page = visit(hostile)
    figure = page.locator("figure[data-figure]").first
    figure.scroll_into_view_if_needed()
    plot = figure.locator(".plot .nsewdrag").first
    box = plot.bounding_box()
    for part in (0.2, 0.3):
        page.mouse.move(box["x"] + part * box["width"], box["y"] + part * box["height"], steps=3)
    expect(figure.locator(".hoverlayer > g").first).to_be_attached()
    for kind, head in (("svg", b"<svg"), ("png", b"\x89PNG")):
        with page.expect_download() as saved:
            figure.locator(f"[data-format={kind}]").click()
        saved.value.save_as(tmp_path / f"figure.{kind}")
        content = (tmp_path / f"figure.{kind}").read_bytes()
        assert content.startswith(head)
        assert len(content) > 2000


def test_four_models_in_three_precisions_over_the_papers_questions(visit, large):
    assert large.stat().st_size < 10e6
    page = visit(large)
    shorts = page.locator(".short")
    expect(shorts).to_have_count(len(MODELS))
    expect(shorts.first).to_contain_text("Deterministic. Early to late shift of output entropy −")
    expect(shorts.first).to_contain_text(
        re.compile(r"Yes: the mean output entropy of an answer has AUROC 0\.\d+ \[")
    )
    section = page.locator("section.model").nth(3)
    section.locator(".browser").scroll_into_view_if_needed()
    shown = section.locator(".list li:visible")
    expect(shown).to_have_count(QUESTIONS)
    section.locator(".search").fill("question 78")
    expect(shown).to_have_count(11)  # 78 and 780 to 789
    section.locator(".search").fill("")
    section.locator(".outcome").select_option("correct")
    correct = shown.count()
    section.locator(".outcome").select_option("incorrect")
    assert correct + shown.count() == QUESTIONS


def test_a_null_result_is_said_as_one(tmp_path):
    made, untrue = write_run(tmp_path / "run", Planted(), 1, 80, 10)
    rows = made.answers(["question_index", "question_id"])
    label(made.folder, rows, np.where(untrue, "incorrect", "correct").tolist())
    said = dict(overview(build_groups([Run.open(made.folder)], DELTA))[0].answers)
    assert re.match(
        r"No sign of it: .* AUROC 0\.\d+ \[.* no better than chance",
        said["Does entropy warn of untrue answers?"][0],
    )
    assert "How much does quantisation change?" not in said  # there is one run
