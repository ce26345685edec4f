"""Downloads: a file arrives whole and with the right checksum, or not at all."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from edge.errors import UserError
from edge.files import write_whole

TIMEOUT = 30.0  # seconds without a byte
LARGEST = 64 << 20


def fetch(url: str, target: Path, sha256: str | None, check: Callable[[Path], object], by_hand: str) -> str:
    """Downloads `url` to `target` once `check` has accepted the file; returns its SHA-256.

    Raises UserError, ending in `by_hand`, when the address cannot be reached or has no such file, the
    transfer is cut, or the checksum differs. Also raises UserError where nothing can be written. The file at
    `target` is then unchanged.
    """
    if not url.startswith(("https://", "http://")):
        raise UserError(f"--url is {url!r}: give an http or https address, or {by_hand}")
    data = download(url, by_hand)
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise UserError(f"{url} has the SHA-256 {digest}, not {sha256}: check the address, or {by_hand}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            downloaded = Path(folder) / target.name  # the suffix tells `check` the form of the file
            downloaded.write_bytes(data)
            try:
                check(downloaded)
            except UserError as error:
                reason = str(error).replace(str(downloaded), "the file")
                raise UserError(
                    f"{url} holds other than TruthfulQA's questions ({reason}); {by_hand}"
                ) from error
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot write {error.filename or tempfile.gettempdir()} ({error.strerror or error})"
        raise UserError(
            f"{reason}: free space, or give other places with TMPDIR and XDG_DATA_HOME"
        ) from error
    write_whole(target, lambda temporary: temporary.write_bytes(data))
    return digest


def download(url: str, by_hand: str) -> bytes:
    """Content at `url`; raises UserError, ending in `by_hand`, where it does not arrive whole."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  # the scheme is checked
            data: bytes = answer.read(LARGEST + 1)
            expected = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise UserError(
            f"{url} answers {error.code} ({error.reason}): check the address, or {by_hand}"
        ) from error
    except http.client.IncompleteRead as error:
        raise UserError(
            f"the transfer of {url} was cut after {len(error.partial)} bytes: try again, or {by_hand}"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"cannot reach {url} ({reason}): try again with a network, or {by_hand}") from error
    if len(data) > LARGEST:
        raise UserError(f"{url} is larger than {LARGEST >> 20} MB: check the address, or {by_hand}")
    # read(n) gives what there is where a transfer ends early.
    if expected is not None and expected.isdigit() and len(data) < int(expected):
        raise UserError(
            f"the transfer of {url} was cut after {len(data)} of {expected} bytes: try again, or {by_hand}"
        )
    return data
