"""What the commands share: where results go, and which folders are understood."""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import Parameter

from gopstream.jobs.errors import UserError

if TYPE_CHECKING:
    from gopstream.pipeline.object_store import StoreOptions
    from gopstream.pipeline.options import ExtractionOptions
    from gopstream.shards.byte_ranges import Cache, ReadOptions

# The object store reads them too, in this order; it panics at what is not an address.
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_ENDPOINT: Final = re.compile(
    r"(?i:https?)://([A-Za-z0-9_][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
    r"(/[A-Za-z0-9._~%/-]*)?"
)
_MAX_PORT: Final = 65535
_GIGABYTE: Final = 10**9

JsonFile = Annotated[
    str | None,
    Parameter(
        name="--json",
        help="Write the result as JSON to this file; - is standard output.",
        allow_leading_hyphen=True,
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StoreArguments:
    """How object storage is reached; for addresses such as ``s3://bucket/folder`` alone."""

    endpoint: str | None = None
    """Address of an S3-compatible server, such as http://HOST:PORT; by default AWS_ENDPOINT_URL,
    or AWS itself."""
    region: str | None = None
    """Region of the bucket; by default AWS_REGION."""
    profile: str | None = None
    """Profile of AWS's configuration files; by default AWS_PROFILE. Needs boto3."""
    credentials_command: str | None = None
    """A command that prints credentials as AWS's credential_process does; run again before they
    expire."""
    anonymous: bool = False
    """Send no credentials: for public buckets."""
    patience: float = 600.0
    """How many seconds a store that fails or is away is asked again; a web server that does not
    answer at all, 60 at most."""

    def options(self) -> "StoreOptions":
        """Return them with what the environment adds.

        Raises:
            UserError: If patience is not above zero, or an endpoint is not an address.
        """
        from gopstream.pipeline.object_store import StoreOptions

        check_positive({"patience": self.patience})
        return StoreOptions(
            patience_seconds=self.patience,
            endpoint=_endpoint(self.endpoint),
            region=self.region,
            anonymous=self.anonymous,
            credentials_command=self.credentials_command,
            profile=self.profile or os.environ.get("AWS_PROFILE") or _default_profile(),
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReadingArguments:
    """How samples are read, and what becomes of those that cannot be."""

    cache: str = "auto"
    """Where whole shards from object storage are kept: a folder; auto, which is
    ~/.cache/gopstream; or off."""
    cache_gb: float | None = None
    """How many GB the cache may hold, of all datasets together; by default half of the free
    disk."""
    fetch: Literal["ranges", "shards"] = "ranges"
    """Ask object storage for the bytes of each clip (ranges), or for whole shards when one is
    first read: for datasets that fit into the cache, or with train.shuffle=windows."""
    on_error: Literal["raise", "skip"] | None = None
    """Stop at a clip whose bytes are damaged or missing (raise), or leave it out and count it
    (skip); by default training does as train.on_error of the recipe says, and evaluation stops."""

    def options(self) -> "ReadOptions":
        """Return how samples are read.

        Raises:
            UserError: If a value cannot be meant, or two do not go together.
        """
        from gopstream.shards.byte_ranges import ReadOptions

        cache = self._cache()
        if self.fetch == "shards" and cache is None:
            raise UserError("--fetch shards needs a cache, got --cache off; leave that at auto")
        return ReadOptions(cache=cache, fetch=self.fetch)

    def _cache(self) -> "Cache | Literal['auto'] | None":
        from gopstream.shards.byte_ranges import Cache

        num_bytes = None if self.cache_gb is None else self.cache_gb * _GIGABYTE
        if num_bytes is not None and not 1 <= num_bytes < math.inf:
            raise UserError(f"--cache-gb must be a size above 0, got {self.cache_gb:g}")
        if self.cache == "off":
            if num_bytes is not None:
                raise UserError("--cache-gb is the size of a cache, got --cache off")
            return None
        folder = None
        if self.cache != "auto":
            folder = Path(self.cache).expanduser()
            # A word that is mistyped must not become a folder, nor an address.
            if "://" in self.cache or not (
                os.sep in self.cache or (self.cache and folder.is_dir())
            ):
                raise UserError(
                    f"--cache must be auto, off or a folder such as ./cache, got {self.cache!r}"
                )
        if folder is None and num_bytes is None:
            return "auto"
        return Cache(folder, None if num_bytes is None else int(num_bytes))


def _endpoint(option: str | None) -> str | None:
    """Return the endpoint of the option or of the environment, None for AWS's own."""
    given = {"--endpoint": option} | {name: os.environ.get(name) for name in _ENDPOINT_VARIABLES}
    name, endpoint = next(
        ((name, value) for name, value in given.items() if value is not None), ("", None)
    )
    if endpoint is None:
        return None
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or int(found["port"] or 0) > _MAX_PORT:
        raise UserError(
            f"{name} must be an address such as http://HOST:PORT or https://HOST, got {endpoint!r}"
        )
    return endpoint


def _default_profile() -> str | None:
    """Return the profile that AWS's own tools would take, if their files are all that there is."""
    says_more = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
    if any(name in os.environ for name in says_more):
        return None
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    return "default" if Path(file).expanduser().is_file() else None


def report(content: dict[str, Any], target: str | None) -> None:
    """Write a result as JSON where ``--json`` says."""
    if target is None:
        return
    text = json.dumps(content, indent=2, sort_keys=True)
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n")


def ffmpeg_binary() -> str:
    """Return the FFmpeg that ``GOPSTREAM_FFMPEG`` names, or the one of imageio-ffmpeg."""
    from gopstream.pipeline.transcode import default_ffmpeg

    return os.environ.get("GOPSTREAM_FFMPEG") or default_ffmpeg()


def allow_deterministic_products() -> None:
    """Let cuBLAS repeat its sums, which torch's deterministic mode asks for; before CUDA begins."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def check_positive(options: Mapping[str, float | None]) -> None:
    """Refuse options that are given and not above zero.

    Raises:
        UserError: Naming the first of them.
    """
    for name, value in options.items():
        if value is not None and value <= 0:
            raise UserError(f"--{name} must be above 0, got {value:g}")


def extraction_options(
    *,
    mode: Literal["canonical", "native"],
    planes: str | None,
    short_side: int,
    quality: int,
    crf: int = 20,
    gop: int = 12,
    frame_stride: int = 1,
    fps: float | None = None,
    segment_frames: int = 300,
    backend: Literal["pyav", "mvextractor"] = "pyav",
) -> "ExtractionOptions":
    """Return the options of an extraction as the command line gives them.

    Raises:
        UserError: If a value cannot be meant.
    """
    from gopstream.pipeline.options import ExtractionOptions
    from gopstream.pipeline.transcode import CanonicalFormat

    if planes is None:
        planes = "frames,motion,residual" if mode == "canonical" else "frames,motion"
    try:
        return ExtractionOptions(
            canonical=CanonicalFormat(short_side=short_side, crf=crf, gop=gop),
            mode=mode,
            backend=backend,
            planes=tuple(plane.strip() for plane in planes.split(",") if plane.strip()),
            quality=quality,
            frame_stride=frame_stride,
            fps=fps,
            segment_frames=segment_frames,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
