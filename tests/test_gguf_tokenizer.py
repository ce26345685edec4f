"""Tokenizers in GGUF files: llama.cpp's ids are those of tokenizer.json and of transformers, or there is no
tokenizer."""

from __future__ import annotations

import itertools
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import models as kinds

import export.gguf_tokenizer
from edge.artifact import Artifact
from edge.backends.llama_header import Header
from edge.backends.llama_vocabulary import LlamaTokenizer, Vocabulary
from edge.backends.tokenizer import JsonTokenizer, open_tokenizer
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.runs.run_directory import Run
from export.build import build
from tests import models
from tests.conftest import ONE_THREAD, QUESTIONS, ROOT, write_questions

pytestmark = pytest.mark.slow

# As the published tokenizer.json of Llama 3, Qwen2 and the Qwen models distilled from DeepSeek R1 have them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK_BOS = "<｜begin▁of▁sentence｜>"
NORMAL, CONTROL, UNUSED, BYTE = 1, 3, 5, 6
PADDING = 7  # embedding rows beyond the tokenizer

CORPUS = (
    "",
    " ",
    "\n",
    "x",
    "1",
    "In 1969, 384400 km away: 1,234,567.89; 12345678 or 0x7f3A, 1e-10, 50%, -3, +4, 5th, v2.0.1",
    "½ ¼ ² ³ Ⅷ ① ٠١٢٣٤٥ १२३४५ 一二三 ๑๒๓",
    "one  two   three    four\t\tfive \t six\n\n\nseven \n \n eight\r\n\r\nnine \r ten   ",
    "   before and after   ",
    "\t\tdef f(a, b=None):\n\t\t\treturn [x ** 2 for x in a if x != b]  # note\n\n\n",
    'int main(void) {\n    for (int i = 0; i < 10; ++i) printf("%d\\n", i);\n}\n',
    "SELECT * FROM t WHERE a>=1 AND b<>'it''s';--x",
    "https://example.org/~user/a_b?q=1&r=%C3%A9#top me@example.org /usr/local/bin C:\\Dir\\file.txt "
    '```json\n{"a":[1,2]}\n```',
    "I'm sure we'll see they've said he'd go; DON'T, IT'S, y'all're, 'tis, rock'n'roll 'quoted' ''s '' s",
    "!!! ??? ... --- *** ___ ((a)) [[b]] <<c>> $5 #6 @7",
    "😀 😃😄 👩‍💻👨‍👩‍👧‍👦 🏳️‍🌈 👋🏻👋🏿 👩🏽‍🚀 🇫🇷🇧🇷🇺🇳 ❤️‍🔥 1️⃣ ☀️a🙂b 🙂1",
    "→ ∑∫√≈≠∞ €£¥₹ ©®™ «…» “q” ‘r’ – — • ½x a\u00a0b a\u2003b a\u3000b a\u200bb a\u200db \ufeffc",
    "في عام ١٩٦٩ وصل الإنسان إلى القمر، أليس كذلك؟ السَّلامُ عَلَيْكُمْ.",
    "सन् १९६९ में मनुष्य चंद्रमा पर पहुँचा। क्या यह सच है? हिन्दी",
    "1969年,人类首次登上月球。你好吗?我很好!「引用」",
    "1969年に人類は月に着いた。カタカナ・ひらがな、々ー。ﾊﾝｶｸ",
    "1969년에 인류는 달에 도착했다. 안녕하세요? ㅋㅋㅋ",
    "ในปี ๒๕๑๒ มนุษย์ไปถึงดวงจันทร์ สวัสดีครับ",
    "В 1969 году человек достиг Луны. Ещё ёж, объезд! Привет",
    "Το 1969 ο άνθρωπος έφτασε στη Σελήνη· γιατί; ΆΈΉ ς",
    "בשנת 1969 הגיע האדם לירח. שָׁלוֹם עוֹלָם",
    "Größe, Übermaß, Äpfel, STRASSE, weiß",
    "Ça va, où êtes-vous ? L'été, l’œuvre, Noël, garçon",
    "Zażółć gęślą jaźń, ŁÓDŹ",
    "İstanbul'da ışık, çiçek, ĞÜŞ, DİYARBAKIR",
    "ǅ ʰ ª ﬁ ſ a\u0301\u0302 e\u0323\u0301 \U0001d400\U0001d7d8 \U00020000 \u0000 \u0001\u007f\u0085 �",
    "a" * 70 + " " * 33 + "=" * 20 + "\n" * 7 + "9" * 20 + "é" * 9 + "\t" * 6 + "'" * 5,
)
CORPUS = tuple(unicodedata.normalize("NFC", text) for text in CORPUS)  # llama.cpp does not normalise
SPECIAL = (
    "<s>",
    "<s><s>a",
    "a<|user|> b\n<|end|>\n",
    " <|end|>  c</s>1</s>2",
    "<|user|>What?<|end|>\n\n",
    "<|use <s >",
    "[PAD1] [PAD{}]",
)
FACTS = [
    line
    for path in sorted((ROOT / "export/nano_text").glob("*.toml"))
    for line in path.read_text("utf-8").splitlines()
]


