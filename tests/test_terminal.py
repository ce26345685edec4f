"""`edge ask`, `edge run` and `edge watch` as people see them: in a terminal of 80 by 24, in a pipe,
interrupted."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from edge.cli.terminal import BARS, escaped
from edge.runs.run_directory import Run
from tests.conftest import tree, write_questions
from tests.terminals import (
    BIN,
    COLOUR,
    PATIENCE,
    SAYINGS,
    Terminal,
    environment,
    objects,
    wait_for,
    write_talker,
)

pytestmark = pytest.mark.slow

EDGE = str(BIN / "edge")
LEGEND = "entropy in nats: to 0.1 to 0.7 to 1.5 to 2.5 above"
QUESTIONS = [f"What is the name of the sea, number {i}?" for i in range(60)]


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> Path:
    return write_talker(tmp_path_factory.mktemp("talker"))


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    return write_questions(tmp_path_factory.mktemp("many") / "q.csv", QUESTIONS)


def asking(artifact: Path, *more: str) -> list[str]:
    return ["edge", "ask", str(artifact), "What is the sea?", "--prompt", "raw", "--threads", "1", *more]


def endless(talker: Path, *more: str) -> list[str]:
    """Goes on for many seconds."""
    return asking(talker, "--temperature", "1.2", "--max-new-tokens", "8000", *more)


def running(artifact: Path, questions: Path, out: Path, *more: str) -> list[str]:
    return [
        "edge",
        "run",
        str(artifact),
        "--questions",
        str(questions),
        "--out",
        str(out),
        "--threads",
        "1",
        "--prompt",
        "raw",
        "--date",
        "2026-01-01",
        *more,
    ]


def fills(terminal: Terminal) -> list[str] | None:
    """The lines of the screen once an answer has filled it."""
    lines = terminal.text().rstrip("\n").split("\n")
    return lines if len(lines) >= 23 and any(" tokens/s" in line for line in lines[-2:]) else None


def test_an_answer_in_progress_fills_the_screen_and_nothing_that_the_model_says_breaks_it(talker):
    with Terminal() as terminal:
        title = terminal.state()["pane_title"]
        terminal.type(*endless(talker))
        lines = wait_for(lambda: fills(terminal), "a screen full of answer")
        assert lines[1] == LEGEND
        assert lines[0].endswith("onnx-fp32")
        assert all(cell_len(line) <= 80 for line in lines)
        below = lines[-3:]
        assert re.fullmatch(rf"entropy    [{BARS}]{{8,60}} \d+\.\d{{3}} mean \d+\.\d{{3}}", below[0])
        assert re.fullmatch(rf"dispersion [{BARS}]{{8,60}} \d+\.\d{{3}} mean \d+\.\d{{3}}", below[1])
        assert re.search(r"\d+ tokens · \d+\.\d tokens/s · .*\d+ MB", below[2])
        assert len(set(COLOUR.findall(terminal.styled()))) >= 3
        body = terminal.until(r"\x1b[2J")
        assert escaped(body) == body
        assert terminal.state()["pane_title"] == title
        terminal.press("C-c")
        assert terminal.ended() == 130
        terminal.assert_sane()
        whole = terminal.scrolled()
        assert whole.count(LEGEND) == 1  # drawn in place, and what is left is the answer as far as it went
        joined = whole.replace("\n", "")  # long words are cut at the edge
        assert [said for said in SAYINGS if escaped(said) not in joined] == []
        terminal.type("echo", "after")
        terminal.until("after\nended-0")
        terminal.assert_sane()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTSTP, 148)])
def test_an_answer_that_is_killed_or_stopped_leaves_the_terminal_sane(number, code, talker, tmp_path):
    def try_it() -> bool:
        with Terminal() as terminal:
            terminal.type("bash", "-c", f"echo $$ > {tmp_path}/pid; exec {shlex.join(endless(talker))}")
            wait_for(lambda: fills(terminal), "a screen full of answer")
            process = int((tmp_path / "pid").read_text())
            os.kill(process, number)
            assert terminal.ended() == code
            sane = terminal.is_sane()
            if number == signal.SIGTSTP:
                os.kill(process, signal.SIGKILL)
            return sane

    assert any(try_it() for _ in range(3))  # a drawing takes about 1 ms in 100, and may be cut


def test_a_terminal_that_changes_its_size_mid_answer(talker):
    with Terminal() as terminal:
        terminal.type(*endless(talker))
        wait_for(lambda: fills(terminal), "a screen full of answer")
        terminal.resize(50, 15)
        terminal.until("tokens/s", "dispersion ")
        terminal.resize(100, 30)
        terminal.until(LEGEND)
        terminal.press("C-c")
        assert terminal.ended() == 130
        terminal.assert_sane()


def test_a_finished_answer_stands_whole_below_its_model_with_its_statistics(artifacts):
    with Terminal() as terminal:
        terminal.type(*asking(artifacts("nano-llama"), "--prompt", "chat"))
        assert terminal.ended() == 0
        terminal.assert_sane()
        shown = terminal.scrolled()
    assert shown.count("nano-llama onnx-fp32") == 1
    assert shown.count(LEGEND) == 1
    assert "stopped: stop_token" in shown
    piped = subprocess.run(
        asking(artifacts("nano-llama"), "--prompt", "chat"),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    answer = piped.stdout.splitlines()[0].strip()
    assert answer
    assert " ".join(answer.split()) in " ".join(shown.split())


def test_without_colours_entropy_is_shown_by_other_means(talker):
    with Terminal(NO_COLOR="1") as terminal:
        terminal.type(*endless(talker))
        wait_for(lambda: fills(terminal), "a screen full of answer")
        styled = terminal.styled()
        terminal.press("C-c")
        assert terminal.ended() == 130
        terminal.assert_sane()
    assert COLOUR.search(styled) is None
    assert "\x1b[7m" in styled  # the highest level


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_into_a_pipe_goes_text_alone(variables, talker):
    words = asking(talker, "--temperature", "1.2", "--max-new-tokens", "400")
    done = subprocess.run(words, env=environment(**variables), capture_output=True, text=True, check=True)
    assert escaped(done.stdout) == done.stdout
    assert done.stderr == ""
    *body, statistics = done.stdout.rstrip("\n").split("\n")
    assert r"\x1b[2J" in "".join(body)
    assert statistics.startswith("400 tokens · ")
    assert "stopped: length" in statistics


def test_a_terminal_that_is_not_utf_8_stops_nothing(talker):
    latin = environment(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = subprocess.run(
        asking(talker, "--temperature", "1.2", "--max-new-tokens", "200"),
        env=latin,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"200 tokens \\xb7 " in done.stdout


def test_json_comes_an_object_a_token_while_the_answer_grows(talker):
    process = subprocess.Popen(
        endless(talker, "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = json.loads(process.stdout.readline())
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    steps = [first, *objects(rest)]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert len(steps) < 8000
    assert {
        "token",
        "text",
        "output_entropy",
        "head_dispersion",
        "step_ms",
        "temperature_c",
        "rss_bytes",
    } <= first.keys()
    assert first["rss_bytes"] > 10_000_000


def test_a_reader_that_has_enough_is_no_error(talker):
    process = subprocess.Popen(
        endless(talker, "--json"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_a_run_shows_rate_time_left_and_the_last_answer_and_leaves_one_line(talker, many, tmp_path):
    with Terminal() as terminal:
        terminal.type(
            *running(talker, many, tmp_path / "run", "--temperature", "1.2", "--max-new-tokens", "400")
        )
        shown = terminal.until("last answer:", "left ")
        assert re.search(r"━*─+ \d+/60 questions · \d+\.\d tokens/s · left \d+:\d\d", shown)
        assert re.search(r"question \d+: \d+ tokens", shown)
        assert escaped(shown) == shown
        terminal.press("C-c")
        assert terminal.ended() == 130
        terminal.assert_sane()
        left = terminal.scrolled()
    assert "last answer" not in left
    assert len(re.findall(r"onnx-fp32: \d+/60 questions · ", left)) == 1
    assert "interrupted: finished answers are kept, go on with: edge run" in left


def test_a_run_without_a_terminal_says_few_plain_lines_and_quiet_none(artifacts, questions_file, tmp_path):
    artifact = artifacts("odd")
    more = ("--max-new-tokens", "20", "--date", "2026-01-01")
    done = subprocess.run(
        running(artifact, questions_file, tmp_path / "a", *more),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stderr.splitlines()
    assert re.search(r"7/7 questions · \d+\.\d tokens/s · took 0:\d\d", line)
    assert "\x1b" not in done.stdout + done.stderr
    forced = ["edge", "force", str(artifact), "--like", str(tmp_path / "a"), "--out", str(tmp_path / "b")]
    done = subprocess.run(forced, env=environment(), capture_output=True, text=True, check=True)
    assert re.search(r"forced: 7/7 questions · ", done.stderr)
    done = subprocess.run(
        [*forced[:-1], str(tmp_path / "c"), "--quiet"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


# parts come soon
DRIVER = "import edge.jobs.session, edge.cli.app; edge.jobs.session.FLUSH_SECONDS = 0.1; edge.cli.app.main()"


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words[1:], "--quiet"],
        env=environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_watch_follows_a_run_beside_it_until_it_is_stopped(talker, many, tmp_path):
    out = tmp_path / "run"
    with Terminal() as terminal:
        run = start(running(talker, many, out, "--temperature", "1.2", "--max-new-tokens", "500"))
        try:
            wait_for(lambda: (out / "run.json").is_file() or run.poll() is not None, "run.json")
            terminal.type("edge", "watch", str(out), "--every", "0.2")
            shown = terminal.until(" mean ", "left ")
            lines = shown.split("\n")
            assert lines[1].startswith("running")
            assert re.match(r"[━─]{24} \d+/60 questions · \d+\.\d tokens/s · left \d+:\d\d", lines[2])
            assert re.search(r"\d+: What is the name of the sea, number \d+\?", shown)
            first = int(re.search(r"(\d+)/60", shown)[1])
            wait_for(lambda: int(re.search(r"(\d+)/60", terminal.text())[1]) > first, "the next answer")
        finally:
            run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) == 143  # the run has not noticed that it was watched
        assert terminal.ended() == 0
        terminal.assert_sane()
        assert "stopped before it was finished: run the same 'edge run' command again to" in terminal.text()
    done = Run.open(out, unfinished=True).answers().num_rows
    once = subprocess.run(
        [EDGE, "watch", str(out), "--once"], env=environment(), capture_output=True, text=True, check=True
    )
    assert f"{done}/60 questions" in once.stdout


@pytest.mark.slow
def test_watch_streams_json_until_the_run_is_finished(artifacts, many, tmp_path):
    out = tmp_path / "run"
    run = start(running(artifacts("odd"), many, out, "--max-new-tokens", "300", "--temperature", "1.2"))
    wait_for(lambda: (out / "run.json").is_file() or run.poll() is not None, "run.json")
    watch = subprocess.run(
        [EDGE, "watch", str(out), "--every", "0.1", "--json", "-"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert run.wait(timeout=60) == 0, run.stderr.read()
    seen = objects(watch.stdout)
    assert [s["done"] for s in seen] == sorted(s["done"] for s in seen)
    last = seen[-1]
    assert (last["state"], last["done"], last["total"], last["left_s"]) == ("finished", 60, 60, None)
    answers = Run.open(out).answers(["question_index", "output_entropy_mean", "tokens"])
    assert last["output_entropy_mean"] == pytest.approx(
        sum(answers.column("output_entropy_mean").to_pylist()) / 60
    )
    assert last["tokens"] == sum(answers.column("tokens").to_pylist())


def test_watch_interrupted_leaves_the_terminal_sane(artifacts, questions_file, tmp_path):
    out = tmp_path / "run"
    subprocess.run(
        running(artifacts("odd"), questions_file, out, "--max-new-tokens", "9"),
        env=environment(),
        capture_output=True,
        check=True,
    )
    manifest = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(
        json.dumps(manifest | {"state": "running"})
    )  # as a killed process leaves it
    os.utime(out / "run.json", (0, 0))
    for part in out.glob("answers/*"):
        os.utime(part, (0, 0))
    before = tree(out)
    with Terminal() as terminal:
        terminal.type("edge", "watch", str(out), "--every", "0.2")
        terminal.until("unfinished, nothing written for")
        terminal.press("C-c")
        assert terminal.ended() == 130
        terminal.assert_sane()
        assert terminal.scrolled().count("7/7 questions") == 1  # as it stood
    assert tree(out) == before
