"""Options of launchers: parsing of --launcher-option, and help texts of all options."""

import pytest
from click.testing import CliRunner
from pydantic import Field

from harness.cli.commands import ls
from harness.runner.launcher import LauncherOptions, parse_options
from harness.runner.launchers import local
from writers import names
from writers.errors import UserError

LAUNCHERS = names.names("harness.runner.launchers")


class Options(LauncherOptions):
    """Options for these tests."""

    partition: str | None = Field(default=None, description="partition to submit to")
    time: int = Field(default=60, gt=0, description="time limit in minutes")


def test_options_are_converted_and_have_defaults():
    assert parse_options(Options, "some", []) == Options()
    options = parse_options(Options, "some", ["time=5", "partition=a=b"])
    assert (options.time, options.partition) == (5, "a=b")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["partition"], r"partition: expected KEY=VALUE.\nOptions .* some: partition, time"),
        (["partitoin=gpu"], r"no option of the launcher some named 'partitoin'.\n.*partition\?"),
        (["time=5", "time=6"], "time is given twice"),
        (["time=soon"], r"time=soon: .* whole number.*\ntime: time limit in minutes"),
        (["time=0"], "time=0: .* greater than 0"),
    ],
)
def test_wrong_options_are_user_errors(settings: list[str], message: str):
    with pytest.raises(UserError) as refused:
        parse_options(Options, "some", settings)
    refused.match(message)


def test_a_launcher_without_options_refuses_all():
    with pytest.raises(UserError, match="The launcher local has no options"):
        parse_options(local.Options, "local", ["partition=gpu"])


def test_contradicting_options_are_user_errors():
    from harness.runner.launchers import slurm

    with pytest.raises(UserError, match="partition has no effect with cluster=local"):
        parse_options(slurm.Options, "slurm", ["cluster=local", "partition=gpu"])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_option_of_a_launcher_has_a_help_text(launcher: str):
    options = names.find("harness.runner.launchers", launcher, "launcher").Options
    assert issubclass(options, LauncherOptions)
    assert all(field.description for field in options.model_fields.values())


def test_ls_launchers_lists_options_with_help_and_default():
    output = CliRunner().invoke(ls.command, ["launchers"]).output
    lines = [line.split() for line in output.splitlines()]
    assert ["qos", "quality", "of", "service"] in lines
    assert any(line[:1] == ["time"] and "(default: 1440)" in " ".join(line) for line in lines)
