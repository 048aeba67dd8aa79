"""What tells two folders of files apart."""

import hashlib


def hashes(root):
    """Return the sha256 of every file below a folder, by its path there."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
