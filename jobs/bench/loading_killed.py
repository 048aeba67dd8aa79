"""Two processes that train together are killed at random moments, and go on as if they were not.

The training is a real one: ``torch.distributed`` with gloo, ``DistributedDataParallel``, loader
workers on each rank, dropout, AdamW, and checkpoints written as ``gopstream train`` writes them.
The loss of every step is logged to its last bit. Each step that was taken, also one that was taken
again after a kill, must have the loss of a run that nobody stopped.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import torch
import torch.distributed
from rich.console import Console
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from gopstream.jobs.bench.sharding_runs import SPLIT
from gopstream.jobs.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from gopstream.shards.loading.clip_spec import ClipSpec
from gopstream.shards.loading.loader import StreamingLoader
from gopstream.shards.loading.transform_spec import TransformSpec
from gopstream.shards.reader import ShardDataset

How = Literal["all processes", "one rank"]
STEPS: Final = 240
RANKS: Final = 2
_WORKERS: Final = 2
_CHECKPOINT_EVERY: Final = 7
_SEED: Final = 5
_SPEC: Final = ClipSpec(num_frames=4, transform=TransformSpec(size=32, flip=0.5))
_LOG: Final = "losses.jsonl"
_LOOK_SECONDS: Final = 0.0005


class _Network(nn.Module):
    """(B, 3, T, H, W) uint8 to (B, classes)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, kernel_size=(2, 8, 8), stride=(2, 8, 8))
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, frames: Tensor) -> Tensor:
        """Return (B, classes) logits."""
        features = self.stem(frames.float() / 255 - 0.45).relu().mean(dim=(2, 3, 4))
        logits: Tensor = self.head(self.dropout(features))
        return logits


