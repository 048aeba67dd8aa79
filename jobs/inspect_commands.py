"""The command that shows what is in a clip, or what a trained model looks at in it.

It imports torch for a checkpoint alone, and when it runs, not before: ``gopstream --help`` must
not wait for it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from gopstream.jobs.command_options import JsonFile, ReadingArguments, StoreArguments
from gopstream.jobs.console import printable, progress, say
from gopstream.jobs.errors import UserError
from gopstream.jobs.inspect_request import InspectRequest, heartbeat, refuse

if TYPE_CHECKING:
    from gopstream.jobs.inspection.inspected import InspectedClip

_STORE = StoreArguments()
_READING = ReadingArguments()
_MODEL_SPLIT: Final = "val"


def inspect(
    target: str,
    /,
    *,
    split: str | None = None,
    key: str | None = None,
    frame: int | None = None,
    first: int | None = None,
    last: int | None = None,
    diff: str | None = None,
    png: Path | None = None,
    movie: Path | None = None,
    sheet: Path | None = None,
    html: Path | None = None,
    layers: str | None = None,
    span: int | None = None,
    checkpoint: Path | None = None,
    query: str | None = None,
    block: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    reading: ReadingArguments = _READING,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Look at frames, motion vectors and residuals, or at what a trained model looks at.

    Of a video, an extract folder, a dump of mvextractor or a sample: stream facts, groups of
    pictures, and for each kind of frame vectors, coverage, lengths in pixels and residual. Of a
    dataset: classes, lengths, motion, failures. --diff compares with another source of the same
    clip; exit code 1 if they differ. --png, --movie, --sheet and --html write pictures instead;
    with --checkpoint those are of a model: of every one Grad-CAM; of DVT the points that a query
    samples, with their weights; of SIFA the motion saliency and the taps of a query; of
    Video-FocalNet the modulators. That clip is the centre view, as 'gopstream evaluate' takes it.

    Example: `gopstream inspect video.mp4` or `gopstream inspect video.mp4 --diff dump` or
    `gopstream inspect shards --key train-00000003 --movie look.mp4 --layers arrows,residual_heat`

    Parameters
    ----------
    target
        A video; a folder of 'gopstream extract'; a dump of mvextractor; a dataset, its folder or
        address (s3://bucket/folder, https://host/folder); or one shard of it (train/000000.tar).
    split
        Of a dataset: name of the split; by default the first, with --checkpoint val.
    key
        Of a dataset: key of the sample; by default the first where a clip is needed.
    frame
        Only this frame, from 0, with its partitions and longest vectors. With --checkpoint, of DVT
        and SIFA: the frame that looks; by default one in the middle.
    first
        The first frame to look at; by default 0.
    last
        The last frame to look at; by default the clip's last.
    diff
        Another source of the same clip, of any kind that target may be: frame by frame its vectors
        (in any order), motion of blocks and residual are compared, where both have them.
    png
        Folder for a PNG of each frame and layer; with --checkpoint, for those of the model.
        Files of the same names are replaced, others stay.
    movie
        A movie of the frames, .mp4 or .gif.
    sheet
        A contact sheet as PNG: frames spread over the whole clip.
    html
        A page with a player that needs no network, whose layers are chosen in it; of a dataset
        without --key, its tables and a gallery.
    layers
        What --png, --movie and --sheet draw, separated by commas: frame, arrows, colours,
        partition, coverage, residual_heat, residual_signed, accumulated, warped, or all that the
        clip has; by default frame,arrows,colours.
    span
        Over how many frames the layer accumulated follows motion; by default 8.
    checkpoint
        A checkpoint, or the folder of a run: draw what its model looks at; needs --png.
    query
        With --checkpoint, of DVT and SIFA: the place that looks, as X,Y in pixels of the clip,
        from 0,0 at the upper left; by default its centre.
    block
        With --checkpoint, of DVT, SIFA (among those with attention between frames) and
        Video-FocalNet: number of the block, from 0; by default the last.
    force
        With --checkpoint: use a dataset that was not made as [data] of its recipe asks.
    """
    if reading.on_error == "skip":
        raise UserError("--on-error skip leaves out damaged clips; here there is one clip")
    asked = InspectRequest(
        target=target,
        split=split,
        key=key,
        frame=frame,
        first=first,
        last=last,
        diff=diff,
        pictures={"--png": png, "--movie": movie, "--sheet": sheet, "--html": html},
        layers=layers,
        span=span,
        reading=reading,
        store=store,
        json_file=json_file,
    )
    for_model = {"--query": query, "--block": block, "--force": force or None}
    if checkpoint is not None:
        return _inspect_model(asked, checkpoint, query=query, block=block, force=force)
    refuse(for_model, "shows what a model looks at, and so needs --checkpoint")
    asked.check()
    return _inspect_dataset(asked) if _is_whole_dataset(asked) else _inspect_clip(asked)


