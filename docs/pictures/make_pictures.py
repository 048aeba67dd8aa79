"""Make the pictures of docs/reading_motion_vectors.md anew, by the commands of the page itself."""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reading_motion_vectors.md"
LARGEST = 150_000  # bytes; a larger picture is kept with 256 colours


def commands() -> list[list[str]]:
    """Return the page's commands, as words."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def shown() -> list[Path]:
    """Return the pictures of the page, from docs/pictures on."""
    return [Path(name) for name in re.findall(r"\]\(pictures/(\S+?)\)", PAGE.read_text())]


def run(words: list[str], folder: Path) -> None:
    """Run a command of the page in a folder.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    program, *rest = words
    if program == "gopstream":
        command = [sys.executable, "-m", "gopstream", *rest]
    else:
        command = [sys.executable, str(ROOT / rest[0]), *rest[1:]]
    subprocess.run(command, cwd=folder, check=True)


def main() -> None:
    """Run the commands and copy what the page shows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for words in commands():
            run(words, folder)
        for picture in shown():
            target = ROOT / "docs" / "pictures" / picture
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / picture, target)
            if target.stat().st_size > LARGEST:
                with Image.open(folder / picture) as full:
                    reduced = full.quantize(256, method=Image.Quantize.MAXCOVERAGE)
                reduced.save(target, optimize=True)


if __name__ == "__main__":
    main()
