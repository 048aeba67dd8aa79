"""Proof that stored frames have the right colours, at no price in quality.

Our JPEGs are made from 4:2:0 planes without going through RGB. They are compared with RGB that
FFmpeg makes, once from the source and once from the very planes, and with the peer: a JPEG of
that RGB at the same quality.

Dimensions: T compared frames.
"""

import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import simplejpeg
from rich.console import Console
from rich.table import Table

from gopstream.jobs.bench.proof_report import parse_arguments, usable_videos, write_report
from gopstream.pipeline.jpeg import decode_frame, encode_frame
from gopstream.pipeline.probe import VideoFacts
from gopstream.pipeline.transcode import (
    CanonicalFormat,
    canonical_matrix,
    canonical_size,
    default_ffmpeg,
    transcode_frames,
)

FRAME_STRIDE: Final = 12
MAX_FRAMES: Final = 6
QUALITY: Final = 90
ALLOWED_LOSS_DB: Final = 1.5
_FROM_SOURCE = "bicubic+accurate_rnd+bitexact+full_chroma_int+full_chroma_inp"
_FROM_PLANES = "bicubic+accurate_rnd+full_chroma_int+bitexact"


def stored_pictures(facts: VideoFacts) -> npt.NDArray[np.uint8]:
    """Return (T, H * 3 / 2, W) uint8 I420: the scaled pictures that are compared."""
    with tempfile.TemporaryDirectory(prefix="gopstream-proof-") as folder:
        pictures = transcode_frames(
            facts,
            Path(folder) / "canonical.nut",
            canonical=CanonicalFormat(),
            binary=default_ffmpeg(),
        )
        chosen = islice(pictures, 0, FRAME_STRIDE * (MAX_FRAMES - 1) + 1, FRAME_STRIDE)
        return np.stack([picture.copy() for picture in chosen])


def rgb_from_source(facts: VideoFacts) -> npt.NDArray[np.uint8]:
    """Let FFmpeg scale the source straight to RGB; returns (T, H, W, 3) uint8."""
    width, height = canonical_size(facts, CanonicalFormat().short_side)
    filters = (
        f"select='not(mod(n,{FRAME_STRIDE}))',"
        f"scale={width}:{height}:flags={_FROM_SOURCE},format=rgb24"
    )
    arguments = ["-i", f"file:{facts.path.absolute()}", "-map", f"0:{facts.stream_index}"]
    arguments += ["-vf", filters, "-fps_mode", "passthrough", "-frames:v", str(MAX_FRAMES)]
    return _run_to_rgb(arguments, width=width, height=height)


def rgb_from_planes(pictures: npt.NDArray[np.uint8], *, matrix: str) -> npt.NDArray[np.uint8]:
    """Let FFmpeg convert (T, H * 3 / 2, W) planes to RGB; returns (T, H, W, 3) uint8."""
    width, height = pictures.shape[2], pictures.shape[1] * 2 // 3
    filters = f"scale=in_color_matrix={matrix}:in_range=tv:flags={_FROM_PLANES},format=rgb24"
    arguments = ["-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", f"{width}x{height}"]
    arguments += ["-i", "pipe:0", "-vf", filters, "-fps_mode", "passthrough"]
    return _run_to_rgb(arguments, width=width, height=height, sent=pictures.tobytes())


def _run_to_rgb(
    arguments: list[str], *, width: int, height: int, sent: bytes = b""
) -> npt.NDArray[np.uint8]:
    command = [default_ffmpeg(), "-hide_banner", "-loglevel", "error", *arguments]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    done = subprocess.run(command, input=sent, stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)


def peer_jpeg(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) RGB as everybody does: 4:2:0 JPEG by libjpeg-turbo."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(rgb), quality=QUALITY, colorspace="RGB", colorsubsampling="420"
    )
    return encoded


def psnr(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB over all frames, pixels and channels."""
    error = np.square(first.astype(np.float64) - second).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def compare_video(facts: VideoFacts) -> dict[str, Any]:
    """Compare our JPEGs and the peer's with both references.

    Raises:
        ValueError: If FFmpeg gives another number of frames than the pipeline.
    """
    pictures = stored_pictures(facts)
    matrix = canonical_matrix(facts)
    jpegs = [encode_frame(picture, matrix=matrix, quality=QUALITY) for picture in pictures]
    ours = np.stack([decode_frame(jpeg) for jpeg in jpegs])
    row: dict[str, Any] = {"video": facts.path.name, "matrix": facts.matrix}
    row |= {"full_range": facts.full_range, "frames": len(pictures)}
    row["our_bytes"] = sum(map(len, jpegs))
    references = {
        "source": rgb_from_source(facts),
        "planes": rgb_from_planes(pictures, matrix=matrix),
    }
    for name, rgb in references.items():
        if rgb.shape != ours.shape:
            raise ValueError(
                f"{facts.path.name}: RGB from {name} must have shape {ours.shape}, got {rgb.shape}"
            )
        peers = [peer_jpeg(frame) for frame in rgb]
        peer = np.stack([decode_frame(jpeg) for jpeg in peers])
        row[name] = {
            "ours_db": round(psnr(ours, rgb), 3),
            "peer_db": round(psnr(peer, rgb), 3),
            "peer_bytes": sum(map(len, peers)),
        }
    return row


def failures(row: dict[str, Any]) -> list[str]:
    """Name the references against which our JPEGs are too far behind the peer's."""
    return [
        f"{row['video']}, RGB from {name}: ours {row[name]['ours_db']} dB, "
        f"peer {row[name]['peer_db']} dB"
        for name in ("source", "planes")
        if row[name]["ours_db"] < row[name]["peer_db"] - ALLOWED_LOSS_DB
    ]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("video", "matrix", "frames", "dB: source ours", "peer", "planes ours", "peer")
    for row in rows:
        figures = [
            f"{row[name][who]:.2f}"
            for name in ("source", "planes")
            for who in ("ours_db", "peer_db")
        ]
        table.add_row(row["video"], row["matrix"], str(row["frames"]), *figures)
    return table


def main() -> int:
    """Run the proof; returns the exit code."""
    arguments = parse_arguments("jpeg_colours", "Stored frames have the colours of the source.")
    rows = [compare_video(facts) for facts in usable_videos(arguments.videos)]
    found = [text for row in rows for text in failures(row)]
    if not rows:
        found.append("no video: nothing was compared")
    content = {
        "claim": f"our JPEG is at most {ALLOWED_LOSS_DB} dB behind a JPEG of the RGB itself, "
        "for each video and both references",
        "holds": not found,
        "failures": found,
        "quality": QUALITY,
        "simplejpeg": simplejpeg.__version__,
        "videos": rows,
    }
    write_report(arguments.json_file, content, name="jpeg_colours")
    Console(width=110).print(_table(rows))
    Console().print("\n".join(found) or "the claim holds", markup=False, soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
