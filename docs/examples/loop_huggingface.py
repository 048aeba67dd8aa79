"""Train a tiny network with Hugging Face's Trainer.

The Trainer wants dictionaries, makes its own DataLoader, and skips batches one by one when it
resumes. Here it is given our loader as it is, and the loader's state is kept in its checkpoints.

Example: python loop_huggingface.py demo/shards --steps 10
         python loop_huggingface.py demo/shards --steps 20 --resume runs/huggingface/checkpoint-10
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gopstream.shards import ClipSpec, ShardDataset, StreamingLoader, TransformSpec

STATE_FILE = "loader.json"


class TinyNetwork(nn.Module):
    """Takes what a dictionary of ours holds, and returns what the Trainer asks for."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, kernel_size=(2, 8, 8), stride=(2, 8, 8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, frames: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        frames = (frames.float() / 255 - 0.45) / 0.225
        logits = self.head(self.stem(frames).relu().mean(dim=(2, 3, 4)))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Dictionaries:
    """A loader whose batches are dictionaries."""

    def __init__(self, loader: StreamingLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch in self.loader:
            yield {"frames": batch.frames, "labels": batch.labels}


class StreamingTrainer(Trainer):
    """The Trainer, fed by our loader."""

    def __init__(self, loader: StreamingLoader, **options: object) -> None:
        super().__init__(**options)
        self.streaming = Dictionaries(loader)

    def get_train_dataloader(self) -> Dictionaries:  # type: ignore[override]
        return self.streaming


class KeepLoader(TrainerCallback):
    """Saves the loader's state beside the weights, and the losses for those who ask."""

    def __init__(self, loader: StreamingLoader) -> None:
        self.loader = loader
        self.losses: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        # The Trainer counts from the beginning of an epoch, also where a run goes on within one.
        place = self.loader.state_dict()
        state.epoch = place["epoch"] + place["position"] / place["num_samples"]

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / STATE_FILE).write_text(json.dumps(self.loader.state_dict()))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def main(
    root: str, steps: int = 6, *, out: str | Path = "runs/huggingface", resume: Path | None = None
) -> list[float]:
    """Train up to a step; ``resume`` is a checkpoint's folder."""
    torch.manual_seed(0)
    dataset = ShardDataset(root, "train")
    spec = ClipSpec(num_frames=8, stride=2, transform=TransformSpec(size=32, flip=0.5))
    loader = StreamingLoader(dataset, spec, batch_size=2, seed=0)
    if resume is not None:
        loader.load_state_dict(json.loads((resume / STATE_FILE).read_text()))
    keep = KeepLoader(loader)
    trainer = StreamingTrainer(
        loader,
        model=TinyNetwork(len(dataset.classes)),
        callbacks=[keep],
        args=TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_steps=steps,
            report_to="none",
            disable_tqdm=True,
            ignore_data_skip=True,  # the loader knows where it stands
        ),
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return keep.losses


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="folder or address that 'gopstream shard' has written")
    parser.add_argument("--steps", type=int, default=6, help="train so many steps (default: 6)")
    parser.add_argument(
        "--out", default="runs/huggingface", help="folder of the run (default: %(default)s)"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="go on from it: OUT/checkpoint-STEP"
    )
    return parser.parse_args()


if __name__ == "__main__":
    given = read_arguments()
    for value in main(given.dataset, given.steps, out=given.out, resume=given.resume):
        print(f"loss {value:.4f}")
