"""The head of a GGUF file, read by llama.cpp's own parser: keys, values and tensors, without weights."""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from edge.backends.llama_library import captured_log, llama_cpp
from edge.errors import UserError

MAGIC = b"GGUF"
NEWEST_VERSION = 9  # more than there are
# First bytes of llama.cpp's formats before GGUF.
OLD_MAGIC = {b"lmgg", b"fmgg", b"tjgg", b"algg"}
BOOL, STRING, ARRAY = 7, 8, 9  # gguf_type
# gguf_type -> how the value is called and what it is in C.
SCALAR_TYPES = {
    0: ("u8", ctypes.c_uint8),
    1: ("i8", ctypes.c_int8),
    2: ("u16", ctypes.c_uint16),
    3: ("i16", ctypes.c_int16),
    4: ("u32", ctypes.c_uint32),
    5: ("i32", ctypes.c_int32),
    6: ("f32", ctypes.c_float),
    BOOL: ("bool", ctypes.c_bool),
    10: ("u64", ctypes.c_uint64),
    11: ("i64", ctypes.c_int64),
    12: ("f64", ctypes.c_double),
}
POINTER, INDEX = ctypes.c_void_p, ctypes.c_int64


def check_version(path: Path, head: bytes) -> None:
    """Raises UserError for a GGUF file that llama.cpp does not read; `head` are its first 8 bytes."""
    if head[:4] in OLD_MAGIC:
        raise UserError(
            f"{path} is in a format before GGUF: convert the model again, or download it as GGUF"
        )
    if len(head) < 8 or not head.startswith(MAGIC):
        return
    version, swapped = (int.from_bytes(head[4:], order) for order in ("little", "big"))
    if 0 < swapped <= NEWEST_VERSION < version:
        raise UserError(
            f"{path} is a big-endian GGUF file and this machine reads little-endian ones: turn it around "
            "with gguf-py's 'gguf-convert-endian', or download the other form"
        )
    if version == 1:
        raise UserError(
            f"{path} is GGUF version 1, which llama.cpp no longer reads: convert the model again"
        )


class InitParams(ctypes.Structure):
    """gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


class TensorEntry(NamedTuple):
    """A tensor of a file: type in ggml's capitals (F32, Q4_K), place in the data section, size in bytes."""

    name: str
    type: str
    offset: int
    size: int


class Header:
    """A context manager over the head of one file.

    Raises UserError when the file is no GGUF file, when its head is damaged, or when it is shorter than its
    head says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                head = stream.read(8)
        except OSError as error:
            raise UserError(f"cannot read {path} ({error.strerror or error}): give a GGUF file") from error
        check_version(path, head)
        if not head.startswith(MAGIC):
            raise UserError(
                f"{path} is not a GGUF file (it does not begin with GGUF): give one, or an artifact folder"
            )
        self._ggml = llama_cpp()._lib
        with captured_log() as log:
            self._context = self._call("gguf_init_from_file", POINTER, (ctypes.c_char_p, InitParams))(
                os.fsencode(path), InitParams(True, None)
            )
        if not self._context:
            raise UserError(f"{path} is a damaged GGUF file ({log.first()}): download it or build it again")
        self._check_size()

    def __enter__(self) -> Header:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call("gguf_free", None, (POINTER,))(self._context)

    def _call(self, name: str, result: Any, arguments: tuple[Any, ...]) -> Callable[..., Any]:
        function = getattr(self._ggml, name)
        function.restype, function.argtypes = result, arguments
        return function  # type: ignore[no-any-return]

    def _at(self, name: str, result: Any, *index: int) -> Any:
        return self._call(name, result, (POINTER, *(INDEX for _ in index)))(self._context, *index)

    def _check_size(self) -> None:
        start = self._at("gguf_get_data_offset", ctypes.c_size_t)
        needed = max((start + entry.offset + entry.size for entry in self.tensors()), default=start)
        size = self.path.stat().st_size
        if size < needed:
            raise UserError(
                f"{self.path} has {size} bytes of the {needed} that it should have: download it or build it "
                "again"
            )

    def tensors(self) -> Iterator[TensorEntry]:
        name_of = self._call("ggml_type_name", ctypes.c_char_p, (ctypes.c_int,))
        for i in range(self._at("gguf_get_n_tensors", INDEX)):
            yield TensorEntry(
                self._at("gguf_get_tensor_name", ctypes.c_char_p, i).decode("utf-8", "replace"),
                name_of(self._at("gguf_get_tensor_type", ctypes.c_int, i)).decode().upper(),
                self._at("gguf_get_tensor_offset", ctypes.c_size_t, i),
                self._at("gguf_get_tensor_size", ctypes.c_size_t, i),
            )

    def tensor_types(self) -> dict[str, int]:
        """Number of tensors of each type."""
        return dict(Counter(entry.type for entry in self.tensors()))

    def keys(self) -> list[str]:
        count = self._at("gguf_get_n_kv", INDEX)
        return [
            self._at("gguf_get_key", ctypes.c_char_p, i).decode("utf-8", "replace") for i in range(count)
        ]

    def value(self, key: str) -> Any:
        """A number, bool, string or list of them; None without the key. Bytes not in UTF-8 are replaced."""
        index = self._call("gguf_find_key", INDEX, (POINTER, ctypes.c_char_p))(self._context, key.encode())
        if index < 0:
            return None
        kind = self._at("gguf_get_kv_type", ctypes.c_int, index)
        if kind == STRING:
            return self._at("gguf_get_val_str", ctypes.c_char_p, index).decode("utf-8", "replace")
        if kind == ARRAY:
            return self._array(index)
        name, c_type = SCALAR_TYPES[kind]
        return self._at(f"gguf_get_val_{name}", c_type, index)

    def _array(self, index: int) -> list[Any]:
        kind = self._at("gguf_get_arr_type", ctypes.c_int, index)
        count = self._at("gguf_get_arr_n", ctypes.c_size_t, index)
        if kind == STRING:
            get = self._call("gguf_get_arr_str", ctypes.c_char_p, (POINTER, INDEX, ctypes.c_size_t))
            return [get(self._context, index, i).decode("utf-8", "replace") for i in range(count)]
        if kind == ARRAY:
            raise UserError(
                f"{self.path} has a list of lists among its keys, which no known model has: download it "
                "again"
            )
        if not count:
            return []
        address = self._at("gguf_get_arr_data", POINTER, index)
        return list((SCALAR_TYPES[kind][1] * count).from_address(address))
