"""A terminal emulator to look into (tmux), and a model that never ends and says what a terminal should not
be told."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer

from export.build import build
from tests import models
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
PATIENCE = 90.0  # seconds, on a machine that does much else
# What a hostile or unlucky answer may hold: clear the screen, set the title, turn the text round, two
# columns wide, combining.
SAYINGS = ("\x1b[2J", "\x1b]0;owned\x07", "\u202e", "漢字", "e\u0301", "🙂")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|38|9[0-7])[;m]")


def environment(**more: str) -> dict[str, str]:
    """A plain one: UTF-8, 256 colours, this tree's package, nothing that steers colours from outside."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
    }
    return (
        kept | {"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", "PATH": f"{BIN}:{os.environ['PATH']}"} | more
    )


def wait_for(look: Callable[[], Any], what: str) -> Any:
    """What `look` gives, once it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come in {PATIENCE:g} s"
        time.sleep(0.03)
    return found


class Terminal:
    """A shell in a terminal of 80 columns and 24 lines. A context manager."""

    def __init__(self, **variables: str) -> None:
        if shutil.which("tmux") is None:
            reason = "tmux is not installed: apt-get install tmux"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        self._folder = tempfile.mkdtemp(prefix="edge-tmux-")  # a socket's path must be short
        self._variables = environment(PS1="$ ", **variables)
        for name in ("NO_COLOR", "TMUX"):
            if name not in variables:
                self._variables.pop(name, None)

    def __enter__(self) -> Terminal:
        self._tmux(
            "-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "bash", "--norc", "--noprofile"
        )
        wait_for(lambda: self.text().startswith("$"), "a prompt")
        return self

    def __exit__(self, *exception: object) -> None:
        self._tmux("kill-server")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-u", "-S", f"{self._folder}/socket", *words]
        done = subprocess.run(
            command, env=self._variables, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def type(self, *words: str) -> None:
        """A command, in the shell."""
        self._tmux("send-keys", "-l", f"clear; {shlex.join(words)}; echo ended-$?")
        self.press("Enter")

    def press(self, key: str) -> None:
        self._tmux("send-keys", key)

    def keys(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def resize(self, width: int, height: int) -> None:
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def text(self) -> str:
        """What is on the screen."""
        return self._tmux("capture-pane", "-p")

    def until(self, *words: str) -> str:
        """What is on the screen once it says all of this."""

        def look() -> str:
            text = self.text()
            return text if all(word in text for word in words) else ""

        return str(wait_for(look, " and ".join(words)))

    def styled(self) -> str:
        """The same with its colours as escape codes."""
        return self._tmux("capture-pane", "-p", "-e")

    def scrolled(self) -> str:
        """All lines since the terminal was cleared, those that were wrapped joined."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-")

    def state(self) -> dict[str, str]:
        """Whether the cursor is shown, lines are wrapped, the other screen is on; and the title."""
        names = ("cursor_flag", "wrap_flag", "alternate_on", "pane_title")
        values = (
            self._tmux("display-message", "-p", "\t".join(f"#{{{name}}}" for name in names))
            .rstrip("\n")
            .split("\t")
        )
        return dict(zip(names, values, strict=True))

    def ended(self) -> int:
        """Waits for the command's end; its exit code."""
        found = wait_for(lambda: re.search(r"ended-(\d+)\n", self.text()), "the command's end")
        return int(found[1])

    def is_sane(self) -> bool:
        """After a command: cursor shown, lines wrapped, no colour left on."""
        state = self.state()
        (line,) = [line for line in self.styled().splitlines() if "ended-" in line]
        before, _, after = line.partition("ended-")
        plain = COLOUR.search(before.rsplit("\x1b[39m", 1)[-1]) is None and "\x1b[" not in after
        return plain and (state["cursor_flag"], state["wrap_flag"], state["alternate_on"]) == ("1", "1", "0")

    def assert_sane(self) -> None:
        assert self.is_sane(), (self.state(), self.styled())


def write_talker(folder: Path, context: int = 8192) -> Path:
    """An artifact of random weights that goes on to the end of its context and often says one of SAYINGS.

    Dimension 0 of its residual stream is the same large number everywhere, so that the head's column 0 is a
    bias by token.
    """
    config = models.config_of(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        head_dim=64,
        max_position_embeddings=context,
        tie_word_embeddings=False,
    )
    weights = models.tensors(config)
    weights["model.embed_tokens.weight"][:, 0] = 100.0
    weights["model.norm.weight"][0] = 1.0
    for name, tensor in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[0] = 0.0
    head = weights["lm_head.weight"]
    head *= 0.5
    head[:, 0] = 0.0
    head[: len(models.SPECIALS), 0] = -20.0
    checkpoint = models.write_checkpoint(folder / "checkpoint", config)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in SAYINGS])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    said = [tokenizer.token_to_id(text) for text in SAYINGS]
    head[said] = 0.0
    head[said, 0] = 7.0
    save_file(weights, checkpoint / "model.safetensors")
    return build(str(checkpoint), ["onnx-fp32"], folder / "built", context=context)[0].artifact.path


def objects(lines: str) -> list[dict]:
    """JSON lines."""
    return [json.loads(line) for line in lines.splitlines()]
