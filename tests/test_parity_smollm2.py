"""SmolLM2-135M-Instruct, a real model: prompts against llama.cpp's tokenizer, every traced column against
transformers and llama.cpp, answers of both, and the file itself beside its dequantised weights."""

from __future__ import annotations

import shutil

import pytest

from edge.analysis.divergence import compare
from edge.artifact import TOKENIZER_NAME, Artifact
from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.backends.llama_vocabulary import LlamaTokenizer
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.prompt import STYLES, Prompter
from edge.questions.question import EMBEDDED, read_questions
from edge.runs.run_directory import Run
from edge.signals.groups import VECTORS
from export.build import build
from export.gguf_source import GgufCheckpoint
from tests import oracle
from tests.parity import OUTPUT, differences, errors, expected, forward_of

pytestmark = pytest.mark.slow

pytest.importorskip("torch")
pytest.importorskip("transformers")

FULL = ("onnx-fp32", "gguf-f32")
ASKED = 8
TOKENS = 40
EVERY = 20  # steps from one that the slow twins work out to the next: each takes them a second
RUNTIME = Runtime(threads=1, prepack=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the module's own; removed afterwards, since pytest keeps those of three sessions."""
    made = tmp_path_factory.mktemp("smollm2")
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def built(smollm2, folder) -> dict[str, Artifact]:
    results = build(str(smollm2), list(FULL), folder / "artifacts")
    return {precision: result.artifact for precision, result in zip(FULL, results, strict=True)}


@pytest.fixture(scope="module")
def runs(built, folder) -> dict[str, Run]:
    """Greedy answers of both, each decoding alone; gguf-f32 keeps what forced runs are compared with."""
    questions = read_questions(EMBEDDED)[:ASKED]
    for precision, artifact in built.items():
        settings = DecodeSettings(TOKENS, reference_k=256 if precision == "gguf-f32" else 0)
        run(artifact, questions, folder / precision, settings, runtime=RUNTIME)
    return {precision: Run.open(folder / precision) for precision in FULL}


def test_prompts_have_the_ids_of_llama_cpps_own_tokenizer(smollm2, built):
    theirs, own = open_artifact(smollm2), LlamaTokenizer(smollm2)
    assert TOKENIZER_NAME not in theirs.manifest.files  # so that llama.cpp encodes
    for style in STYLES:
        ours, other = (Prompter(artifact, style) for artifact in (built["onnx-fp32"], theirs))
        for question in read_questions(EMBEDDED):
            prompt = ours.prompt(question.question)
            assert prompt == other.prompt(question.question)
            assert list(prompt.ids) == own.encode(prompt.text, special=style != "chat")


def test_every_column_of_a_full_precision_run_equals_transformers(smollm2, runs):
    """transformers reads the dequantised weights, and would choose each token of the answer, too.

    Between the steps that are worked out here, the next test has every one.
    """
    with GgufCheckpoint(smollm2) as checkpoint:
        model = oracle.load(checkpoint.whole_folder())
        full = runs["onnx-fp32"]
        columns = [*OUTPUT, *VECTORS, "token_id"]
        prompts = full.answers().column("prompt_ids").to_pylist()
        for (index, steps), prompt in zip(full.each_question(columns), prompts, strict=True):
            out, tokens = forward_of(model, steps, prompt)
            assert out.logits[len(prompt) - 1 :].argmax(axis=-1).tolist() == tokens
            chosen = [*range(index % len(tokens), len(tokens), EVERY)]  # other steps in each answer
            wanted = expected(out, prompt, tokens, chosen)
            assert set(wanted) == {*OUTPUT, *VECTORS}
            worst = errors(steps.take(chosen), wanted)
            assert max(worst.values()) < 1e-3, worst


def test_both_backends_give_the_same_answers_and_the_same_trace(runs):
    ours, theirs = (runs[precision].steps() for precision in FULL)
    assert ours.num_rows > 200
    worst = differences(ours, theirs)
    assert max(worst.values()) < 1e-3, worst


def test_the_file_itself_differs_from_its_dequantised_weights_by_rounded_activations(smollm2, runs, folder):
    """llama.cpp multiplies weights of 4 bits with activations of 8. Measured: mean KL 0.0033 nats, the same
    most likely token at 0.974 of the positions."""
    runtime = Runtime(threads=1, kv_cache="f32")
    force(open_artifact(smollm2), runs["gguf-f32"].folder, folder / "forced", runtime=runtime)
    forced = compare(runs["gguf-f32"], Run.open(folder / "forced"), outcomes=False).forced
    assert forced is not None and forced.kl is not None
    assert 1e-4 < forced.kl.mean < 7e-3, forced.kl  # below: not the quantised kernels
    assert forced.same_top1.value > 0.94, forced.same_top1
    assert abs(forced.perplexity.log_ratio.value) < 0.03, forced.perplexity
