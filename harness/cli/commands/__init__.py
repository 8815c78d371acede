"""One file per subcommand; `harness.cli.main` imports a file only when its command is called."""
