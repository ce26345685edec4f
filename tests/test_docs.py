"""What the pages say holds: their command lines and Python run, the table of commands is the commands', the
site builds.

A block of commands is run as it stands, after those of the README, unless a comment `<!-- not run: why -->`
stands before it; then, as for commands inside sentences, it must name commands and options that exist. Pages
take for granted what `edge demo --nano` leaves.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import nbformat
import polars
import pytest
from nbclient import NotebookClient

import edge
from edge.runs.run_directory import Run
from tests.conftest import NANO_LLAMA, ROOT, write_questions
from tests.test_packaging import PROJECT
from tools import commands, metrics

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
BLOCK = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
INLINE = re.compile(r"(?<!`)`((?:edge|edge-export|make|pip) [^`]+)`(?!`)")
COMMAND = re.compile(r"(?:^|[\s/=;&(])((?:edge|edge-export|make|pip) [^#\n]+)", re.M)
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
KNOWN = commands.every_command()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
TOP = {"--help", "--version", "--debug", "--install-completion", "--show-completion"}


class Block(NamedTuple):
    language: str
    text: str
    run: bool


def blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["text"], m["mark"] is None) for m in BLOCK.finditer(page.read_text())]


def pages_with(language: str, run: bool) -> list[Path]:
    return [page for page in PAGES if any(b.language == language and b.run == run for b in blocks(page))]


def name_of(page: Path) -> str:
    return page.stem


# Syntax


def check_command(words: list[str], whole: bool) -> None:
    """A command and its options exist; of a whole line also: what is required is there, and no more
    arguments than it takes."""
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word and not word.startswith("-")} <= TARGETS
        return
    if words[0] == "pip":
        for extras in re.findall(r"\[([\w,]+)\]", " ".join(words)):
            assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
        return
    if words[1].startswith("--"):
        assert words[1] in TOP
        return
    name = next((name for n in (3, 2) if (name := " ".join(words[:n])) in KNOWN), None)
    assert name, f"there is no command {' '.join(words[:2])}"
    arguments, given = [], set()
    rest = iter(words[len(name.split()) :])
    for word in rest:
        option, equals, _ = word.partition("=")
        if not option.startswith("--"):
            arguments.append(word)
            continue
        assert option in KNOWN[name].options or option in TOP, f"{name} has no option {option}"
        given.add(option)
        if (
            not equals
            and option not in TOP
            and KNOWN[name].options[option].kind
            and next(rest, None) is None
        ):
            assert not whole, f"{option} wants a value"
    if whole:
        wanted = [p for p in KNOWN[name].parameters if not p.option]
        assert all(set(p.names) & given for p in KNOWN[name].parameters if p.option and p.required)
        assert len(arguments) >= sum(p.required for p in wanted)
        assert len(arguments) <= len(wanted) or any(p.many for p in wanted)


def words_of(command: str) -> list[str]:
    """Of one command line, up to what ends it in a shell."""
    words = shlex.split(command.split(" | ")[0], comments=True)
    ends = [i for i, word in enumerate(words) if word in ("&&", "||", ";", ">", ">>") or word.endswith(";")]
    return words[: ends[0]] if ends else words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_named_in_pages_exist(page):
    text = page.read_text()
    for block in blocks(page):
        assert block.language or not COMMAND.search(block.text), (
            f"a block with commands is marked as sh: {block.text}"
        )
        if block.language in ("sh", "ini"):
            for command in COMMAND.findall(block.text.replace("\\\n", " ")):
                check_command(words_of(command), whole=True)
    for command in INLINE.findall(BLOCK.sub("", text)):
        check_command(command.replace("...", "").replace("'", "").replace('"', "").split(), whole=False)


@pytest.mark.parametrize(
    "line",
    [
        "edge runs x",
        "edge run a --ou b",
        "edge run --out b",
        "edge run a",
        "edge ask a b c",
        "make demos",
        "pip install '.[exports]'",
    ],
)
def test_a_wrong_line_is_noticed(line):
    with pytest.raises(AssertionError):
        check_command(shlex.split(line), whole=True)


def test_the_page_of_commands_is_what_the_commands_say():
    assert commands.PAGE.read_text() == commands.page(), "run `make docs-commands`"
    for command in KNOWN.values():
        assert command.example.startswith(command.name)
        check_command(words_of(command.example), whole=True)
        for parameter in command.parameters:
            assert parameter.help, f"{command.name}: {parameter.names[0]} has no help"


def test_the_table_of_metrics_is_what_the_code_says():
    text = metrics.PAGE.read_text()
    assert text == metrics.page(text), "run `make docs-commands`"


@pytest.mark.parametrize("target", ["demo", "test", "docs", "docs-commands"])
def test_make_knows_its_targets(target):
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {
        "demo": "edge demo",
        "test": "pytest",
        "docs": "mkdocs build",
        "docs-commands": "tools.commands",
    }[target] in done.stdout


# Running


def shell(script: str, folder: Path) -> str:
    """Output of a script that stops at the first command that fails."""
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def run_page(page: Path, folder: Path) -> str:
    return "".join(
        shell(block.text, folder) for block in blocks(page) if block.language == "sh" and block.run
    )


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder in which `edge demo` has been, with a checkpoint and a file of questions of one's own."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(NANO_LLAMA, folder / "path" / "to" / "checkpoint")
    write_questions(
        folder / "truthfulqa.csv",
        ["Do bats see?", "What is the capital of the United States?", "Is the earth flat?"],
    )
    shell("edge demo --model nano-llama --limit 8", folder)
    return folder


@pytest.fixture(scope="session")
def after_readme(demo):
    """The same folder after the commands of the README, and what they printed."""
    return demo, run_page(ROOT / "README.md", demo)


@pytest.fixture
def copied(after_readme, tmp_path):
    """A copy of that folder (whatever is written there replaces files, so that links will do)."""
    return shutil.copytree(after_readme[0], tmp_path / "world", copy_function=os.link)


@pytest.mark.slow
def test_the_readme_runs(after_readme):
    folder, printed = after_readme
    assert "Mean KLD" in printed
    assert (folder / "report.html").stat().st_size > 1_000_000
    assert {run.name for run in (folder / "runs").iterdir()} >= {"demo", "fp32", "int4", "int4-forced"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in pages_with("sh", run=True) if page.name != "README.md"], ids=name_of
)
def test_the_commands_of_a_guide_run(page, copied):
    run_page(page, copied)


@pytest.mark.slow
def test_python_of_the_api_page_runs_as_written(copied):
    first, second = (
        subprocess.run(
            [sys.executable, "-c", block.text],
            cwd=copied,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for block in blocks(ROOT / "docs" / "api.md")
        if block.language == "python"
    )
    tokens = re.findall(r"^'.*' +\d+\.\d{3} nats$", first, re.M)
    assert len(tokens) > 3
    kl, before, after = first.splitlines()[-1].split()
    assert float(kl) > 0
    assert (before, after) == ("undefined", "undefined")  # the demo of three questions has no class
    assert second.split() == ["finished", "3"]
    table = Run.open(copied / "runs" / "demo" / "nano-llama" / "fp32").steps()
    assert polars.from_arrow(table).height == table.num_rows == len(table.to_pandas())


def test_the_api_page_shows_it_in_ten_lines_and_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    assert len([line for line in blocks(ROOT / "docs" / "api.md")[0].text.splitlines() if line]) <= 10
    named = {name.partition(".")[0] for name in re.findall(r"^\| `([\w.]+)", text, re.M)}
    assert named == set(edge.__all__) - {"__version__"}


def test_importing_edge_loads_nothing_until_a_name_is_used():
    code = (
        "import sys, edge; heavy = {'numpy', 'onnxruntime', 'pyarrow', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)), edge.Run.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[] Run\n"
    assert all(getattr(edge, name) for name in edge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Runs'"):
        edge.Runs  # noqa: B018


def test_the_example_of_an_architecture_is_the_one_that_is_built():
    (block,) = (b for b in blocks(ROOT / "docs" / "adding-an-architecture.md") if b.language == "python")
    assert block.text == (ROOT / "export" / "graph" / "qwen3.py").read_text()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(ROOT / "examples" / "trace.ipynb", as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "execute_result"
    ]
    assert len(shown) == 6
    assert Run.open(tmp_path / "runs" / "notebook" / "int4-forced").answers().num_rows == 20


@pytest.mark.slow
def test_the_picture_is_drawn_from_a_run(demo, tmp_path):
    made = tmp_path / "picture.svg"
    runs = demo / "runs" / "demo" / "nano-llama"
    subprocess.run(
        [sys.executable, "-m", "tools.picture", str(runs), "--out", str(made)], check=True, cwd=ROOT
    )
    answers = {row["question"]: row for row in Run.open(runs / "fp32").answers().to_pylist()}
    for path in (made, commands.PAGE.with_name("picture.svg")):
        root = ElementTree.parse(path).getroot()
        space = {"s": "http://www.w3.org/2000/svg"}
        tokens = root.findall("s:text[@class='t']", space)
        assert len(root.findall("s:rect[@class='k']", space)) == len(tokens) > 3
        title = root.findtext("s:title", namespaces=space)
        assert "says nothing about the paper's models" in " ".join(
            t.text for t in root.findall("s:text", space)
        )
        if path == made:
            answer = next(row for question, row in answers.items() if title.endswith(question))
            assert len(tokens) == answer["tokens"]
            assert "".join(t.text for t in tokens).startswith(answer["answer"].strip()[:20])
            steps = Run.open(runs / "int4-forced").steps(["question_index", "step", "same_top1"]).to_pylist()
            same = [row["same_top1"] for row in steps if row["question_index"] == answer["question_index"]]
            assert len(root.findall("s:text[@class='m']", space)) == same.count(False)


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:  # nothing that a reader without a network would miss
        assert not re.search(
            r"<(?:script|link|img)[^>]+(?:src|href)=.?(?:https?:)?//", page.read_text(encoding="utf-8")
        )
    assert 'href="docs/' not in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
