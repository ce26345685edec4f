"""Nothing is sent and nothing is noted about the user: no socket, no name looked up, no file in the home
folder but our own cache; and libraries are imported by the commands that need them alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from tests.conftest import NANO_LLAMA, write_questions
from tests.every_command import every_command, prepare
from tests.shims import SWITCHES, compile_shim, edge, edge_export, environment

pytestmark = pytest.mark.slow  # many processes or builds

API = """
import edge
artifact = edge.open_artifact({artifact!r})
print(sum(1 for _ in edge.answer(artifact, "Why?", edge.DecodeSettings(max_new_tokens=3))))
"""
POOL = """
import multiprocessing
import edge
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(exec, ("import onnxruntime",))
"""
HEAVY = ("onnxruntime", "llama_cpp", "tokenizers", "plotly", "huggingface_hub")
RUNTIMES = {"onnxruntime", "llama_cpp"}


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def traced(artifacts, tmp_path_factory):
    """A folder with an artifact, questions and two runs."""
    folder = tmp_path_factory.mktemp("traced")
    write_questions(folder / "q.csv", ["Why?", "How?"])
    (folder / "artifact").symlink_to(artifacts("odd", "onnx-int4"))
    for name in ("a", "b"):
        words = ("--questions", folder / "q.csv", "--max-new-tokens", "3", "--quiet", "--no-prepack")
        command = edge("run", folder / "artifact", "--out", folder / name, *words)
        subprocess.run(command, env=environment(folder / "home"), check=True, capture_output=True)
    return folder


def left_behind(home) -> set[str]:
    """What is in the home folder, without compiled code and verdicts on GGUF files."""
    ours = re.compile(r"\.cache/edgetrace/(\w+-[0-9a-f]+-[0-9a-f]+\.so|gguf/[0-9a-f]{32})")
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    return {name for name in files if not ours.fullmatch(name)}


def watched(command: list[str], shim, folder, **more: str) -> tuple[set[str], list[str]]:
    """Runs a command; the files it left in the home folder, and what it wanted of the network."""
    home, log = folder / "home", folder / "network.txt"
    home.mkdir(exist_ok=True)
    log.write_text("")
    variables = environment(home, LD_PRELOAD=str(shim), SHIM_NETWORK=str(log), **more)
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return left_behind(home), log.read_text().splitlines()


def commands(traced, out) -> dict[str, list[str]]:
    few = ("--questions", traced / "q.csv", "--max-new-tokens", "3", "--quiet")
    api = out / "api.py"
    api.write_text(API.format(artifact=str(traced / "artifact")))
    pool = out / "pool.py"
    pool.write_text(POOL)
    return {
        "version": edge("--version"),
        "run": edge("run", traced / "artifact", "--out", out / "run", *few),
        "paper": edge("paper", traced / "a", traced / "b", "--jobs", "2"),
        "bench": edge("bench", traced / "artifact", "--context", "16", "--tokens", "2", "--rounds", "1"),
        "build": edge_export("build", NANO_LLAMA, "--to", "onnx-int4", "--out", out / "built"),
        "api": [sys.executable, str(api)],
        "a process of the API's user": [sys.executable, str(pool)],
        "export's modules": [sys.executable, "-c", "import export.quantize"],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["version", "run", "paper", "bench", "build", "api", "a process of the API's user", "export's modules"],
)
def test_nothing_is_sent_and_nothing_is_left_in_the_home_folder(name, shim, traced, tmp_path):
    assert watched(commands(traced, tmp_path)[name], shim, tmp_path) == (set(), [])


@pytest.fixture(scope="module")
def prepared(artifacts, checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, artifacts, checkpoints)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["force", "ask", "score", "label"])
def test_no_command_sends_or_leaves_anything(name, shim, prepared, tmp_path):
    assert watched(every_command(prepared, tmp_path)[name], shim, tmp_path) == (set(), [])


@pytest.mark.slow
def test_verify_asks_whether_there_is_ipv6_and_sends_nothing(shim, prepared, tmp_path):
    """urllib3 does, which transformers imports: a socket at the machine itself that is never connected."""
    files, network = watched(every_command(prepared, tmp_path)["verify"], shim, tmp_path)
    assert files == set()
    assert network in ([], ["socket 10"])


@pytest.mark.slow
def test_a_gguf_file_on_its_own_leaves_its_verdict_alone(shim, artifacts, prepared, tmp_path):
    pytest.importorskip("llama_cpp")
    model = shutil.copy(artifacts("odd", "gguf-q8_0") / "model.gguf", tmp_path / "model.gguf")
    words = ("--questions", prepared / "q.csv", "--max-new-tokens", "3", "--quiet", "--prompt", "raw")
    command = edge("run", model, "--out", tmp_path / "run", *words)
    assert watched(command, shim, tmp_path) == (set(), [])
    (verdict,) = (tmp_path / "home" / ".cache" / "edgetrace" / "gguf").iterdir()
    assert verdict.read_text() == "sound\n"


def test_without_the_switch_the_same_look_finds_an_id(shim, traced, tmp_path):
    """The user's own choice stands; and the tests above can fail."""
    files, _ = watched(
        commands(traced, tmp_path)["export's modules"], shim, tmp_path, ORT_DISABLE_TELEMETRY="0"
    )
    assert any(name.endswith(".onnxruntime/deviceid") for name in files)


