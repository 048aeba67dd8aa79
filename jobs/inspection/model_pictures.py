"""The pictures that show what a network looks at: those of its family's paper, and Grad-CAM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from gopstream.jobs.errors import UserError
from gopstream.jobs.inspection.attention_pictures import (
    PointPanel,
    PointStyle,
    between_extremes,
    draw_heat,
    draw_points,
)
from gopstream.jobs.trained_run import FedClip
from gopstream.models.dvt.block import DeformableBlock
from gopstream.models.dvt.model import DeformableVideoTransformer
from gopstream.models.dvt.sampled_points import PointKind, sampled_points
from gopstream.models.grad_cam import grad_cam
from gopstream.models.sifa.attention_maps import AttentionMaps, attention_maps
from gopstream.models.sifa.motion_block import InterFrameAttention
from gopstream.models.sifa.offsets import Direction
from gopstream.models.video_focalnet.model import VideoFocalNet

_SMALLEST: Final = 1 / 60
_LARGEST: Final = 1 / 20
"""Between them is the radius of the heaviest disc, as a share of the frame."""
_NUM_LINKED: Final = 3
"""As in figure 5 of the SIFA paper."""
_SCALES: Final = ("tokens", "coarse scale")


@dataclass(frozen=True, slots=True)
class Look:
    """Where to look; None leaves it to the family."""

    query: tuple[float, float] | None = None
    """(x, y) in pixels of the clip; by default its centre."""
    frame: int | None = None
    """Sampled frame of the query; by default one in the middle."""
    block: int | None = None
    """By default the last that has what is shown."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture."""

    name: str
    """Of its file, without suffix."""
    image: Image.Image
    facts: dict[str, Any]
    """What it shows, in plain values."""


def make_pictures(network: nn.Module, clip: FedClip, *, look: Look) -> list[Picture]:
    """Draw what a network looks at in a clip.

    Args:
        network: In evaluation mode.
        clip: Of it.
        look: Where.

    Returns:
        Grad-CAM, and what the papers of DVT, SIFA and Video-FocalNet show.

    Raises:
        UserError: If there is no such place, frame or block, or the network has none.
    """
    _check_look(look, clip)
    pictures = [_grad_cam_picture(network, clip)]
    try:
        if isinstance(network, DeformableVideoTransformer):
            return pictures + _dvt_pictures(network, clip, look=look)
        if any(isinstance(part, InterFrameAttention) for part in network.modules()):
            return pictures + _sifa_pictures(network, clip, look=look)
    except ValueError as error:
        raise UserError(str(error)) from error
    for option, value in (("--query", look.query), ("--frame", look.frame)):
        if value is not None:
            raise UserError(f"{option} is for models that attend points: DVT and SIFA")
    if isinstance(network, VideoFocalNet):
        return pictures + _modulator_pictures(network, clip, block=look.block)
    if look.block is not None:
        raise UserError(
            "--block is for DVT, SIFA and Video-FocalNet; of this model there is Grad-CAM alone"
        )
    return pictures


def _check_look(look: Look, clip: FedClip) -> None:
    num_frames, height, width = clip.pictures.shape[:3]
    if look.query is not None:
        x, y = look.query
        if not (0 <= x < width and 0 <= y < height):
            raise UserError(
                f"--query must lie in the clip's frames of {width} x {height} pixels, as X,Y from "
                f"0,0 at the upper left, got {x:g},{y:g}"
            )
    if look.frame is not None and not 0 <= look.frame < num_frames:
        raise UserError(f"--frame must be 0 to {num_frames - 1}, got {look.frame}")


def _grad_cam_picture(network: nn.Module, clip: FedClip) -> Picture:
    cam = grad_cam(network, clip.frames, class_index=clip.predicted, inputs=clip.inputs)[0]
    shown = _first_frames(len(cam), clip)
    name, share = clip.predicted_name, f"{clip.probability:.0%}"
    truth = "without a label" if clip.label is None else f"is {clip.label}"
    image = draw_heat(
        clip.pictures.numpy()[shown],
        heat=between_extremes(_array(cam), lowest=0.0),
        captions=_captions(shown),
        title=f"Grad-CAM: what speaks for {name} (predicted, {share}; {truth}), {clip.key}",
    )
    return Picture("grad_cam", image, {"shows": "Grad-CAM", "class": name, "frames": shown})