def cut(words: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), byte_level])


PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False)


def byte_level(
    pre: pre_tokenizers.PreTokenizer,
    *,
    whole: bool = False,
    normalizer: normalizers.Normalizer | None = None,
    first: str = "",
    extra: tuple[str, ...] = (),
    last: str = "",
) -> dict[str, Any]:
    """A tokenizer.json of byte-level BPE. Merges are learnt on texts that are not cut at all, so that any
    two ways of cutting give different ids; `first` and `last` are what the post-processor puts around a
    text."""
    made = Tokenizer(kinds.BPE(ignore_merges=whole))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2500,
        min_frequency=0,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[
            AddedToken(text, special=True, normalized=False) for text in (*models.SPECIALS, *extra)
        ],
    )
    made.train_from_iterator([*CORPUS, *export.gguf_tokenizer.CORPUS, *FACTS[:80]], trainer)
    made.pre_tokenizer = pre
    if normalizer is not None:
        made.normalizer = normalizer
    around = [text for text in (first, last) if text]
    if around:
        single = " ".join(text for text in (first, "$A", last) if text)
        made.post_processor = processors.TemplateProcessing(
            single=single,
            pair=f"{single} $B",
            special_tokens=[(text, made.token_to_id(text)) for text in around],
        )
    return json.loads(made.to_str())


def size_of(raw: dict[str, Any]) -> int:
    """Ids of a tokenizer.json, from 0 to the highest."""
    return 1 + max(*raw["model"]["vocab"].values(), *(added["id"] for added in raw["added_tokens"]))


def built(
    folder: Path,
    raw: dict[str, Any],
    pieces: bytes | None = None,
    rows: int = 0,
    template: str | None = None,
) -> Artifact:
    """The artifact of a tiny checkpoint with this tokenizer.json, and this tokenizer.model beside it."""
    config = models.config_of(vocab_size=rows or size_of(raw) + PADDING, num_hidden_layers=1)
    checkpoint = models.write_checkpoint(folder / "checkpoint", config, template=template)
    (checkpoint / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    if pieces is not None:
        (checkpoint / "tokenizer.model").write_bytes(pieces)
    if models.BOS not in {token["content"] for token in raw["added_tokens"]}:
        # A tokenizer that lacks tokens which this file names would get them behind its own.
        models.write_json(
            checkpoint / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}
        )
    return build(str(checkpoint), ["gguf-f32"], folder / "out")[0].artifact


def head(artifact: Artifact, *keys: str) -> list[Any]:
    with Header(artifact.path / "model.gguf") as header:
        return [header.value(f"tokenizer.{key}") for key in keys]


def check_ids(artifact: Artifact, transformers: Any, *more: str) -> None:
    """llama.cpp with the file, tokenizer.json and transformers give the same ids, with and without special
    tokens."""
    theirs, ours = (
        LlamaTokenizer(artifact.path / "model.gguf"),
        JsonTokenizer(artifact.path / "tokenizer.json"),
    )
    reference = transformers.PreTrainedTokenizerFast(tokenizer_file=str(artifact.path / "tokenizer.json"))
    last = SPECIAL[-1].format(artifact.manifest.model.vocabulary - 1)  # a row without a token, spelt out
    for text in (*CORPUS, *SPECIAL[:-1], last, *more):
        for special in (False, True):
            wanted = reference(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, special=special) == wanted, text
            assert theirs.encode(text, special=special) == wanted, text


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


