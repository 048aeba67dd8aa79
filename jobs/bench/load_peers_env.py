"""An environment for the peers of ``gopstream bench load``: they fight over numpy and OpenCV."""

import re
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

_PIP_SECONDS: Final = 1800.0
_WHEEL_LIBRARY: Final = re.compile(r"(lib(?:av|sw)\w+)-[0-9a-f]+\.so\.(\d+)[.\d]*")


@dataclass(frozen=True, slots=True)
class Peer:
    """A package that reads clips in another way."""

    name: str
    """As ``load_peer`` knows it."""
    shown: str
    distributions: tuple[str, ...]
    """What pip calls it; the first that installs is taken."""
    ours_has_it: bool = False
    """Whether our own environment has it as well."""


PEERS: Final = (
    Peer("pyav", "PyAV", (f"av=={version('av')}",), ours_has_it=True),
    Peer("decord", "decord", ("decord", "eva-decord")),
    Peer("torchcodec", "torchcodec", ("torchcodec",)),
    Peer("cv2", "cv2", ("opencv-python-headless",)),
    Peer("webdataset", "webdataset", (f"webdataset=={version('webdataset')}",), ours_has_it=True),
    Peer("mosaicml", "MosaicML streaming", ("mosaicml-streaming",)),
)
# What all of them need: the same kernel that resizes, the same JPEG decoder.
_SHARED: Final = ("torch", "torchvision", "simplejpeg", "numpy")


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a peer runs."""

    command: tuple[str, ...]
    """Starts Python in it."""
    distribution: str
    reason: str | None = None
    """Why it does not."""


def environments(folder: Path | None, *, on_step: Callable[[str], None]) -> dict[str, Environment]:
    """Return where each peer runs.

    Args:
        folder: Of the environment; made where it is not there yet, some minutes and some
            gigabytes. None takes the peers that our own environment has.
        on_step: Called with what is being installed.
    """
    if folder is None:
        return {
            peer.name: Environment(
                (sys.executable,),
                _bare(peer.distributions[0]),
                None if peer.ours_has_it else "not asked for: --peers makes an environment for it",
            )
            for peer in PEERS
        }
    python = folder / "bin" / "python"
    if not python.exists():
        on_step(f"making an environment in {folder}")
        venv.create(folder, with_pip=True)
    failure = _install(python, _SHARED, on_step)
    found = {}
    for peer in PEERS:
        reason = failure
        for distribution in peer.distributions if failure is None else ():
            reason = _install(python, (distribution,), on_step)
            if reason is None:
                command: tuple[str, ...] = (str(python),)
                if peer.name == "torchcodec":
                    # It brings no FFmpeg: it gets the one that PyAV's wheel carries.
                    command = ("env", f"LD_LIBRARY_PATH={_ffmpeg_links(folder)}", *command)
                found[peer.name] = Environment(command, _bare(distribution))
                break
        if peer.name not in found:
            found[peer.name] = Environment((str(python),), _bare(peer.distributions[0]), reason)
    return found


def _ffmpeg_links(folder: Path) -> Path:
    """Return a folder where the FFmpeg libraries of PyAV's wheel have their common names."""
    links = folder / "ffmpeg"
    links.mkdir(exist_ok=True)
    for library in sorted(folder.glob("lib/python*/site-packages/av.libs/*.so*")):
        names = [library.name]
        # libavutil-5809ad29.so.60.26.102 is asked for as libavutil.so.60.
        if named := _WHEEL_LIBRARY.fullmatch(library.name):
            names.append(f"{named[1]}.so.{named[2]}")
        for name in names:
            link = links / name
            link.unlink(missing_ok=True)
            link.symlink_to(library.absolute())
    return links.absolute()


def _install(
    python: Path, distributions: tuple[str, ...], on_step: Callable[[str], None]
) -> str | None:
    """Install what is not there yet; returns why it cannot be."""
    names = [_bare(distribution) for distribution in distributions]
    asking = f"import importlib.metadata as m; [m.version(name) for name in {names!r}]"
    if subprocess.run([python, "-c", asking], capture_output=True).returncode == 0:
        return None
    on_step(f"installing {', '.join(distributions)}")
    command = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    try:
        done = subprocess.run(
            [*command, *distributions], capture_output=True, text=True, timeout=_PIP_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"pip did not end in {_PIP_SECONDS:g} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    return f"does not install: {errors[-1].removeprefix('ERROR: ') if errors else 'pip failed'}"


def _bare(distribution: str) -> str:
    return distribution.partition("==")[0]
