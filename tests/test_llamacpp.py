"""The llama.cpp backend: its cache, and what becomes of a run whose taps cannot be read."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import edge.backends.llama_graph
import edge.backends.llama_taps
import edge.backends.llamacpp
import edge.cli.app
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.llama_callback import Callback
from edge.backends.llama_graph import TapError
from edge.backends.llama_taps import TapReader
from edge.backends.llamacpp import CHUNK, LlamaBackend
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.runs.run_directory import Run
from edge.signals.groups import VECTORS
from tests.conftest import assert_positions_are_bounded
from tests.test_cli_errors import call

DAY = "2026-01-01"
ROWS, AUTO, NONE = (Runtime(threads=1, taps=taps) for taps in ("rows", "auto", "none"))
IDS = np.random.default_rng(3).integers(4, 290, 200).tolist()


@pytest.fixture(scope="module")
def artifact(artifacts):
    return Artifact.open(artifacts("odd", "gguf-f32"))


def in_python(monkeypatch):
    """Backends opened from now on have no compiled callback."""
    monkeypatch.setattr(
        edge.backends.llama_taps, "compiled_callback", lambda: Callback(0, "switched off by the test")
    )


@pytest.fixture
def opened():
    """Opens backends that are closed after the test."""
    made = []

    def get(artifact, runtime=ROWS, **settings):
        made.append(
            LlamaBackend(artifact, capacity=settings.pop("capacity", 300), runtime=runtime, **settings)
        )
        return made[-1]

    yield get
    for backend in made:
        backend.close()


def kept(taps):
    """A copy: the next pass overwrites the views."""
    return taps.position, *(None if part is None else part.copy() for part in taps[1:])


def answer(backend, prompt=150, steps=60):
    """Taps of a prompt and of so many steps."""
    backend.rewind(0)
    seen = [kept(backend.prefill(IDS[:prompt]))]
    return seen + [kept(backend.step(token)) for token in IDS[prompt : prompt + steps]]


def assert_same(ours, theirs, *, exact=True, taps=True):
    for a, b in zip(ours, theirs, strict=True):
        assert a[0] == b[0]
        for x, y in zip(a[1:] if taps else a[1:2], b[1:] if taps else b[1:2], strict=True):
            if exact:
                np.testing.assert_array_equal(x, y)
            else:
                np.testing.assert_allclose(x, y, atol=2e-4)


def test_an_answer_is_the_same_again_after_rewinding(artifact, opened):
    backend = opened(artifact)
    first = answer(backend)
    assert_same(answer(backend), first)
    backend.rewind(120)
    again = kept(backend.prefill(IDS[120:150]))
    assert_same([again], first[:1], exact=False)  # another cut into micro-batches
    assert [row[2].shape for row in first[:2]] == [(3, 4, 150), (3, 4, 151)]
    assert 2 * CHUNK < 150


def test_reading_taps_changes_no_logit(artifact, opened):
    tapped, plain = opened(artifact), opened(artifact, NONE)
    assert_same(answer(tapped), answer(plain), taps=False)
    assert plain.step(5).attention is None
    assert plain.taps_lost == ""


def test_attention_rows_are_causal_distributions_over_all_positions(artifact, opened):
    for position, _, rows, hidden in answer(opened(artifact)):
        assert rows.shape[2] == position + 1
        np.testing.assert_allclose(rows.sum(axis=2), 1.0, atol=1e-5)
        assert np.isfinite(hidden).all()


def test_a_context_beyond_256_positions_keeps_its_columns(artifact, opened):
    """llama.cpp pads the cache to 256 positions: the graph is built anew there."""
    backend = opened(artifact, capacity=520)
    backend.prefill([IDS[i % 200] for i in range(250)])
    widths = [backend.step(IDS[i % 200]).attention.shape[2] for i in range(250, 262)]
    assert widths == list(range(251, 263))
    whole = kept(backend.step(7))
    other = opened(artifact, capacity=520)
    ids = [IDS[i % 200] for i in range(262)] + [7]
    assert_same([whole], [kept(other.prefill(ids))], exact=False)


def test_positions_are_bounded(artifact, opened):
    backend = opened(artifact, capacity=10)
    assert_positions_are_bounded(backend)


@pytest.mark.parametrize("shape", ["odd", "qwen2", "qwen3", "gemma3"])
def test_tensors_fetched_by_the_backend_call_are_the_same(shape, artifacts, opened):
    """What a GPU's tensors need; on the host both ways must give the same bits."""
    gguf = Artifact.open(artifacts(shape, "gguf-q8_0"))
    direct, fetched = opened(gguf), opened(gguf)
    fetched._reader._is_host = lambda buffer: False
    fetched._reader._plans.clear()
    calls = []
    get = fetched._reader._get
    fetched._reader._get = lambda *arguments: calls.append(1) or get(*arguments)
    assert_same(answer(fetched, 70, 3), answer(direct, 70, 3))
    assert len(calls) > 3 * fetched.spec.layers


