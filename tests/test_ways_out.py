"""Every way out of both programs is an exit code and at most one sentence on stderr, never a traceback."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli.app import COMMANDS as edge_commands
from edge.cli.guard import run_app
from edge.errors import UserError
from edge.version import __version__
from export.app import COMMANDS as export_commands
from tests.conftest import NANO_LLAMA, write_questions
from tests.every_command import NAMES, REFUSED, every_command, prepare
from tests.shims import compile_shim, edge, edge_export, environment

pytestmark = pytest.mark.slow  # many processes or builds

FULL = Path("/dev/full")
BUILD = ("build", NANO_LLAMA, "--to", "onnx-int4", "--out", "built")


def end(command: list[str], folder: Path, **options) -> subprocess.CompletedProcess[str]:
    variables = options.pop("env", None) or environment(folder / "home")
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True, check=False, **options
    )


def sentence(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one sentence of a command that ends with this code."""
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("questions: ")]
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def run_words(artifacts, tmp_path):
    write_questions(tmp_path / "q.csv", ["Why?", "How?"])
    artifact = artifacts("odd", "onnx-int4")
    more = ("--questions", "q.csv", "--max-new-tokens", "3", "--quiet", "--no-prepack")
    return ("run", artifact, "--out", "traced", *more)


# Standard streams


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "command",
    [
        edge("models"),
        edge("models", "--json", "-"),
        edge("--help"),
        edge("--version"),
        edge_export("--help"),
    ],
    ids=" ".join,
)
def test_a_full_standard_output_is_one_sentence(command, tmp_path):
    with FULL.open("w") as full:
        done = end(command, tmp_path, stdout=full)
    assert sentence(done) == "error: cannot use standard output (No space left on device)"


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_work_goes_on_where_messages_cannot_be_written(run_words, tmp_path):
    with FULL.open("w") as full:
        words = edge(*run_words[: run_words.index("--quiet")])
        done = subprocess.run(words, cwd=tmp_path, env=environment(tmp_path), stderr=full, check=False)
    assert done.returncode == 0
    assert json.loads((tmp_path / "traced" / "run.json").read_text())["state"] == "finished"


def test_a_closed_standard_output_is_one_sentence_and_other_closed_streams_are_none(tmp_path):
    shell = ["sh", "-c", '"$@" >&-', "-", *edge("models")]
    assert sentence(end(shell, tmp_path)) == "error: cannot use standard output (Bad file descriptor)"
    done = end(["sh", "-c", '"$@" <&- 2>&-', "-", *edge("models")], tmp_path)
    assert done.returncode == 0
    assert "nano-llama" in done.stdout


