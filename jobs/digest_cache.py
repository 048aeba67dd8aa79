"""Hash a long video once, not once for each of its segments.

A list such as EPIC-KITCHENS' has a hundred segments per video, spread over all shards. What one
worker has hashed the others find in a folder that they share for the length of the job.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from gopstream.pipeline.source_digest import SourceDigest, source_digest
from gopstream.shards.layout import dump_json, write_atomic


def cached_digest(
    path: Path, folder: Path | None, *, on_progress: Callable[[], None]
) -> SourceDigest:
    """Return a file's digest, from the folder if it is known there.

    Args:
        path: A local file.
        folder: Of known digests; None, or one that this machine does not have, knows nothing.
        on_progress: Called while the file is hashed.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if folder is None or not folder.is_dir():
        return source_digest(path, on_progress=on_progress)
    state = path.stat()
    identity = f"{path.resolve()}\0{state.st_ino}\0{state.st_size}\0{state.st_mtime_ns}"
    known = folder / hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        return SourceDigest(**json.loads(known.read_bytes()))
    except FileNotFoundError:
        digest = source_digest(path, on_progress=on_progress)
        write_atomic(known, dump_json(digest._asdict()))
        return digest