FORMS: dict[str, dict[str, Any]] = {
    "llama-bpe": {"pre": cut(LLAMA3), "whole": True, "first": models.BOS},
    "smaug-bpe": {"pre": cut(LLAMA3), "first": models.BOS, "last": models.EOS},
    "qwen2": {"pre": cut(QWEN2), "normalizer": normalizers.NFC()},
    "deepseek-r1-qwen": {"pre": cut(QWEN2), "extra": (DEEPSEEK_BOS,), "first": DEEPSEEK_BOS},
    "gpt-2": {"pre": PLAIN, "last": models.EOS},
    "smollm": {"pre": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), PLAIN])},
}


def without_merges(raw: dict[str, Any], *words: str) -> dict[str, Any]:
    """The same tokenizer with words as tokens that no merge makes."""
    model = raw["model"]
    model["merges"] = [merge for merge in model["merges"] if "".join(merge) not in words]
    for word in words:
        model["vocab"].setdefault(word, size_of(raw))
    return raw


@pytest.mark.parametrize("name", FORMS)
def test_llama_cpp_gives_the_ids_of_tokenizer_json_and_of_transformers(name, tmp_path, transformers):
    raw = byte_level(**FORMS[name])
    assert len(raw["model"]["merges"]) > 1000
    if name == "llama-bpe":
        raw = without_merges(raw, "ĠZwetschge", "Mirabelle")
    artifact = built(tmp_path, raw)
    assert artifact.manifest.tokenizer == {"model": "gpt2", "pre": name}
    assert head(artifact, "ggml.model", "ggml.pre") == ["gpt2", name]
    check_ids(
        artifact,
        transformers,
        "Mirabelle Zwetschge Mirabelle",
        "Zwetschge, Zwetschgen",
        f"{DEEPSEEK_BOS}a <｜User｜>",
    )
    if name == "llama-bpe":
        assert LlamaTokenizer(artifact.path / "model.gguf").encode("Mirabelle Zwetschge", special=False) == [
            size_of(raw) - 1,
            size_of(raw) - 2,
        ]


def test_the_corpus_tells_the_ways_of_cutting_apart(tmp_path):
    found = {}
    smollm = FORMS["smollm"]["pre"]
    ways = {"llama3": cut(LLAMA3), "qwen2": cut(QWEN2), "gpt-2": PLAIN, "again": PLAIN, "smollm": smollm}
    for name, pre in ways.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(byte_level(pre)), encoding="utf-8")
        found[name] = [JsonTokenizer(path).encode(text, special=False) for text in CORPUS]
    assert found["gpt-2"] == found["again"]  # the training is the same each time
    for one, other in itertools.combinations(("llama3", "qwen2", "gpt-2", "smollm"), 2):
        assert sum(a != b for a, b in zip(found[one], found[other], strict=True)) >= 5


# Byte-fallback BPE as gemma has it.
GEMMA = ("<pad>", "<eos>", "<bos>", "<unk>", "<|user|>", "<|end|>")
RUNS = [" " * n for n in (2, 4, 8, 16)] * 20
BYTES = tuple(f"<0x{i:02X}>" for i in range(256))


def gemma(*, split: bool) -> dict[str, Any]:
    """A tokenizer.json whose ids are GEMMA, BYTES, then pieces in the order in which they were learnt.

    As in gemma's, which was converted from sentencepiece, every pair of pieces that makes a piece is a
    merge. Most of the corpus's characters are no pieces.
    """
    trained = Tokenizer(kinds.BPE())
    lines = [line.replace(" ", "▁") for line in (*FACTS, *"".join(CORPUS[7:12]).split("\n"), *RUNS)]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=900, show_progress=False))
    learnt = sorted(trained.get_vocab(), key=trained.token_to_id)
    tokens = (*GEMMA, *BYTES, *learnt)
    assert len(set(tokens)) == len(tokens)
    pairs = [
        (text[:i], text[i:])
        for text in learnt
        for i in range(1, len(text))
        if {text[:i], text[i:]} <= set(learnt)
    ]
    made = Tokenizer(
        kinds.BPE(
            vocab={text: i for i, text in enumerate(tokens)},
            merges=pairs,
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    if split:
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in GEMMA])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", GEMMA.index("<bos>"))]
    )
    return json.loads(made.to_str())