@pytest.mark.parametrize("command", [edge("models"), edge("--help"), edge_export("--help")], ids=" ".join)
def test_a_reader_that_has_left_is_no_error(command, tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = end(command, tmp_path, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_text_that_the_encoding_lacks_is_escaped_and_json_stays_json(encoding, tmp_path):
    name = os.fsdecode(b"caf\xe9\xff \xf0\x9f\x90\x87")  # not UTF-8, and a character beyond 16 bits
    (tmp_path / name).mkdir()
    (tmp_path / name / "manifest.json").write_text("{}")
    variables = environment(tmp_path / "home", PYTHONIOENCODING=encoding)
    for words in (("--json", "-"), ("--json", "file.json"), ()):
        command = edge("models", "--under", tmp_path, *words)
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        if words:
            file = tmp_path / "file.json"
            text = done.stdout.decode(encoding) if words[1] == "-" else file.read_text("utf-8")
            (built,) = json.loads(text)["built"]
            assert built["path"] == str(tmp_path / name)
        else:
            assert b"\\udcff" in done.stdout


# The command line


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (edge("rum"), "no such command 'rum' (did you mean 'run'?): see 'python -m edge --help'"),
        (edge("run"), "missing argument 'artifact': see 'python -m edge run --help'"),
        (edge("compare", "--markdown"), "no such option: --markdown: see 'python -m edge compare --help'"),
        (edge("questions", "no"), "no such command 'no': see 'python -m edge questions --help'"),
        (edge("run", "--out"), "option '--out' requires an argument: see --help"),
        (edge_export("build"), "missing argument 'source': see 'python -m export build --help'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(command, said, tmp_path):
    assert sentence(end(command, tmp_path)) == f"error: {said}"


def test_a_call_without_a_command_shows_the_help(tmp_path):
    done = end(edge(), tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


# The disk and the user


@pytest.mark.parametrize(
    "number",
    [
        errno.EINVAL,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (errno.ENOTSUP, errno.EBADF, errno.ENOSYS)),
    ],
)
def test_a_folder_that_cannot_be_synced_is_one_note(number, shim, run_words, tmp_path):
    variables = environment(tmp_path / "home", LD_PRELOAD=str(shim), SHIM_FSYNC=str(number))
    done = end(edge(*run_words), tmp_path, env=variables)
    assert sentence(done, 0) == (
        f"note: the file system of {tmp_path}/traced does not sync folders ({os.strerror(number)}): after a "
        "power failure the newest files there may be missing"
    )
    assert json.loads((tmp_path / "traced" / "run.json").read_text())["state"] == "finished"


def test_a_folder_whose_sync_fails_is_an_error(shim, run_words, tmp_path):
    variables = environment(tmp_path / "home", LD_PRELOAD=str(shim), SHIM_FSYNC=str(errno.EIO))
    assert "(Input/output error)" in sentence(end(edge(*run_words), tmp_path, env=variables))


def homeless(shim) -> dict[str, str]:
    """The environment of a user without a home folder and a name."""
    variables = environment(None, LD_PRELOAD=str(shim), SHIM_NOBODY="1")
    del variables["PATH"]  # nothing is compiled, whatever the cache
    return variables


@pytest.fixture(scope="module")
def prepared(artifacts, checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, artifacts, checkpoints)
    return folder


def test_every_command_has_a_case(prepared, tmp_path):
    names = {command.name for command in (*edge_commands, *export_commands)}
    assert set(every_command(prepared, tmp_path)) == names == set(NAMES)


@pytest.mark.parametrize(
    "name", [name if name == "label" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_a_user_without_a_home_folder_and_a_name_has_every_command(name, shim, prepared, tmp_path):
    done = end(every_command(prepared, tmp_path)[name], tmp_path, env=homeless(shim))
    assert done.returncode == (2 if name in REFUSED else 0), done.stderr
    if name == "doctor":
        said = "no home folder to keep compiled code in: set HOME or XDG_CACHE_HOME"
        assert said in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        (edge("questions", "fetch"), "XDG_DATA_HOME"),
        (edge_export("build", "qwen3-1.7b", "--to", "onnx-int4", "--out", "x"), "HF_HOME"),
        (edge("--install-completion"), "HOME"),
    ],
)
def test_what_needs_a_home_folder_names_the_variable(command, variable, shim, tmp_path):
    line = sentence(end(command, tmp_path, env=homeless(shim)))
    assert f"set HOME or {variable}".replace("HOME or HOME", "HOME") in line


def test_a_home_folder_of_another_user_is_no_reason_to_stop(run_words, tmp_path):
    """As after `sudo -u`: what cannot be seen there is not there."""
    home = tmp_path / "home"
    home.write_text("a file is as closed as a folder of another user, also for root")
    done = end(edge(*run_words[:4], "--limit", "1", *run_words[6:]), tmp_path, env=environment(home))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [edge("run"), edge_export(*BUILD), edge_export("build", NANO_LLAMA, "--to", "gguf-q8_0", "--out", "b")],
)
def test_a_disk_that_is_full_is_one_sentence(words, run_words, tmp_path):
    command = edge(*run_words) if words[-1] == "run" else words

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = end(command, tmp_path, preexec_fn=little)
    assert "(File too large)" in sentence(done) or "File too large" in sentence(done)
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".building"))]


@pytest.mark.slow
def test_a_run_lives_in_a_folder_whose_name_is_not_utf_8(run_words, tmp_path):
    run = os.fsdecode(b"caf\xe9")
    words = edge(*[run if word == "traced" else word for word in run_words])
    for command in (
        words,
        words,  # goes on with what is there
        edge("compare", run, run, "--json", f"{run}.json"),
        edge("paper", run, run, "--jobs", "2", "--csv", f"{run}-csv", "--parquet", f"{run}-parquet"),
        edge("watch", run, "--once"),
    ):
        done = end(command, tmp_path)
        assert done.returncode == 0, done.stderr
    assert sorted(os.fsencode(path.name)[:4] for path in tmp_path.glob("caf*")) == [b"caf\xe9"] * 4


