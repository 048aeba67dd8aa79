"""A folder of videos: one sub-folder per class, or no classes at all.

Every file counts, whatever its name: one that is no video becomes a recorded failure with the
reason, and is not passed over in silence. Hidden files (``.DS_Store``) are left out.
"""

from sys import intern

from gopstream.pipeline.annotations.checks import check_split, check_text
from gopstream.pipeline.annotations.record import VideoList, VideoRecord
from gopstream.pipeline.annotations.record_list import RecordList
from gopstream.pipeline.annotations.request import ListRequest
from gopstream.pipeline.annotations.vocabulary import given_classes, sorted_classes
from gopstream.pipeline.errors import AnnotationError


def read_folder(request: ListRequest) -> VideoList:
    """List the files below the videos' root.

    With sub-folders, the first one below the root is the class of all files in it, at any depth.
    Without, the files have no label. The classes are the folders, sorted, or those of
    ``--classes``.

    Raises:
        AnnotationError: If there is no file, or files lie beside the class folders.
    """
    if request.annotations is not None:
        raise AnnotationError("a folder is read without --annotations; or use --dataset csv")
    split = check_split(request.split, "--split")
    given = given_classes(request.classes_file)
    names = [name for name in request.list_files(request.videos) if not _is_hidden(name)]
    if not names:
        raise AnnotationError(f"{request.videos}: no videos: the folder holds no files")
    beside = [name for name in names if "/" not in name]
    if beside and len(beside) < len(names):
        raise AnnotationError(
            f"{request.videos}: holds class folders and also files beside them ({beside[0]}"
            f"{' and others' if len(beside) > 1 else ''}); move these into a class folder or away"
        )
    records = RecordList(request.videos, lambda place: f"{request.videos}/{names[place]}")
    labels = set()
    for place, name in enumerate(names):
        check_text(name, request.videos)
        label = intern(name.split("/", 1)[0]) if "/" in name else None
        if label is not None and given is not None:
            given.check(label, f"{request.videos}/{name}")
        labels.add(label)
        records.add(VideoRecord(name, label, split), place=place)
    return records.finish((given or sorted_classes(labels, request.videos)).names)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name
