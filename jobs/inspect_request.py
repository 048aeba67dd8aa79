"""What ``inspect`` was asked for, and whether it goes together."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gopstream.jobs.command_options import ReadingArguments, StoreArguments, report
from gopstream.jobs.console import say
from gopstream.jobs.errors import UserError

if TYPE_CHECKING:
    from gopstream.jobs.inspection.inspected import ClipFacts

_SECONDS_BETWEEN_LINES: Final = 15.0


@dataclass(frozen=True, kw_only=True)
class InspectRequest:
    """The options of the command but those of a model alone."""

    target: str
    split: str | None
    key: str | None
    frame: int | None
    first: int | None
    last: int | None
    diff: str | None
    pictures: Mapping[str, Path | None]
    """Where each kind of picture goes, by the option's name."""
    layers: str | None
    span: int | None
    reading: ReadingArguments
    store: StoreArguments
    json_file: str | None

    @property
    def written(self) -> dict[str, Path]:
        """The kinds of pictures that are asked for."""
        return {name: path for name, path in self.pictures.items() if path is not None}

    @property
    def layer_names(self) -> list[str] | None:
        """The layers that are named."""
        return None if self.layers is None else [name.strip() for name in self.layers.split(",")]

    @property
    def range_options(self) -> dict[str, int | None]:
        """The options that choose frames."""
        return {"--frame": self.frame, "--first": self.first, "--last": self.last}

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UserError: Naming the options.
        """
        if self.frame is not None and (self.first is not None or self.last is not None):
            raise UserError("--frame is one frame; leave out --first and --last, or --frame")
        drawn = [name for name in self.written if name != "--html"]
        for name, value in (("--layers", self.layers), ("--span", self.span)):
            if value is not None and not drawn:
                page = "; the layers of a page are chosen in it" if self.written else ""
                raise UserError(f"{name} is for --png, --movie and --sheet{page}")
        if self.layer_names is not None:
            from gopstream.jobs.inspection.pictures.layers import check_layers

            check_layers(self.layer_names)
        if self.span is not None and self.span < 1:
            raise UserError(f"--span must be at least 1, got {self.span}")
        if self.diff is not None and self.written:
            raise UserError(
                f"--diff compares and draws nothing; leave out {', '.join(self.written)}"
            )
        if "--sheet" in self.written:
            refuse(self.range_options, "cannot be used with --sheet, which shows the whole clip")

    def tell(self, text: str, content: dict[str, Any]) -> None:
        """Print a result, and write it as JSON."""
        if self.json_file != "-":
            print(text)
        report(content, self.json_file)

    def frame_range(self, facts: "ClipFacts") -> tuple[int, int]:
        """Return the first frame that is asked for, and the one behind the last.

        Raises:
            UserError: If the clip does not have them.
        """
        highest = facts.num_frames - 1
        for name, value in self.range_options.items():
            if value is not None and not 0 <= value <= highest:
                raise UserError(f"{name} must be 0 to {highest} in {facts.name}, got {value}")
        if self.frame is not None:
            return self.frame, self.frame + 1
        first, last = self.first or 0, highest if self.last is None else self.last
        if first > last:
            raise UserError(f"--first must not be behind --last, got {first} and {last}")
        return first, last + 1


def refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options that are given.

    Raises:
        UserError: Naming the first of them.
    """
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{name} {why}")


def heartbeat(target: str) -> Callable[[int], None]:
    """Return a function that says now and then how much of a long video has been read."""
    last = time.monotonic()
    # Whoever waits at a short video waits for this.
    note = "; the first look after an installation also compiles code"

    def beat(num_frames: int) -> None:
        nonlocal last, note
        if (now := time.monotonic()) - last >= _SECONDS_BETWEEN_LINES:
            last = now
            say(f"{target}: {num_frames:,} frames looked through{note}")
            note = ""

    return beat
