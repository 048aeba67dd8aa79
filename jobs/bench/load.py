"""Measure loading next to decoding on the fly, other loaders, object storage and the ceiling.

All contestants run in processes of their own, one thread each unless workers are named, and take
turns in rounds. A figure is a median of the rounds; a ratio is the median of the ratios within
the rounds, so that noise of the machine hits both sides of it. Contestants of one process are
compared by clips per second of CPU time, in which other processes do not count; with workers or a
server it is the clock.
"""

import multiprocessing
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from gopstream.jobs.bench import load_peer
from gopstream.jobs.bench.load_material import (
    CROP_RATIO,
    CROP_SCALE,
    FLIP,
    FULL,
    NUM_FRAMES,
    QUICK,
    SIZE,
    SPLIT,
    STRIDE,
    BenchSize,
    CropKind,
    CutClips,
    Material,
    make_materials,
)
from gopstream.jobs.bench.load_peers_env import PEERS, Environment, environments
from gopstream.jobs.bench.load_rounds import (
    Contestant,
    Turn,
    contestants,
    median_rate,
    rate,
    take_turns,
)
from gopstream.jobs.bench.load_server import LoopbackServer, loopback_server
from gopstream.jobs.bench.load_tables import claims_of, tables
from gopstream.jobs.bench.proof_report import versions
from gopstream.jobs.summaries import Summary, render
from gopstream.shards.dataset_files import load_manifest

_DECODERS: Final = ("pyav", "decord", "torchcodec", "cv2")
_OURS: Final = (sys.executable, "-m", "gopstream.jobs.bench.load_ours")
# A share of what S3 did in the rounds: well below, so that the rate decides and not the machine.
_THROTTLED_SHARE: Final = 0.4
_NOTES: Final = (
    "ours draws its own clips by the same rules; decoders read the same clips as each other",
    "every contestant resizes with the same kernel (torch, antialiased bilinear, uint8)",
    "webdataset and MosaicML streaming hold clips cut beforehand: always the same frames of a "
    "video, in a fixed order; ours draws them anew from whole videos",
    "decoders: one FFmpeg thread, files opened anew for each clip; torchcodec in both seek modes, "
    "with the FFmpeg of PyAV's wheel",
    "the ceiling: simplejpeg and the same resize from memory, buffers reused, nothing else",
    "the S3 server is a small one of our own that sends files from the kernel; it shares the "
    "cores with the loader; 'GET loop' is what the same client gets of it without a loader",
    "cold: the system was told to forget the shards' files before each measurement",
    "throttled: the server answers so many requests a second, evenly spaced",
)


@dataclass(frozen=True, slots=True)
class BenchPlaces:
    """Where things are kept."""

    sources: Path | None
    """Videos to make others from; None generates some."""
    work: Path
    """Videos and shards are made here, and found again."""
    peers: Path | None
    """The peers' environment; None leaves out what ours does not have."""


def bench_load(
    places: BenchPlaces,
    *,
    crop: CropKind,
    is_quick: bool,
    rounds: int | None,
    on_step: Callable[[str], None],
) -> Summary:
    """Make what is missing, and measure.

    Args:
        places: Where things are.
        crop: What is cut out of a clip's frames: ``area`` is RandomResizedCrop, ``random`` a crop
            of the clip's size out of stored frames, without a resize.
        is_quick: Only show that all of it runs: a few clips, one round.
        rounds: How often each contestant has its turn; None is the default of the size.
        on_step: Called with what is being done.

    Returns:
        Tables, and the figures.
    """
    size = QUICK if is_quick else FULL
    found = environments(places.peers, on_step=on_step)
    materials, cut = make_materials(
        places.sources, places.work, size=size, crop=crop, on_step=on_step
    )
    first = materials[0]
    assert first.dataset is not None
    num_rounds = rounds or size.rounds
    on_step("starting the contestants")
    with loopback_server(first.dataset.parent) as server:
        jobs = _our_jobs(materials, size, crop, server) | _peer_jobs(materials, cut, found)
        with contestants(jobs) as running:
            turns = _turns(running, first.kind.name, size)
            answers = take_turns(
                turns,
                rounds=num_rounds,
                on_round=lambda number: on_step(f"round {number + 1} of {num_rounds}"),
            )
            costs, throttled = _ask_store(running["S3"], answers, server, first.kind.name, size)
            content = {
                "command": "gopstream bench load [--videos DIR] [--peers] --json FILE",
                "quick": is_quick,
                "source": "generated" if places.sources is None else "videos",
                "rounds": num_rounds,
                "clip": _clip_content(size, crop),
                "hardware": {
                    "processor": _processor(),
                    "cores": multiprocessing.cpu_count(),
                },
                "versions": versions() | _peer_versions(running),
                "materials": [_material_content(material) for material in materials],
                "rows": _rows(answers),
                "missing": _missing(found, running),
                "costs": costs,
                "throttled": throttled,
                "stages": _ask_stages(running["ours"], first.kind.name, size),
                "notes": list(_NOTES),
            }
    content["claims"] = claims_of(content, answers)
    return Summary(render(*tables(content)), content)


def _our_jobs(
    materials: list[Material], size: BenchSize, crop: CropKind, server: LoopbackServer
) -> dict[str, tuple[tuple[str, ...], Mapping[str, Any]]]:
    first = materials[0]
    assert first.dataset is not None
    shared = {
        "batch_size": size.batch_size,
        "first": first.kind.name,
        "clips": first.clips,
        "crop": crop,
    }
    datasets = {m.kind.name: str(m.dataset) for m in materials if m.dataset is not None}
    return {
        "ours": (_OURS, {**shared, "contestant": "disk", "datasets": datasets}),
        "S3": (
            _OURS,
            {
                **shared,
                "contestant": "S3",
                "endpoint": server.endpoint,
                "folder": first.dataset.name,
            },
        ),
    }


