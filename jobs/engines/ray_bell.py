"""The bell that tells the tasks of a Ray job to stop.

``ray.cancel`` would do, but in Ray 2.60 it aborts the driver if a task ends at the same moment
("Tried to complete task that was not pending"). Tasks ask here without waiting in ``ray.get``:
Ray takes a task that waits there for idle, and starts another one beside it.
"""

import time
from types import ModuleType
from typing import Any, Final

# Between two questions of a task.
_ASK_SECONDS: Final = 2.0


class RungError(Exception):
    """The job is being stopped."""


class Bell:
    """Tells all tasks to stop; an actor beside the driver."""

    def __init__(self) -> None:
        """Hang silently, with no task inside."""
        self._is_rung = False
        self._num_inside = 0

    def enter(self) -> bool:
        """Return whether a task may begin."""
        self._num_inside += not self._is_rung
        return not self._is_rung

    def leave(self) -> None:
        """Say that a task that began has ended."""
        self._num_inside -= 1

    def is_rung(self) -> bool:
        """Return whether tasks must stop."""
        return self._is_rung

    def ring(self) -> int:
        """Let all tasks stop; ring again until they have.

        Returns:
            How many tasks have not ended. Those lost with a node count too, those that entered
            before this bell took the place of a lost one do not.
        """
        self._is_rung = True
        return self._num_inside


def hang_bell(ray: ModuleType) -> Any:  # noqa: ANN401 (a handle is made by Ray)
    """Start the actor, on the driver's node if it can be, and return its handle.

    It is replaced if it is lost: no task may fail for want of a bell.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    strategy = NodeAffinitySchedulingStrategy(here, soft=True)
    actor = ray.remote(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=strategy
    )
    return actor(Bell).remote()


class BellWatch:
    """Asks now and then whether the bell rings, without waiting for the answer."""

    def __init__(self, bell: Any) -> None:  # noqa: ANN401 (a handle is made by Ray)
        """Ask ``bell``, a handle of the actor."""
        self._bell = bell
        self._answer: Any = None
        self._last = time.monotonic()

    def __call__(self) -> None:
        """Raise :class:`RungError` if the bell rings."""
        if time.monotonic() - self._last < _ASK_SECONDS:
            return
        if self._answer is None:
            self._answer = self._bell.is_rung.remote().future()
        elif self._answer.done():
            if self._answer.result():
                raise RungError
            self._answer, self._last = None, time.monotonic()
