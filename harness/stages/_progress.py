"""Report the progress of a pass over images, and stop it between batches on request."""

import time

from harness.runner.context import StageContext, Stopped
from harness.system.distributed import AsyncFlags
from loaders.backend import Loader

REPORT_EVERY_S = 0.5


class PassProgress:
    """Callback that is called after each batch, reports progress, and stops the pass on request.

    A stopped pass saves nothing. When the stage runs again, the pass starts from the beginning.
    """

    def __init__(self, context: StageContext, loader: Loader, note: str) -> None:
        """Start a pass over `loader`. note: text that `harness status` shows."""
        self._context, self._note, self._total = context, note, loader.num_samples
        self._started = self._reported = time.monotonic()
        full_batches, rest = divmod(loader.num_samples, loader.plan.batch_size)
        self._flags = AsyncFlags(context.group)
        # If the last batch has fewer images than there are ranks, the last ranks do not get it. No
        # reduction follows it, because these ranks would not take part.
        self._num_reductions_left = full_batches + (rest >= context.group.world_size)

    def __call__(self, num_images: int) -> None:
        """Report the number of images that this process has finished so far.

        Raises:
            Stopped: a process was asked to stop. All processes raise this after the same batch.
        """
        if self._num_reductions_left > 0:
            self._num_reductions_left -= 1
            # Wait for the last reduction to complete, because no later call would wait for it.
            is_last = self._num_reductions_left == 0
            reduce = self._flags.reduce_now if is_last else self._flags.reduce
            if any(reduce(self._context.stop_requested())):
                raise Stopped
        now = time.monotonic()
        done = min(num_images * self._context.group.world_size, self._total)
        # Replace the last report at the end of the pass, because the stage may continue after it.
        is_end = done == self._total and self._reported > self._started
        if is_end or now - self._reported > REPORT_EVERY_S:
            self._reported = now
            self._context.progress(
                done=done,
                total=self._total,
                img_per_s=done / (now - self._started),
                note=self._note,
            )
