"""The compiled tap callback beside Python's own."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

from edge.backends.llama_callback import SOURCE, CompiledPass, Pass, Stop, compiled_callback, stop_array


def test_both_sides_lay_the_structures_out_alike(tmp_path):
    """Sizes and every offset, as the compiler has them."""
    fields = [
        (name, kind, field) for name, kind in (("pass", Pass), ("stop", Stop)) for field, *_ in kind._fields_
    ]
    prints = "".join(f'printf("%zu ", offsetof(struct {name}, {field}));' for name, _, field in fields)
    main = f'#include <stdio.h>\n#include <stddef.h>\n#include "{SOURCE}"\n'
    main += f"int main(void) {{ {prints} "
    main += 'printf("%zu %zu", sizeof(struct pass), sizeof(struct stop)); return 0; }'
    (tmp_path / "layout.c").write_text(main)
    subprocess.run(
        [
            shutil.which("cc"),
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            tmp_path / "layout",
            tmp_path / "layout.c",
        ],
        check=True,
    )
    said = [int(number) for number in subprocess.check_output([tmp_path / "layout"], text=True).split()]
    assert said == [getattr(kind, field).offset for _, kind, field in fields] + [
        ctypes.sizeof(Pass),
        ctypes.sizeof(Stop),
    ]


def test_it_asks_python_while_learning_and_wants_nothing_at_rest():
    kind = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)
    heard = []

    def hear(tensor, ask, data):
        heard.append((tensor, ask))
        return tensor == 8

    python = kind(hear)
    one = CompiledPass(
        ctypes.cast(python, ctypes.c_void_p).value,
        heads=1,
        stream_bytes=4,
        attention=0,
        capacity=0,
        hidden=0,
        name_at=0,
        data_at=0,
        sizes_at=0,
    )
    call = kind(compiled_callback().address)
    assert [call(8, True, one.address), call(9, True, one.address)] == [True, False]
    assert heard == [(8, True), (9, True)]
    one.rest()
    assert call(8, True, one.address) is False
    assert call(8, False, one.address) is True  # data that nobody asked for: go on
    one.begin(stop_array([(16, b"a", 0, 24, b"b", 0)]), 1)
    assert [call(tensor, True, one.address) for tensor in (8, 16, 24)] == [False, True, False]
    assert len(heard) == 2
    one.learn()
    assert call(8, True, one.address) is True
    assert len(heard) == 3