def test_the_same_look_sees_sockets_and_names(shim, tmp_path):
    code = (
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM); socket.getaddrinfo('localhost', 9)"
    )
    _, network = watched([sys.executable, "-c", code], shim, tmp_path)
    assert "socket 2" in network
    assert "getaddrinfo localhost" in network


def test_importing_edge_switches_telemetry_off_and_keeps_a_choice(tmp_path):
    code = f"import os, edge; print(*(os.environ[name] for name in {SWITCHES}))"
    empty = dict.fromkeys(SWITCHES, "")
    for chosen, seen in (({}, "1 1"), (empty, "1 1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0 1")):
        variables = environment(tmp_path, **chosen)
        assert (
            subprocess.check_output([sys.executable, "-c", code], env=variables, text=True).strip() == seen
        )


def loaded(command: list[str], home, code: int = 0) -> set[str]:
    """The top-level modules that a command imports before it ends with this code."""
    timed = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(timed, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    names = set(re.findall(r"\| +(\w+)(?:\.[\w.]+)?$", done.stderr, re.M))
    assert "edge" in names
    return names


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ("--version",)),
        (0, ("--help",)),
        (0, ("models",)),
        (0, ("compare", "{a}", "{b}")),
        (0, ("paper", "{a}")),
        (0, ("watch", "{a}", "--once")),
        (2, ("label", "{a}", "--show")),
        (2, ("merge", "{a}", "{b}", "--out", "{c}")),
    ],
)
def test_commands_that_run_no_model_import_no_runtime(code, words, traced, tmp_path):
    words = [word.replace("{", f"{traced}/").replace("}", "") for word in words]
    assert loaded(edge(*words), tmp_path, code) & set(HEAVY) == set()


@pytest.mark.parametrize(
    "command",
    [
        *(edge(name, "--help") for name in ("run", "force", "score", "ask", "bench", "doctor", "demo")),
        *(edge_export(name, "--help") for name in ("build", "verify")),
    ],
    ids=lambda command: " ".join(command[3:]),
)
def test_help_imports_no_runtime(command, tmp_path):
    assert loaded(command, tmp_path) & RUNTIMES == set()


def test_a_run_imports_its_own_runtime_alone(artifacts, tmp_path):
    pytest.importorskip("llama_cpp")
    write_questions(tmp_path / "q.csv", ["Why?"])
    few = ("--questions", tmp_path / "q.csv", "--max-new-tokens", "2", "--quiet", "--no-prepack")
    for precision, own in (("gguf-q8_0", "llama_cpp"), ("onnx-int4", "onnxruntime")):
        command = edge("run", artifacts("odd", precision), "--out", tmp_path / precision, *few)
        assert loaded(command, tmp_path) & RUNTIMES == {own}


def test_the_version_needs_a_few_small_modules(tmp_path):
    """docs/measurements has the time; the modules are what it is made of."""
    command = [sys.executable, "-X", "importtime", *edge("--version")[1:]]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)
    names = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert names & {"numpy", "pyarrow", "rich.console", "jinja2", "edge.cli.run"} == set()
    assert done.stdout.startswith("edgetrace ")