Piece = tuple[str, float, int]


def pieces_of(raw: dict[str, Any]) -> list[Piece]:
    """Text, score and type of each id, as sentencepiece would have them: what was learnt first scores
    highest."""
    kind = {**dict.fromkeys(GEMMA, CONTROL), "<unk>": 2, **dict.fromkeys(BYTES, BYTE)}
    found = [(text, kind.get(text, NORMAL)) for text in raw["model"]["vocab"]]
    rank = len(GEMMA) + len(BYTES)
    return [
        (text, float(rank - i) if number == NORMAL else 0.0, number)
        for i, (text, number) in enumerate(found)
    ]


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def field(number: int, value: bytes | float | int) -> bytes:
    """One field of a protobuf message: bytes, a 32-bit float or a whole number."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return (
        varint(number << 3 | 5) + struct.pack("<f", value)
        if isinstance(value, float)
        else varint(number << 3) + varint(value)
    )


def sentencepiece(pieces: list[Piece]) -> bytes:
    """A tokenizer.model: pieces, a type only where it is not NORMAL, then other fields that a reader has to
    step over."""
    message = b""
    for text, score, number in pieces:
        message += field(
            1, field(1, text.encode()) + field(2, score) + (field(3, number) if number != NORMAL else b"")
        )
    return (
        message
        + field(2, field(3, 2) + field(4, len(pieces)) + field(10, 0.9995))
        + field(3, field(1, b"nmt"))
    )


@pytest.mark.parametrize("split", [False, True], ids=["uncut", "split"])
def test_byte_fallback_bpe_from_tokenizer_json_alone(split, tmp_path, transformers):
    raw = gemma(split=split)
    assert len(raw["model"]["merges"]) > 300
    artifact = built(tmp_path, raw)
    assert artifact.manifest.tokenizer == {"model": "gemma4", "pre": "gemma4"}
    check_ids(artifact, transformers, "<bos>a<eos> b", "▁ ▁▁ x", "<0x41> <0x0A>")
    tokens, types, scores = head(artifact, "ggml.tokens", "ggml.token_type", "ggml.scores")
    assert tokens[: len(GEMMA) + 256] == [*GEMMA, *BYTES]
    assert types[: len(GEMMA) + 257] == [CONTROL] * len(GEMMA) + [BYTE] * 256 + [NORMAL]
    assert scores is None


@pytest.mark.parametrize("split", [False, True], ids=["uncut", "split"])
def test_byte_fallback_bpe_with_a_sentencepiece_model_beside_it(split, tmp_path, transformers):
    raw = gemma(split=split)
    pieces = pieces_of(raw)
    artifact = built(tmp_path, raw, sentencepiece(pieces))
    assert artifact.manifest.tokenizer == {"model": "llama", "pre": "default"}
    check_ids(artifact, transformers, "<bos>a<eos> b", "▁ ▁▁ x", "<0x41> <0x0A>")
    tokens, types, scores, merges = head(
        artifact, "ggml.tokens", "ggml.token_type", "ggml.scores", "ggml.merges"
    )
    assert merges is None
    assert tokens == [text for text, _, _ in pieces] + [f"[PAD{len(pieces) + i}]" for i in range(PADDING)]
    assert scores == [score for _, score, _ in pieces] + [-1000.0] * PADDING
    # tokenizer.json says what is special, tokenizer.model what stands for the unknown.
    wanted = [CONTROL if text in GEMMA and text != "<unk>" else number for text, _, number in pieces]
    assert types == wanted + [UNUSED] * PADDING


@pytest.mark.parametrize(
    "content",
    [
        b"this is no protobuf message",
        sentencepiece([("a", 0.0, NORMAL)] * 9)[:-3],
        field(1, field(1, b"\xff")),
        field(1, field(1, 7)),
    ],
    ids=["text", "cut", "not-utf8", "other-type"],
)
def test_a_damaged_sentencepiece_model_is_refused(content, tmp_path):
    with pytest.raises(
        UserError, match=r"tokenizer\.model is not a sentencepiece model .*: download it again"
    ):
        built(tmp_path, gemma(split=True), content)
    assert not list((tmp_path / "out").rglob("*.gguf"))


def unknown_words() -> dict[str, Any]:
    return byte_level(cut(LLAMA3.replace("{1,3}", "{1,2}")), first=models.BOS)


def word_level() -> dict[str, Any]:
    made = Tokenizer(
        kinds.WordLevel(
            {text: i for i, text in enumerate((*models.SPECIALS, "<unk>", "the", "sea"))}, "<unk>"
        )
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in models.SPECIALS])
    return json.loads(made.to_str())


def with_two(raw: dict[str, Any]) -> dict[str, Any]:
    """With two tokens before a text."""
    made = Tokenizer.from_str(json.dumps(raw))
    made.post_processor = processors.TemplateProcessing(
        single="<s> <|user|> $A", pair="<s> $A $B", special_tokens=[("<s>", 0), ("<|user|>", 2)]
    )
    return json.loads(made.to_str())


def with_unknown(raw: dict[str, Any]) -> dict[str, Any]:
    """Without the letter e, for which tokenizer.json then gives a token of its own."""
    vocab, merges = raw["model"]["vocab"], raw["model"]["merges"]
    raw["model"]["merges"] = [merge for merge in merges if "e" not in "".join(merge)]
    del vocab["e"]
    raw["model"]["unk_token"] = models.END
    return raw


NONE = {
    "other-words": (unknown_words, "cutting text into words"),
    "word-level": (word_level, "WordLevel"),
    "lowercase": (lambda: byte_level(cut(QWEN2), normalizer=normalizers.Lowercase()), "Lowercase"),
    "whitespace": (lambda: byte_level(PLAIN) | {"pre_tokenizer": {"type": "Whitespace"}}, "Whitespace"),
    # In a sequence: of ByteLevel alone transformers takes the space away where no setting asks for it.
    "prefix": (
        lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])),
        "Sequence",
    ),
    "qwen2-whole-words": (lambda: byte_level(cut(QWEN2), whole=True), "cutting text into words"),
    "two-before": (lambda: with_two(byte_level(PLAIN)), "more than one token"),
    "unknown-token": (lambda: with_unknown(byte_level(PLAIN)), "gives other tokens than tokenizer.json for"),
}


@pytest.mark.parametrize("name", NONE)
def test_without_an_equal_tokenizer_the_file_has_none_and_answers_with_tokenizer_json(name, tmp_path):
    make, reason = NONE[name]
    raw = make()
    artifact = built(tmp_path, raw)
    found = artifact.manifest.tokenizer
    assert set(found) == {"model", "reason"}
    assert found["model"] == "none"
    assert reason in found["reason"]
    assert head(artifact, "ggml.model", "ggml.tokens", "ggml.merges", "ggml.pre") == [
        "none",
        None,
        None,
        None,
    ]
    with pytest.raises(UserError, match="holds no tokenizer"):
        LlamaTokenizer(artifact.path / "model.gguf")
    check_answer(artifact, raw, tmp_path)


def check_answer(artifact: Artifact, raw: dict[str, Any], folder: Path) -> None:
    """The artifact answers a prompt of the ids that tokenizer.json gives."""
    assert isinstance(open_tokenizer(artifact), JsonTokenizer)
    questions = read_questions(write_questions(folder / "q.csv", [QUESTIONS[0]]))
    run(artifact, questions, folder / "run", DecodeSettings(3, 0.0, 1), prompt="raw", runtime=ONE_THREAD)
    answers = Run.open(folder / "run").answers()
    wanted = Tokenizer.from_str(json.dumps(raw)).encode(QUESTIONS[0]).ids
    assert answers.column("prompt_ids").to_pylist() == [wanted]


@pytest.mark.parametrize(
    ("name", "claimed"),
    [
        ("llama-bpe", "qwen2"),
        ("llama-bpe", "smaug-bpe"),
        ("llama-bpe", "gpt-2"),
        ("qwen2", "llama-bpe"),
        ("gpt-2", "qwen2"),
    ],
)
def test_a_form_that_is_taken_for_another_is_found_out_by_llama_cpp_itself(
    name, claimed, tmp_path, monkeypatch
):
    raw = without_merges(
        byte_level(**FORMS[name]), "Hello"
    )  # by which llama-bpe alone differs from smaug-bpe
    monkeypatch.setattr(export.gguf_tokenizer, "form", lambda raw: ("gpt2", claimed, ""))
    artifact = built(tmp_path, raw)
    assert artifact.manifest.tokenizer["model"] == "none"
    assert artifact.manifest.tokenizer["reason"].startswith(
        "llama.cpp gives other tokens than tokenizer.json for "
    )
    check_answer(artifact, raw, tmp_path)


def test_a_tokenizer_larger_than_the_model_is_left_out(tmp_path):
    raw = byte_level(PLAIN)
    artifact = built(tmp_path, raw, rows=size_of(raw) - 1)
    assert artifact.manifest.tokenizer["reason"].endswith(
        f"more tokens than the model's {size_of(raw) - 1} embedding rows"
    )


@pytest.mark.parametrize("pieces", [False, True], ids=["json", "sentencepiece"])
def test_an_added_token_without_a_row_is_left_out(pieces, tmp_path, transformers):
    """As the image token of gemma-3-1b, whose tokenizer is the one of its larger siblings."""
    raw = gemma(split=True)
    rows, content = size_of(raw), sentencepiece(pieces_of(raw)) if pieces else None
    raw["added_tokens"].append(raw["added_tokens"][0] | {"id": rows, "content": "<image_soft_token>"})
    artifact = built(tmp_path, raw, content, rows=rows)
    assert artifact.manifest.tokenizer["model"] == ("llama" if pieces else "gemma4")
    (tokens,) = head(artifact, "ggml.tokens")
    assert len(tokens) == rows
    check_ids(artifact, transformers)


def test_a_beginning_that_only_config_json_names_is_kept(tmp_path):
    """As qwen's, which no text begins with: llama.cpp would take id 11 for it."""
    raw, ids = byte_level(cut(QWEN2)), []
    for named in (2, None, 10**6):
        folder = tmp_path / str(named)
        config = models.config_of(vocab_size=size_of(raw), num_hidden_layers=1, bos_token_id=named)
        checkpoint = models.write_checkpoint(folder / "checkpoint", config)
        (checkpoint / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
        (checkpoint / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": null}', encoding="utf-8"
        )
        artifact = build(str(checkpoint), ["gguf-f32"], folder / "out")[0].artifact
        ids.append(head(artifact, "ggml.bos_token_id", "ggml.add_bos_token"))
    assert ids == [[2, False], [None, False], [None, False]]


@pytest.mark.parametrize(
    ("name", "bos", "eos"),
    [
        ("llama-bpe", 0, False),
        ("smaug-bpe", 0, True),
        ("qwen2", None, False),
        ("deepseek-r1-qwen", 4, False),
    ],
)
def test_the_file_says_what_goes_around_a_text_and_where_an_answer_ends(name, bos, eos, tmp_path):
    artifact = built(tmp_path, byte_level(**FORMS[name]), template=models.CHAT_TEMPLATE)
    keys = (
        "ggml.add_bos_token",
        "ggml.add_eos_token",
        "ggml.bos_token_id",
        "ggml.eos_token_id",
        "ggml.eot_token_id",
    )
    assert head(artifact, *keys, "chat_template") == [
        bos is not None,
        eos,
        bos or 0,
        1,
        3,
        # The post-processor's BOS has the key; the tokenizer's bos_token is another one.
        ('{%- set bos_token = "<s>" -%}' if bos else "") + models.CHAT_TEMPLATE,
    ]
    inside = Vocabulary(artifact.path / "model.gguf")
    assert inside.stop_ids() == artifact.manifest.model.stop_ids == (1, 3)
    assert inside.special_tokens()["bos_token"] == (DEEPSEEK_BOS if bos == 4 else models.BOS)


def test_rows_without_a_token_are_padding(tmp_path):
    raw = without_merges(byte_level(PLAIN), "beyond")
    size = size_of(raw) + 2
    raw["model"]["vocab"]["beyond"] = size - 1  # leaves two ids between that are no token
    artifact = built(tmp_path, raw)
    tokens, types = head(artifact, "ggml.tokens", "ggml.token_type")
    assert len(tokens) == len(types) == size + PADDING
    padding = [size - 3, size - 2, *range(size, size + PADDING)]
    assert [tokens[i] for i in padding] == [f"[PAD{i}]" for i in padding]
    assert [i for i, kind in enumerate(types) if kind == UNUSED] == padding
    assert [i for i, kind in enumerate(types) if kind == CONTROL] == [0, 1, 2, 3]
    assert tokens[:4] == list(models.SPECIALS)
    assert tokens[size - 1] == "beyond"


def flagged(**flags: bool) -> dict[str, Any]:
    """A tokenizer with one more special token that takes the spaces beside it, or stands between words
    alone."""
    made = Tokenizer.from_str(json.dumps(byte_level(PLAIN)))
    made.add_special_tokens([AddedToken("<|turn|>", special=True, normalized=False, **flags)])
    return json.loads(made.to_str())


def newline_merges() -> dict[str, Any]:
    """Gemma's form with a token that goes over the end of a line, where llama.cpp always cuts."""
    raw = gemma(split=False)
    model = raw["model"]
    for text in ("\n", "\na"):
        model["vocab"].setdefault(text, size_of(raw))
    model["merges"].insert(0, ["\n", "a"])
    return raw


def whole_words() -> dict[str, Any]:
    raw = without_merges(gemma(split=False), "zebra")
    raw["model"]["ignore_merges"] = True
    return raw


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: flagged(rstrip=True), "a<|turn|>  b"),
        (lambda: flagged(lstrip=True), "a  <|turn|>b"),
        (lambda: flagged(single_word=True), "a<|turn|>b"),
        (newline_merges, "x\nab"),
        (whole_words, "zebra"),
    ],
    ids=["rstrip", "lstrip", "single-word", "merges-over-lines", "byte-fallback-whole-words"],
)
def test_what_llama_cpp_does_otherwise_is_not_written(make, text, tmp_path):
    artifact = built(tmp_path, make())
    if artifact.manifest.tokenizer["model"] != "none":
        ours = JsonTokenizer(artifact.path / "tokenizer.json")
        assert LlamaTokenizer(artifact.path / "model.gguf").encode(text, special=False) == ours.encode(
            text, special=False
        )


