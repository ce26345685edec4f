"""What a file is that is no model of its own: named before anything else in it is read."""

from __future__ import annotations

import re

from edge.backends.llama_header import Header
from edge.errors import UserError

MODEL = "model"
# general.type, or general.architecture -> what the file is, and what to do.
TYPES = {
    "adapter": (
        "a LoRA adapter, not a model",
        "merge it into its model with llama.cpp's 'llama-export-lora' and give the result",
    ),
    "imatrix": ("an importance matrix, not a model", "give the model that was quantised with it"),
    "mmproj": ("the image or audio part of a model", "give the file of its language model"),
    "vocab": ("a vocabulary without a model", "give the model's own file"),
}
ARCHITECTURES = {
    "clip": TYPES["mmproj"],
    "controlvector": ("a control vector, not a model", "give the model that it was made for"),
}
SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


def check_model(header: Header) -> None:
    """Raises UserError for a part of a model, and for what is none: by its keys, and by its tensors."""
    path = header.path
    check_split(header)
    kind, architecture = header.value("general.type"), header.value("general.architecture")
    what = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if isinstance(kind, str) and kind != MODEL:
        what = TYPES.get(kind) or (f"of the type {kind!r}, not a model", "give the model's own file")
    names = [entry.name for entry in header.tensors()]
    if what is None and any(name.endswith((".lora_a", ".loraA")) for name in names):
        what = TYPES["adapter"]
    if what is None and any(name.endswith((".in_sum2", ".counts")) for name in names):
        what = TYPES["imatrix"]
    if what is None and not names:
        what = TYPES["vocab"]
    if what is not None:
        raise UserError(f"{path} is {what[0]}: {what[1]}")


def check_split(header: Header) -> None:
    """Raises UserError for one part of several, naming the parts that are missing beside it."""
    path, count = header.path, header.value("split.count")
    named = SPLIT.fullmatch(path.name)
    if not isinstance(count, int) or count < 2:
        return
    number = header.value("split.no")
    place = f"part {number + 1} of {count}" if isinstance(number, int) else f"one part of {count}"
    if named is None:
        raise UserError(
            f"{path} is {place} of a split model: merge all parts with llama.cpp's "
            "'llama-gguf-split --merge' first"
        )
    names = [f"{named[1]}-{part:05d}-of-{count:05d}.gguf" for part in range(1, min(count, 99_999) + 1)]
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{path} is {place} of a split model and {', '.join(missing[:3])}{more} "
            f"{'is' if len(missing) == 1 else 'are'} missing beside it: download all parts, then merge them "
            "with llama.cpp's 'llama-gguf-split --merge'"
        )
    raise UserError(
        f"{path} is {place} of a split model: merge them with llama.cpp's "
        f"'llama-gguf-split --merge {names[0]} {named[1]}.gguf' first"
    )
