"""Progress of a pass over images, and requests to stop between its batches."""

import time

from harness.runner.context import StageContext, Stopped
from harness.system.distributed import AsyncFlags
from loaders.backend import Loader

REPORT_EVERY_S = 0.5


class PassProgress:
    """Callback after each batch: reports progress, and stops the pass on request.

    A stopped pass keeps nothing; it starts from the beginning when the stage runs again.
    """

    def __init__(self, context: StageContext, loader: Loader, note: str) -> None:
        """Start a pass over `loader`. note: what `harness status` shows."""
        self._context, self._note, self._total = context, note, loader.num_samples
        self._started = self._reported = time.monotonic()
        full_batches, rest = divmod(loader.num_samples, loader.plan.batch_size)
        self._flags = AsyncFlags(context.group)
        # The last ranks get no images of a last batch that is smaller than the group.
        self._num_reductions_left = full_batches + (rest >= context.group.world_size)

    def __call__(self, num_images: int) -> None:
        """Report `num_images` of this process so far.

        Raises:
            Stopped: any process was asked to stop. All processes raise after the same batch.
        """
        if self._num_reductions_left > 0:
            self._num_reductions_left -= 1
            # The last reduction must complete: nothing would wait for it later.
            is_last = self._num_reductions_left == 0
            reduce = self._flags.reduce_now if is_last else self._flags.reduce
            if any(reduce(self._context.stop_requested())):
                raise Stopped
        now = time.monotonic()
        if now - self._reported > REPORT_EVERY_S:
            self._reported = now
            done = min(num_images * self._context.group.world_size, self._total)
            self._context.progress(
                done=done,
                total=self._total,
                img_per_s=done / (now - self._started),
                note=self._note,
            )
