"""One contestant of ``gopstream bench load``, in a process and perhaps an environment of its own.

Runs as a script with the interpreter of the peers' environment, where gopstream is not
installed: it imports nothing of ours. It reads a job (JSON, by path), says whether it is ready,
and then answers one JSON line per line that it reads. Every contestant decodes the same kind of
clip on one thread, and crops and resizes with the same kernel.
"""

import importlib
import importlib.metadata
import json
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Reply = dict[str, Any]
Runner = Callable[[int, int], Reply]


class Clip(NamedTuple):
    """One clip that everyone decodes."""

    video: int
    """Which of the material's videos."""
    start: int
    """First frame."""
    left: float
    """Of the crop, as a share of the frame's width; likewise the next three."""
    top: float
    width: float
    height: float
    flip: bool


class ClipMaker:
    """Crops, resizes and mirrors the frames of a clip, into one array that is reused."""

    def __init__(self, *, num_frames: int, size: int) -> None:
        """Allocate the result, once."""
        self._torch = importlib.import_module("torch")
        self._torch.set_num_threads(1)
        shape = (num_frames, size, size, 3)
        self._target = self._torch.empty(shape, dtype=self._torch.uint8).permute(0, 3, 1, 2)
        self._size = size

    def make(self, frames: Any, clip: Clip) -> Any:  # noqa: ANN401 - torch is not imported yet
        """Return (T, 3, size, size) uint8, channels last in memory.

        Antialiased bilinear resizing of whole pixels: the fastest there is on 8-bit pixels.

        Args:
            frames: (T, H, W, 3) uint8, an array or a tensor.
            clip: Where to crop.
        """
        torch = self._torch
        pixels = frames if isinstance(frames, torch.Tensor) else torch.from_numpy(frames)
        height, width = pixels.shape[1:3]
        left, top = int(clip.left * width), int(clip.top * height)
        right = min(width, left + max(1, round(clip.width * width)))
        bottom = min(height, top + max(1, round(clip.height * height)))
        part = pixels[:, top:bottom, left:right].permute(0, 3, 1, 2)
        if part.shape == self._target.shape:
            self._target.copy_(part)
        else:
            torch.ops.aten._upsample_bilinear2d_aa.out(
                part, [self._size, self._size], False, None, None, out=self._target
            )
        if clip.flip:
            self._target.copy_(torch.flip(self._target, [3]))
        return self._target


def serve(runners: Callable[[], dict[str, Runner]], *, modules: Sequence[str] = ()) -> None:
    """Say what can be run, then run what is asked for, line by line, until there are no more.

    Args:
        runners: Makes the runners, by name; a failure is told, not raised.
        modules: Packages whose versions are told.
    """
    try:
        made = runners()
        versions = {name: importlib.metadata.version(name) for name in modules}
        _say({"runs": sorted(made), "versions": versions})
    except Exception as error:
        _say({"error": reason(error)})
        return
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            _say(made[asked["run"]](asked["first"], asked["count"]))
        except Exception as error:
            _say({"error": reason(error)})


