"""Options of the slurm launcher."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.runner.launcher import LauncherOptions

SIGNAL_EARLY_S = 60  # Slurm may send a job's signal this much earlier than requested


class Options(LauncherOptions):
    """Options of the slurm launcher. Most are options of sbatch, with underscores for dashes."""

    USES_GPUS_TOGETHER: ClassVar[bool] = True

    cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="local runs the jobs on this machine, without Slurm"
    )
    # The name must have no comma, because scancel and squeue accept a list of names.
    job_name: str = Field(
        default="harness",
        pattern=r"^[^,]{1,100}$",
        description="beginning of the jobs' names, without commas",
    )
    partition: str | None = Field(default=None, description="partition to submit to")
    qos: str | None = Field(default=None, description="quality of service")
    account: str | None = Field(default=None, description="account to charge")
    reservation: str | None = Field(default=None, description="reservation to use")
    constraint: str | None = Field(default=None, description="required node features")
    exclude: str | None = Field(default=None, description="nodes not to use")
    nodelist: str | None = Field(default=None, description="nodes to use")
    time: int = Field(
        default=24 * 60,
        gt=0,
        description="time limit of a job in minutes; before it the stage saves and is requeued",
    )
    signal_delay_s: int = Field(
        default=90, gt=0, description="seconds between the signal to save and the time limit"
    )
    mem: str | None = Field(default=None, description="memory of a job, such as 16GB")
    mem_per_cpu: str | None = Field(default=None, description="memory per CPU thread, such as 4GB")
    mem_per_gpu: str | None = Field(default=None, description="memory per GPU, such as 64GB")
    gres: str | None = Field(default=None, description="generic resources, such as gpu:a100:1")
    num_gpus: int | None = Field(default=None, gt=0, description="GPUs of a job")
    gpus_per_node: int | None = Field(default=None, gt=0, description="GPUs of a job")
    gpus_per_task: int | None = Field(default=None, gt=0, description="GPUs of a job")
    exclusive: bool | None = Field(
        default=None, description="true: do not share nodes with other jobs"
    )
    dependency: str | None = Field(
        default=None, description="jobs to wait for, such as afterok:123"
    )
    comment: str | None = Field(default=None, description="comment in Slurm's records")
    wckey: str | None = Field(default=None, description="workload characterization key")
    mail_type: str | None = Field(default=None, description="events to send mail about")
    mail_user: str | None = Field(default=None, description="recipient of mail")

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Refuse time limits that leave no time to work, and options without effect."""
        lead_s = self.signal_delay_s + SIGNAL_EARLY_S
        if 60 * self.time <= lead_s:
            raise ValueError(
                f"time={self.time} leaves no time to work: stages are asked to save up to "
                f"{lead_s} s before the time limit. Use time={lead_s // 60 + 1} or more."
            )
        if self.cluster == "local":
            unused = self.model_fields_set - {"cluster", "job_name", "time", "signal_delay_s"}
            if unused:
                raise ValueError(f"{min(unused)} has no effect with cluster=local.")
        return self

    @property
    def gpu_options(self) -> list[str]:
        """Names of the options that request GPUs."""
        names = [
            name
            for name in ("num_gpus", "gpus_per_node", "gpus_per_task")
            if getattr(self, name) is not None
        ]
        return names + (["gres"] if self.gres is not None and "gpu" in self.gres else [])

    @property
    def num_requested_gpus(self) -> int | None:
        """GPUs that the options request for a job; None if they do not give a number."""
        counts = [self.num_gpus, self.gpus_per_node, self.gpus_per_task]
        if self.gres is not None:
            # Comma-separated entries such as gpu:2, gpu:a100:2 or gpu.
            parts = [part.split(":") for part in self.gres.split(",")]
            counts += [
                int(part[-1]) if part[-1].isdigit() else 1 for part in parts if part[0] == "gpu"
            ]
        return max((count for count in counts if count is not None), default=None)

    def sbatch_parameters(self) -> dict[str, Any]:
        """Return the parameters for submitit's SlurmExecutor that are set."""
        parameters = self.model_dump(exclude_none=True, exclude={"cluster", "reservation"})
        if self.reservation is not None:
            parameters["additional_parameters"] = {"reservation": self.reservation}
        return parameters
