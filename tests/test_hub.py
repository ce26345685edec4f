"""Downloads from the hub, against a local server in its protocol."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from edge.errors import UserError
from edge.registry import RegistryEntry, Shape, read_registry
from export.build import build
from export.checkpoint import Checkpoint
from export.facts import differences
from export.hub import fetch
from export.hub_client import DISK_MARGIN
from export.verify import verify
from tests.conftest import NANO_LLAMA
from tests.hub_server import HubServer, Model

pytestmark = pytest.mark.slow

HUB = "someone/Tiny-1B"
ENTRY = RegistryEntry("tiny-1b", "llama", "MIT", hub=HUB, stop_ids=(2, 3))
FIRST, SECOND = "a" * 40, "b" * 40
CHUNK = 10 << 20  # what the library reads before it writes
CONFIG = {"model_type": "llama", "eos_token_id": 2}
SMALL = {
    "config.json": json.dumps(CONFIG).encode(),
    "generation_config.json": b'{"eos_token_id": [2, 3]}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"eos_token": "</s>"}',
    "chat_template.jinja": b"{{ messages }}",
}
OTHER = {
    "README.md": b"# Tiny",
    "pytorch_model.bin": b"a pickle",
    "original/consolidated.00.pth": b"a pickle",
    "original/part.safetensors": b"not ours",
    "onnx.safetensors": b"not what the config's weights are",
}
FILES = SMALL | OTHER | {"model.safetensors": b"weights" * 99}

Fetch = Callable[..., Any]
Serve = Callable[..., HubServer]


@functools.cache
def large() -> bytes:
    """More than two of the library's chunks, so that a cut in the second leaves the first on the disk."""
    return random.Random(7).randbytes(2 * CHUNK + 12_345)


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_XET",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """serve(files or Model, cut=..., stall=...) -> a running HubServer that HF_ENDPOINT names."""
    running = []

    def start(served: dict[str, bytes] | Model, **options: Any) -> HubServer:
        model = served if isinstance(served, Model) else Model({FIRST: served}, FIRST)
        server = HubServer({HUB: model}, **options).__enter__()
        running.append(server)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def get(tmp_path: Path) -> Fetch:
    """fetch of ENTRY into this test's cache."""
    return functools.partial(fetch, ENTRY, cache=tmp_path / "cache")


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message, message
    assert len(message) < 400, message
    return message


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_what_a_build_reads_is_fetched_and_it_is_whole(serve: Serve, get: Fetch) -> None:
    server, heard = serve(FILES), []
    found = get(on_file=lambda name, size: heard.append((name, size)))
    wanted = SMALL | {"model.safetensors": FILES["model.safetensors"]}
    assert (found.hub, found.revision, found.differences) == (HUB, FIRST, ())
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == wanted
    assert server.files_asked_for() == set(wanted)
    assert sorted(heard) == sorted((name, len(content)) for name, content in wanted.items())
    assert heard[0][0] == "config.json"
    assert heard[-1][0] == "model.safetensors"
    assert found.weight_bytes == len(wanted["model.safetensors"])
    assert not any("xet" in request.path for request in server.requests)


def test_a_fetched_checkpoint_is_the_one_that_was_put_there(serve: Serve, get: Fetch) -> None:
    serve({path.name: path.read_bytes() for path in NANO_LLAMA.iterdir() if path.is_file()})
    with Checkpoint(get().folder) as fetched, Checkpoint(NANO_LLAMA) as original:
        assert fetched.sha256() == original.sha256()


def test_shards_are_those_the_index_lists(serve: Serve, get: Fetch) -> None:
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}).encode()
    server = serve(
        SMALL | OTHER | {name: name.encode() for name in names} | {"model.safetensors.index.json": index}
    )
    found = get()
    assert server.files_asked_for() == {*SMALL, *names, "model.safetensors.index.json"}
    assert [(found.folder / name).read_text() for name in names] == names


@pytest.mark.parametrize("xet", [False, True])
def test_weights_come_from_the_cdn_without_the_token(
    serve: Serve, get: Fetch, monkeypatch: pytest.MonkeyPatch, xet: bool
) -> None:
    monkeypatch.setenv("HF_TOKEN", "right")
    server = serve(Model({FIRST: FILES}, FIRST, gated=True), xet=xet)
    get()
    assert [(r.method, r.status, r.authorization) for r in server.requests if r.cdn] == [("GET", 200, "")]
    assert {r.authorization for r in server.requests if not r.cdn} == {"Bearer right"}


