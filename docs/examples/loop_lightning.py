"""Train a tiny network with Lightning.

Lightning takes any iterable of batches. It keeps the loader's state in its checkpoints, since the
loader has state_dict and load_state_dict, and moves batches with their own to.

Example: python loop_lightning.py demo/shards --steps 10
         python loop_lightning.py demo/shards --steps 20 --resume runs/lightning/last.ckpt
"""

import argparse
from pathlib import Path

import lightning
import torch
from torch import nn

from gopstream.shards import (
    ClipBatch,
    ClipSpec,
    ShardDataset,
    StreamingLoader,
    TransformSpec,
)


class TinyModule(lightning.LightningModule):
    """A network, its loss and its optimiser."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, kernel_size=(2, 8, 8), stride=(2, 8, 8))
        self.head = nn.Linear(8, num_classes)
        self.losses: list[float] = []

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        frames = (frames.float() / 255 - 0.45) / 0.225
        return self.head(self.stem(frames).relu().mean(dim=(2, 3, 4)))

    def training_step(self, batch: ClipBatch, batch_index: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self(batch.frames), batch.labels)
        self.log("loss", loss, batch_size=len(batch.keys))
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(
    root: str, steps: int = 6, *, out: str | Path = "runs/lightning", resume: Path | None = None
) -> list[float]:
    """Train up to a step, from a checkpoint if there is one; the last is ``out/last.ckpt``."""
    lightning.seed_everything(0, verbose=False)
    dataset = ShardDataset(root, "train")
    spec = ClipSpec(num_frames=8, stride=2, transform=TransformSpec(size=32, flip=0.5))
    # Ranks and world size are torch.distributed's; no sampler of Lightning's is needed.
    loader = StreamingLoader(dataset, spec, batch_size=2, seed=0)
    module = TinyModule(len(dataset.classes))
    trainer = lightning.Trainer(
        max_steps=steps,
        max_epochs=-1,
        default_root_dir=out,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, train_dataloaders=loader, ckpt_path=resume)
    trainer.save_checkpoint(Path(out) / "last.ckpt")
    return module.losses


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="folder or address that 'gopstream shard' has written")
    parser.add_argument("--steps", type=int, default=6, help="train so many steps (default: 6)")
    parser.add_argument(
        "--out", default="runs/lightning", help="folder of the run (default: %(default)s)"
    )
    parser.add_argument(
        "--resume", type=Path, metavar="CHECKPOINT", help="go on from it: OUT/last.ckpt"
    )
    return parser.parse_args()


if __name__ == "__main__":
    given = read_arguments()
    for value in main(given.dataset, given.steps, out=given.out, resume=given.resume):
        print(f"loss {value:.4f}")