def _peer_jobs(
    materials: list[Material], cut: CutClips, found: Mapping[str, Environment]
) -> dict[str, tuple[tuple[str, ...], Mapping[str, Any]]]:
    jobs: dict[str, tuple[tuple[str, ...], Mapping[str, Any]]] = {}
    for peer in PEERS:
        place = found[peer.name]
        if place.reason is not None:
            continue
        shared = {
            "contestant": peer.name,
            "distribution": place.distribution,
            "num_frames": NUM_FRAMES,
            "stride": STRIDE,
            "size": SIZE,
        }
        job: dict[str, Any] = {
            "materials": {
                m.kind.name: {"clips": m.clips, "videos": [str(video) for video in m.videos]}
                for m in materials
            }
        }
        if peer.name not in _DECODERS:
            job = {
                "shown": peer.shown,
                "material": materials[0].kind.name,
                "tars": [str(tar) for tar in cut.tars],
                "mds": str(cut.mds),
                "frame_shape": cut.frame_shape,
                "clips": cut.clips,
            }
        jobs[peer.name] = ((*place.command, load_peer.__file__), shared | job)
    return jobs


def _turns(running: Mapping[str, Contestant], first: str, size: BenchSize) -> list[Turn]:
    turns = []
    for name, contestant in running.items():
        for run in contestant.runs:
            shown, _, material = run.partition("|")
            if shown.startswith(("stages", "costs")):
                continue
            count = size.clips_of_ours
            if name in _DECODERS:
                count = size.clips_of_decoders[material]
            elif "motion" in shown or (material and material != first):
                count = max(size.batch_size, size.clips_of_ours // 2)
            turns.append(Turn(contestant, run, count))
    return turns


def _ask_store(
    store: Contestant,
    answers: Mapping[str, list[dict[str, Any]]],
    server: LoopbackServer,
    material: str,
    size: BenchSize,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask what clips cost a store, and what is left of the speed if requests are rationed."""
    before = server.served()
    costs = store.ask(f"costs|{material}", first=0, count=size.clips_of_ours)
    after = server.served()
    run = f"S3, 2 workers|{material}"
    if costs is None or run not in answers:
        return {}, {}
    costs |= {
        "server_requests": after.requests - before.requests,
        "server_bytes": after.bytes_sent - before.bytes_sent,
    }
    per_clip = costs["model_requests"] / costs["clips"]
    allowed = median_rate(answers[run]) * _THROTTLED_SHARE
    server.throttle(allowed * per_clip)
    # Batches of several workers come together: a long measure hardly sees where it began.
    answer = store.ask(run, first=0, count=4 * size.clips_of_ours)
    server.throttle(None)
    if answer is None:
        return costs, {}
    return costs, {
        "requests_per_second": allowed * per_clip,
        "clips_per_second_allowed": allowed,
        "clips_per_second": rate(answer),
        "share": rate(answer) / allowed,
    }


def _ask_stages(ours: Contestant, material: str, size: BenchSize) -> dict[str, Any]:
    stages = {}
    for name in ("stages", "stages, motion"):
        answer = ours.ask(f"{name}|{material}", first=0, count=size.clips_of_stages)
        if answer is None:
            continue
        shown = "frames" if name == "stages" else "frames and accumulated motion"
        stages[shown] = {
            "milliseconds_per_clip": answer["seconds"] / answer["clips"] * 1e3,
            "shares": {
                stage: seconds / answer["profiled_seconds"]
                for stage, seconds in answer["stages"].items()
            },
        }
    return stages


def _rows(answers: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    rows = []
    for run, given in answers.items():
        shown, _, material = run.partition("|")
        row: dict[str, Any] = {
            "contestant": shown,
            "material": material,
            "clips_per_second": median_rate(given),
            "clips": sum(answer["clips"] for answer in given),
        }
        for name in ("cpu_seconds", "worker_cpu_seconds"):
            if name in given[0]:
                spent = sum(answer[name] for answer in given) / row["clips"]
                row[name.replace("seconds", "ms_per_clip")] = spent * 1e3
        rows.append(row)
    return rows


def _missing(found: Mapping[str, Environment], running: Mapping[str, Contestant]) -> dict[str, str]:
    shown = {peer.name: peer.shown for peer in PEERS}
    missing = {shown[name]: place.reason for name, place in found.items() if place.reason}
    for name, contestant in running.items():
        if contestant.reason is not None:
            missing[shown.get(name, name)] = contestant.reason
    return missing


def _peer_versions(running: Mapping[str, Contestant]) -> dict[str, str]:
    """Return what contestants say of themselves, and what we run with."""
    found = {"torch": metadata.version("torch"), "simplejpeg": metadata.version("simplejpeg")}
    for name, contestant in running.items():
        for package, version in contestant.versions.items():
            found[package if name in ("ours", "S3") else f"{package} ({name})"] = version
    return found


def _clip_content(size: BenchSize, crop: CropKind) -> dict[str, Any]:
    return {
        "frames": NUM_FRAMES,
        "stride": STRIDE,
        "size": SIZE,
        "crop": crop,
        **({"crop_scale": CROP_SCALE, "crop_ratio": CROP_RATIO} if crop == "area" else {}),
        "flip": FLIP,
        "batch_size": size.batch_size,
    }


def _material_content(material: Material) -> dict[str, Any]:
    content = asdict(material.kind) | {"video_bytes": material.video_bytes}
    if material.dataset is not None:
        manifest = load_manifest(material.dataset, SPLIT)
        content |= {"shard_bytes": manifest.num_bytes, "shards": len(manifest.shards)}
    return content


def _processor() -> str:
    """Return the processor's name (Linux), or its kind."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