def _dvt_pictures(
    network: DeformableVideoTransformer, clip: FedClip, *, look: Look
) -> list[Picture]:
    block = len(network.blocks) - 1 if look.block is None else look.block
    if not 0 <= block < len(network.blocks):
        raise UserError(f"--block must be 0 to {len(network.blocks) - 1}, got {block}")
    chosen = network.blocks[block]
    assert isinstance(chosen, DeformableBlock)
    kinds: dict[PointKind, nn.Module | None] = {
        "space_time": chosen.attention,
        "multi_scale": chosen.multi_scale_attention,
    }
    return [
        _dvt_picture(network, clip, look=look, block=block, kind=kind)
        for kind, attention in kinds.items()
        if attention is not None
    ]


def _dvt_picture(
    network: DeformableVideoTransformer, clip: FedClip, *, look: Look, block: int, kind: PointKind
) -> Picture:
    points = sampled_points(
        network,
        clip.frames,
        block=block,
        query_frame=len(clip.pictures) // 2 if look.frame is None else look.frame,
        queries=_query(look, clip),
        inputs=clip.inputs,
        kind=kind,
    )
    places, weights = _array(points.places[0, 0]), _array(points.weights[0, 0])
    x, y = points.query_places[0].tolist()
    is_scales = kind == "multi_scale"
    panels = [
        PointPanel(
            frame=clip.pictures[frame].numpy(),
            caption=f"frame {frame}, {_SCALES[number]}" if is_scales else f"frame {frame}",
            places=places[number],
            weights=weights[number],
            is_query=frame == points.query_frame,
        )
        for number, frame in enumerate(points.frames)
    ]
    what = "scales" if is_scales else "frames"
    title = (
        f"{clip.key}: block {block}, query ({x:g}, {y:g}) of frame {points.query_frame}; areas: "
        f"weights, which for each head sum to 1 over the {what}"
    )
    style = PointStyle(_radius(places, clip, query=(x, y)))
    image = draw_points(panels, query=(x, y), title=title, style=style)
    facts = {
        "shows": f"sampled points over {what}",
        "block": block,
        "query": [x, y],
        "query_frame": points.query_frame,
        "frames": list(points.frames),
        "places": places.tolist(),
        "weights": weights.tolist(),
    }
    return Picture("sampled_points_of_scales" if is_scales else "sampled_points", image, facts)


def _sifa_pictures(network: nn.Module, clip: FedClip, *, look: Look) -> list[Picture]:
    def maps_of(direction: Direction) -> AttentionMaps:
        return attention_maps(
            network,
            clip.frames,
            queries=_query(look, clip),
            block=look.block,
            direction=direction,
        )

    maps = {"next": maps_of("next")}
    parts = [part for part in network.modules() if isinstance(part, InterFrameAttention)]
    if parts[0].options.variant == "bidirectional":
        maps["previous"] = maps_of("previous")
    return [
        _saliency_picture(maps["next"], clip),
        _tap_picture(maps, clip, frame=look.frame),
    ]


def _saliency_picture(maps: AttentionMaps, clip: FedClip) -> Picture:
    """Show all pairs of two frames; the last frame may be paired with itself."""
    pairs = [
        number
        for number, (query, key) in enumerate(zip(maps.query_frames, maps.key_frames, strict=True))
        if query != key
    ]
    shown = [maps.key_frames[number] for number in pairs]
    saliency = _array(maps.saliency[0].mean(dim=-1))[pairs]
    image = draw_heat(
        clip.pictures.numpy()[shown],
        heat=between_extremes(saliency),
        captions=[f"frame {maps.key_frames[i]} after {maps.query_frames[i]}" for i in pairs],
        title=f"{clip.key}: motion saliency of block {maps.block}, mean over channels, "
        f"{saliency.min():.3f} to {saliency.max():.3f}",
    )
    facts = {
        "shows": "motion saliency",
        "block": maps.block,
        "frames": shown,
        "saliency": saliency.tolist(),
    }
    return Picture("motion_saliency", image, facts)