class _Run:
    """The moving parts of one rank."""

    def __init__(self, root: str, out: Path) -> None:
        dataset = ShardDataset(root, SPLIT)
        self._out = out
        self._rank = torch.distributed.get_rank()
        torch.manual_seed(_SEED)
        self.network = DistributedDataParallel(_Network(len(dataset.classes)))
        torch.manual_seed(_SEED + self._rank)  # each rank drops out other features
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=3e-3)
        self.loader = StreamingLoader(
            dataset, _SPEC, batch_size=2, seed=_SEED, workers=_WORKERS, last="fill"
        )

    def restore(self) -> int:
        """Take up the checkpoint, if there is one; returns its step."""
        if not (self._out / CHECKPOINT_FILE).exists():
            return 0
        content = load_checkpoint(self._out)
        self.network.module.load_state_dict(content["model"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.loader.load_state_dict(content["loader"])
        torch.set_rng_state(content["rng"][self._rank])
        return int(content["step"])

    def save(self, step: int) -> None:
        """Write the checkpoint, with the random numbers of all ranks."""
        own = torch.get_rng_state()
        states = [torch.empty_like(own) for _ in range(RANKS)]
        torch.distributed.all_gather(states, own)
        if self._rank:
            return
        content = {
            "model": self.network.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "loader": self.loader.state_dict(),
            "rng": states,
            "step": step,
        }
        save_checkpoint(self._out / CHECKPOINT_FILE, content)

    def step(self, frames: Tensor, labels: Tensor) -> float:
        """Take a step; returns the loss over all ranks."""
        loss = nn.functional.cross_entropy(self.network(frames), labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
        self.optimiser.step()
        whole = loss.detach().clone()
        torch.distributed.all_reduce(whole)
        return float(whole)


def train_rank(rank: int, root: str, out: Path, steps: int) -> None:
    """Train as one of the ranks, from the last checkpoint to the last step."""
    torch.set_num_threads(1)
    meeting = out / f"meeting-{os.getppid()}"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=RANKS
    )
    _pid_file(out, rank).write_text(str(os.getpid()))
    run = _Run(root, out)
    step = run.restore()
    with (out / _LOG).open("a") as log:
        while step < steps:
            for batch in run.loader:
                loss = run.step(batch.frames, batch.labels)
                step += 1
                if rank == 0:
                    row = {"step": step, "loss": loss.hex(), "seconds": time.monotonic()}
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                if step % _CHECKPOINT_EVERY == 0 or step == steps:
                    run.save(step)
                if step == steps:
                    break
    torch.distributed.destroy_process_group()


def _pid_file(out: Path, rank: int) -> Path:
    return out / f"rank-{rank}.pid"


class _Row(NamedTuple):
    """A step that was logged."""

    step: int
    loss: str
    seconds: float


class Training:
    """The command that trains with all ranks, in a session of its own."""

    def __init__(self, root: Path, out: Path, *, steps: int) -> None:
        """Start it, or start it again.

        Args:
            root: Of the dataset.
            out: Folder of the run; made.
            steps: After which it ends.
        """
        out.mkdir(exist_ok=True)
        self._out = out
        self._before = len(self.rows())
        command = [sys.executable, "-m", "gopstream.jobs.bench.loading_killed"]
        with (out / "said.txt").open("ab") as said:
            self.process = subprocess.Popen(
                [*command, str(root), str(out), "--steps", str(steps)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def rows(self) -> list[_Row]:
        """Return what was logged, since the first start."""
        path = self._out / _LOG
        lines = path.read_text().splitlines() if path.exists() else []
        return [_Row(**json.loads(line)) for line in lines]

    def wait_for(self, num_steps: int) -> bool:
        """Wait until so many steps were taken since this start; False if it has ended before."""
        while len(self.rows()) < self._before + num_steps:
            if self.process.poll() is not None:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def pace(self) -> float:
        """Return the seconds of a step since this start, 0 if there were not two."""
        own = self.rows()[self._before :]
        return (own[-1].seconds - own[0].seconds) / (len(own) - 1) if len(own) > 1 else 0.0

    def kill(self, how: How, *, rank: int) -> None:
        """End it with SIGKILL: all at once, or one rank, whose end ends the others."""
        if how == "one rank":
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(_pid_file(self._out, rank).read_text()), signal.SIGKILL)
            self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> list[str]:
        """Wait for its end; returns what is wrong with it."""
        code = self.process.wait()
        if code == 0:
            return []
        return [f"exit code {code}: {(self._out / 'said.txt').read_text()[-2000:]}"]


def weights_of(out: Path) -> str:
    """Return the sha256 of a run's weights, and of where its loader is."""
    content = load_checkpoint(out)
    digest = hashlib.sha256(json.dumps([content["step"], content["loader"]]).encode())
    for name, tensor in sorted(content["model"].items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def wrong_losses(peace: list[_Row], rows: list[_Row]) -> list[str]:
    """Return how the losses of a run differ from those of the run in peace."""
    want = {row.step: row.loss for row in peace}
    found = [
        f"step {row.step}: loss {row.loss} instead of {want.get(row.step)}"
        for row in rows
        if row.loss != want.get(row.step)
    ]
    missing = sorted(want.keys() - {row.step for row in rows})
    return found + [f"step {step} was not taken" for step in missing]


def prove_kills(
    root: Path, folder: Path, *, stops: int, seed: int, steps: int = STEPS
) -> dict[str, Any]:
    """Train in peace, and again with kills.

    Args:
        root: Of the dataset.
        folder: For the runs.
        stops: How often it is killed.
        seed: Of the moments.
        steps: Of the training.

    Returns:
        ``steps``, each of the ``stops``, the steps that were ``taken_again``, and ``failures``.
    """
    peace_out, out = folder / "peace", folder / "killed"
    first = Training(root, peace_out, steps=steps)
    rng = random.Random(seed)
    rows = []
    for number in range(stops):
        training = Training(root, out, steps=steps)
        # On the whole as many steps as there are, so that the last kills are near the end.
        was_running = training.wait_for(rng.randint(2, max(2, 2 * steps // stops)))
        time.sleep(rng.random() * training.pace())
        how: How = "one rank" if number % 3 == 1 else "all processes"
        training.kill(how, rank=rng.randrange(RANKS))
        row = {"killed": how, "was_running": was_running, "step": training.rows()[-1].step}
        rows.append(row)
        Console().print(f"kill {number + 1}/{stops}: {row}", markup=False, soft_wrap=True)
    last = Training(root, out, steps=steps)
    found = first.finish() + last.finish()
    found += wrong_losses(first.rows(), last.rows())
    if not found and weights_of(out) != weights_of(peace_out):
        found.append("the weights differ at the end")
    if stops and not any(row["was_running"] for row in rows):
        found.append("no kill came while it was training")
    taken_again = len(last.rows()) - len(first.rows())
    return {"steps": steps, "stops": rows, "taken_again": taken_again, "failures": found}


def main() -> int:
    """Train with all ranks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gopstream.jobs.bench.loading_killed")
    parser.add_argument("root", help="folder of the dataset")
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    # The first optimiser makes torch import half of itself: better once than in each rank.
    torch.optim.AdamW([torch.zeros(1)])
    start_processes(  # type: ignore[no-untyped-call]  # torch does not type it
        train_rank, (given.root, given.out, given.steps), nprocs=RANKS, start_method="fork"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
