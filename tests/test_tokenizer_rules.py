"""A checkpoint's tokenizer files mean what transformers says they mean, in every form."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edge.artifact import TEMPLATE_NAME, TOKENIZER_NAME, Artifact, FileRecord, record_file
from edge.backends.gguf_file import read_gguf
from edge.backends.llama_header import Header
from edge.errors import UserError, ignore
from edge.questions.prompt import QA_PRESET, Prompter
from export.build import build
from export.checkpoint import Checkpoint
from export.gguf_artifact import provable
from export.gguf_model import F32
from export.gguf_model import write as write_gguf
from export.graph.architectures import read_config
from export.manifest import manifest_of
from export.precision import Target, precision
from export.source import Source
from export.tokenizer import TokenizerFiles, read_tokenizer
from export.tokenizer_files import read_sources
from export.tokenizer_five import differences, reading
from export.tokenizer_rules import resolve
from tests import checkpoint_forms as forms
from tests import transformers_five
from tests.conftest import ROOT

AutoTokenizer = pytest.importorskip("transformers").AutoTokenizer

NANO = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
ALL = forms.choose()
FIVE = json.loads((ROOT / "tests/data/transformers-5.24.0.json").read_text("utf-8"))["forms"]
Ids = list[int] | str


def theirs(folder: Path, style: str, texts: Sequence[str] = forms.TEXTS) -> list[Ids]:
    """transformers' ids of each text in a style, or what it says against it."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    preset = "\n\n".join(f"Q: {question}\nA: {answer}" for question, answer in QA_PRESET)
    ids: list[Ids] = []
    for text in texts:
        if style == "chat":
            try:
                turn = [{"role": "user", "content": text}]
                ids.append(tokenizer.apply_chat_template(turn, add_generation_prompt=True))
            except ValueError as error:
                ids.append(str(error))
        else:
            ids.append(tokenizer(f"{preset}\n\nQ: {text}\nA:" if style == "qa" else text)["input_ids"])
    return ids


def ours(artifact: Artifact, style: str, texts: Sequence[str] = forms.TEXTS) -> list[Ids]:
    """The artifact's ids of each text in a style with control tokens parsed, or its refusal."""
    ids: list[Ids] = []
    try:
        prompter = Prompter(artifact, style, control_tokens=True)
    except UserError as error:
        return [str(error)] * len(texts)
    for text in texts:
        try:
            ids.append(list(prompter.prompt(text).ids))
        except UserError as error:
            ids.append(str(error))
    return ids


def agree(artifact: Artifact, folder: Path, styles: Sequence[str] = ("raw", "qa", "chat")) -> int:
    """Asserts equal ids, and refusals for the same texts; the number of texts with ids."""
    compared, rows = 0, artifact.manifest.model.vocabulary
    for style in styles:
        for text, mine, other in zip(forms.TEXTS, ours(artifact, style), theirs(folder, style), strict=True):
            if isinstance(other, str) or not other or max(other) >= rows:
                assert isinstance(mine, str), (style, text, other)
            else:
                assert mine == other, (style, text)
                compared += 1
    return compared


def without_weights(folder: Path, out: Path) -> tuple[Artifact, TokenizerFiles]:
    """An artifact's tokenizer and template as a build writes them, without a graph."""
    out.mkdir(parents=True)
    with Checkpoint(folder) as checkpoint:
        config = read_config(checkpoint.config, 64)
        files = read_tokenizer(checkpoint, config.vocabulary)
        origin, target = Source(folder.name, folder, ""), Target(precision("onnx-fp32"))
        manifest = manifest_of(origin, checkpoint, config, files, target, "rows", "")
    (out / TOKENIZER_NAME).write_bytes(files.content.encode())
    if files.chat_template:
        (out / TEMPLATE_NAME).write_bytes(files.chat_template.encode())
    written = {path.name: record_file(path) for path in out.iterdir()}
    record = json.loads(manifest.to_json()) | {"files": {n: r.__dict__ for n, r in written.items()}}
    return Artifact(out, type(manifest).from_json(json.dumps(record))), files


@pytest.mark.parametrize("name", NANO)
def test_the_embedded_models_have_transformers_ids(name, artifacts):
    assert agree(Artifact.open(artifacts(name)), ROOT / "models" / "nano" / name) >= 21