def reason(error: BaseException) -> str:
    """Return an error as one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)}"[:300]


def timed(clips: Sequence[Clip], decode: Callable[[Clip, int], object]) -> Runner:
    """Return a runner over some clips, round and round."""

    def run(first: int, count: int) -> Reply:
        begun, cpu = time.perf_counter(), time.process_time()
        for number in range(first, first + count):
            decode(clips[number % len(clips)], number % len(clips))
        return {
            "clips": count,
            "seconds": time.perf_counter() - begun,
            "cpu_seconds": time.process_time() - cpu,
        }

    return run


def _say(reply: Reply) -> None:
    print(json.dumps(reply), flush=True)


def _decoders(name: str, indices: Callable[[int], list[int]]) -> dict[str, Callable[..., Any]]:
    """Return functions (path, start) -> (T, H, W, 3), by the name of their setting."""
    if name == "pyav":
        return {"PyAV": _pyav(indices)}
    if name == "cv2":
        return {"cv2": _cv2(indices)}
    if name == "decord":
        decord = importlib.import_module("decord")

        def read(path: str, start: int) -> Any:  # noqa: ANN401
            video = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            return video.get_batch(indices(start)).asnumpy()

        return {"decord": read}
    return {f"torchcodec, {mode}": _torchcodec(mode, indices) for mode in ("exact", "approximate")}


def _torchcodec(mode: str, indices: Callable[[int], list[int]]) -> Callable[..., Any]:
    decoders = importlib.import_module("torchcodec.decoders")

    def read(path: str, start: int) -> Any:  # noqa: ANN401
        video = decoders.VideoDecoder(
            path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=mode
        )
        return video.get_frames_at(indices=indices(start)).data

    return read


def _pyav(indices: Callable[[int], list[int]]) -> Callable[..., Any]:
    av, np = importlib.import_module("av"), importlib.import_module("numpy")

    def read(path: str, start: int) -> Any:  # noqa: ANN401
        wanted = indices(start)
        frames: list[Any] = []
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            begin = stream.start_time or 0
            ticks = 1 / (stream.average_rate * stream.time_base)
            container.seek(begin + round(start * ticks), stream=stream)
            for frame in container.decode(stream):
                if round((frame.pts - begin) / ticks) == wanted[len(frames)]:
                    frames.append(frame.to_ndarray(format="rgb24"))
                    if len(frames) == len(wanted):
                        break
        return np.stack(frames)

    return read


def _cv2(indices: Callable[[int], list[int]]) -> Callable[..., Any]:
    cv2, np = importlib.import_module("cv2"), importlib.import_module("numpy")
    cv2.setNumThreads(1)

    def read(path: str, start: int) -> Any:  # noqa: ANN401
        video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        video.set(cv2.CAP_PROP_POS_FRAMES, start)
        wanted = set(indices(start))
        frames: list[Any] = []
        for number in range(min(wanted), max(wanted) + 1):
            if not video.grab():
                raise ValueError(f"{path} ends before frame {number}")
            if number in wanted:
                frames.append(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB))
        video.release()
        return np.stack(frames)

    return read


def _decoder_runners(job: dict[str, Any]) -> dict[str, Runner]:
    num_frames, stride = job["num_frames"], job["stride"]
    maker = ClipMaker(num_frames=num_frames, size=job["size"])
    runners = {}
    read_by_setting = _decoders(
        job["contestant"], lambda start: list(range(start, start + num_frames * stride, stride))
    )
    for material, content in job["materials"].items():
        clips, videos = [Clip(*row) for row in content["clips"]], content["videos"]
        for setting, read in read_by_setting.items():

            def decode(
                clip: Clip,
                number: int,
                read: Callable[..., Any] = read,
                videos: list[str] = videos,
            ) -> None:
                del number
                maker.make(read(videos[clip.video], clip.start), clip)

            runners[f"{setting}|{material}"] = timed(clips, decode)
    return runners


def _jpeg_runners(job: dict[str, Any]) -> dict[str, Runner]:
    """Read clips that were cut beforehand, sixteen JPEGs in one value and their sizes."""
    simplejpeg, np = importlib.import_module("simplejpeg"), importlib.import_module("numpy")
    clips = [Clip(*row) for row in job["clips"]]
    maker = ClipMaker(num_frames=job["num_frames"], size=job["size"])
    is_tar = job["contestant"] == "webdataset"
    read = _webdataset(job) if is_tar else _mosaicml(job)
    frames = np.empty((job["num_frames"], *job["frame_shape"]), np.uint8)

    def decode(clip: Clip, number: int) -> None:
        del clip
        key, content, sizes = read(number)
        ends = np.cumsum(np.frombuffer(sizes, np.int32)).tolist()
        for place, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            simplejpeg.decode_jpeg(content[begin:end], buffer=frames[place])
        maker.make(frames, clips[int(key)])

    return {f"{job['shown']}|{job['material']}": timed(clips, decode)}


def _webdataset(job: dict[str, Any]) -> Callable[[int], tuple[str, bytes, bytes]]:
    """Read tars from front to back, again and again; the number asked for does not count."""
    wds = importlib.import_module("webdataset")

    def samples() -> Iterator[tuple[str, bytes, bytes]]:
        while True:
            for sample in wds.WebDataset(job["tars"], shardshuffle=False):
                yield sample["__key__"], sample["jpegs"], sample["sizes"]

    following = samples()
    return lambda number: next(following)


def _mosaicml(job: dict[str, Any]) -> Callable[[int], tuple[str, bytes, bytes]]:
    """Read by number, from shards that are written first, out of the tars."""
    streaming = importlib.import_module("streaming")
    folder = Path(job["mds"])
    if not (folder / "index.json").exists():
        columns = {"key": "str", "jpegs": "bytes", "sizes": "bytes"}
        with streaming.MDSWriter(out=str(folder), columns=columns) as out:
            for tar in job["tars"]:
                for key, parts in _tar_samples(tar):
                    out.write({"key": key, **parts})
    dataset = streaming.StreamingDataset(local=str(folder), shuffle=False, batch_size=1)

    def read(number: int) -> tuple[str, bytes, bytes]:
        sample = dataset[number]
        return sample["key"], sample["jpegs"], sample["sizes"]

    return read


def _tar_samples(tar: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    with tarfile.open(tar) as members:
        parts: dict[str, bytes] = {}
        for member in members:
            key, _, kind = member.name.partition(".")
            content = members.extractfile(member)
            assert content is not None
            parts[kind] = content.read()
            if len(parts) == 2:
                yield key, parts
                parts = {}


def main() -> None:
    """Read the job and serve."""
    job = json.loads(Path(sys.argv[1]).read_text())
    is_decoder = job["contestant"] in ("pyav", "cv2", "decord", "torchcodec")
    serve(
        lambda: (_decoder_runners if is_decoder else _jpeg_runners)(job),
        modules=[job["distribution"], "torch", "numpy"],
    )


if __name__ == "__main__":
    main()