def _tap_picture(maps: dict[str, AttentionMaps], clip: FedClip, *, frame: int | None) -> Picture:
    block, query_frame = maps["next"].block, _query_frame(maps["next"], frame)
    x, y = maps["next"].query_places[0].tolist()
    panels = [PointPanel(clip.pictures[query_frame].numpy(), f"frame {query_frame}", is_query=True)]
    neighbours = []
    for direction, of_direction in maps.items():
        if query_frame not in of_direction.query_frames:
            continue
        pair = of_direction.query_frames.index(query_frame)
        key = of_direction.key_frames[pair]
        places = _array(of_direction.places[0, pair])
        weights = _array(of_direction.weights[0, pair])
        neighbours.append(
            {"frame": key, "places": places[0].tolist(), "weights": weights[0].tolist()}
        )
        panel = PointPanel(
            clip.pictures[key].numpy(), f"frame {key}, {direction}", places=places, weights=weights
        )
        panels.insert(0 if direction == "previous" else len(panels), panel)
    taps = np.concatenate([panel.places for panel in panels if panel.places is not None])
    image = draw_points(
        panels,
        query=(x, y),
        title=f"{clip.key}: block {block}, query ({x:g}, {y:g}) of frame {query_frame}; areas: "
        f"products with the query, hollow where negative; lines: the largest {_NUM_LINKED}",
        style=PointStyle(_radius(taps, clip, query=(x, y)), num_linked=_NUM_LINKED),
    )
    facts = {
        "shows": "attention points",
        "block": block,
        "query": [x, y],
        "query_frame": query_frame,
        "neighbours": neighbours,
    }
    return Picture("attention_points", image, facts)


def _query_frame(maps: AttentionMaps, frame: int | None) -> int:
    """Return the attending frame that holds a sampled frame, or one in the middle."""
    if frame is None:
        return maps.query_frames[(len(maps.query_frames) - 1) // 2]
    first = max(start for start in {*maps.query_frames, *maps.key_frames} if start <= frame)
    if first not in maps.query_frames:
        raise UserError(f"--frame {frame} has no next frame that it attends; give an earlier one")
    return first


def _modulator_pictures(
    network: VideoFocalNet, clip: FedClip, *, block: int | None
) -> list[Picture]:
    with torch.inference_mode():
        blocks = network.forward_with_modulators(clip.frames).blocks
    number = len(blocks) - 1 if block is None else block
    if not 0 <= number < len(blocks):
        raise UserError(f"--block must be 0 to {len(blocks) - 1}, got {number}")
    pictures = []
    for kind, modulator in (("space", blocks[number].space), ("time", blocks[number].time)):
        if modulator is None:
            continue
        lengths = _array(modulator[0].float().norm(dim=-1))
        shown = _first_frames(len(lengths), clip)
        image = draw_heat(
            clip.pictures.numpy()[shown],
            heat=between_extremes(lengths),
            captions=_captions(shown),
            title=f"{clip.key}: length of the modulators in {kind}, block {number}",
        )
        facts = {"shows": f"modulators in {kind}", "block": number, "frames": shown}
        pictures.append(Picture(f"modulators_in_{kind}", image, facts))
    return pictures


def _query(look: Look, clip: FedClip) -> Tensor:
    height, width = clip.pictures.shape[1:3]
    return torch.tensor([look.query or (width / 2, height / 2)])


def _radius(places: npt.NDArray[np.float64], clip: FedClip, *, query: tuple[float, float]) -> float:
    """Return a radius with which points about a query do not hide one another."""
    distances = np.hypot(*np.moveaxis(places - query, -1, 0))
    longer = max(clip.pictures.shape[1:3])
    return float(np.clip(0.4 * np.median(distances), longer * _SMALLEST, longer * _LARGEST))


def _first_frames(count: int, clip: FedClip) -> list[int]:
    """Return the first sampled frame that each of some frames of features is made of."""
    step = len(clip.pictures) // count
    return [number * step for number in range(count)]


def _captions(frames: Sequence[int]) -> list[str]:
    return [f"frame {frame}" for frame in frames]


def _array(tensor: Tensor) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array
