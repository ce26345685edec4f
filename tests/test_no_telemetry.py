"""Nothing is sent and nothing is noted about the user: no socket, no name looked up, no file in the home
folder but our own cache; and libraries are imported by the commands that need them alone."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import NANO_LLAMA, write_questions
from tests.shims import SWITCHES, compile_shim, edge, edge_export, environment

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
    """What is in the home folder, without compiled code."""
    ours = re.compile(r"\.cache/edgetrace/\w+-[0-9a-f]+-[0-9a-f]+\.so")
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
    for chosen, seen in (({}, "1 1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0 1")):
        variables = environment(tmp_path, **chosen)
        assert (
            subprocess.check_output([sys.executable, "-c", code], env=variables, text=True).strip() == seen
        )


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        ("run", "--help"),
        ("models",),
        ("compare", "{a}", "{b}"),
        ("paper", "{a}"),
        ("watch", "{a}", "--once"),
        ("label", "{a}", "--show"),
        ("merge", "{a}", "{b}", "--out", "{c}"),
    ],
)
def test_commands_that_run_no_model_import_no_runtime(words, traced, tmp_path):
    words = [word.replace("{", f"{traced}/").replace("}", "") for word in words]
    command = [sys.executable, "-X", "importtime", *edge(*words)[1:]]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2)
    loaded = set(re.findall(r"\| +(\w+)$", done.stderr, re.M))
    assert "edge" in loaded
    runtimes = {"onnxruntime", "llama_cpp"} if words[1:2] == ["--help"] else set(HEAVY)
    assert loaded & runtimes <= ({"onnxruntime"} if words == ["run", "--help"] else set())


def test_the_version_needs_a_few_small_modules(tmp_path):
    """docs/measurements has the time; the modules are what it is made of."""
    command = [sys.executable, "-X", "importtime", *edge("--version")[1:]]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert loaded & {"numpy", "pyarrow", "rich.console", "jinja2", "edge.cli.run"} == set()
    assert done.stdout.startswith("edgetrace ")
