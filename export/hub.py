"""A model of the hub, fetched at one commit, with everything that stands in its way said before anything
heavy starts.

Files go to huggingface_hub's own cache, so that what transformers has fetched is not fetched again. Small
files come first and weights last: a snapshot whose weights are whole is whole.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import edge
from edge.errors import UserError
from edge.registry import RegistryEntry
from export.checkpoint import read_json
from export.tokenizer import id_list

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
ATTEMPTS = 5  # for one file, each taking up where the last one broke off
FIRST_PAUSE_S = 0.5  # before the second attempt; doubled before each further one
TIMEOUT_S = 15.0  # for the hub's answer about the model
DISK_MARGIN = 200_000_000  # bytes left free for the file system and others
COMMIT = re.compile(r"[0-9a-f]{40}")
TRUE = ("1", "ON", "YES", "TRUE")  # as the library reads its switches


class RemoteFile(NamedTuple):
    """One file of a commit: `size` in bytes, `sha256` as the hub states it ("" for small files kept in
    git)."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Downloaded:
    """A whole snapshot: `revision` is its commit (40 hex digits), `differences` are those of
    check_config."""

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
    free: Callable[[Path], int] = free_bytes,
) -> Downloaded:
    """The files of a registry model at `revision`; without one, at the head of main, resolved once to its
    commit.

    `on_file` hears name and size in bytes of each file before it is fetched; `free` measures the disk in
    bytes. Reads HF_TOKEN, HF_ENDPOINT, HF_HUB_CACHE and HF_HUB_OFFLINE. Raises UserError when the model is
    unknown or gated, the hub is not reached, the disk is too small, or a download breaks off; the same call
    then goes on where that one stopped.
    """
    if not entry.hub:
        raise UserError(f"{entry.model_id} is embedded, not on the hub: build it by its id")
    cache = (cache or Path(constants.HF_HUB_CACHE)).expanduser().absolute()
    wanted = revision or constants.DEFAULT_REVISION
    here = cached(entry, cache, wanted)
    if offline():
        if here is None:
            at = f" at {revision}" if revision else ""
            raise UserError(
                f"{entry.hub}{at} is not whole in {cache} and HF_HUB_OFFLINE is set: unset it to download "
                f"the model"
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
                f"read"
            )
        refuse_missing(entry.hub, commit, files, weights)
        rest = [files[name] for name in (*SMALL_FILES, *weights) if name in files and name not in first]
        hub.check_disk(rest, commit, free)
        for file in rest:
            hub.file(file, commit, on_file)
    remember(folder, wanted)
    return downloaded(entry, folder)


def refuse_missing(hub: str, commit: str, files: Mapping[str, RemoteFile], names: Iterable[str]) -> None:
    if lost := [name for name in names if name not in files]:
        raise UserError(f"{hub} has no {', '.join(lost)} at {commit}: it cannot be built from the hub")


def weight_names(names: Iterable[str], folder: Path) -> list[str]:
    """The weight files that count, as export.checkpoint chooses them: the one file, or those the index in
    `folder` lists."""
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
    differences = check_config(
        entry, read_json(folder / "config.json"), read_json(generation) if generation.is_file() else {}
    )
    return Downloaded(entry.hub, folder.name, folder, tuple(differences))


def remember(folder: Path, ref: str) -> None:
    """Writes which commit a branch or tag stood for, where the library and `cached` look when there is no
    network."""
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


class NotReachedError(Exception):
    """The hub gave no answer, or none that is a hub's; its text says where and why."""


def transport_errors() -> tuple[type[Exception], ...]:
    """What a request that breaks off raises: requests under huggingface_hub 0, httpx under 1, httpx2 under
    2, hf_xet."""
    found: list[type[Exception]] = [ConnectionError, TimeoutError, RuntimeError]
    for module, name in (("requests", "RequestException"), ("httpx", "HTTPError"), ("httpx2", "HTTPError")):
        with suppress(ImportError):
            found.append(getattr(importlib.import_module(module), name))
    return tuple(found)


TRANSPORT = transport_errors()


