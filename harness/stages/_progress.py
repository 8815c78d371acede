"""What a stage does between the batches of a pass over images: it says how far it is, and stops where it is asked to."""

import time

from harness.runner.context import StageContext, Stopped
from harness.system.distributed import AsyncFlags
from loaders.backend import Loader

SAY_EVERY_S = 0.5


class PassProgress:
    """Called behind each batch with the number of this process's images so far. Raises Stopped, in all processes behind the
    same batch: nothing of a pass is kept, and it begins again."""

    def __init__(self, context: StageContext, loader: Loader, note: str) -> None:
        self._context, self._note, self._total = context, note, loader.num_samples
        self._started = self._said = time.monotonic()
        whole, rest = divmod(loader.num_samples, loader.plan.batch_size)
        self._flags = AsyncFlags(context.group)
        self._num_reductions_left = whole + (
            rest >= context.group.world_size
        )  # of a smaller rest the later processes have none

    def __call__(self, num_images: int) -> None:
        if self._num_reductions_left > 0:
            self._num_reductions_left -= 1
            ask = (
                self._flags.reduce if self._num_reductions_left > 0 else self._flags.reduce_now
            )  # what comes of the last is not left open
            if any(ask(self._context.stop_requested())):
                raise Stopped
        now = time.monotonic()
        if now - self._said > SAY_EVERY_S:
            self._said = now
            done = min(num_images * self._context.group.world_size, self._total)
            self._context.progress(
                done=done,
                total=self._total,
                img_per_s=done / (now - self._started),
                note=self._note,
            )
