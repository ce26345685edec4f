"""Merging: the runs of shards, made on several boards, become one run."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.errors import OnNote, UserError, ignore
from edge.files import file_sha256, write_record, write_whole
from edge.machine.device import Device
from edge.questions.question import parse_shard
from edge.runs.job_directory import differences
from edge.runs.manifest import RUN_NAME, MergedShard, RunManifest
from edge.runs.parts import column_names, read_part, shared_columns, write_part, write_table
from edge.runs.run_directory import DEVICE_NAME, TABLES, Run
from edge.runs.sessions import Session, together


def merge(folders: Sequence[Path], out: Path, on_note: OnNote = ignore) -> RunManifest:
    """Makes `out`, the run that one board would have made of all shards; the shards' runs are not changed.

    The order of the folders changes nothing. `out` appears whole or not at all. Where the boards had several
    versions, it has the columns that all runs have. `on_note` is called for columns that are left out, and
    where the boards' processors differ. Raises UserError when the runs are not the finished shards 1 to N of
    one run, or `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} is there already: give a new folder with --out")
    runs = in_shard_order([Run.open(folder) for folder in folders])
    manifest = merged_manifest(runs)
    processors = {describe(session.device) for run in runs for session in run.sessions()}
    if len(processors) > 1:
        on_note(
            f"the boards differ ({', '.join(sorted(processors))}): "
            "quantised models answer a little differently on each"
        )
    elif manifest.sessions:
        on_note(
            f"the versions differ ({'; '.join(session.description for session in manifest.sessions)}): "
            f"{RUN_NAME} keeps which questions each answered"
        )
    temporary = out.with_name(f".{out.name}.merging")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    try:
        for table in TABLES:
            copy_parts(runs, table, temporary / table, on_note)
        write_devices(runs, temporary / DEVICE_NAME)
        write_record(temporary / RUN_NAME, manifest.to_json())
        Run(temporary, manifest).answers(["question_index"])  # no question twice
        temporary.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror}): give another --out, or free space there"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def in_shard_order(runs: Sequence[Run]) -> list[Run]:
    """Sorts the runs by shard; raises UserError unless they are all shards of one run, once each."""
    first = runs[0]
    for run in runs:
        if run.manifest.kind != "run":
            raise UserError(
                f"{run.folder} is a forced run: merge the free-running ones, "
                "then run 'edge force' on the merged run"
            )
        if differing := differences(without_shard(first.manifest), without_shard(run.manifest)):
            both = f"{first.folder} and {run.folder}"
            raise UserError(f"{both} differ in {', '.join(differing)}: only shards of one run can be merged")
    shards = [parse_shard(run.manifest.settings.shard) for run in runs]
    counts = sorted({count for _, count in shards})
    if len(counts) > 1:
        raise UserError(
            f"these are shards of {' and of '.join(map(str, counts))}: only shards of one run can be merged"
        )
    by_shard: dict[int, Run] = {}
    for (number, count), run in zip(shards, runs, strict=True):
        if number in by_shard:
            raise UserError(
                f"{by_shard[number].folder} and {run.folder} are both shard {number}/{count}: "
                "give each shard once"
            )
        by_shard[number] = run
    expected = [(number, count) for count in counts for number in range(1, count + 1)]
    missing = [f"{number}/{count}" for number, count in expected if number not in by_shard]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"shard {', '.join(missing[:5])}{more} is missing: give the runs of all shards")
    return [by_shard[number] for number in sorted(by_shard)]


def without_shard(manifest: RunManifest) -> dict[str, Any]:
    """decides() without what differs between the shards of one run."""
    settings = replace(manifest.settings, shard="1/1")
    return replace(manifest, settings=settings, questions=replace(manifest.questions, selected=0)).decides()


def merged_manifest(runs: Sequence[Run]) -> RunManifest:
    """The manifest of the merged run."""
    manifests = [run.manifest for run in runs]
    sessions = [session for run in runs for session in run.sessions()]
    first = manifests[0]
    lost = sorted({manifest.taps_lost for manifest in manifests if manifest.taps_lost})
    return replace(
        first,
        settings=replace(first.settings, shard="1/1"),
        questions=replace(
            first.questions, selected=sum(manifest.questions.selected for manifest in manifests)
        ),
        device=Device(**shared_entries([vars(session.device) for session in sessions])),
        versions=shared_entries([session.versions for session in sessions]),
        created=min(manifest.created for manifest in manifests),
        taps_lost="; ".join(lost),
        merged={run.manifest.settings.shard: shard(run) for run in runs},
        sessions=several(together(sessions)),
    )


def shard(run: Run) -> MergedShard:
    """The record of one shard in a merged run."""
    manifest = run.manifest
    digest = file_sha256(run.folder / RUN_NAME)
    return MergedShard(manifest.device, manifest.versions, manifest.created, digest)


def shared_entries(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are the same in all mappings."""
    first, *others = mappings
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def several(sessions: tuple[Session, ...]) -> tuple[Session, ...]:
    """The sessions, none where there is only one."""
    return sessions if len(sessions) > 1 else ()


def describe(device: Device) -> str:
    """The shortest known name of a board's processor."""
    return device.core_kinds or device.processor or device.machine or "unknown"


def copy_parts(runs: Sequence[Run], table: str, target: Path, on_note: OnNote) -> None:
    """Copies the parts of all runs into the folder `target`.

    Parts keep their names with the checksums, which are checked. A part with columns that others lack is
    written again without them.
    """
    target.mkdir(parents=True)
    paths = {run.file(table, name): name for run in runs for name in run.parts()}
    shared = shared_columns(paths)
    left_out: set[str] = set()
    for path, name in paths.items():
        extra = set(column_names(path)) - set(shared)
        left_out |= extra
        if extra:
            write_part(target, name, read_part(path, shared).select(shared))
        else:
            read_part(path, ["question_index"])
            write_whole(target / path.name, functools.partial(shutil.copyfile, path))
    if left_out:
        names = ", ".join(sorted(left_out))
        on_note(f"not all of these runs have {names} in their {table}: left out of the merged run")


def write_devices(runs: Sequence[Run], target: Path) -> None:
    """Writes the telemetry of all boards, one after the other."""
    tables = [read_part(path) for run in runs if (path := run.folder / DEVICE_NAME).exists()]
    if tables:
        write_table(target, pa.concat_tables(tables, promote_options="default"))