class Hub:
    """One model at the endpoint that HF_ENDPOINT names, and the cache its files go to."""

    def __init__(self, model: str, cache: Path) -> None:
        self.model = model
        self.cache = cache
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.page = f"{self.endpoint}/{model}"
        self.api = HfApi(endpoint=self.endpoint, library_name="edgetrace", library_version=edge.__version__)

    def listing(self, ref: str) -> tuple[str, dict[str, RemoteFile]]:
        """Commit and files of a branch, tag or commit; raises UserError, or NotReachedError when no hub
        answers."""
        try:
            info = self.api.model_info(self.model, revision=ref, files_metadata=True, timeout=TIMEOUT_S)
            siblings = info.siblings or []
        except HfHubHTTPError as error:
            raise self.refusal(error, ref) from error
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ) as error:  # a portal's page where the hub's JSON should be
            raise NotReachedError(
                f"{self.endpoint} does not answer as a model hub does ({type(error).__name__})"
            ) from error
        except TRANSPORT as error:
            raise NotReachedError(f"no answer from {self.endpoint} ({reason(error)})") from error
        if not COMMIT.fullmatch(info.sha or ""):
            raise NotReachedError(f"{self.endpoint} names no commit for {self.model}")
        files = [RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "") for s in siblings]
        return str(info.sha), {file.name: file for file in files}

    def required_bytes(self, files: Iterable[RemoteFile], commit: str) -> int:
        """Disk that fetching `files` still takes, margin included; 0 when all are in the cache."""
        missing = sum(file.size - self.begun(file) for file in files if not self.has(file, commit))
        return missing + DISK_MARGIN if missing else 0

    def check_disk(self, files: Iterable[RemoteFile], commit: str, free: Callable[[Path], int]) -> None:
        """Raises UserError when what is still to come does not fit."""
        required = self.required_bytes(files, commit)
        if required and required > (left := free(self.cache)):
            raise UserError(
                f"{self.model} needs {gigabytes(required)} in {self.cache} and {gigabytes(left)} are free: "
                "free space, or set HF_HUB_CACHE to a folder on another disk"
            )

    def has(self, file: RemoteFile, commit: str) -> bool:
        return isinstance(
            try_to_load_from_cache(self.model, file.name, cache_dir=self.cache, revision=commit), str
        )

    def begun(self, file: RemoteFile) -> int:
        """Bytes of a download that broke off: they are on the disk already."""
        blobs = self.cache / f"models--{self.model.replace('/', '--')}" / "blobs"
        with suppress(OSError):
            return min(file.size, (blobs / f"{file.sha256}.incomplete").stat().st_size)
        return 0

    def file(self, file: RemoteFile, commit: str, on_file: Callable[[str, int], None]) -> Path:
        """The file in the cache, fetched when it is not there; raises UserError when that fails ATTEMPTS
        times."""
        fresh = not self.has(file, commit)
        if fresh:
            on_file(file.name, file.size)
        afresh = False
        trouble: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                path = Path(
                    self.api.hf_hub_download(
                        self.model, file.name, revision=commit, cache_dir=self.cache, force_download=afresh
                    )
                )
            except LocalEntryNotFoundError as error:  # the library's word for a request that got no answer
                trouble = error
            except HfHubHTTPError as error:
                status = status_of(error)
                if status == 416:  # what is on the disk is longer than the file: two processes wrote to it
                    afresh = True
                elif status != 429 and status < 500:
                    raise self.refusal(error, commit) from error
                trouble = error
            except TRANSPORT as error:
                trouble = error
            except OSError as error:
                if error.strerror:
                    raise UserError(
                        f"cannot write to {self.cache} ({error.strerror}): set HF_HUB_CACHE to another "
                        f"folder"
                    ) from error
                trouble = error  # a size that differs
            else:
                if fresh:
                    refuse_damage(path, file)
                return path
        raise UserError(
            f"the download of {file.name} of {self.model} broke off ({reason(trouble)}): "
            "run the same command again, it goes on where this one stopped"
        ) from trouble

    def refusal(self, error: HfHubHTTPError, ref: str) -> UserError:
        """The hub's refusal in one sentence. Gated before unknown: the library derives the one from the
        other."""
        token = get_token() is not None
        if isinstance(error, GatedRepoError) and token:
            return UserError(
                f"{self.model} is gated and the account of HF_TOKEN has no access: accept the licence at "
                f"{self.page} with it, "
                "and let the token read gated repositories"
            )
        if isinstance(error, GatedRepoError):
            return UserError(
                f"{self.model} is gated: accept its licence at {self.page} and set HF_TOKEN to a token of "
                f"that account"
            )
        if isinstance(error, RevisionNotFoundError):
            return UserError(f"{self.model} has no revision {ref}: see {self.page}/commits/main")
        if isinstance(error, RepositoryNotFoundError):
            hint = "" if token else ", and set HF_TOKEN if it is private"
            return UserError(f"the hub has no model {self.model} at {self.page}: check its id{hint}")
        if status_of(error) == 401:
            return UserError(
                f"{self.endpoint} refuses HF_TOKEN: set it to a valid token, or unset it for models open to "
                f"all"
            )
        return UserError(f"{self.endpoint} answered {status_of(error)} for {self.model}: try again later")