def test_no_token_is_sent_when_none_is_set(serve: Serve, get: Fetch) -> None:
    server = serve(FILES)
    get()
    assert {request.authorization for request in server.requests} == {""}


@pytest.mark.parametrize("private", [False, True])
def test_a_gated_model_without_a_token_names_licence_and_variable(
    serve: Serve, get: Fetch, private: bool
) -> None:
    server = serve(Model({FIRST: FILES}, FIRST, gated=True, private=private))
    message = refused(get)
    assert f"{server.endpoint}/{HUB}" in message
    assert "HF_TOKEN" in message
    assert ("licence" in message) is not private  # a hub that hides the model does not say why
    assert server.files_asked_for() <= {"config.json"}


def test_a_gated_model_with_a_token_that_has_no_access(
    serve: Serve, get: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    serve(Model({FIRST: FILES}, FIRST, gated=True))
    message = refused(get)
    assert "accept the licence" in message
    assert "wrong" not in message


@pytest.mark.parametrize("token", ["", "right"])
def test_an_unknown_model(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)  # the hub answers 404 with a token and 401 without
    serve(FILES)
    message = refused(lambda: fetch(replace(ENTRY, hub="someone/Else"), cache=tmp_path))
    assert "no model someone/Else" in message


def test_an_unknown_revision(serve: Serve, get: Fetch) -> None:
    serve(FILES)
    assert f"no revision {SECOND}" in refused(lambda: get(revision=SECOND))


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_lacks_a_needed_file_is_refused_before_weights(
    serve: Serve, get: Fetch, missing: str
) -> None:
    server = serve({name: content for name, content in FILES.items() if name != missing})
    assert missing in refused(get)
    assert server.files_asked_for() <= {"config.json"}


def test_an_embedded_model_is_not_looked_for(tmp_path: Path) -> None:
    assert "embedded" in refused(
        lambda: fetch(RegistryEntry("x", "llama", "MIT", folder="nano/x"), cache=tmp_path)
    )


def test_a_cut_transfer_goes_on_where_it_stopped(serve: Serve, get: Fetch) -> None:
    server = serve(SMALL | {"model.safetensors": large()}, cut={"model.safetensors": CHUNK + 5_000})
    found = get()
    assert server.ranges() == ["", f"bytes={CHUNK}-"]
    assert sha256(found.folder / "model.safetensors") == hashlib.sha256(large()).hexdigest()


def test_a_killed_process_is_taken_up_by_the_next_one(serve: Serve, get: Fetch, tmp_path: Path) -> None:
    server = serve(SMALL | {"model.safetensors": large()}, stall={"model.safetensors": CHUNK + 5_000})
    code = (
        "import sys; from pathlib import Path; from edge.registry import RegistryEntry; from export.hub "
        "import fetch;"
        f"fetch(RegistryEntry('tiny-1b', 'llama', 'MIT', hub={HUB!r}), cache=Path(sys.argv[1]))"
    )
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "cache")], cwd=root, env=os.environ.copy()
    )
    try:
        assert server.stalled.wait(20)
        until = time.monotonic() + 5
        while (
            sum(path.stat().st_size for path in tmp_path.glob("cache/models--*/blobs/*.incomplete")) < CHUNK
        ):
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.kill()  # SIGKILL
        process.wait()
    server.stall.clear()
    # The part on the disk counts: there is room for the rest, not for the whole file.
    found = get(free=lambda folder: len(large()) - CHUNK + DISK_MARGIN)
    assert server.ranges() == ["", f"bytes={CHUNK}-"]
    assert sha256(found.folder / "model.safetensors") == hashlib.sha256(large()).hexdigest()


def test_an_overloaded_hub_is_asked_again(serve: Serve, get: Fetch) -> None:
    serve(FILES, fail={"model.safetensors": 1})
    assert get().revision == FIRST


