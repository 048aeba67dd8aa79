"""The commands that change a finished dataset. None of them needs torch."""

import os
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from gopstream.jobs.command_options import (
    JsonFile,
    StoreArguments,
    check_positive,
    ffmpeg_binary,
    report,
)
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError

_STORE = StoreArguments()
_SHOWN: Final = 5

planes = App(name="planes", help="Add planes to a finished dataset, or drop them.")


def remove(
    url: str,
    /,
    *,
    key: Annotated[list[str] | None, Parameter(negative="")] = None,
    source: Annotated[list[str] | None, Parameter(negative="")] = None,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Remove samples from a finished dataset, every byte of them (takedown).

    The shards that hold them are written again without them; other shards are not touched.
    Interrupted, it is completed by the same command. Not reached are older versions of objects
    that a bucket with versioning keeps, and copies elsewhere. Labels of 'gopstream relabel' must
    be made again.

    Example: `gopstream remove shards --key train-00000012 --key train-00000044-0003`

    Parameters
    ----------
    url
        Folder or address of the dataset.
    key
        Key of a sample, which is removed alone; may be given several times.
    source
        Name of a video, as in samples.parquet and failures.jsonl: all of its samples are removed,
        and none of its segments is appended or tried again; may be given several times.
    """
    from gopstream.jobs.remove_samples import remove_samples
    from gopstream.shards.storage import open_storage

    storage = open_storage(url, store.options(), for_writing=True)
    removal = remove_samples(storage, keys=key or (), sources=source or ())
    if json_file != "-":
        num_shards = sum(map(len, removal.shards.values()))
        num_sources = len({name for names in removal.sources.values() for name in names})
        if removal.keys or num_sources:
            print(f"{len(removal.keys)} samples removed, {num_shards} shards written again")
        else:
            print("they were removed before")
        if num_sources:
            print(f"{num_sources} videos will be left out by --append and --retry-failed")
        if removal.completed:
            print("a removal that had been interrupted is complete now")
    report(removal._asdict(), json_file)
    return 0


@planes.command
def add(
    url: str,
    plane: str,
    /,
    *,
    videos: str | None = None,
    from_folder: Annotated[Path | None, Parameter(name="--from")] = None,
    split: str | None = None,
    partial: Annotated[bool, Parameter(negative="")] = False,
    workers: int | None = None,
    stall_seconds: float = 300.0,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Add a plane as side tars; the main tars are not written again.

    The residual is extracted from the videos once more, with the settings that the dataset
    records; the motion must come out as it is stored. Any other plane is yours: captions, flow,
    features, from a folder with a file per sample. Interrupted, the same command continues; after
    videos were appended it makes a plane of yours where it is missing.

    Example: `gopstream planes add shards residual --videos videos` or
    `gopstream planes add shards captions --from captions`

    Parameters
    ----------
    url
        Folder or address of the dataset.
    plane
        residual, or a name of your own: 1 to 32 of a-z, 0-9 and _.
    videos
        For the residual: what the videos' names are relative to, as it was for 'gopstream shard'.
    from_folder
        For a plane of your own: a folder that has KEY.EXT files, or a folder KEY for each sample.
    split
        For a plane of your own: only this split; by default all.
    partial
        For a plane of your own: allow samples without a file.
    workers
        For the residual: processes; by default one per core.
    stall_seconds
        For the residual: a video without progress for so long is an error.
    """
    if plane == "residual":
        if videos is None or from_folder is not None or split is not None or partial:
            raise UserError("the residual is for all samples and needs --videos alone")
        check_positive({"workers": workers, "stall-seconds": stall_seconds})
        content = _add_residual(url, videos, store, workers=workers, stall_seconds=stall_seconds)
        text = f"residual added to {content['shards']} shards"
    else:
        if from_folder is None or videos is not None:
            raise UserError(f"the plane {plane!r} needs --from, the folder of its files, alone")
        content = _add_own(url, plane, from_folder, store, split=split, partial=partial)
        text = (
            f"{content['members']} members of {content['samples']} samples added as {plane}; "
            f"{content['missing']} samples have none ({content['shards']} shards written)"
        )
    if json_file != "-":
        print(text)
    report(content, json_file)
    return 0


@planes.command
def drop(
    url: str, plane: str, /, *, store: StoreArguments = _STORE, json_file: JsonFile = None
) -> int:
    """Drop the residual, or a plane of your own; the main tars are not written again.

    Frames and motion are in the main tars and cannot be dropped. A plane that is not there (any
    more) is no error, so that a job that is run again succeeds.

    Example: `gopstream planes drop shards residual`

    Parameters
    ----------
    url
        Folder or address of the dataset.
    plane
        residual, or the name of your own.
    """
    from gopstream.shards.dataset_files import planned_splits
    from gopstream.shards.edit_planes import drop_plane
    from gopstream.shards.storage import open_storage

    storage = open_storage(url, store.options(), for_writing=True)
    count = drop_plane(storage, plane, planned_splits(storage))
    if json_file != "-":
        print(
            f"{plane} dropped: {count} side tars deleted"
            if count
            else f"there is no plane {plane}; nothing to drop"
        )
    report({"plane": plane, "deleted": count}, json_file)
    return 0


def relabel(
    url: str,
    /,
    *,
    name: str,
    labels: Path,
    split: str | None = None,
    only: Annotated[bool, Parameter(negative="")] = False,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Give the samples of a finished dataset other labels, beside those that they have.

    Writes labels/NAME.json with the classes and labels/NAME.SPLIT.npz with a label for each
    sample; no tar is written again. After samples are appended or removed, these labels are
    refused until they are made again with the same command.

    Example: `gopstream relabel shards --name verbs --labels verbs.csv`

    Parameters
    ----------
    url
        Folder or address of the dataset.
    name
        Of the new labels: 1 to 32 of a-z, 0-9 and _. Labels of that name are replaced.
    labels
        A CSV with the header key,label or source,label (names of videos) or class,label (old
        class, new class). An empty label leaves out the samples.
    split
        Only this split; by default all.
    only
        Leave out what the file does not list; by default it keeps its old label.
    """
    from gopstream.shards.dataset_files import planned_splits
    from gopstream.shards.edit_labels import read_label_list, write_label_view
    from gopstream.shards.storage import open_storage

    storage = open_storage(url, store.options(), for_writing=True)
    splits = planned_splits(storage)
    counts = write_label_view(
        storage,
        name,
        read_label_list(labels),
        splits=splits,
        chosen=_chosen(url, split, splits),
        only=only,
    )
    if json_file != "-":
        for written, count in counts.items():
            num_classes = sum(bool(label) for label in count.class_counts)
            print(
                f"{written}: {count.kept} samples in {num_classes} classes, "
                f"{count.left_out} left out"
            )
    report({written: count._asdict() for written, count in counts.items()}, json_file)
    return 0


def _add_residual(
    url: str, videos: str, store: StoreArguments, *, workers: int | None, stall_seconds: float
) -> dict[str, Any]:
    from gopstream.jobs.add_residual import add_residual_plane
    from gopstream.jobs.source_videos import VideoSource
    from gopstream.shards.dataset_files import planned_splits
    from gopstream.shards.storage import open_storage

    storage = open_storage(url, store.options(), for_writing=True)
    count = add_residual_plane(
        storage,
        VideoSource(videos, store.options()),
        planned_splits(storage),
        workers=workers or os.cpu_count() or 1,
        ffmpeg_binary=ffmpeg_binary(),
        stall_seconds=stall_seconds,
    )
    return {"plane": "residual", "shards": count}


def _add_own(
    url: str,
    plane: str,
    folder: Path,
    store: StoreArguments,
    *,
    split: str | None,
    partial: bool,
) -> dict[str, Any]:
    from gopstream.jobs.console import progress
    from gopstream.shards.dataset_files import load_manifest, planned_splits
    from gopstream.shards.edit_user_plane import add_user_plane
    from gopstream.shards.storage import open_storage

    storage = open_storage(url, store.options(), for_writing=True)
    chosen = _chosen(url, split, planned_splits(storage))
    total = sum(len(load_manifest(storage, name).shards) for name in chosen)
    with progress(f"adding {plane}", total=total, unit="shards") as advance:
        added = add_user_plane(
            storage, plane, chosen, folder=folder, partial=partial, on_shard=advance
        )
    if added.unused:
        listed = ", ".join(added.unused[:_SHOWN]) + (", ..." if len(added.unused) > _SHOWN else "")
        say(f"{len(added.unused)} entries of {folder} belong to no sample: {listed}")
    return {
        "plane": plane,
        "members": added.num_members,
        "samples": added.num_samples,
        "missing": added.missing,
        "shards": added.num_shards,
        "unused": list(added.unused),
    }


def _chosen(url: str, split: str | None, splits: list[str]) -> list[str]:
    if split is not None and split not in splits:
        raise UserError(f"{url}: no split {split!r}; there is {', '.join(splits) or 'none'}")
    return splits if split is None else [split]
