"""One file a subcommand; `harness.cli` imports a file only when its command is called."""