def test_layers_on_a_gpu_that_is_not_there_run_on_the_processor(artifact, opened):
    assert_same(answer(opened(artifact, Runtime(1, "rows", gpu_layers=99))), answer(opened(artifact)))


def test_a_graph_at_other_addresses_is_looked_at_again(artifact, opened):
    backend, other = opened(artifact), opened(artifact)
    backend.prefill(IDS[:20])
    backend.step(IDS[20])
    plan = backend._reader._plans[1]
    plan.wanted = {address + 8 * 336: node for address, node in plan.wanted.items()}
    for stop in plan.stops or ():
        stop.tensor += 8 * 336
    other.prefill(IDS[:21])
    ours, theirs = kept(backend.step(IDS[21])), kept(other.step(IDS[21]))
    assert_same([ours], [theirs], exact=False)
    assert backend.taps_lost == ""
    assert backend._reader._plans[1] is not plan


# The compiled callback


@pytest.mark.parametrize("precision", ["gguf-f32", "gguf-q4_0"])
@pytest.mark.parametrize("shape", ["odd", "qwen2", "qwen3", "gemma3"])
def test_the_compiled_callback_gives_the_bits_of_pythons(shape, precision, artifacts, opened, monkeypatch):
    gguf = Artifact.open(artifacts(shape, precision))
    fast, entered, call = opened(gguf, capacity=520), [], TapReader._call
    with monkeypatch.context() as patch:
        in_python(patch)
        slow = opened(gguf, capacity=520)
    assert slow._reader._compiled is None
    answer(fast, 70, 2)  # learns
    with monkeypatch.context() as patch:
        patch.setattr(
            TapReader, "_call", lambda self, *arguments: entered.append(1) or call(self, *arguments)
        )
        ours = answer(fast, 70, 10)
    assert_same(ours, answer(slow, 70, 10))
    assert not entered  # two micro-batches and ten steps without Python
    ids = [IDS[i % 200] for i in range(262)]
    for backend in (slow, fast):
        backend.rewind(0)
        backend.prefill(ids[:250])
    for token in ids[250:]:  # over the padding of the cache, where the graph is built anew
        assert_same([kept(fast.step(token))], [kept(slow.step(token))])


@pytest.mark.parametrize("what", ["name", "stream_name", "heads", "capacity"])
def test_a_node_that_is_not_as_it_was_learned_is_looked_at_again(what, artifact, opened):
    backend, other = opened(artifact), opened(artifact)
    for each in (backend, other):
        each.prefill(IDS[:20])
        each.step(IDS[20])
    reader, plan = backend._reader, backend._reader._plans[1]
    if what in ("name", "stream_name"):
        setattr(plan.stops[1], what, b"elsewhere")
    else:
        setattr(reader._compiled._pass, what, 3)
    assert_same([kept(backend.step(IDS[21]))], [kept(other.step(IDS[21]))])
    assert backend.taps_lost == ""
    assert reader._plans[1] is not plan


# Callbacks that fail


def failing(monkeypatch, how, after):
    """From the `after`-th time data come on, reading them fails in one of several ways; in C it cannot."""
    in_python(monkeypatch)
    count = 0

    def due():
        nonlocal count
        count += 1
        return count > after

    read, whole = TapReader._read, TapReader._call

    def broken_read(self, address):
        if due():
            raise ValueError("planned failure")
        read(self, address)

    def broken_call(self, address, ask, data):
        if not ask and due():
            if (
                how == "raises outside"
            ):  # ctypes swallows it and gives llama.cpp a False: the graph stays unfinished
                raise ValueError("planned failure")
            return False
        return whole(self, address, ask, data)

    if how == "raises inside":
        monkeypatch.setattr(TapReader, "_read", broken_read)
    else:
        monkeypatch.setattr(TapReader, "_call", broken_call)


WAYS = ["raises inside", "raises outside", "returns false"]
quietly = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@quietly
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("after", [0, 60, 100, 101, 103])
def test_a_callback_that_fails_never_gives_wrong_logits(how, after, artifact, opened, monkeypatch):
    right = answer(opened(artifact, NONE))
    failing(monkeypatch, how, after)
    backend = opened(artifact, AUTO)
    seen = answer(backend)
    assert_same(seen, right, taps=False)
    assert backend.taps_lost
    assert seen[-1][2] is None
    assert seen[-1][3] is None


@quietly
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("after", [0, 60, 100])
def test_with_taps_rows_a_callback_that_fails_is_an_error(how, after, artifact, opened, monkeypatch):
    failing(monkeypatch, how, after)
    with pytest.raises(UserError, match="run with --taps none for logits alone"):
        answer(opened(artifact, ROWS))


