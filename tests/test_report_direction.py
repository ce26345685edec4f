"""Texts of models and files run in their own direction in the report: each has an element of dir=auto."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edge.artifact import Artifact
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.report.write import write_report
from edge.runs.run_directory import Run
from tests.conftest import COLUMNS, ONE_THREAD
from tests.test_browser import chromium, visit  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow
FOREIGN = re.compile("[\u0590-\u06ff]")
VOID = {"meta", "link", "input", "br", "img"}
WITHOUT = """() => {
  const walker = document.createTreeWalker(document.documentElement, NodeFilter.SHOW_TEXT);
  const found = { seen: 0, without: [] };
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!/[\\u0590-\\u06ff]/.test(walker.currentNode.data) || parent.closest("script, style, svg")) continue;
    found.seen += 1;
    if (!parent.closest("[dir=auto]")) found.without.push(parent.outerHTML.slice(0, 200));
  }
  return found;
}"""


class Directions(HTMLParser):
    """Texts with letters that run from right to left: all, and those within no element of dir=auto."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, bool]] = []
        self.seen: list[str] = []
        self.without: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("dir") == "auto"))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if FOREIGN.search(data) and not any(tag in ("script", "style") for tag, _ in self.open):
            self.seen.append(data)
            if not any(auto for _, auto in self.open):
                self.without.append(data)


@pytest.fixture(scope="module")
def report(artifacts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs whose questions, categories, model, notice, device and folders are Hebrew and Arabic."""
    base = tmp_path_factory.mktemp("direction")
    with (base / "q.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for question in ("האם דגים ישנים?", "هل تنام الأسماك؟", "Do fish sleep?"):
            writer.writerow(["", "בעלי חיים", question, "כן", "לא", "כן", "לא", ""])
    folders = [base / "ריצה", base / "تشغيل"]
    for folder in folders:
        asked = read_questions(base / "q.csv")
        run(
            Artifact.open(artifacts("odd")),
            asked,
            folder,
            DecodeSettings(8),
            prompt="raw",
            runtime=ONE_THREAD,
        )
        raw = json.loads((folder / "run.json").read_text())
        raw["artifact"] |= {"model_id": "דגם", "notice": "הערה על הדגם"}
        raw["device"]["board"] = "לוח"
        raw["versions"]["گرافیک"] = "1.0"
        (folder / "run.json").write_text(json.dumps(raw))
    raw["sessions"] = [
        {"device": raw["device"], "versions": raw["versions"], "started": "", "questions": [[0, 0, 1]]},
        {"device": {"processor": "מעבד"}, "versions": {}, "started": "", "questions": [[1, 2, 1]]},
    ]
    (folders[1] / "run.json").write_text(json.dumps(raw))
    write_report([Run.open(folder) for folder in folders], base / "report.html")
    return base / "report.html"


def test_every_text_of_a_file_in_the_markup_has_its_own_direction(report: Path) -> None:
    found = Directions(report.read_text(encoding="utf-8"))
    assert len(found.seen) > 40
    said = " ".join(found.seen)
    assert all(text in said for text in ("דגם", "הערה", "לוח", "گرافیک", "ריצה", "تشغيل", "מעבד"))
    assert found.without == []


def test_every_text_that_scripts_show_has_its_own_direction(report: Path, visit) -> None:  # noqa: F811
    page = visit(report)
    page.locator(".browser").scroll_into_view_if_needed()
    page.locator(".answers .question").wait_for()
    for figure in page.locator("[data-figure]").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".keys, .panels .plot").first.wait_for(state="attached")
    page.locator("[data-figure] .keys button").first.wait_for()
    found = page.evaluate(WITHOUT)
    assert found["seen"] > 50
    assert found["without"] == []
    direction = "(element) => getComputedStyle(element).direction"
    assert page.locator(".answers .question").evaluate(direction) == "rtl"
    page.locator(".list button").nth(2).click()
    assert page.locator(".answers .question").evaluate(direction) == "ltr"
    assert page.locator(".answers .tokens").first.get_attribute("dir") == "auto"
    assert page.locator("select.category option").nth(1).get_attribute("dir") == "auto"
    assert page.locator(".list button span").first.evaluate(direction) == "rtl"
