"""A known model's name where an artifact is expected: it is built once, into the user's own folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from edge.artifact import MANIFEST_NAME, Artifact
from edge.backends.gguf_file import open_artifact
from edge.backends.onnx import check_graph
from edge.cli.common import errors, print_note
from edge.cli.processes import run_command
from edge.cli.terminal import escaped
from edge.errors import UserError
from edge.files import alone
from edge.precision import INT8
from edge.registry import RegistryEntry, read_registry
from edge.version import __version__

DEFAULT = INT8  # the precision that a name alone stands for
LOCK_NAME = ".building.lock"
STDERR = 2  # standard output is the command's own


def open_named(given: Path) -> Artifact:
    """Opens an artifact folder or a GGUF file, or the artifact of a known model, built where it is missing.

    A path that exists is taken as one. Raises UserError when it cannot be used, typer.Exit when the build
    fails, which has then said why.
    """
    return open_artifact(located(given))


def located(given: Path) -> Path:
    """The path itself, or the folder of a known model's artifact once it is built."""
    if given.exists():
        return given
    entry = read_registry().get(str(given))
    if entry is None:
        return given
    folder = entry.kept / DEFAULT
    if not whole(folder):
        with alone(entry.kept / LOCK_NAME, lambda: say_waiting(entry)):
            if not whole(folder):  # another process has just built it
                build(entry, folder)
    note_version(folder)
    return folder


def whole(folder: Path) -> bool:
    """Whether an artifact is there, of a version that is still run, with all its files in their sizes;
    `open_artifact` checks their sums."""
    try:
        check_graph(Artifact.open(folder, verify=False))
    except UserError:  # none yet, or one that has to be built again
        return False
    return True


def build(entry: RegistryEntry, folder: Path) -> None:
    """Builds the artifact, replacing one that is not whole; shows the command as `edge demo` does."""
    print_note(f"{entry.model_id} is not built here yet: its {DEFAULT} is built now, once")
    command = ["edge-export", "build", entry.model_id, "--to", DEFAULT, "--out", str(folder.parent)]
    if (folder / MANIFEST_NAME).is_file():
        command.append("--force")
    errors.print(f"$ {escaped(shlex.join(command))}", style="bold", markup=False, soft_wrap=True)
    run_command(command, output=STDERR)


def say_waiting(entry: RegistryEntry) -> None:
    """Says once why nothing happens for a while."""
    print_note(f"another process is building {entry.model_id}: waiting for it")


def note_version(folder: Path) -> None:
    """Says which version built the artifact, where it was another one."""
    built_by = Artifact.open(folder, verify=False).manifest.versions.get("edgetrace", "")
    if built_by != __version__:
        print_note(
            f"{folder} was built by Edgetrace {built_by}: remove it to have it built by {__version__}"
        )