def test_an_interruption_inside_the_callback_ends_the_step_not_the_taps(artifact, opened, monkeypatch):
    in_python(monkeypatch)
    backend = opened(artifact, AUTO)
    backend.prefill(IDS[:20])
    read, hits = TapReader._read, []

    def interrupted(self, address):
        if not hits:
            hits.append(1)
            raise KeyboardInterrupt
        read(self, address)

    monkeypatch.setattr(TapReader, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backend.step(IDS[20])
    assert backend.taps_lost == ""


# The check when a model is opened


def change(monkeypatch, what):
    if what == "layout":
        monkeypatch.setattr(edge.backends.llama_graph, "OVERHEAD_BYTES", 376)
    elif what == "version":
        monkeypatch.setattr(edge.backends.llamacpp, "version", lambda: "0.4.1")
    elif what == "names":
        monkeypatch.setattr(
            edge.backends.llama_taps, "wanted_names", lambda spec: {b"kq_soft_max-0": ("attention", 0)}
        )
    elif what == "other tensor":
        names = edge.backends.llama_taps.wanted_names

        def swapped(spec):
            made = names(spec)
            made[b"kq-0"] = made.pop(b"kq_soft_max-0")  # scores before softmax
            return made

        monkeypatch.setattr(edge.backends.llama_taps, "wanted_names", swapped)
    elif what == "not kept":
        read = TapReader._read_stream

        def later(self, node):
            read(self, node)
            if not self.every:
                self._hidden[node.number, 0] += 1.0

        monkeypatch.setattr(TapReader, "_read_stream", later)


EXPECTED = {
    "layout": "takes 368 bytes instead of 376",
    "version": r"llama-cpp-python 0\.4\.1 is not among the versions tested",
    "names": r"1 of 3 attention patterns and 0 of 4 residual streams",
    "other tensor": "do not sum to one|has type",
    "not kept": "does not keep a layer's input",
}


@pytest.mark.parametrize("what", EXPECTED)
def test_a_library_that_is_not_the_one_known_is_noticed_when_a_model_is_opened(
    what, artifact, opened, monkeypatch
):
    right = answer(opened(artifact, NONE), 20, 3)
    change(monkeypatch, what)
    backend = opened(artifact, AUTO)
    with pytest.raises(TapError, match=EXPECTED[what]):
        raise TapError(backend.taps_lost)
    assert_same(answer(backend, 20, 3), right, taps=False)
    with pytest.raises(UserError, match="install a tested llama-cpp-python"):
        opened(artifact, ROWS)


# Whole runs


@pytest.fixture
def asked(questions_file):
    return read_questions(questions_file)


def test_a_run_that_loses_its_taps_says_so_in_run_json_and_on_stderr(
    artifacts, questions_file, tmp_path, monkeypatch, capsys
):
    failing(monkeypatch, "raises inside", 150)
    arguments = [
        "run",
        str(artifacts("odd", "gguf-f32")),
        "--questions",
        str(questions_file),
        "--out",
        str(tmp_path / "run"),
        "--max-new-tokens",
        "12",
        "--quiet",
        "--threads",
        "1",
    ]
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    captured = capsys.readouterr()
    assert (
        "note: attention and hidden states are not traced: reading taps from llama.cpp failed: planned "
        "failure" in " ".join(captured.err.split())
    )
    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "planned failure" in manifest["taps_lost"]
    steps = Run.open(tmp_path / "run").steps()
    nulls = [value is None for value in steps.column("attention_entropy").to_pylist()]
    assert not nulls[0]
    assert nulls[-1]
    assert nulls == sorted(nulls)
    assert steps.column("output_entropy").null_count == 0


def test_a_run_with_taps_rows_stops_and_leaves_what_was_finished(
    artifacts, questions_file, tmp_path, monkeypatch, capsys
):
    failing(monkeypatch, "raises inside", 150)
    arguments = [
        "run",
        str(artifacts("odd", "gguf-f32")),
        "--questions",
        str(questions_file),
        "--out",
        str(tmp_path / "run"),
        "--max-new-tokens",
        "12",
        "--quiet",
        "--threads",
        "1",
        "--taps",
        "rows",
    ]
    assert call(edge.cli.app.main, arguments, tmp_path) == 2
    assert "planned failure" in capsys.readouterr().err
    monkeypatch.undo()
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    arguments[arguments.index(str(tmp_path / "run"))] = str(tmp_path / "whole")
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    resumed, whole = (
        Run.open(tmp_path / name).steps().drop_columns(["step_ms"]) for name in ("run", "whole")
    )
    assert resumed.equals(whole)


def test_a_tap_failure_at_the_start_leaves_nothing_with_taps_rows(artifact, asked, tmp_path, monkeypatch):
    change(monkeypatch, "layout")
    with pytest.raises(UserError, match="takes 368 bytes"):
        run(artifact, asked, tmp_path / "run", DecodeSettings(3), runtime=ROWS)
    assert not (tmp_path / "run").exists()


def test_taps_none_gives_logits_alone(artifact, asked, tmp_path):
    run(artifact, asked, tmp_path / "none", DecodeSettings(8), date=DAY, runtime=NONE)
    run(artifact, asked, tmp_path / "rows", DecodeSettings(8), date=DAY, runtime=ROWS)
    none, rows = (Run.open(tmp_path / name).steps() for name in ("none", "rows"))
    for name in VECTORS:
        assert none.column(name).null_count == none.num_rows, name
    assert none.column("token_id").equals(rows.column("token_id"))
    assert none.column("output_entropy").equals(rows.column("output_entropy"))
    assert Run.open(tmp_path / "none").manifest.settings.llama.taps == "none"


@pytest.mark.parametrize(("kv_cache", "each"), [("f16", 2), ("f32", 4)])
def test_the_cache_is_as_wide_as_asked_for(kv_cache, each, artifact, asked, tmp_path):
    runtime = Runtime(threads=1, kv_cache=kv_cache)
    run(artifact, asked[:1], tmp_path / "run", DecodeSettings(8), date=DAY, runtime=runtime)
    (row,) = (
        Run.open(tmp_path / "run")
        .answers(["question_index", "kv_bytes", "prompt_ids", "tokens"])
        .to_pylist()
    )
    assert row["kv_bytes"] == 2 * 3 * 1 * 40 * each * (len(row["prompt_ids"]) + row["tokens"] - 1)
    assert Run.open(tmp_path / "run").manifest.settings.llama.kv_cache == kv_cache


def test_full_precision_keeps_its_cache_in_full_precision(artifact, artifacts, opened):
    assert opened(artifact).cache_bytes_each == 4
    assert opened(Artifact.open(artifacts("odd", "gguf-q8_0"))).cache_bytes_each == 2


def test_without_a_second_copy_of_the_weights_answers_are_the_same_up_to_rounding(artifacts, opened):
    gguf = Artifact.open(artifacts("nano-llama", "gguf-q4_0"))
    ours, theirs = (answer(opened(gguf, Runtime(1, "rows", low_memory=low)), 40, 5) for low in (True, False))
    for a, b in zip(ours, theirs, strict=True):
        assert np.sqrt(np.mean((a[1] - b[1]) ** 2)) < 0.05 * np.std(b[1])


def test_gguf_reads_what_an_onnx_run_said_and_the_other_way_round(artifacts, asked, tmp_path):
    onnx, gguf = (
        Artifact.open(artifacts("nano-llama", precision)) for precision in ("onnx-fp32", "gguf-q4_k_m")
    )
    run(onnx, asked[:3], tmp_path / "onnx", DecodeSettings(20, reference_k=64), date=DAY, runtime=Runtime(1))
    run(gguf, asked[:3], tmp_path / "gguf", DecodeSettings(20, reference_k=64), date=DAY, runtime=Runtime(1))
    force(gguf, tmp_path / "onnx", tmp_path / "gguf-forced", runtime=Runtime(1))
    force(onnx, tmp_path / "gguf", tmp_path / "onnx-forced", runtime=Runtime(1))
    for name in ("gguf-forced", "onnx-forced"):
        steps = Run.open(tmp_path / name).steps()
        kl = steps.column("kl").to_numpy()
        assert steps.num_rows > 10
        assert 0 < kl.mean() < 0.5
    assert Run.open(tmp_path / "onnx-forced").manifest.settings.llama is None
    assert "kv_cache" not in (tmp_path / "onnx-forced" / "run.json").read_text()
    assert Run.open(tmp_path / "gguf-forced").manifest.settings.llama.kv_cache == "f16"


def test_versions_of_what_ran_are_in_run_json(artifact, asked, tmp_path):
    run(artifact, asked[:1], tmp_path / "run", DecodeSettings(2), date=DAY, runtime=ROWS)
    assert Run.open(tmp_path / "run").manifest.versions["llama-cpp-python"].startswith("0.3.")


def test_an_altered_shape_in_the_manifest_is_refused(artifact, tmp_path):
    shutil.copytree(artifact.path, tmp_path / "a")
    text = (tmp_path / "a" / "manifest.json").read_text()
    raw = json.loads(text)
    raw["model"]["hidden"] = 56
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match="layers, width and vocabulary"):
        LlamaBackend(Artifact.open(tmp_path / "a"), capacity=10)
