"""One file a kind of stage, each with `run(stage) -> dict`: the work itself."""
