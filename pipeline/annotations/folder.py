"""A folder of videos: one sub-folder per class, or no classes at all.

Every file counts, whatever its name: one that is no video becomes a recorded failure with the
reason, and is not passed over in silence. Hidden files (``.DS_Store``) are left out.
"""

from pathlib import Path

from gopstream.pipeline.annotations.record import VideoList, VideoRecord, make_list
from gopstream.pipeline.errors import AnnotationError


def read_folder(videos: Path, annotations: Path | None, split: str) -> VideoList:
    """List the files below ``videos``.

    With sub-folders, the first one below ``videos`` is the class of all files in it, at any
    depth. Without, the files have no label.

    Raises:
        AnnotationError: If there is no file, or files lie beside the class folders.
    """
    if annotations is not None:
        raise AnnotationError("a folder is read without --annotations; or use --dataset csv")
    files = sorted(
        (file.relative_to(videos) for file in videos.rglob("*") if file.is_file()),
        key=lambda name: name.as_posix(),
    )
    files = [name for name in files if not any(part.startswith(".") for part in name.parts)]
    if not files:
        raise AnnotationError(f"{videos}: no videos: the folder holds no files")
    beside = [name for name in files if len(name.parts) == 1]
    if beside and len(beside) < len(files):
        raise AnnotationError(
            f"{videos}: holds class folders and also files beside them ({beside[0].name}"
            f"{' and others' if len(beside) > 1 else ''}); move these into a class folder or away"
        )
    return make_list(
        [
            VideoRecord(
                path=videos / name,
                name=name.as_posix(),
                label=name.parts[0] if len(name.parts) > 1 else None,
                split=split,
            )
            for name in files
        ]
    )
