"""A disk of limited size, in a mount namespace that one process keeps open."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_PAGE_BYTES: Final = 4096
_MOUNT: Final = 'mount -t tmpfs -o size="$1" tmpfs "$2" && echo mounted && exec cat'


class NoNamespaceError(RuntimeError):
    """This machine does not let us mount anything."""


class LimitedDisk:
    """A tmpfs on a folder, seen only by the commands that are run inside."""

    def __init__(self, folder: Path, *, num_bytes: int) -> None:
        """Mount it.

        Args:
            folder: Where, an empty folder.
            num_bytes: Its size; whole pages count.

        Raises:
            NoNamespaceError: If that is not allowed here.
        """
        self._folder = folder
        command = ["unshare", "--map-root-user", "--mount", "sh", "-c", _MOUNT, "sh"]
        try:
            self._keeper = subprocess.Popen(
                [*command, str(num_bytes), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except FileNotFoundError as error:
            raise NoNamespaceError("there is no program unshare") from error
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline().strip()
        if said != "mounted":
            self.__exit__(None, None, None)
            raise NoNamespaceError(f"no disk of limited size can be mounted here: {said}")

    def __enter__(self) -> Self:
        """Return the disk."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget the disk with what is on it."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.stdout.close()
        self._keeper.wait()

    @property
    def within(self) -> Sequence[str]:
        """Words before a command that is to see the disk."""
        enter = ["nsenter", "--user", "--mount", "--preserve-credentials", "--target"]
        return [*enter, str(self._keeper.pid), "--"]

    @property
    def content(self) -> Path:
        """The disk as it is seen from outside."""
        return Path(f"/proc/{self._keeper.pid}/root") / self._folder.relative_to("/")

    def resize(self, num_bytes: int) -> None:
        """Make it larger."""
        options = f"remount,size={num_bytes}"
        subprocess.run([*self.within, "mount", "-o", options, str(self._folder)], check=True)


def disk_bytes(folder: Path) -> int:
    """Return what the files of a folder take on such a disk."""
    sizes = (path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return sum(-(-size // _PAGE_BYTES) * _PAGE_BYTES for size in sizes)