def _is_whole_dataset(asked: InspectRequest) -> bool:
    """Tell whether the look is at a dataset or shard as a whole, not at one of its clips."""
    from gopstream.jobs.inspection.open_target import target_kind

    of_clip: list[object] = [asked.key, asked.diff, *asked.range_options.values()]
    of_clip += [path for name, path in asked.written.items() if name != "--html"]
    return all(value is None for value in of_clip) and target_kind(asked.target) in (
        "dataset",
        "shard",
    )


def _inspect_dataset(asked: InspectRequest) -> int:
    from gopstream.jobs.inspect_pictures import size_of
    from gopstream.jobs.inspection.dataset_page import write_dataset_page
    from gopstream.jobs.inspection.dataset_summary import dataset_summary
    from gopstream.jobs.inspection.open_target import open_dataset, shard_of
    from gopstream.shards.storage import open_storage

    dataset = open_dataset(
        asked.target,
        asked.split,
        storage_options=asked.store.options(),
        reading=asked.reading.options(),
    )
    storage = open_storage(dataset.root, asked.store.options())
    shard = shard_of(asked.target)
    shards = None if shard is None else [shard]
    page = asked.written.get("--html")
    if page is None:
        asked.tell(*dataset_summary(dataset, storage=storage, shards=shards))
        return 0
    write_dataset_page(dataset, page, storage=storage, shards=shards)
    content = {"dataset": dataset.root, "split": dataset.split, "written": [str(page)]}
    place = "/".join([dataset.root, dataset.split, *(shards or [])])
    asked.tell(f"{place} is shown by {page} ({size_of([page])})", content)
    return 0


def _inspect_clip(asked: InspectRequest) -> int:
    from gopstream.jobs.inspect_pictures import write_pictures
    from gopstream.jobs.inspection.clip_summary import clip_summary
    from gopstream.jobs.inspection.frame_summary import frame_summary

    if asked.diff is not None:
        return _compare(asked, asked.diff)
    clip = _open(asked, asked.target)
    start, stop = asked.frame_range(clip.facts)
    if asked.written:
        write_pictures(asked, clip, start=start, stop=stop)
        return 0
    if asked.frame is not None:
        summary = frame_summary(clip, asked.frame)
    else:
        with progress("reading", total=stop - start, unit="frames") as advance:
            summary = clip_summary(
                clip,
                start=start,
                stop=stop,
                with_frames=asked.json_file is not None,
                on_frame=advance,
            )
    asked.tell(summary.text, summary.content)
    return 0


def _open(asked: InspectRequest, target: str) -> "InspectedClip":
    """Open the target, or the source that it is compared with; only datasets have splits."""
    from gopstream.jobs.inspection.open_target import open_clip, target_kind

    both = [asked.target] if asked.diff is None else [asked.target, asked.diff]
    is_chosen = target_kind(target) in ("dataset", "shard") or not any(
        target_kind(one) in ("dataset", "shard") for one in both
    )
    key = asked.key if is_chosen else None
    if asked.diff is not None and key is None and target_kind(target) in ("dataset", "shard"):
        key = _key_of_source(asked, target, asked.diff if target == asked.target else asked.target)
    return open_clip(
        target,
        split=asked.split if is_chosen else None,
        key=key,
        storage_options=asked.store.options(),
        reading=asked.reading.options(),
        on_frames=heartbeat(target),
    )


