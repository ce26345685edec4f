"""Copies of the embedded checkpoints whose tokenizer files say the same things in other forms.

Every form of one file is combined with every form of each other one in at least one copy (pairwise), by a
seeded greedy choice.
"""

from __future__ import annotations

import itertools
import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

from tests.conftest import NANO_LLAMA, ROOT

BOS, END, TURN, HEADER, PAD = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|finetune_right_pad_id|>",
)
SPECIALS = (BOS, END, HEADER, "<|end_header_id|>", TURN, PAD)  # ids 0 to 5 of the embedded models
Form = dict[str, str]
# The levels of each form; the first is the embedded model's own.
FORMS: dict[str, tuple[str, ...]] = {
    "model": ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3"),
    "body": ("own", "byte-level", "sentencepiece"),
    "class": (
        "PreTrainedTokenizerFast",
        "LlamaTokenizerFast",
        "LlamaTokenizer",
        "GemmaTokenizer",
        "Qwen2Tokenizer",
        "GPT2Tokenizer",
        "GPTNeoXTokenizerFast",
        "CodeLlamaTokenizer",
        "config.json LlamaTokenizer",
        "none",
    ),
    "post": ("own", "byte-level", "none", "both"),
    "bos": ("absent", "true", "false", "null"),
    "eos": ("absent", "true", "false"),
    "added": ("decoder", "flags", "more", "absent", "absent-file", "empty"),
    "map": ("none", "plain", "nested", "other"),
    "tokens": ("text", "object", "absent"),
    "additional": ("list", "objects", "absent", "extra", "not-special"),
    "template": ("text", "named", "jinja", "folder", "nameless", "folder-alone", "generation"),
    "prefix": ("absent", "true", "false", "null"),
    "limits": ("none", "both"),
    "split": ("absent", "true"),
    "stops": ("list", "int", "tokenizer"),
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}{{ eos_token }}{% endfor %}{{ sep_token }}"
    "{{ additional_special_tokens | length }}{{ image_token }}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GENERATION = (
    "{{ bos_token }}{%- for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% if loop.last %}{% break %}{% endif %}"
    "{% endfor %}"
    "{{ unk_token }} {{ messages | tojson }}"
)
TEXTS = (
    "Do bats see?",
    " leading and trailing ",
    "two  spaces\n\nand lines\t",
    "1234567 or 3.14",
    "Grüße, naïve cafe\u0301 — 你好 🙂",
    "the<|eot_id|> the \n<|image|>  sky</s><s>",
    "<|begin_of_text|>What is <|start_header_id|>it?",
    "",
)


def choose(seed: int = 18) -> list[Form]:
    """Forms of copies that hold every pair of levels; each copy takes the most pairs that are still open."""
    rng = random.Random(seed)
    names = list(FORMS)
    open_pairs = {
        (a, x, b, y)
        for a, b in itertools.combinations(names, 2)
        for x in FORMS[a]
        for y in FORMS[b]
        if possible({a: x, b: y})
    }
    chosen = []
    while open_pairs:
        best: tuple[int, Form] = (-1, {})
        for _ in range(12):
            a, x, b, y = rng.choice(sorted(open_pairs))
            form = {a: x, b: y}
            for name in rng.sample(names, len(names)):
                if name not in form:
                    gains = {
                        level: sum(pair in open_pairs for pair in pairs_with(form, name, level))
                        for level in FORMS[name]
                        if possible({**form, name: level})
                    }
                    most = max(gains.values())
                    form[name] = rng.choice([level for level, gain in gains.items() if gain == most])
            gain = len(open_pairs & pairs(form))
            if gain > best[0]:
                best = gain, {name: form[name] for name in names}
        chosen.append(best[1])
        open_pairs -= pairs(best[1])
    return chosen


def possible(form: Form) -> bool:
    """False for a Llama tokenizer with add_prefix_space, which transformers makes of tokenizer.model."""
    kind = form.get("class", "")
    llama = kind.split()[-1:] in (["LlamaTokenizer"], ["LlamaTokenizerFast"])
    llama |= kind == "none" and form.get("model") == "nano-llama"
    return not (llama and form.get("prefix") in ("true", "false"))


def any_form(rng: random.Random) -> Form:
    """A form with a level of each at random."""
    while True:
        form = {name: rng.choice(levels) for name, levels in FORMS.items()}
        if possible(form):
            return form


def pairs(form: Form) -> set[tuple[str, str, str, str]]:
    return {(a, form[a], b, form[b]) for a, b in itertools.combinations(FORMS, 2)}


def pairs_with(form: Form, name: str, level: str) -> list[tuple[str, str, str, str]]:
    order = list(FORMS)
    return [
        (name, level, other, form[other])
        if order.index(name) < order.index(other)
        else (other, form[other], name, level)
        for other in form
    ]


