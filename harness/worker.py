"""Entry point of workers: `python -m harness.worker STAGE_DIR` runs one stage.

The implementation is `harness/runner/worker.py`.
"""

from harness.runner.worker import main

if __name__ == "__main__":
    main()