@pytest.mark.slow
def test_the_exporter_takes_names_of_any_bytes(artifacts, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    folder = tmp_path / os.fsdecode(b"d\xe8r")
    plain = shutil.copytree(NANO_LLAMA, folder / "checkpoint")
    other = shutil.copytree(NANO_LLAMA, folder / os.fsdecode(b"ch\xe8ckpoint"))
    artifact = shutil.copytree(artifacts("nano-llama", "onnx-fp32"), folder / "onnx-fp32")
    reference = folder / os.fsdecode(b"r\xe8f")
    for words in (
        ("reference", plain, "--out", reference),
        ("verify", artifact, "--source", other, "--reference", reference, "--threads", "1"),
        ("verify", artifact, "--source", plain, "--threads", "1"),
    ):
        done = end(edge_export(*words), tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_current_folder_that_is_gone_is_one_sentence(tmp_path):
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$@"'
    done = end(["sh", "-c", script, "-", *edge_export(*BUILD)], tmp_path)
    assert sentence(done) == "error: the current folder is gone: change to one that is there"


# Errors that nobody expected

DRIVER = """
import sys
import edge.cli.models
def fault(root):
    return 1 / 0
edge.cli.models.find_artifacts = fault
from edge.__main__ import main
main()
"""


def test_a_fault_of_ours_is_one_line_that_asks_for_a_report_and_debug_shows_more(tmp_path):
    command = [sys.executable, "-c", DRIVER]
    line = sentence(end([*command, "models"], tmp_path), 1)
    assert re.fullmatch(
        rf"error: a fault in Edgetrace {re.escape(__version__)} \(ZeroDivisionError: division by zero, "
        r"edge/cli/models.py line \d+\): please report it with the command; --debug right after the "
        r"program's name shows more",
        line,
    )
    for words, more in ((["--debug", "models"], {}), (["models"], {"EDGE_DEBUG": "1"})):
        done = end([*command, *words], tmp_path, env=environment(tmp_path, **more))
        assert done.returncode == 1
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.splitlines()[-1] == line
    for off in ("0", ""):
        variables = environment(tmp_path, EDGE_DEBUG=off)
        assert sentence(end([*command, "models"], tmp_path, env=variables), 1) == line


def deeper() -> None:
    deeper()


def no_more_files() -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/some/file")


def swallowed_in_a_destructor() -> None:
    class Thing:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    Thing()
    while True:
        signal.pause()


@pytest.mark.parametrize(
    ("app", "code", "words"),
    [
        (lambda: bytearray(1 << 60), 2, "memory ran out"),
        (no_more_files, 2, "raise the limit on open files (ulimit -n)"),
        (deeper, 2, "an input is nested too deeply to be read"),
        (lambda: Path("/nowhere/x").read_bytes(), 2, "cannot use /nowhere/x (No such file or directory)"),
        (lambda: __import__("nowhere"), 2, "nowhere cannot be loaded (No module named 'nowhere')"),
        (lambda: "\udcff".encode(), 2, "a name is not UTF-8"),
        (lambda: {}["edge"], 1, "a fault in Edgetrace"),
        (lambda: os.kill(os.getpid(), signal.SIGINT), 130, ""),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, ""),
        (lambda: os.kill(os.getpid(), signal.SIGHUP), 129, ""),
        (swallowed_in_a_destructor, 130, ""),
        (lambda: None, 0, ""),
    ],
)
def test_what_an_error_becomes(app, code, words, capsys):
    with pytest.raises(SystemExit) as ended:
        run_app(app)
    assert ended.value.code == code
    errors = capsys.readouterr().err
    assert words in errors
    assert len(errors.splitlines()) == bool(words)


def test_a_sentence_of_several_lines_is_one_line(capsys):
    def refuse() -> None:
        raise UserError("this\nis \x1b[2J wrong")

    with pytest.raises(SystemExit) as ended:
        run_app(refuse)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: this is \\x1b[2J wrong\n"
