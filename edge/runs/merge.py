"""Runs of shards, made on several boards, as one run."""

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


def merge(folders: Sequence[Path], out: Path, on_note: OnNote = ignore) -> RunManifest:
    """Makes `out`, the run that one board would have made of all shards together; the runs themselves stay
    as they are.

    The order of the folders changes nothing. `out` appears whole or not at all. Where the boards had several
    versions, it has the columns that all runs have. `on_note` hears of columns that are left out, and where
    the boards' processors differ. Raises UserError when the runs are not the finished shards 1 to N of one
    run, or `out` is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already: give a new folder with --out")
    runs = ordered([Run.open(folder) for folder in folders])
    manifest = joined(runs)
    processors = {describe(run.manifest.device) for run in runs}
    if len(processors) > 1:
        on_note(
            f"the boards differ ({', '.join(sorted(processors))}): "
            "quantised models answer a little differently on each"
        )
    temporary = out.with_name(f".{out.name}.merging")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
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


def ordered(runs: Sequence[Run]) -> list[Run]:
    """The runs by their shards' numbers; raises UserError when they are not all shards of one run, once
    each."""
    first = runs[0]
    for run in runs:
        if run.manifest.kind != "run":
            raise UserError(
                f"{run.folder} is a forced run: merge the free-running ones, "
                "then run 'edge force' on the merged run"
            )
        if differing := differences(common(first.manifest), common(run.manifest)):
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
    missing = [
        f"{number}/{count}" for count in counts for number in range(1, count + 1) if number not in by_shard
    ]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"shard {', '.join(missing[:5])}{more} is missing: give the runs of all shards")
    return [by_shard[number] for number in sorted(by_shard)]


def common(manifest: RunManifest) -> dict[str, Any]:
    """decides(), alike for all shards of one run."""
    settings = replace(manifest.settings, shard="1/1")
    return replace(manifest, settings=settings, questions=replace(manifest.questions, selected=0)).decides()


def joined(runs: Sequence[Run]) -> RunManifest:
    """The manifest of all shards together."""
    manifests = [run.manifest for run in runs]
    first = manifests[0]
    return replace(
        first,
        settings=replace(first.settings, shard="1/1"),
        questions=replace(first.questions, selected=sum(each.questions.selected for each in manifests)),
        device=Device(**agreed([vars(each.device) for each in manifests])),
        versions=agreed([each.versions for each in manifests]),
        created=min(each.created for each in manifests),
        taps_lost="; ".join(sorted({each.taps_lost for each in manifests if each.taps_lost})),
        merged={run.manifest.settings.shard: shard(run) for run in runs},
    )


def shard(run: Run) -> MergedShard:
    """What a merged run keeps of one of its shards."""
    manifest = run.manifest
    digest = file_sha256(run.folder / RUN_NAME)
    return MergedShard(manifest.device, manifest.versions, manifest.created, digest)


def agreed(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are the same in all."""
    first, *others = values
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def describe(device: Device) -> str:
    """A board's processor in a few words."""
    return device.core_kinds or device.processor or device.machine or "unknown"


def copy_parts(runs: Sequence[Run], table: str, target: Path, on_note: OnNote) -> None:
    """Copies the parts of all runs. They keep their names, and with them their checksums, which are checked
    on the way; only a part with columns that others lack is written anew without them."""
    target.mkdir(parents=True)
    paths = {run.file(table, name): name for run in runs for name in run.parts()}
    shared = shared_columns(paths)
    left_out: set[str] = set()
    for path, name in paths.items():
        others = set(column_names(path)) - set(shared)
        left_out |= others
        if others:
            write_part(target, name, read_part(path, shared).select(shared))
        else:
            read_part(path, ["question_index"])
            write_whole(target / path.name, functools.partial(shutil.copyfile, path))
    if left_out:
        names = ", ".join(sorted(left_out))
        on_note(f"not all of these runs have {names} in their {table}: left out of the merged run")


def write_devices(runs: Sequence[Run], target: Path) -> None:
    """Telemetry of all boards, one after the other."""
    tables = [read_part(path) for run in runs if (path := run.folder / DEVICE_NAME).exists()]
    if tables:
        write_table(target, pa.concat_tables(tables, promote_options="default"))