def test_the_forms_hold_every_pair():
    pairs = set().union(*map(forms.pairs, ALL))
    names = list(forms.FORMS)
    for place, a in enumerate(names):
        for b in names[place + 1 :]:
            for x in forms.FORMS[a]:
                for y in forms.FORMS[b]:
                    assert (a, x, b, y) in pairs or not forms.possible({a: x, b: y})
    assert len(ALL) >= 60


def each_form(chosen: Sequence[int], tmp_path: Path) -> int:
    compared = 0
    for number in chosen:
        folder = forms.write(ALL[number], tmp_path / f"form-{number}")
        artifact, files = without_weights(folder, tmp_path / f"artifact-{number}")
        compared += agree(artifact, folder)
        known = AutoTokenizer.from_pretrained(str(folder)).special_tokens_map
        assert artifact.manifest.template_tokens() == known
        assert files.rules.why and files.rules.reader == "transformers 4.57.6"
    return compared


def test_some_forms_have_transformers_ids(tmp_path):
    assert each_form(range(0, len(ALL), 9), tmp_path) > 100


@pytest.mark.slow
def test_every_form_has_transformers_ids(tmp_path):
    assert each_form(range(len(ALL)), tmp_path) > 1000


@pytest.mark.slow
def test_forms_at_random_have_transformers_ids(tmp_path):
    rng = random.Random(4179)
    for number in range(120):
        form = forms.any_form(rng)
        folder = forms.write(form, tmp_path / str(number))
        with Checkpoint(folder) as checkpoint:
            made = resolve(read_sources(checkpoint))
        known = AutoTokenizer.from_pretrained(str(folder))
        for text in forms.TEXTS:
            for add in (False, True):
                assert (
                    made.tokenizer.encode(text, add_special_tokens=add).ids
                    == known(text, add_special_tokens=add)["input_ids"]
                ), (form, text)
        assert made.special_tokens == known.special_tokens_map, form


PLAIN = {"split": "absent", "additional": "list", "map": "plain", "added": "decoder"}


def alone(form: forms.Form, folder: Path) -> tuple[Path, Artifact | None]:
    """The checkpoint of a form, and its GGUF file without weights in a folder of its own; None where
    llama.cpp cannot hold its tokenizer."""
    checkpoint_folder, own = forms.write(form, folder / "form"), folder / "own"
    (work := folder / "work").mkdir()
    own.mkdir()
    with Checkpoint(checkpoint_folder) as checkpoint:
        config = read_config(checkpoint.config, 64)
        files = read_tokenizer(checkpoint, config.vocabulary)
        (work / TOKENIZER_NAME).write_bytes(files.content.encode())
        vocabulary = provable(checkpoint, config, files, work, "form")
        if vocabulary.model == "none":
            assert vocabulary.reason
            return checkpoint_folder, None
        path = own / "model.gguf"
        write_gguf(checkpoint, config, vocabulary, F32, path, ignore, name="f", weights=False)
    artifact = read_gguf(path, FileRecord(path.stat().st_size, ""))
    assert artifact.manifest.model.stop_ids == files.stop_ids
    return checkpoint_folder, artifact


def gguf_forms(chosen: Sequence[forms.Form], tmp_path: Path) -> int:
    """Compares each form's GGUF file, used alone, with transformers; the number of texts compared."""
    compared = 0
    for number, form in enumerate(chosen):
        folder, artifact = alone(form, tmp_path / str(number))
        if artifact is not None:
            compared += agree(artifact, folder)
    return compared


@pytest.mark.parametrize("number", [6, 42, 60])
def test_the_gguf_of_a_form_alone_has_transformers_ids(number, tmp_path):
    """Roles without a key (sep_token, additional_special_tokens), and none where config.json names a BOS."""
    assert gguf_forms([{**ALL[number], **PLAIN}], tmp_path) >= 22


def test_a_template_that_writes_a_token_beyond_the_rows_is_in_no_gguf_file(tmp_path):
    assert alone({**ALL[12], **PLAIN}, tmp_path)[1] is None


@pytest.mark.parametrize("template", ["nameless", "folder-alone"])
def test_a_gguf_file_of_named_templates_alone_is_asked_no_chat(template, tmp_path):
    _, artifact = alone({**ALL[60], **PLAIN, "template": template}, tmp_path)
    assert artifact is not None
    for style in (None, "chat"):
        with pytest.raises(
            UserError, match=r"has several chat templates \(.*rag.*\) and none called default"
        ):
            Prompter(artifact, style)
    assert Prompter(artifact, "raw").prompt("Why?").ids


