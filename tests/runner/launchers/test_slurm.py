"""Slurm launcher with submitit's local executor, and with commands that only record their calls."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.runner.executor import Run, prepare
from harness.runner.launcher import Finished, LauncherSettings, parse_options
from harness.runner.launchers import _slurm_commands, slurm
from harness.system.folders import Folders
from tests.helpers.execution import FAKE_STAGES, load_result, matrix_of, settings_for
from tests.helpers.slurm_runs import run_all
from writers import lease
from writers.errors import UserError


@pytest.mark.usefixtures("needs_submitit")
def test_stages_run_as_jobs_with_submitits_local_executor(folders, make, journal):
    first, broken = make("first"), make("broken", mistake=True)
    last = make("last", first)
    settings = settings_for(folders, 2, num_threads=1)
    run = run_all(settings, slurm.Options(cluster="local"), (first, broken, last))
    assert list(run.failed.values()) == ["There is no such image."]
    assert load_result(last, folders).metrics["value"] == 2
    assert sorted(journal()) == ["broken", "first", "last"]


@pytest.mark.usefixtures("needs_submitit")
def test_stop_lets_a_job_save(folders, make):
    stage = make("sleeper", sleep_s=60)
    folder = stage.folder(folders.runs)
    settings = settings_for(folders, 2, num_threads=1)
    with slurm.open(settings, slurm.Options(cluster="local")) as launcher:
        run = Run(matrix_of(stage), folders, launcher)
        for _ in run.events():
            if (folder / "progress.json").exists():
                break
        run.stop(240)
        assert not run.running
    assert (folder / "steps.txt").exists() and not (folder / "error.txt").exists()
    assert not lease.is_held(folder)


@pytest.mark.usefixtures("needs_submitit")
def test_jobs_request_the_gpus_of_their_stages(folders, make, fake_slurm):
    settings = LauncherSettings(folders, 4, "cuda", FAKE_STAGES, gpus_per_stage=4)
    with slurm.open(settings) as launcher:
        for stage in (make("alone"), make("shared", kind="evaluate"), make("other")):
            launcher.start(stage, stage.folder(folders.runs))
        launcher.wait(0)
        assert len(launcher.jobs) == 3 and not launcher.to_submit
    gpus = read_lines(fake_slurm / "gpus")
    assert gpus == ["#SBATCH --gpus-per-node=1", "#SBATCH --gpus-per-node=4"]
    assert read_lines(fake_slurm / "cpus") == ["#SBATCH --cpus-per-task=16"] * 2


@pytest.mark.parametrize(
    ("options", "is_enough"),
    [
        ({"gres": "gpu:1"}, False),
        ({"gres": "gpu:a100:4"}, True),
        ({"gres": "lustre:1,gpu:h200:3"}, False),
        ({"gres": "gpu"}, False),
        ({"num_gpus": 3}, False),
        ({"gpus_per_node": 8}, True),
        ({"partition": "gpu"}, True),
    ],
)
@pytest.mark.usefixtures("needs_submitit", "fake_slurm")
def test_options_that_request_too_few_gpus_are_refused(folders, options, is_enough):
    settings = LauncherSettings(folders, device="cuda", gpus_per_stage=4)
    if is_enough:
        slurm.open(settings, slurm.Options(**options))
        return
    with pytest.raises(UserError, match="--gpus-per-stage needs 4"):
        slurm.open(settings, slurm.Options(**options))


@pytest.mark.usefixtures("needs_submitit")
def test_a_job_that_starts_after_the_end_of_its_run_does_nothing(folders, make, journal, tmp_path):
    stage = make("late")
    prepare(stage, stage.folder(folders.runs))
    request = slurm.WorkerRequest.of(
        stage.folder(folders.runs), settings_for(folders), 1, gpus=False
    )
    (tmp_path / slurm.ENDED_FILE).touch()
    assert slurm.Job(request, tmp_path / slurm.ENDED_FILE)()["status"] == "stopped"
    assert journal() == []


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put commands named like Slurm's on the PATH, which accept jobs and never run them.

    The returned folder controls them. With a file `refuse` in it, sbatch and squeue fail; with
    `interrupt`, sbatch interrupts its caller; with `hang`, squeue and scancel do not return.
    `names` holds the job names that sbatch received, `commands` the calls of squeue and scancel.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    sbatch = """grep -o 'job-name=.*' $1 >> {here}/names
                grep 'gpus-per-node' $1 >> {here}/gpus
                grep 'cpus-per-task' $1 >> {here}/cpus
                if [ -e {here}/refuse ]
                then echo 'sbatch: error: invalid partition' >&2; exit 1; fi
                if [ -e {here}/interrupt ]; then kill -INT $PPID; fi
                echo "Submitted batch job $(wc -l < {here}/names)" """
    record = "echo $(basename $0) $@ >> {here}/commands; [ -e {here}/hang ] && exec sleep 100; "
    for name, script in {
        "sbatch": sbatch,
        "squeue": record + "[ ! -e {here}/refuse ]",
        "scancel": record + "true",
        "srun": "exit 1",
    }.items():
        (folder / name).write_text("#!/bin/sh\n" + script.format(here=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.usefixtures("needs_submitit")
def test_a_refusal_of_the_first_job_is_a_user_error_and_later_ones_wait(
    folders, make, fake_slurm, monkeypatch
):
    first, second = make("first"), make("second")
    first_folder, second_folder = (stage.folder(folders.runs) for stage in (first, second))
    (fake_slurm / "refuse").touch()
    with (
        slurm.open(settings_for(folders, 2)) as launcher,
        pytest.raises(UserError, match="no job: sbatch: error: invalid partition"),
    ):
        launcher.start(first, first_folder)
        launcher.wait(0)
    (fake_slurm / "refuse").unlink()
    with slurm.open(settings_for(folders, 2)) as launcher:
        launcher.start(first, first_folder)
        launcher.wait(0)
        (fake_slurm / "refuse").touch()
        launcher.start(second, second_folder)
        num_submitted = len(read_lines(fake_slurm / "names"))
        assert launcher.wait(0) == launcher.wait(0) == []
        assert list(launcher.jobs) == [first_folder] and launcher.to_submit == [second_folder]
        assert len(read_lines(fake_slurm / "names")) == num_submitted + 1, "not again at once"
        assert launcher.stop(0.0) == [Finished(second_folder, "stopped")], (
            "an unreadable queue is not an empty one"
        )
        assert list(launcher.jobs) == [first_folder]
        (fake_slurm / "refuse").unlink()
        monkeypatch.setattr(launcher, "submit_at", 0.0)
        launcher.start(second, second_folder)
        launcher.wait(0)
        assert list(launcher.jobs) == [first_folder, second_folder] and not launcher.to_submit


@pytest.mark.usefixtures("needs_submitit")
def test_jobs_of_an_interrupted_submission_are_cancelled(folders, make, fake_slurm):
    stage = make("some")
    (fake_slurm / "interrupt").touch()
    with slurm.open(settings_for(folders, 2), slurm.Options(job_name="prefix")) as launcher:
        launcher.start(stage, stage.folder(folders.runs))
        with pytest.raises(KeyboardInterrupt):
            launcher.wait(1)
        assert not launcher.jobs
        assert launcher.stop(1) == [Finished(stage.folder(folders.runs), "stopped")]
    (name,) = read_lines(fake_slurm / "names")
    assert name.startswith("job-name=prefix-")
    assert read_lines(fake_slurm / "commands") == [f"scancel --name={name[9:]}"]


@pytest.mark.usefixtures("needs_submitit")
def test_stop_calls_few_commands_each_with_a_time_limit(folders, make, fake_slurm, monkeypatch):
    """The number of jobs does not matter, nor whether Slurm responds."""
    monkeypatch.setattr(_slurm_commands, "COMMAND_TIMEOUT_S", 0.2)
    with slurm.open(settings_for(folders, None)) as launcher:
        for index in range(slurm.MAX_JOBS):
            stage = make(f"stage{index}")
            launcher.start(stage, stage.folder(folders.runs))
        launcher.wait(0)
        assert len(launcher.jobs) == slurm.MAX_JOBS
        (fake_slurm / "hang").touch()
        assert launcher.stop(0.0) == [] and len(launcher.jobs) == slurm.MAX_JOBS
    names = [line.split()[0] for line in read_lines(fake_slurm / "commands")]
    assert names == ["scancel", "scancel", "squeue", "scancel"]


@pytest.mark.parametrize("name", ["50%j", "back\\slash", "new\nline", "esc\x1b[2J"])
@pytest.mark.usefixtures("needs_submitit", "fake_slurm")
def test_folders_that_slurm_misreads_are_refused(tmp_path, name):
    root = tmp_path / name
    with pytest.raises(UserError, match="Slurm cannot write to"):
        slurm.open(settings_for(Folders(root, root, root)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("comment=x\ntouch owned", "printable characters only"),
        ("job_name=x\r", "printable characters only"),
        ("partition=\x1b[2J", "printable characters only"),
        ("job_name=mine,other", "job_name"),
        ("job_name=", "job_name"),
    ],
)
def test_options_with_line_breaks_or_control_characters_are_refused(setting, message):
    """A line break would add a line to the job script; a comma would let scancel end other jobs."""
    with pytest.raises(UserError, match=message):
        parse_options(slurm.Options, "slurm", [setting])


@pytest.mark.parametrize("options", [{"gres": "gpu:1"}, {"gpus_per_node": 1}])
def test_a_gpu_that_no_stage_would_use_is_refused(folders, options: dict[str, Any]):
    (name,) = options
    with pytest.raises(UserError, match=f"{name} has no effect without --device cuda"):
        slurm.open(settings_for(folders), slurm.Options(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": 1}, r"time=1 leaves no time to work.* Use time=3 or more"),
        ({"time": 2}, "time=2 leaves no time"),
        ({"time": 10, "signal_delay_s": 600}, "time=10 leaves no time"),
        ({"cluster": "local", "partition": "gpu"}, "partition has no effect with cluster=local"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        slurm.Options(**options)


@pytest.mark.usefixtures("needs_submitit")
def test_the_device_of_the_stages_is_printed(folders: Folders, fake_slurm, capsys):
    slurm.open(LauncherSettings(folders))
    assert "Stages run on CPUs" in capsys.readouterr().err
    default, with_gres = [
        slurm.open(LauncherSettings(folders, device="cuda"), options)
        for options in (slurm.Options(), slurm.Options(gres="gpu:1", reservation="class"))
    ]
    assert default.chooses_gpus and not with_gres.chooses_gpus
    chosen = with_gres.executor.parameters
    assert chosen["gres"] == "gpu:1" and "gpus_per_node" not in chosen
    assert chosen["additional_parameters"] == {"reservation": "class"}
    assert not capsys.readouterr().err


@pytest.mark.usefixtures("needs_submitit")
def test_missing_programs_and_packages_are_named(folders, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="Slurm: "):
        slurm.open(settings_for(folders))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="needs the package submitit"):
        slurm.open(settings_for(folders))