def status_of(error: HfHubHTTPError) -> int:
    """0 where the library made the error itself."""
    return 0 if error.response is None else int(error.response.status_code)


def refuse_damage(path: Path, file: RemoteFile) -> None:
    """Removes a fetched file whose SHA-256 is not the hub's: a part written before a power cut may hold
    anything."""
    if not file.sha256:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{file.name} arrived damaged (SHA-256 differs from the hub's) and was removed: run the same "
            f"command again"
        )


def reason(error: BaseException | None) -> str:
    """The innermost cause in a few words: clients wrap "Connection refused" in several layers of their
    own."""
    words, seen = type(error).__name__, error
    while seen is not None:
        if "timeout" in type(seen).__name__.lower():
            words = "timed out"
        elif isinstance(seen, OSError) and seen.strerror:
            words = seen.strerror
        seen = seen.__cause__ or seen.__context__
    return words


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def check_config(
    entry: RegistryEntry, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> list[str]:
    """How config.json and generation_config.json differ from the registry, a sentence each; empty when they
    agree.

    Facts that the registry does not state are not compared.
    """
    expected: dict[str, Any] = {"model_type": entry.model_type}
    if entry.stop_ids:
        expected["stop_ids"] = sorted(entry.stop_ids)
    shape = entry.shape
    if shape is not None:
        expected |= vars(shape)
    found = config_facts(config, generation or {})
    return [
        f"{name} is {found.get(name)} in the downloaded configuration and {value} in the registry"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def config_facts(config: Mapping[str, Any], generation: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's facts under the registry's names, in transformers 4 and 5 forms; None where nothing
    is said."""
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    head_dim = config.get("head_dim")
    if head_dim is None and isinstance(hidden, int) and isinstance(heads, int) and heads:
        head_dim = hidden // heads  # the rule of the model types that leave it out
    gemma = str(config.get("model_type")).startswith("gemma")
    rope = section(config, "rope_parameters")
    theta = (section(rope, "full_attention") or rope).get("rope_theta", config.get("rope_theta"))
    local = section(rope, "sliding_attention").get("rope_theta", config.get("rope_local_base_freq"))
    scaling = section(config, "rope_scaling") or rope
    llama3 = scaling.get("rope_type", scaling.get("type")) == "llama3"
    windowed = config.get(
        "use_sliding_window", gemma
    )  # qwen configurations state a window that they switch off
    return {
        "model_type": config.get("model_type"),
        "stop_ids": sorted({*id_list(config.get("eos_token_id")), *id_list(generation.get("eos_token_id"))}),
        "layers": config.get("num_hidden_layers"),
        "hidden": hidden,
        "heads": heads,
        "kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": head_dim,
        "intermediate": config.get("intermediate_size"),
        "vocabulary": config.get("vocab_size"),
        "context": config.get("max_position_embeddings"),
        "tied": config.get("tie_word_embeddings", gemma),  # transformers' defaults differ by model_type
        "norm_eps": config.get("rms_norm_eps"),
        "rope_theta": theta,
        "local_rope_theta": (local or 0.0) if gemma else 0.0,
        "llama3_factor": scaling.get("factor", 0.0) if llama3 else 0.0,
        "window": (config.get("sliding_window") or 0) if windowed else 0,
    }


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested object, empty where there is none."""
    value = config.get(name)
    return value if isinstance(value, dict) else {}
