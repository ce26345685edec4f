"""A checkpoint folder in the hub's layout, read one tensor at a time.

Tensors are memory-mapped by safetensors and come as float32 row blocks, so that nothing holds the whole
model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import ml_dtypes  # noqa: F401  (registers bfloat16 with numpy, which safetensors needs for BF16 slices)
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from edge.errors import UserError
from edge.fields import parse_json
from edge.paths import utf8_name

Array = npt.NDArray[np.float32]
DTYPES = ("BF16", "F16", "F32")
ROWS_AT_ONCE = 1 << 24  # elements of one float32 block: 64 MB


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises UserError when the file is missing or is not one."""
    try:
        value = parse_json(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode()  # fails for half a character, which no file can hold
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: a checkpoint folder needs config.json, tokenizer.json and safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object: download it again")
    return value


def check_parts(paths: list[Path]) -> None:
    """Raises UserError that names the first missing part of files called NAME-00001-of-00003.safetensors."""
    for path in paths:
        if part := re.fullmatch(r"(.*)-(\d+)-of-(\d+)", path.stem):
            name, place, count = part.groups()
            for i in range(1, int(count) + 1):
                other = path.with_name(f"{name}-{i:0{len(place)}}-of-{count}.safetensors")
                if other not in paths:
                    raise UserError(f"{other} is missing beside {path.name}: download it")


class Checkpoint:
    """Weights, config and tokenizer of one folder. A context manager: leaving it closes the maps.

    Raises UserError when a file is missing, cut, or holds a type that is not BF16, F16 or F32.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(
                f"no checkpoint folder at {folder}: give a folder with config.json and *.safetensors"
            )
        self.folder = folder
        self.tensor_types: dict[str, int] = {}  # of a GGUF file; a checkpoint's are in its own files
        self.config = read_json(folder / "config.json")
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        try:
            for path in self._weight_files():
                try:
                    handle = self._stack.enter_context(
                        safe_open(self._stack.enter_context(utf8_name(path)), framework="np")
                    )
                except SafetensorError as error:
                    raise UserError(
                        f"{path} is not a whole safetensors file ({error}): download it again"
                    ) from error
                for name in handle.keys():  # noqa: SIM118  (not a dict: it has no iterator)
                    self._files[name] = handle
        except BaseException:
            self._stack.close()
            raise

    def _weight_files(self) -> list[Path]:
        whole = self.folder / "model.safetensors"
        if whole.is_file():  # as transformers chooses: the one file, then what the index lists
            return [whole]
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            if not isinstance(weight_map, dict):
                raise UserError(f"{index} has no weight_map: download it again")
            paths = [self.folder / Path(str(name)).name for name in sorted(set(weight_map.values()))]
        else:
            paths = sorted(self.folder.glob("*.safetensors"))
            check_parts(paths)
        if not paths:
            raise UserError(f"{self.folder} has no *.safetensors file: only safetensors weights are read")
        for path in paths:
            if not path.is_file():
                raise UserError(f"{path} is missing though {index.name} names it: download it")
        return paths

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def names(self) -> list[str]:
        return sorted(self._files)

    def _slice(self, name: str) -> Any:
        if name not in self._files:
            raise UserError(
                f"{self.folder} has no tensor {name}: the checkpoint does not match its config.json"
            )
        part = self._files[name].get_slice(name)
        if part.get_dtype() not in DTYPES:
            raise UserError(
                f"tensor {name} has type {part.get_dtype()}; the types read are {', '.join(DTYPES)}"
            )
        return part

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The type of a tensor, one of DTYPES."""
        return str(self._slice(name).get_dtype())

    def row_blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        """Float32 blocks of consecutive rows; raises UserError for another shape or numbers not finite."""
        part = self._slice(name)
        self.check_shape(name, shape)
        rows = max(1, ROWS_AT_ONCE // max(1, int(np.prod(shape[1:]))))
        for start in range(0, shape[0], rows):
            block = np.ascontiguousarray(part[start : min(start + rows, shape[0])], dtype=np.float32)
            if not np.isfinite(block).all():
                raise UserError(f"tensor {name} has NaN or infinite weights: the checkpoint is damaged")
            yield block

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Raises UserError when the tensor is missing, or of another type or shape."""
        if (stored := self.shape(name)) != shape:
            raise UserError(f"tensor {name} has shape {stored} where config.json asks for {shape}")

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        """The whole tensor as float32."""
        return np.concatenate(list(self.row_blocks(name, shape)))

    def whole_folder(self) -> Path:
        """A folder from which transformers loads the model."""
        return self.folder

    def sha256(self) -> str:
        """A digest over config and weights: it tells whether two artifacts came from the same checkpoint."""
        digest = hashlib.sha256()
        for path in [self.folder / "config.json", *self._weight_files()]:
            digest.update(path.name.encode())
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()