@cache
def sentencepiece_body() -> str:
    """A tokenizer.json with spaces as ▁ and bytes as tokens, of at most 2,048 ids, SPECIALS first."""
    trained = Tokenizer(models.BPE())
    lines = (NANO_LLAMA.parent.parent.parent / "export/nano_text").glob("*.toml")
    text = "\n".join(path.read_text("utf-8") for path in sorted(lines)).replace(" ", "▁").split("\n")
    trained.train_from_iterator(text[:400], trainers.BpeTrainer(vocab_size=900, show_progress=False))
    learnt = sorted(trained.get_vocab(), key=trained.token_to_id)
    names = [*SPECIALS, "<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *learnt]
    merges = [
        (piece[:i], piece[i:])
        for piece in learnt
        for i in range(1, len(piece))
        if {piece[:i], piece[i:]} <= set(learnt)
    ]
    made = Tokenizer(
        models.BPE(
            vocab={name: i for i, name in enumerate(dict.fromkeys(names))},
            merges=merges,
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return str(made.to_str())


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": content, **plain, "special": True, **flags}


def around(*sides: str) -> dict[str, Any]:
    """A post-processor that puts BOS before a text, and END after it where it is named."""
    single: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
    used = {BOS: 0, END: 1}
    for text in sides:
        piece = {"SpecialToken": {"id": text, "type_id": 0}}
        single = [piece, *single] if text == BOS else [*single, piece]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {t: {"id": t, "ids": [used[t]], "tokens": [t]} for t in sides},
    }


def tokenizer_json(form: Form, own: dict[str, Any]) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(sentencepiece_body()) if form["body"] == "sentencepiece" else own
    if form["body"] == "byte-level":
        raw["pre_tokenizer"] = {
            "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
        }  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    raw["post_processor"] = {
        "own": around(BOS), "byte-level": byte_level, "none": None, "both": around(BOS, END),
    }[form["post"]]  # fmt: skip
    if form["limits"] == "both":
        raw["truncation"] = {
            "direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        raw["padding"] = {
            "strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 5,
            "pad_type_id": 0, "pad_token": PAD,
        }  # fmt: skip
    if form["added"] == "empty":
        raw["added_tokens"] = []
    return raw


def write(form: Form, folder: Path) -> Path:
    """A copy of an embedded checkpoint in the form; its weights are links."""
    source = ROOT / "models" / "nano" / form["model"]
    folder.mkdir(parents=True)
    (folder / "model.safetensors").symlink_to(source / "model.safetensors")
    config = json.loads((source / "config.json").read_text("utf-8"))
    raw = tokenizer_json(form, json.loads((source / "tokenizer.json").read_text("utf-8")))
    word = "▁the" if form["body"] == "sentencepiece" else "Ġthe"
    spoken = next(t for t in ("the", "sky", "is", "he") if t in raw["model"]["vocab"])
    files: dict[str, Any] = {"tokenizer.json": raw}
    settings: dict[str, Any] = {
        "clean_up_tokenization_spaces": True,
        "model_max_length": 2048,
        "legacy": True,
    }
    kind = form["class"]
    if kind.startswith("config.json"):
        config["tokenizer_class"] = kind.split()[1]
    elif kind != "none":
        settings["tokenizer_class"] = kind
    values = {"true": True, "false": False, "null": None}
    for key, name in (("add_bos_token", "bos"), ("add_eos_token", "eos"), ("add_prefix_space", "prefix")):
        if form[name] != "absent":
            settings[key] = values[form[name]]
    if form["split"] == "true":
        settings["split_special_tokens"] = True
    named = {"bos_token": BOS, "eos_token": TURN, "pad_token": PAD, "sep_token": word}
    if form["tokens"] == "object":
        settings |= {role: {"__type": "AddedToken", **token(text)} for role, text in named.items()}
    elif form["tokens"] == "text":
        settings |= named
    settings |= additional(form["additional"], spoken)
    if form["added"] in ("decoder", "flags", "more"):
        listed = {str(i): token(text) for i, text in enumerate(SPECIALS)}
        if form["added"] == "flags":
            listed["4"] = token(TURN, lstrip=True, rstrip=True)
            listed["2"] = token(HEADER, special=False, normalized=True)
        elif form["added"] == "more":
            listed[str(raw["model"]["vocab"][spoken])] = token(spoken, special=False, single_word=True)
        settings["added_tokens_decoder"] = listed
    if form["added"] == "absent-file":
        files["added_tokens.json"] = {"<|image|>": 3000, TURN: 4}
    if form["map"] in ("plain", "nested"):
        nested = form["map"] == "nested"
        files["special_tokens_map.json"] = {
            role: token(text, rstrip=True) if nested else text for role, text in named.items()
        } | {"additional_special_tokens": [token(HEADER, lstrip=True) if nested else HEADER, spoken]}
    elif form["map"] == "other":
        files["special_tokens_map.json"] = {"bos_token": END, "eos_token": END}
    templates(form["template"], settings, folder)
    eos = {"list": [4, 1], "int": 4}.get(form["stops"])
    config.pop("eos_token_id")
    files["generation_config.json"] = {"eos_token_id": eos} if eos else {}
    files |= {"config.json": config, "tokenizer_config.json": settings}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def additional(level: str, spoken: str) -> dict[str, Any]:
    """The settings that name more special tokens."""
    tokens = [END, HEADER, "<|end_header_id|>"]
    return {
        "list": {"additional_special_tokens": tokens},
        "objects": {
            "additional_special_tokens": [
                {"__type": "AddedToken", **token(text, lstrip=True)} for text in tokens
            ]
        },
        "absent": {},
        "extra": {"extra_special_tokens": {"image_token": END, "boi_token": spoken}},
        "not-special": {"additional_special_tokens": [spoken]},
    }[level]


def templates(level: str, settings: dict[str, Any], folder: Path) -> None:
    """Writes the chat template where the level has it."""
    if level == "text":
        settings["chat_template"] = TEMPLATE
    elif level == "generation":
        settings["chat_template"] = GENERATION
    elif level in ("named", "nameless"):
        name = "default" if level == "named" else "rag"
        settings["chat_template"] = [
            {"name": "tool_use", "template": "T {{ messages[0].content }}"},
            {"name": name, "template": TEMPLATE},
        ]
    else:
        settings["chat_template"] = "not this one"
    if level in ("jinja", "folder"):
        (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    if level in ("folder", "folder-alone"):
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "rag.jinja").write_text("R", encoding="utf-8")