def test_a_damaged_file_is_removed_and_fetched_again(serve: Serve, get: Fetch) -> None:
    server = serve(FILES, damage={"model.safetensors"})
    assert "model.safetensors arrived damaged" in refused(get)
    server.damage.clear()
    assert (get().folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_closed_port_is_one_sentence(get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can open it meanwhile
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "Connection refused" in refused(get)


def test_a_hub_that_never_answers_is_one_sentence(get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.hub_client.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "timed out" in refused(get)


def test_a_page_in_the_hubs_place_is_one_sentence(
    serve: Serve, get: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve({"revision": b"<html>Log in to this network</html>"})
    monkeypatch.setenv("HF_ENDPOINT", f"{server.endpoint}/{HUB}/resolve/{FIRST}/revision?")
    assert "does not answer as a model hub does" in refused(get)


def test_too_little_disk_says_both_numbers_before_weights(serve: Serve, get: Fetch) -> None:
    server = serve(FILES)
    message = refused(lambda: get(free=lambda folder: DISK_MARGIN - 100_000_000))
    assert "0.2 GB" in message
    assert "0.1 GB are free" in message
    assert server.files_asked_for() == {"config.json"}
    assert get(free=lambda folder: DISK_MARGIN + sum(map(len, FILES.values()))).revision == FIRST
    assert get(free=lambda folder: 0).revision == FIRST  # nothing is missing any more


def test_a_cache_that_cannot_be_written_is_one_sentence(serve: Serve, tmp_path: Path) -> None:
    serve(FILES)
    (tmp_path / "file").write_text("in the way")
    assert "cannot write to" in refused(lambda: fetch(ENTRY, cache=tmp_path / "file" / "cache"))


def test_a_commit_gives_the_same_files_after_main_moved_on(serve: Serve, tmp_path: Path) -> None:
    later = FILES | {"model.safetensors": b"other weights" * 50}
    model = Model({FIRST: FILES, SECOND: later}, FIRST)
    server = serve(model)
    first = fetch(ENTRY, cache=tmp_path / "one")
    assert sum("/api/models/" in request.path for request in server.requests) == 1
    assert all(FIRST in request.path for request in server.requests if "/resolve/" in request.path)
    model.main = SECOND
    again = fetch(ENTRY, cache=tmp_path / "two", revision=first.revision)
    moved = fetch(ENTRY, cache=tmp_path / "two")
    assert (again.revision, moved.revision) == (FIRST, SECOND)
    assert (again.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert (moved.folder / "model.safetensors").read_bytes() == later["model.safetensors"]


def test_a_second_call_fetches_no_file(serve: Serve, get: Fetch) -> None:
    server = serve(FILES)
    first = get()
    server.requests.clear()
    assert get(on_file=lambda name, size: pytest.fail(name)) == first
    assert server.files_asked_for() == set()


def test_offline_takes_a_whole_snapshot_and_refuses_any_other(
    serve: Serve, get: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(FILES)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(get)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    first = get()
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert get() == get(revision=FIRST) == first
    assert "not whole" in refused(lambda: get(revision=SECOND))
    (first.folder / "model.safetensors").unlink()
    assert "not whole" in refused(get)
    assert server.requests == []


def test_without_a_network_a_pinned_commit_in_the_cache_serves(
    serve: Serve, get: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(FILES)
    first = get()
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert get(revision=FIRST) == first
    assert "HF_HUB_OFFLINE=1" in refused(get)  # main may have moved on: the user decides


QWEN3 = {
    "model_type": "qwen3",
    "num_hidden_layers": 28,
    "hidden_size": 2048,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 6144,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "sliding_window": 4096,
    "use_sliding_window": False,
    "eos_token_id": 151645,
}
QWEN3_FACTS = {
    "layers": 28,
    "hidden": 2048,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "intermediate": 6144,
    "vocabulary": 151936,
    "context": 40960,
    "tied": True,
    "norm_eps": 1e-6,
    "rope_theta": 1e6,
    "local_rope_theta": 0.0,
    "window": 0,
    "llama3_factor": 0.0,
}
GEMMA = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 26,
    "hidden_size": 1152,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 6912,
    "vocab_size": 262144,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "sliding_window": 512,
    "eos_token_id": [1, 106],
}
GEMMA_FACTS = {
    "layers": 26,
    "hidden": 1152,
    "heads": 4,
    "kv_heads": 1,
    "head_dim": 256,
    "intermediate": 6912,
    "vocabulary": 262144,
    "context": 32768,
    "tied": True,
    "norm_eps": 1e-6,
    "rope_theta": 1e6,
    "local_rope_theta": 1e4,
    "window": 512,
    "llama3_factor": 0.0,
}
GEMMA_ROPE_4 = {"rope_theta": 1000000, "rope_local_base_freq": 10000}
GEMMA_ROPE_5 = {
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
}


@pytest.mark.parametrize(
    ("config", "generation", "facts", "stop_ids"),
    [
        (QWEN3, {"eos_token_id": [151645, 151643]}, QWEN3_FACTS, (151645, 151643)),
        (GEMMA | GEMMA_ROPE_4, {"eos_token_id": [1, 106]}, GEMMA_FACTS, (1, 106)),
        (GEMMA | GEMMA_ROPE_5, {}, GEMMA_FACTS, (1, 106)),
    ],
)
def test_the_registry_agrees_with_a_configuration_and_each_difference_is_named(
    config: dict[str, Any], generation: dict[str, Any], facts: dict[str, Any], stop_ids: tuple[int, ...]
) -> None:
    entry = RegistryEntry(
        "x", str(config["model_type"]), "MIT", hub=HUB, stop_ids=stop_ids, shape=Shape(**facts)
    )
    assert differences(entry, config, generation) == []
    for name, value in facts.items():
        other = replace(entry, shape=Shape(**(facts | {name: not value})))
        (difference,) = differences(other, config, generation)
        assert difference.startswith(f"{name} is ")
    (difference,) = differences(replace(entry, model_type="llama"), config, generation)
    assert (
        difference
        == f"model_type is {entry.model_type} in the downloaded configuration and llama in the registry"
    )
    (difference,) = differences(replace(entry, stop_ids=(7,)), config, generation)
    assert difference.startswith(f"stop_ids is {sorted(stop_ids)}")
    # What cannot be built has no shape to compare; its reason is said when it is built.
    assert differences(entry, config | {"hidden_size": 0, "num_hidden_layers": 9}, generation) == []
    (difference,) = differences(entry, config | {"model_type": "mamba"}, generation)
    assert difference.startswith("model_type is mamba")


def test_a_download_that_differs_from_the_registry_says_so(serve: Serve, get: Fetch) -> None:
    serve(FILES | {"generation_config.json": b'{"eos_token_id": [2, 9]}'})
    assert get().differences == (
        "stop_ids is [2, 9] in the downloaded configuration and [2, 3] in the registry",
    )


def test_a_known_model_is_built_from_the_hub_and_keeps_to_its_commit(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The whole way of `edge-export build llama-3.2-1b-instruct`, with nano-llama's files in that model's
    place."""
    files = {path.name: path.read_bytes() for path in NANO_LLAMA.iterdir() if path.is_file()}
    hub = read_registry()["llama-3.2-1b-instruct"].hub
    model = Model({FIRST: files, SECOND: files | {"generation_config.json": b"{}"}}, FIRST)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer({hub: model}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        notes: list[str] = []
        (first,) = build("llama-3.2-1b-instruct", ["onnx-int4"], tmp_path / "out", on_note=notes.append)
        model.main = SECOND
        (second,) = build("llama-3.2-1b-instruct", ["onnx-int8"], tmp_path / "out")
        with pytest.raises(UserError, match="another artifact"):
            build("llama-3.2-1b-instruct", ["onnx-int8"], tmp_path / "out", revision=SECOND)
    for built in (first, second):
        assert (built.artifact.manifest.source, built.artifact.manifest.revision) == (hub, FIRST)
        assert built.artifact.manifest.notice == ""
    assert any(note.startswith("layers is 4 in the downloaded configuration and 16") for note in notes)


def test_what_was_built_from_the_hub_is_verified_against_its_own_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The two commands of `make export`; main moves on to a damaged model between them."""
    name = "llama-3.2-1b-instruct"
    files = {path.name: path.read_bytes() for path in NANO_LLAMA.iterdir() if path.is_file()}
    model = Model({FIRST: files, SECOND: files | {"model.safetensors": b"damaged"}}, FIRST)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer({read_registry()[name].hub: model}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        build(name, ["onnx-fp32", "onnx-int8", "onnx-int4"], tmp_path / "out")
        fetched = len(server.ranges())
        model.main = SECOND
        results = verify(tmp_path / "out", source=name, threads=1)
        assert [result.passed for result in results] == [True] * 3
        assert len(server.ranges()) == fetched  # the weights are in the cache


def test_a_large_model_is_fetched_where_the_user_agrees_alone(
    serve: Serve, get: Fetch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("export.download.LARGE", 500)
    server, asked = serve(FILES), []
    message = refused(get)
    for word in (
        "tiny-1b is a download of",
        f"{server.endpoint}/{HUB}",
        f"{tmp_path}/cache",
        "MIT",
        "--yes",
    ):
        assert word in message
    assert server.files_asked_for() == {"config.json"}
    found = get(agree=lambda download: asked.append(download.bytes) or True)
    small = sum(len(content) for name, content in SMALL.items() if name != "config.json")
    assert asked == [small + len(FILES["model.safetensors"])]
    assert get() == found  # it is there


def test_every_known_model_that_is_fetched_has_its_facts() -> None:
    for entry in read_registry().values():
        assert (entry.shape is None) == bool(entry.folder)
        assert entry.folder or entry.stop_ids
