"""The hub's side of a download: one model at an endpoint, and its refusals in one sentence each."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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

ATTEMPTS = 5  # for one file, each taking up where the last one broke off
FIRST_PAUSE_S = 0.5  # before the second attempt; doubled before each further one
TIMEOUT_S = 15.0  # for the hub's answer about the model
DISK_MARGIN = 200_000_000  # bytes left free for the file system and others
COMMIT = re.compile(r"[0-9a-f]{40}")


class RemoteFile(NamedTuple):
    """A file of a commit: `size` in bytes, `sha256` as the hub states it ("" for files kept in git)."""

    name: str
    size: int
    sha256: str


class NotReachedError(Exception):
    """The hub gave no answer, or none that is a hub's; its text says where and why."""


def transport_errors() -> tuple[type[Exception], ...]:
    """Exceptions of a request that breaks off, by the library that raises them.

    They are those of requests under huggingface_hub 0, httpx under 1, httpx2 under 2, and of hf_xet.
    """
    types: list[type[Exception]] = [ConnectionError, TimeoutError, RuntimeError]
    for module, name in (("requests", "RequestException"), ("httpx", "HTTPError"), ("httpx2", "HTTPError")):
        with suppress(ImportError):
            types.append(getattr(importlib.import_module(module), name))
    return tuple(types)


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
        """Commit and files of a branch, tag or commit. Raises UserError or NotReachedError (no answer)."""
        try:
            info = self.api.model_info(self.model, revision=ref, files_metadata=True, timeout=TIMEOUT_S)
            siblings = info.siblings or []
        except HfHubHTTPError as error:
            raise self.refusal(error, ref) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # A portal's page where the hub's JSON should be.
            raise NotReachedError(
                f"{self.endpoint} does not answer as a model hub does ({type(error).__name__})"
            ) from error
        except TRANSPORT as error:
            raise NotReachedError(f"no answer from {self.endpoint} ({reason(error)})") from error
        if not COMMIT.fullmatch(info.sha or ""):
            raise NotReachedError(f"{self.endpoint} names no commit for {self.model}")
        files = [RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "") for s in siblings]
        return str(info.sha), {file.name: file for file in files}

    def missing_bytes(self, files: Iterable[RemoteFile], commit: str) -> int:
        """Bytes of `files` that are not in the cache."""
        return sum(file.size - self.begun(file) for file in files if not self.has(file, commit))

    def required_bytes(self, files: Iterable[RemoteFile], commit: str) -> int:
        """Disk that fetching `files` still takes, margin included; 0 when all are in the cache."""
        missing = self.missing_bytes(files, commit)
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
        """The file in the cache, fetched where it is missing; raises UserError when ATTEMPTS times fail."""
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
            except LocalEntryNotFoundError as error:  # the library's name for a request without an answer
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
                        "folder"
                    ) from error
                trouble = error  # a size that differs
            else:
                if fresh:
                    refuse_damage(path, file)
                return path
        raise UserError(
            f"the download of {file.name} of {self.model} broke off ({reason(trouble)}): run the same "
            "command again, it goes on where this one stopped"
        ) from trouble

    def refusal(self, error: HfHubHTTPError, ref: str) -> UserError:
        """The hub's refusal in one sentence. Gated comes before unknown, of which the library derives it."""
        token = get_token() is not None
        if isinstance(error, GatedRepoError) and token:
            return UserError(
                f"{self.model} is gated and the account of HF_TOKEN has no access: accept the licence at "
                f"{self.page} with it, and let the token read gated repositories"
            )
        if isinstance(error, GatedRepoError):
            return UserError(
                f"{self.model} is gated: accept its licence at {self.page} and set HF_TOKEN to a token of "
                "that account"
            )
        if isinstance(error, RevisionNotFoundError):
            return UserError(f"{self.model} has no revision {ref}: see {self.page}/commits/main")
        if isinstance(error, RepositoryNotFoundError):
            hint = "" if token else ", and set HF_TOKEN if it is private"
            return UserError(f"the hub has no model {self.model} at {self.page}: check its id{hint}")
        if status_of(error) == 401:
            return UserError(
                f"{self.endpoint} refuses HF_TOKEN: set it to a valid token, or unset it for models open to "
                "all"
            )
        return UserError(f"{self.endpoint} answered {status_of(error)} for {self.model}: try again later")


def status_of(error: HfHubHTTPError) -> int:
    """The HTTP status of an error; 0 where the library made the error itself."""
    return 0 if error.response is None else int(error.response.status_code)


def refuse_damage(path: Path, file: RemoteFile) -> None:
    """Removes a fetched file whose SHA-256 is not the hub's, as after a power cut. Raises UserError then."""
    if not file.sha256:
        return
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise UserError(
            f"{file.name} arrived damaged (SHA-256 differs from the hub's) and was removed: run the same "
            "command again"
        )


def reason(error: BaseException | None) -> str:
    """The innermost cause in a few words: clients wrap "Connection refused" in several layers."""
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
