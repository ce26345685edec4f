"""Fetches a model of the hub at one commit; checks access and space before any large download.

Files go to huggingface_hub's own cache, so that what transformers has fetched is not fetched again. Small
files come first and weights last: a snapshot whose weights are whole is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from edge.errors import UserError
from edge.registry import RegistryEntry
from export.checkpoint import read_json
from export.download import Agree, Download, check_large, refuse
from export.facts import differences
from export.hub_client import Hub, NotReachedError, RemoteFile

WHOLE_WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
NEEDED = ("config.json", "tokenizer.json")
# All that a build or transformers' tokenizer may read beside the weights; nothing here is ever unpickled.
SMALL_FILES = (
    *NEEDED,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
TRUE = ("1", "ON", "YES", "TRUE")  # as the library reads its switches


@dataclass(frozen=True)
class Downloaded:
    """A whole snapshot: `revision` is its commit (40 hex digits), `differences` come from export.facts."""

    hub: str
    revision: str
    folder: Path
    differences: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight files that count: what a build's own disk and memory can be estimated from."""
        names = weight_names([path.name for path in self.folder.iterdir()], self.folder)
        return sum((self.folder / name).stat().st_size for name in names)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def fetch(
    entry: RegistryEntry,
    *,
    cache: Path | None = None,
    revision: str | None = None,
    on_file: Callable[[str, int], None] = lambda name, size: None,
    agree: Agree = refuse,
    free: Callable[[Path], int] = free_bytes,
) -> Downloaded:
    """The files of a registry model at `revision` (default: the head of main, resolved once to its commit).

    `on_file` takes name and size in bytes of each file before it is fetched; `agree` decides on a large
    download; `free` measures the disk in bytes. Reads HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and
    HF_HUB_OFFLINE.

    Raises UserError when the model is unknown or gated, the hub is not reached, the disk is too small,
    or a download breaks off. The same call then goes on where that one stopped.
    """
    if not entry.hub:
        raise UserError(f"{entry.model_id} is {entry.source}, not on the hub: build it by its id")
    try:
        cache = (cache or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
    except RuntimeError:
        raise UserError("there is no home folder to keep downloads in: set HOME or HF_HOME") from None
    wanted = revision or constants.DEFAULT_REVISION
    here = cached(entry, cache, wanted)
    if offline():
        if here is None:
            at = f" at {revision}" if revision else ""
            raise UserError(
                f"{entry.hub}{at} is not whole in {cache} and HF_HUB_OFFLINE is set: unset it to download "
                "the model"
            )
        return here
    hub = Hub(entry.hub, cache)
    try:
        commit, files = hub.listing(wanted)
    except NotReachedError as error:
        if here is not None and here.revision == revision:
            return here  # a commit never changes, so nothing is lost by not asking
        hint = ", or set HF_HUB_OFFLINE=1 to take the copy in the cache" if here else ""
        raise UserError(f"{error}: check the network{hint}") from error
    refuse_missing(entry.hub, commit, files, NEEDED)
    with plain_http():
        # A gated model's listing is open to all: its first file is where it is refused. The index says which
        # weights count.
        first = (
            ["config.json"] if WHOLE_WEIGHTS in files else ["config.json", *files.keys() & {WEIGHTS_INDEX}]
        )
        for name in first:
            folder = hub.file(files[name], commit, on_file).parent
        weights = weight_names(files, folder)
        if not weights:
            raise UserError(
                f"{entry.hub} has no {WHOLE_WEIGHTS} and no {WEIGHTS_INDEX}: only safetensors weights are "
                "read"
            )
        refuse_missing(entry.hub, commit, files, weights)
        rest = [files[name] for name in (*SMALL_FILES, *weights) if name in files and name not in first]
        hub.check_disk(rest, commit, free)
        to_come = hub.missing_bytes(rest, commit)
        check_large(Download(entry.model_id, to_come, entry.licence, hub.page, cache), agree)
        for file in rest:
            hub.file(file, commit, on_file)
    remember(folder, wanted)
    return downloaded(entry, folder)


def refuse_missing(hub: str, commit: str, files: Mapping[str, RemoteFile], names: Iterable[str]) -> None:
    if lost := [name for name in names if name not in files]:
        raise UserError(f"{hub} has no {', '.join(lost)} at {commit}: it cannot be built from the hub")


def weight_names(names: Iterable[str], folder: Path) -> list[str]:
    """The weight files that export.checkpoint reads: the one file, or those the index in `folder` lists."""
    if WHOLE_WEIGHTS in names:
        return [WHOLE_WEIGHTS]
    if not (folder / WEIGHTS_INDEX).is_file():
        return []
    weight_map = read_json(folder / WEIGHTS_INDEX).get("weight_map")
    return sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []


def cached(entry: RegistryEntry, cache: Path, ref: str) -> Downloaded | None:
    """The snapshot of a branch, tag or commit that lies whole in the cache, without a request."""
    config = try_to_load_from_cache(entry.hub, "config.json", cache_dir=cache, revision=ref)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    weights = weight_names([path.name for path in folder.iterdir()], folder)
    whole = bool(weights) and all((folder / name).is_file() for name in (*NEEDED, *weights))
    return downloaded(entry, folder) if whole else None


def downloaded(entry: RegistryEntry, folder: Path) -> Downloaded:
    generation = folder / "generation_config.json"
    sentences = differences(
        entry, read_json(folder / "config.json"), read_json(generation) if generation.is_file() else {}
    )
    return Downloaded(entry.hub, folder.name, folder, tuple(sentences))


def remember(folder: Path, ref: str) -> None:
    """Writes the commit of a branch or tag where the library and `cached` look without a network."""
    if ref == folder.name:
        return
    path = folder.parent.parent / "refs" / ref
    with suppress(OSError):  # only a later offline call without a revision would miss it
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(folder.name, encoding="utf-8")


def offline() -> bool:
    return any(
        os.environ.get(name, "").upper() in TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


@contextmanager
def plain_http() -> Iterator[None]:
    """Keeps hf_xet out unless the user asks for it: it starts a broken download from the beginning (xet-core
    issue 358)."""
    before = constants.HF_HUB_DISABLE_XET
    if "HF_HUB_DISABLE_XET" not in os.environ:
        constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