def test_an_empty_sequence_of_pre_tokenizers_is_no_known_form_and_the_build_says_so(tmp_path):
    raw = byte_level(PLAIN) | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}}
    artifact = built(tmp_path, raw)
    assert artifact.manifest.tokenizer["model"] == "none"
    notes: list[str] = []
    again = build(str(tmp_path / "checkpoint"), ["gguf-f32"], tmp_path / "again", on_note=notes.append)
    reason = again[0].artifact.manifest.tokenizer["reason"]
    (note,) = [note for note in notes if "holds no tokenizer" in note]
    assert f"gguf-f32 holds no tokenizer for other programs ({reason})" in note


def test_an_end_token_that_the_tokenizer_lacks_does_not_hide_the_stop_ids(tmp_path):
    raw = byte_level(PLAIN)
    for added in raw["added_tokens"]:
        if added["content"] == models.EOS:
            added["content"] = "</S>"
    raw["model"]["vocab"] = {
        {models.EOS: "</S>"}.get(text, text): i for text, i in raw["model"]["vocab"].items()
    }
    artifact = built(tmp_path, raw)
    # transformers gives the token that tokenizer_config.json names the next id, a row of padding.
    own = size_of(raw)
    inside = Vocabulary(artifact.path / "model.gguf").stop_ids()
    assert inside == artifact.manifest.model.stop_ids == (1, 3, own)


def test_a_vocabulary_that_ends_llama_cpps_process_is_not_given_to_it(tmp_path):
    twice = byte_level(PLAIN)
    twice = without_merges(twice, f"[PAD{size_of(twice) + 2}]")  # the name of a row without a token
    assert built(tmp_path / "twice", twice).manifest.tokenizer["model"] == "none"
    raw = gemma(split=True)
    bytes_of = {"empty": b"", "reversed": sentencepiece(pieces_of(raw)[::-1])}
    bytes_of["a byte less"] = sentencepiece(
        [("?!?", *rest) if text == "<0xE4>" else (text, *rest) for text, *rest in pieces_of(raw)]
    )
    for name, content in bytes_of.items():
        try:
            assert built(tmp_path / name, gemma(split=True), content).manifest.tokenizer["model"] in (
                "none",
                "gemma4",
            )
        except UserError as error:
            assert "tokenizer.model" in str(error)
