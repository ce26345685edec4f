"""A GGUF file as a source of artifacts: its keys as config.json, its tensors as a checkpoint's.

llama.cpp reorders queries and keys, adds gemma's norm offset and may quantise. All of that is undone, so
that what is built from the file means what the checkpoint behind it means, but for the quantisation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from edge.architectures import BY_GGUF
from edge.artifact import TOKENIZER_NAME
from edge.errors import UserError
from export.checkpoint import DTYPES, ROWS_AT_ONCE, Array, Checkpoint
from export.gguf_keys import config_of
from export.gguf_model import gguf_package, query_factor, tensor_names
from export.gguf_tokenizer import prove
from export.gguf_tokenizer_files import tokenizer_files
from export.graph.architectures import CONVERSIONS, read_config

# Tensors that carry no weight: llama3's rope scaling, which the configuration holds.
NO_WEIGHTS = ("rope_freqs.weight",)


class GgufCheckpoint(Checkpoint):
    """The checkpoint inside a GGUF file: config.json, tokenizer files and float32 tensors, by the hub's
    names.

    `folder` is a temporary folder with the tokenizer's files, removed when it is closed. `tensor_types`
    counts the file's tensors by their types. Raises UserError for a file that is damaged, of another
    architecture, or whose tokenizer has no known form.
    """

    def __init__(self, path: Path) -> None:
        gguf = gguf_package()
        self.path = path
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
            raise UserError(f"{path} is a damaged GGUF file ({error}): download it again") from error
        self._map: mmap.mmap = reader.data.base
        keys = {name: field.contents() for name, field in reader.fields.items()}
        there = {tensor.name: tensor for tensor in reader.tensors}
        del reader  # an array for each token of the vocabulary: hundreds of megabytes
        self.tensor_types = dict(Counter(tensor.tensor_type.name for tensor in there.values()))
        architecture = keys.get("general.architecture")
        if architecture not in BY_GGUF:
            raise UserError(
                f"{path} holds the architecture {architecture!r}, which is not built; those built: "
                f"{', '.join(BY_GGUF)}"
            )
        factors = there.get("rope_freqs.weight")
        self.config = config_of(
            path,
            keys,
            BY_GGUF[architecture],
            rows=self._rows_of(there, "token_embd.weight"),
            tied="output.weight" not in there,
            rope_factors=None if factors is None else np.asarray(factors.data, np.float32),
        )
        self._decoder = read_config(self.config, int(self.config["max_position_embeddings"]))
        self._tensors = self._named(there)
        with ExitStack() as opened:  # closes what is open where the tokenizer is refused
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="edgetrace-"))
            self.folder = Path(folder)
            for name, content in tokenizer_files(path, keys, self._decoder.vocabulary).items():
                (self.folder / name).write_bytes(content)
            (self.folder / "config.json").write_text(json.dumps(self.config, indent=2), encoding="utf-8")
            self._prove_tokenizer()
            self._stack = opened.pop_all()

    def _prove_tokenizer(self) -> None:
        """Raises UserError where llama.cpp, if it is installed, gives other ids for a corpus."""
        if importlib.util.find_spec("llama_cpp") is None:
            return
        if reason := prove(self.path, self.folder / TOKENIZER_NAME, ()):
            raise UserError(
                f"the tokenizer of {self.path} has no exact form here ({reason}): build from the checkpoint"
            )

    def _rows_of(self, there: dict[str, Any], name: str) -> int:
        if name not in there:
            raise UserError(f"{self.path} has no tensor {name}: it is not a whole model")
        return int(there[name].shape[1])

    def _named(self, there: dict[str, Any]) -> dict[str, Any]:
        """Tensors by the hub's names; raises UserError for one that is missing or that no weight is."""
        names = tensor_names(self._decoder)
        missing = sorted(set(names.values()) - there.keys())
        if missing:
            raise UserError(f"{self.path} has no tensor {missing[0]}: it is not a whole model")
        unknown = sorted(there.keys() - set(names.values()) - set(NO_WEIGHTS))
        if unknown:
            raise UserError(
                f"{self.path} has the tensor {unknown[0]}, which the architecture "
                f"{self.config['model_type']} as it is built does not have"
            )
        return {name: there[stored] for name, stored in names.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def names(self) -> list[str]:
        return sorted(self._tensors)

    def _tensor(self, name: str) -> Any:
        if name not in self._tensors:
            raise UserError(f"{self.path} has no tensor {name}: it is not a whole model")
        return self._tensors[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensor(name).shape))

    def dtype(self, name: str) -> str:
        """The type of a tensor, F32 for every quantised one."""
        kind = self._tensor(name).tensor_type.name
        return kind if kind in DTYPES else "F32"

    def row_blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Float32 blocks of consecutive rows; raises UserError for another shape or numbers not finite."""
        stored = self.shape(name)
        if stored != shape:
            raise UserError(
                f"tensor {name} has shape {stored} where the keys of {self.path} ask for {shape}"
            )
        rows = max(1, ROWS_AT_ONCE // max(1, int(np.prod(shape[1:]))))
        conversion, head = CONVERSIONS[self._decoder.model_type], self._decoder.head_dim
        pairs = conversion.rotates_pairs and name.endswith(("q_proj.weight", "k_proj.weight"))
        if pairs:
            rows = max(1, rows // head) * head
        for start in range(0, shape[0], rows):
            block = self._values(name, start, min(start + rows, shape[0]))
            if pairs:
                block = halves(block, head)
            elif name.endswith("norm.weight"):
                factor = query_factor(self._decoder) if name.endswith("q_norm.weight") else 1.0
                block = block / np.float32(factor) - np.float32(self._decoder.norm_offset)
            if not np.isfinite(block).all():
                raise UserError(f"tensor {name} of {self.path} has NaN or infinite weights: it is damaged")
            yield block

    def _values(self, name: str, start: int, stop: int) -> Array:
        """Rows of a tensor as float32, as the file has them."""
        tensor = self._tensor(name)
        try:
            values = gguf_package().dequantize(tensor.data[start:stop], tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(
                f"{self.path} stores {name} as {tensor.tensor_type.name}, which the gguf package cannot "
                "dequantise: take a file of another precision"
            ) from error
        block = np.array(values, np.float32, order="C")
        self._map.madvise(mmap.MADV_DONTNEED)  # the block is read: its pages need not stay
        return block

    def whole_folder(self) -> Path:
        """The temporary folder, now with the dequantised weights in float32 as well."""
        places: dict[str, str] = {}
        groups: dict[str, list[str]] = {}
        for name in self.names():
            groups.setdefault(name.split(".")[2] if ".layers." in name else "rest", []).append(name)
        for group, names in groups.items():
            file = f"model-{group}.safetensors"
            save_file({name: self.tensor(name, self.shape(name)) for name in names}, self.folder / file)
            places |= dict.fromkeys(names, file)
        index = {"metadata": {}, "weight_map": places}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        return self.folder

    def sha256(self) -> str:
        """A digest of the file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def halves(rows: Array, head_dim: int) -> Array:
    """Rows [heads * head_dim, D] of queries or keys, from pairs (llama.cpp) to halves (transformers)."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(rows.shape)
