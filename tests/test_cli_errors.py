"""Bad input through the commands: exit code 2, one sentence on stderr that names the thing, nothing
written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge.cli.app
import export.cli
from tests import models
from tests.conftest import tree, write_questions

BIN = Path(sys.executable).parent
HEADER = "Question,Best Answer,Correct Answers,Incorrect Answers\n"


@pytest.fixture
def world(artifacts, questions_file, tmp_path):
    """A folder with everything the commands below name; `{name}` in arguments stands for a path in it."""

    def path(name: str) -> Path:
        return tmp_path / name

    shutil.copytree(artifacts("odd", "onnx-int4"), path("artifact"))
    shutil.copytree(path("artifact"), path("cut"))
    with (path("cut") / "model.onnx.data").open("r+b") as stream:
        stream.truncate(5000)
    shutil.copytree(path("artifact"), path("altered"))
    content = bytearray((path("altered") / "model.onnx").read_bytes())
    content[-1] ^= 1
    (path("altered") / "model.onnx").write_bytes(content)
    path("empty-folder").mkdir()
    write_questions(path("q.csv"), ["Why?"])
    write_questions(path("other.csv"), ["Else?"])
    path("empty.csv").write_text("")
    path("bare.csv").write_text(HEADER)
    path("lacking.csv").write_text("Question,Best Answer\nWhy?,So\n")
    path("latin.csv").write_bytes(HEADER.encode() + b"caf\xe9?,A,B,C\n")
    path("foreign").mkdir()
    (path("foreign") / "thesis.txt").write_text("mine")
    path("file").write_text("mine")
    assert (
        call(
            edge.cli.app.main,
            [
                "run",
                "{artifact}",
                "--questions",
                "{q.csv}",
                "--out",
                "{run}",
                "--max-new-tokens",
                "3",
                "--quiet",
            ],
            tmp_path,
        )
        == 0
    )
    models.write_checkpoint(path("gpt2"), models.config_of(num_hidden_layers=1, model_type="gpt2"))
    models.write_checkpoint(path("tiny"), models.config_of(num_hidden_layers=1))
    return tmp_path


def call(main, arguments: list[str], folder: Path) -> int:
    """Runs a command in this process; its exit code."""
    before = sys.argv
    sys.argv = [main.__module__, *(a.replace("{", f"{folder}/").replace("}", "") for a in arguments)]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


RUN = ["run", "{artifact}", "--questions", "{q.csv}", "--out", "{new}"]
BUILD = ["build", "{tiny}", "--to", "onnx-fp32", "--out", "{built}"]


def swap(arguments: list[str], old: str, new: str) -> list[str]:
    return [new if a == old else a for a in arguments]


EDGE = [
    (swap(RUN, "{artifact}", "{absent}"), "no artifact at {absent}: build one with 'edge-export build"),
    (swap(RUN, "{artifact}", "{empty-folder}"), "{empty-folder} has no manifest.json"),
    (swap(RUN, "{artifact}", "{cut}"), "model.onnx.data has 5000 bytes instead of"),
    (swap(RUN, "{artifact}", "{altered}"), "model.onnx does not match its checksum"),
    (swap(RUN, "{q.csv}", "{absent.csv}"), "cannot read the questions {absent.csv}"),
    (swap(RUN, "{q.csv}", "{empty.csv}"), "{empty.csv} is empty"),
    (swap(RUN, "{q.csv}", "{bare.csv}"), "{bare.csv} has columns but no questions"),
    (
        swap(RUN, "{q.csv}", "{lacking.csv}"),
        "{lacking.csv} lacks the column Correct Answers and Incorrect Answers",
    ),
    (swap(RUN, "{q.csv}", "{latin.csv}"), "{latin.csv} is not UTF-8 (line 2"),
    (
        swap(RUN, "{new}", "{run}"),
        "{run} holds another run (it differs in settings.max_new_tokens): give another --out",
    ),
    (
        [*swap(swap(RUN, "{new}", "{run}"), "{q.csv}", "{other.csv}"), "--max-new-tokens", "3"],
        "differs in questions.sha256",
    ),
    (swap(RUN, "{new}", "{foreign}"), "{foreign} is not empty and holds no run"),
    (swap(RUN, "{new}", "{file}"), "{file} is a file"),
    ([*RUN, "--limit", "-1"], "--limit is -1"),
    ([*RUN, "--limit", "0"], "--limit is 0"),
    ([*RUN, "--max-new-tokens", "0"], "--max-new-tokens is 0"),
    ([*RUN, "--shard", "3/2"], "--shard is '3/2'"),
    ([*RUN, "--shard", "2/2"], "--shard is 2/2 of 1 questions and would have none: make at most 1 shards"),
    ([*RUN, "--threads", "100000"], "--threads is 100000 and this process may use"),
    ([*RUN, "--date", "tomorrow"], "--date is 'tomorrow': give a day as YYYY-MM-DD"),
    ([*RUN, "--prompt", "poem"], "unknown prompt 'poem': choose from chat, qa, raw"),
    ([*RUN, "--prompt", "chat"], "has no chat template: use --prompt raw"),
    ([*RUN, "--temperature", "-1"], "--temperature is -1.0"),
    ([*RUN, "--temperature", "nan"], "--temperature is nan"),
    ([*RUN, "--seed", "-1"], "--seed is -1"),
    (["force", "{artifact}", "--like", "{absent}", "--out", "{new}"], "{absent} is no run directory"),
    (["force", "{cut}", "--like", "{run}", "--out", "{new}"], "model.onnx.data has 5000 bytes"),
    (["force", "{artifact}", "--like", "{run}", "--out", "{foreign}"], "{foreign} is not empty"),
    (["compare", "{run}", "{run}", "--json", "{file}/a.json"], "is no place for a file"),
    (["compare", "{run}", "{run}", "--json", "{foreign}"], "is no place for a file"),
    (["compare", "{run}", "{run}", "--json", ""], "is no place for a file"),
    (["compare", "{run}", "{run}", "--fits", "0"], "--fits is 0.0: a number of gigabytes above 0 is needed"),
    (["compare", "{run}", "{run}", "{absent}"], "{absent} is no run directory"),
    (["compare", "{run}", "{run}", "--delta", "nan"], "--delta is nan"),
    (["models", "--under", "{absent}"], "there is no folder {absent}"),
    (["watch", "{absent}"], "{absent} is no run directory"),
    (["watch", "{run}", "--every", "nan"], "--every is nan"),
    (["watch", "{run}", "--json", "{foreign}"], "is no place for a file"),
    (["ask", "{artifact}", "half a character \udcff"], "is not UTF-8: type it again"),
]
EXPORT = [
    (
        swap(BUILD, "onnx-fp32", "onnx-int3"),
        "unknown precision 'onnx-int3': choose from onnx-fp32, onnx-int8, onnx-int4",
    ),
    (
        swap(BUILD, "{tiny}", "no-such-model"),
        "'no-such-model' is neither a checkpoint folder, a GGUF file nor a known model: choose from",
    ),
    (swap(BUILD, "{tiny}", "{gpt2}"), "'gpt2', an architecture that is not built; those built: llama"),
    (swap(BUILD, "{tiny}", "{empty-folder}"), "config.json is missing"),
    ([*BUILD, "--taps", "some"], "unknown taps 'some'"),
    ([*swap(BUILD, "onnx-fp32", "gguf-f32"), "--taps", "raw"], "--taps raw is for ONNX graphs"),
    (swap(BUILD, "onnx-fp32", "gguf-q3_k"), "unknown precision 'gguf-q3_k': choose from onnx-fp32"),
    ([*BUILD, "--context", "0"], "--context is 0"),
    (swap(BUILD, "{built}", "{file}"), "cannot write"),
]


def assert_refused(code: int, out: str, errors: str, words: str, folder: Path, before: dict) -> None:
    assert code == 2, errors
    (line,) = errors.rstrip("\n").split("\n")
    assert line.startswith("error: ")
    assert words.replace("{", f"{folder}/").replace("}", "") in line
    assert "Traceback" not in errors + out
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [*((edge.cli.app.main, *case) for case in EDGE), *((export.cli.main, *case) for case in EXPORT)],
)
def test_bad_input_is_one_sentence_and_nothing_written(main, arguments, words, world, capsys):
    capsys.readouterr()
    before = tree(world)
    code = call(main, arguments, world)
    captured = capsys.readouterr()
    assert_refused(code, captured.out, captured.err, words, world, before)


@pytest.mark.slow
def test_the_installed_commands_refuse_alike(world):
    cases = [
        ("edge", *EDGE[0]),
        ("edge", *EDGE[8]),
        ("edge-export", *EXPORT[0]),
        ("edge-export", *EXPORT[2]),
    ]
    for command, arguments, words in cases:
        before = tree(world)
        paths = [a.replace("{", f"{world}/").replace("}", "") for a in arguments]
        done = subprocess.run([str(BIN / command), *paths], capture_output=True, text=True, check=False)
        assert_refused(done.returncode, done.stdout, done.stderr, words, world, before)


@pytest.mark.slow
def test_the_installed_commands_build_and_trace(world):
    for command in (
        ["edge-export", "build", "tiny", "--to", "onnx-int8", "--out", "built"],
        [
            "edge",
            "run",
            "built/onnx-int8",
            "--questions",
            "q.csv",
            "--out",
            "traced",
            "--max-new-tokens",
            "3",
            "--quiet",
        ],
        [
            "edge",
            "run",
            "built/onnx-int8",
            "--questions",
            "q.csv",
            "--out",
            "traced",
            "--max-new-tokens",
            "3",
        ],
    ):
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], capture_output=True, text=True, check=False, cwd=world
        )
        assert done.returncode == 0, done.stderr
    assert json.loads((world / "traced" / "run.json").read_text())["state"] == "finished"


def test_a_question_longer_than_the_context_is_no_reason_to_stop(world):
    write_questions(world / "long.csv", ["Why?", "the " * 3000, "How?"])
    arguments = swap(swap(RUN, "{q.csv}", "{long.csv}"), "{new}", "{long-run}")
    assert call(edge.cli.app.main, [*arguments, "--max-new-tokens", "4", "--quiet"], world) == 0
    from edge.runs.run_directory import Run

    answers = Run.open(world / "long-run").answers()
    assert answers.column("tokens").to_pylist()[1] == 0
    assert answers.column("stop_reason").to_pylist()[1] == "context"
    assert answers.num_rows == 3


@pytest.mark.parametrize("command", ["edge", "edge-export"])
def test_help_shows_an_example_for_every_command(command, capsys):
    main = edge.cli.app.main if command == "edge" else export.cli.main
    app = edge.cli.app.app if command == "edge" else export.cli.app
    names = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]
    assert names
    for name in names:
        assert call(main, [name, "--help"], Path()) == 0
        assert f"Example: {command} {name}" in " ".join(capsys.readouterr().out.split())
