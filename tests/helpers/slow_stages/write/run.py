"""Run a stage that waits until it is asked to stop."""

import time

from harness.runner.context import Outcome, StageContext, Stopped


def run(context: StageContext) -> Outcome:
    context.progress(done=0, total=1)
    while not context.stop_requested():
        time.sleep(0.02)
    raise Stopped
