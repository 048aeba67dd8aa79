"""What a network says of videos, and how it is shown."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gopstream.jobs.labels import LabelSet
from gopstream.jobs.summaries import Summary, render


@dataclass(frozen=True, slots=True)
class PredictedVideo:
    """What a network says of a video."""

    video: str
    """As it was given."""
    num_frames: int
    num_segments: int
    """A long video is cut; the views of all its segments count alike."""
    num_views: int
    """Of all segments."""
    probabilities: tuple[npt.NDArray[np.float64], ...]
    """(classes,) of each label set, of sum 1."""
    warnings: tuple[str, ...]
    """Of the extraction."""


@dataclass(frozen=True, slots=True)
class FailedVideo:
    """A video that cannot be used."""

    video: str
    stage: str
    """Of the extraction, as ``gopstream shard`` names it: open, probe, transcode, decode."""
    error: str
    """Kind of the error."""
    message: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a network says of several videos."""

    sets: tuple[LabelSet, ...]
    mode: str
    views: str
    average: str
    videos: tuple[PredictedVideo | FailedVideo, ...]
    """In the order given."""

    @property
    def num_failed(self) -> int:
        """Videos that cannot be used."""
        return sum(isinstance(video, FailedVideo) for video in self.videos)


def predictions_summary(predictions: Predictions, *, top: int) -> Summary:
    """Return what ``gopstream predict`` prints.

    Args:
        predictions: Of all videos.
        top: Classes that are shown of each label set; there may be fewer.
    """
    texts, rows = [], []
    for video in predictions.videos:
        row = _row(video, predictions.sets, top=top)
        rows.append(row)
        texts.append(_text(row))
    content = {
        "mode": predictions.mode,
        "views": predictions.views,
        "average": predictions.average,
        "videos": rows,
    }
    return Summary(render("\n".join(texts)), content)


def _row(
    video: PredictedVideo | FailedVideo, sets: Sequence[LabelSet], *, top: int
) -> dict[str, Any]:
    if isinstance(video, FailedVideo):
        return {
            "video": video.video,
            "stage": video.stage,
            "error": video.error,
            "message": video.message,
        }
    row = {
        "video": video.video,
        "frames": video.num_frames,
        "segments": video.num_segments,
        "views": video.num_views,
        "warnings": list(video.warnings),
        "label_sets": [
            {
                "name": labels.name,
                "top": [
                    {"class": labels.classes[index], "probability": float(shares[index])}
                    for index in _best(shares, top)
                ],
            }
            for labels, shares in zip(sets, video.probabilities, strict=True)
        ],
    }
    if len(sets) > 1:
        row["actions"] = _best_actions(video.probabilities, sets, top=top)
    return row


def _best(shares: npt.NDArray[np.float64], top: int) -> list[int]:
    """Return the likeliest classes; of equals the first is better."""
    best: list[int] = np.argsort(-shares, kind="stable")[:top].tolist()
    return best


def _best_actions(
    probabilities: Sequence[npt.NDArray[np.float64]], sets: Sequence[LabelSet], *, top: int
) -> list[dict[str, Any]]:
    """Return the likeliest combinations, one class of each label set, by their products.

    A combination among the best N has none but the best N of each set: with a better class in
    place of one, there would be N better combinations.
    """
    candidates = itertools.product(*(sorted(_best(shares, top)) for shares in probabilities))
    actions = [
        {
            "classes": [labels.classes[index] for labels, index in zip(sets, indices, strict=True)],
            "probability": float(
                np.prod([shares[i] for shares, i in zip(probabilities, indices, strict=True)])
            ),
        }
        for indices in candidates
    ]
    return sorted(actions, key=_improbability)[:top]


def _improbability(action: Mapping[str, Any]) -> float:
    return -float(action["probability"])


def _text(row: Mapping[str, Any]) -> str:
    if "stage" in row:
        return f"{row['video']}: not predicted ({row['stage']}): {row['message']}"
    segments = f"{row['segments']} segment{'s' * (row['segments'] > 1)}"
    views = f"{row['views']} view{'s' * (row['views'] > 1)}"
    lines = [f"{row['video']}: {row['frames']} frames in {segments}, {views}"]
    for labels in row["label_sets"]:
        lines += [f"  {labels['name']}"] if labels["name"] else []
        lines += [f"  {guess['probability']:7.2%}  {guess['class']}" for guess in labels["top"]]
    if "actions" in row:
        lines.append("  action")
        lines += [
            f"  {action['probability']:7.2%}  {' '.join(action['classes'])}"
            for action in row["actions"]
        ]
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in row["warnings"])])