@pytest.mark.slow
def test_the_gguf_of_every_form_has_transformers_ids_or_no_tokenizer(tmp_path):
    assert gguf_forms([*ALL, *({**form, **PLAIN} for form in ALL)], tmp_path) > 400


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 9, 17, 33, 48, 61])
def test_built_artifacts_of_a_form_have_transformers_ids(number, tmp_path):
    folder = forms.write(ALL[number], tmp_path / "form")
    for built in build(str(folder), ["onnx-fp32", "gguf-f32"], tmp_path / "out"):
        agree(Artifact.open(built.artifact.path), folder)


def said_of_five(chosen: Sequence[int], tmp_path: Path) -> tuple[int, int]:
    """Asserts that a build says so where ids or roles recorded of 5.24.0 are others.

    Gives how many forms are compared, and how many roles are others.

    tests/transformers_five.py made the record.
    """
    compared = others = 0
    for number in chosen:
        folder = forms.write(ALL[number], tmp_path / str(number))
        with Checkpoint(folder) as checkpoint:
            sources = read_sources(checkpoint)
        four, five = transformers_five.known(folder, forms.TEXTS), FIVE[number]
        assert five["form"] == transformers_five.levels(ALL[number])
        ours = reading(resolve(sources), forms.TEXTS)
        said = differences(sources, ours, "")
        if "not compared" in said:
            continue
        compared += 1
        assert bool(said) == (four["ids"] != five.get("ids")), (number, ALL[number], said)
        if "refused" in five:
            assert " fails with " in said
            continue
        for role in four["roles"].keys() | five["roles"].keys():
            other = four["roles"].get(role) != five["roles"].get(role)
            told = differences(sources, ours, f"{{{{ {role} }}}}").rpartition("chat template another ")[2]
            assert (role in told) == other, (number, role, told)
            others += other
    return compared, others


def test_where_transformers_5_differs_it_is_said_for_some_forms(tmp_path):
    assert min(said_of_five(range(0, len(ALL), 9), tmp_path)) > 0


@pytest.mark.slow
def test_where_transformers_5_differs_it_is_said_for_every_form(tmp_path):
    assert len(FIVE) == len(ALL)
    compared, others = said_of_five(range(len(ALL)), tmp_path)
    assert compared > 50 and others > 20


def deepseek(folder: Path) -> Path:
    """As the published files of DeepSeek-R1-Distill-Qwen.

    A Llama class over byte-level BPE with add_bos_token, tokens as objects, no list of added tokens, and a
    template that writes BOS itself.
    """
    shutil.copytree(ROOT / "models/nano/nano-qwen2", folder)
    (folder / "special_tokens_map.json").unlink()
    raw = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    raw["post_processor"] = {
        "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True,
    }  # fmt: skip
    raw["normalizer"] = {"type": "Sequence", "normalizers": []}
    tokens = {"bos_token": forms.BOS, "eos_token": forms.TURN, "pad_token": forms.TURN}
    settings: dict[str, Any] = {
        role: {"__type": "AddedToken", **forms.token(text, normalized=True)} for role, text in tokens.items()
    }
    for value in settings.values():
        del value["special"]
    settings |= {
        "add_bos_token": True, "add_eos_token": False, "legacy": True, "unk_token": None,
        "tokenizer_class": "LlamaTokenizerFast", "clean_up_tokenization_spaces": False,
        "chat_template": "{{bos_token}}{% for m in messages %}<|eot_id|>{{ m.content }}{% endfor %}",
    }  # fmt: skip
    for name, content in (("tokenizer.json", raw), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_distilled_qwen_has_one_bos_never_two(tmp_path):
    folder = deepseek(tmp_path / "checkpoint")
    for built in build(str(folder), ["onnx-fp32", "gguf-f32"], tmp_path / "out"):
        agree(built.artifact, folder)
        for style in ("raw", "qa", "chat"):
            (ids,) = ours(built.artifact, style, ["Do bats see?"])
            assert ids[0] == 0 and ids.count(0) == 1, style
    with Header(tmp_path / "out/gguf-f32/model.gguf") as header:
        assert header.value("tokenizer.ggml.add_bos_token") is True
    rules = built.artifact.manifest.tokenizer_rules
    assert rules is not None and rules.tokenizer_class == "LlamaTokenizerFast"
    assert (
        "(as Qwen2Tokenizer): it puts nothing around a text (this build: <|begin_of_text|> before)"
        in " ".join(rules.notes)
    )
