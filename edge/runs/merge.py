"""Runs of shards, made on several boards, as one run."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.errors import OnNote, UserError, ignore
from edge.files import file_sha256, write_record, write_whole
from edge.questions.question import parse_shard
from edge.runs.job_directory import differences
from edge.runs.parts import read_part, write_table
from edge.runs.run_directory import DEVICE_NAME, RUN_NAME, Run, RunManifest


def merge(folders: Sequence[Path], out: Path, on_note: OnNote = ignore) -> RunManifest:
    """Makes `out`, the run that one board would have made of all shards together; the runs themselves stay
    as they are.

    The order of the folders changes nothing. `out` appears whole or not at all. `on_note` hears where the
    boards' processors differ. Raises UserError when the runs are not the finished shards 1 to N of one run,
    or `out` is there already.
    """
    if out.exists():
        raise UserError(f"{out} is there already: give a new folder with --out")
    runs = ordered([Run.open(folder) for folder in folders])
    manifest = joined(runs)
    processors = {describe(run.manifest.device) for run in runs}
    if len(processors) > 1:
        on_note(
            f"the boards differ ({', '.join(sorted(processors))}): quantised models answer a little "
            f"differently on each"
        )
    temporary = out.with_name(f".{out.name}.merging")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        for run in runs:
            copy_parts(run, temporary)
        write_devices(runs, temporary / DEVICE_NAME)
        write_record(temporary / RUN_NAME, manifest)
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
    """By shard; raises UserError when they are not all shards of one run, once each."""
    first = runs[0]
    for run in runs:
        if run.manifest.kind != "run":
            raise UserError(
                f"{run.folder} is a forced run: merge the free-running ones, then run 'edge force' on the "
                f"merged run"
            )
        if differing := differences(common(first.manifest), common(run.manifest)):
            both = f"{first.folder} and {run.folder}"
            raise UserError(f"{both} differ in {', '.join(differing)}: only shards of one run can be merged")
    shards = [parse_shard(str(run.manifest.settings["shard"])) for run in runs]
    counts = sorted({count for _, count in shards})
    if len(counts) > 1:
        raise UserError(
            f"these are shards of {' and of '.join(map(str, counts))}: only shards of one run can be merged"
        )
    by_shard: dict[int, Run] = {}
    for (number, count), run in zip(shards, runs, strict=True):
        if number in by_shard:
            raise UserError(
                f"{by_shard[number].folder} and {run.folder} are both shard {number}/{count}: give each "
                f"shard once"
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
    """What shards of one run have in common."""
    decided = manifest.decides()
    for name, own in (("settings", "shard"), ("questions", "selected")):
        decided[name] = {key: value for key, value in decided[name].items() if key != own}
    return decided


def joined(runs: Sequence[Run]) -> RunManifest:
    first = runs[0].manifest
    lost = sorted({run.manifest.taps_lost for run in runs if run.manifest.taps_lost})
    return dataclasses.replace(
        first,
        settings={**first.settings, "shard": "1/1"},
        questions={**first.questions, "selected": sum(run.manifest.questions["selected"] for run in runs)},
        device=agreed([run.manifest.device for run in runs]),
        versions=agreed([run.manifest.versions for run in runs]),
        created=min(run.manifest.created for run in runs),
        taps_lost="; ".join(lost),
        merged={
            str(run.manifest.settings["shard"]): {
                "device": run.manifest.device,
                "versions": run.manifest.versions,
                "created": run.manifest.created,
                "run_sha256": file_sha256(run.folder / RUN_NAME),
            }
            for run in runs
        },
    )


def agreed(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries that are the same in all."""
    return {
        key: value for key, value in values[0].items() if all(other.get(key) == value for other in values)
    }


def describe(device: Mapping[str, Any]) -> str:
    """A board's processor in a few words."""
    return str(device.get("core_kinds") or device.get("processor") or device.get("machine") or "unknown")


def copy_parts(run: Run, target: Path) -> None:
    """Parts keep their names, and with them their checksums, which are checked on the way."""
    for kind in ("steps", "answers"):
        (target / kind).mkdir(parents=True, exist_ok=True)
        for name in run.parts():
            path = run.file(kind, name)
            read_part(path, ["question_index"])
            write_whole(target / kind / path.name, functools.partial(shutil.copyfile, path))


def write_devices(runs: Sequence[Run], target: Path) -> None:
    """Telemetry of all boards, one after the other."""
    tables = [read_part(path) for run in runs if (path := run.folder / DEVICE_NAME).exists()]
    if tables:
        write_table(target, pa.concat_tables(tables, promote_options="default"))