def _key_of_source(asked: InspectRequest, target: str, other: str) -> str:
    """Return the sample of a dataset that was made of the video on the other side.

    Raises:
        UserError: If there is none, or more than one: the first sample would be any other clip.
    """
    from gopstream.jobs.inspection.open_target import open_dataset, samples_of, target_kind
    from gopstream.pipeline.object_store import local_path
    from gopstream.shards.storage import open_storage

    options = asked.store.options()
    found: list[str] = []
    if target_kind(other) == "video":
        dataset = open_dataset(target, asked.split, storage_options=options)
        storage = open_storage(dataset.root, options)
        found = samples_of(storage, dataset.split, local_path(other))
    if len(found) == 1:
        say(f"{target}: the sample {found[0]} was made of a {Path(other).name}")
        return found[0]
    several = f"; {len(found)} were made of a {Path(other).name}: {', '.join(found[:5])}"
    raise UserError(f"{target} is a dataset: name its sample with --key{several * bool(found)}")


def _side(target: str, clip: "InspectedClip") -> str:
    """Return how a comparison calls a source: by its place, and of a dataset by the sample."""
    return f"{target} ({clip.facts.name})" if clip.facts.source == "sample" else target


def _compare(asked: InspectRequest, other: str) -> int:
    from gopstream.jobs.inspection.difference import compare_clips

    clips = _open(asked, asked.target), _open(asked, other)
    shortest = min(clips, key=lambda clip: clip.facts.num_frames)
    start, stop = asked.frame_range(shortest.facts)
    # Without a last frame that was named, another number of frames is a difference.
    is_open = asked.last is None and asked.frame is None
    with progress("reading", total=stop - start, unit="frames") as advance:
        found = compare_clips(
            *clips,
            start=start,
            stop=None if is_open else stop,
            names=(_side(asked.target, clips[0]), _side(other, clips[1])),
            on_frame=advance,
        )
    asked.tell(found.text, found.content)
    return 0 if found.is_equal else 1


def _inspect_model(
    asked: InspectRequest, checkpoint: Path, *, query: str | None, block: int | None, force: bool
) -> int:
    """Draw what a trained model looks at."""
    from gopstream.jobs.inspection.model_pictures import Look, make_pictures
    from gopstream.jobs.trained_run import open_run, read_clip
    from gopstream.shards.storage import open_storage

    png = asked.pictures["--png"]
    if png is None:
        raise UserError("--checkpoint draws what a model looks at: name a folder with --png")
    others: dict[str, object] = {**asked.written}
    del others["--png"]
    others |= {"--first": asked.first, "--last": asked.last, "--diff": asked.diff}
    others |= {"--layers": asked.layers, "--span": asked.span}
    refuse(others, "does not go with --checkpoint, which draws a model's pictures of one clip")
    place = None if query is None else _place(query)
    run = open_run(
        checkpoint,
        open_storage(asked.target, asked.store.options()),
        split=asked.split or _MODEL_SPLIT,
        force=force,
        reading=asked.reading.options(),
    )
    clip = read_clip(run, asked.key)
    look = Look(query=place, frame=asked.frame, block=block)
    pictures = make_pictures(run.network, clip, look=look)
    png.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.image.save(png / f"{picture.name}.png")
    files = [str(png / f"{picture.name}.png") for picture in pictures]
    lines = [
        f"{clip.key} is {clip.label or 'without a label'}, taken for {clip.predicted_name} "
        f"({clip.probability:.1%})"
    ]
    shown = [{"file": file, **p.facts} for file, p in zip(files, pictures, strict=True)]
    lines += [f"{entry['file']}: {entry['shows']}" for entry in shown]
    content = {
        "key": clip.key,
        "label": clip.label,
        "predicted": clip.predicted_name,
        "probability": clip.probability,
        "pictures": shown,
    }
    asked.tell(printable("\n".join(lines)), content)
    return 0


def _place(text: str) -> tuple[float, float]:
    """Turn ``X,Y`` into numbers.

    Raises:
        UserError: If it is not two numbers.
    """
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--query must be X,Y in pixels, such as 16,20, got {text!r}") from None
    return x, y
