"""The command that shows what a trained model looks at.

It imports torch when it runs, not before: ``gopstream --help`` must not wait for it.
"""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gopstream.jobs.command_options import JsonFile, ReadingArguments, StoreArguments, report
from gopstream.jobs.errors import UserError

_STORE = StoreArguments()
_READING = ReadingArguments()


def inspect(
    target: str,
    /,
    *,
    checkpoint: Path,
    png: Path,
    split: str = "val",
    key: str | None = None,
    query: str | None = None,
    block: int | None = None,
    frame: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
    reading: ReadingArguments = _READING,
    store: StoreArguments = _STORE,
    json_file: JsonFile = None,
) -> int:
    """Draw what a trained model looks at in a clip.

    Of every model Grad-CAM; of DVT the points that a query samples, with their weights; of SIFA
    the motion saliency and the taps of a query; of Video-FocalNet the modulators. The clip is
    the centre view, as 'gopstream evaluate' takes it, in the model's size.

    Example: `gopstream inspect shards --checkpoint runs/first --png looks --query 16,20`

    Parameters
    ----------
    target
        Folder of the dataset, or an address (s3://bucket/folder, https://host/folder).
    checkpoint
        A checkpoint, or the folder of a run.
    png
        Folder for the pictures; those of an earlier look are replaced.
    split
        Name of the split.
    key
        Key of the sample; by default the first.
    query
        Of DVT and SIFA: the place that looks, as X,Y in pixels of the clip, from 0,0 at the upper
        left; by default its centre.
    block
        Of DVT, SIFA (among those with attention between frames) and Video-FocalNet: number of
        the block, from 0; by default the last.
    frame
        Of DVT and SIFA: the frame that looks, from 0; by default one in the middle.
    force
        Use a dataset that was not made as [data] of the checkpoint's recipe asks.
    """
    from gopstream.jobs.inspection.model_pictures import Look, make_pictures
    from gopstream.jobs.trained_run import open_run, read_clip
    from gopstream.shards.storage import open_storage

    if reading.on_error == "skip":
        raise UserError("--on-error skip leaves out damaged clips; here there is one clip")
    look = Look(query=None if query is None else _place(query), frame=frame, block=block)
    run = open_run(
        checkpoint,
        open_storage(target, store.options()),
        split=split,
        force=force,
        reading=reading.options(),
    )
    clip = read_clip(run, key)
    pictures = make_pictures(run.network, clip, look=look)
    png.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.image.save(png / f"{picture.name}.png")
    files = [str(png / f"{picture.name}.png") for picture in pictures]
    if json_file != "-":
        print(
            f"{clip.key} is {clip.label or 'without a label'}, taken for {clip.predicted_name} "
            f"({clip.probability:.1%})"
        )
        for file, picture in zip(files, pictures, strict=True):
            print(f"{file}: {picture.facts['shows']}")
    content = {
        "key": clip.key,
        "label": clip.label,
        "predicted": clip.predicted_name,
        "probability": clip.probability,
        "pictures": [
            {"file": file, **picture.facts} for file, picture in zip(files, pictures, strict=True)
        ],
    }
    report(content, json_file)
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
