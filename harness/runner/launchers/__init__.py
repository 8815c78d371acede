"""Where stages run: each launcher starts `python -m harness.worker` and reports what came back."""
