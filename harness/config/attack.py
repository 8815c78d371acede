"""Settings of an attack, in training and in evaluation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.config.base import Count, Positive, Settings

# Method -> defaults that differ from those of the fields. A recipe cannot change those in _FIXED.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fast": {"steps": 1, "random_start": "ball", "best_iterate": False, "batch_norm": "train"},
        "free": {
            "steps": 0,
            "random_start": "none",
            "best_iterate": False,
            "batch_norm": "train",
            "replays": 4,
        },
    }
)
_FIXED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fast": ("steps", "random_start", "best_iterate"),
        "free": ("steps", "random_start", "best_iterate", "batch_norm"),
    }
)
_RELATIVE_STEPS: Mapping[str, float] = MappingProxyType({"fast": 1.25, "free": 1.0})


class AttackSettings(Settings):
    """Attack on [0, 1] pixels as in MadryLab/robustness: normalized steps, projection, clamping.

    `eps`, a radius in [0, 1] pixel units, is an axis of the recipe and not a setting of the attack.

    `pgd` (Madry et al. 2018) is the reference. `fast` (Wong et al. 2020) takes one step of 1.25 eps
    from a random start in the ball. `free` (Shafahi et al. 2019) trains `replays` times on each
    batch and moves the images by the gradient of the same backward pass. An epoch then costs
    `replays` clean epochs: divide `epochs` and `step_epochs` by `replays`.

    `fast` and `free` were published for linf. One-step training can lose all robustness within an
    epoch or two (catastrophic overfitting). Causes are long steps, a start that does not cover the
    ball, and long training at small rates; for l2, a start on the sphere. Only an evaluation with
    more steps shows the loss. `free` is harder to tune. No published model used either of them for
    l2 at large eps: treat them as experiments, and check the evaluation under 20-step PGD.

    Attributes:
        DEFAULT_STEPS: steps of `pgd`. Salman et al. 2020 use 3, with a relative step size of 2/3.
        method: pgd, fast or free, as described above.
        norm: norm of the perturbation, whose bound is eps.
        steps: number of steps of the attack on each image.
        step_size: length of a step, in [0, 1] pixel units. None means relative_step_size * eps.
        relative_step_size: step size divided by eps. None means 2.5 / steps; 1.25 for `fast`, 1 for
            `free`.
        random_start: start of the attack. none: the image. ball: uniform in the ball of radius eps.
            sphere: uniform on its surface.
        best_iterate: keep the iterate with the highest loss, as `robustness` does, at the cost of
            one more forward pass. False: keep the last iterate.
        batch_norm: BatchNorm statistics during the attack: running statistics (eval), or those of
            the batch (train).
        replays: steps of `free` on each batch. None means 4.
        eps_at: resolution that eps is given for; eps scales with the resolution. None means eps is
            the same at every resolution.
    """

    DEFAULT_STEPS: ClassVar[int] = 3

    method: Literal["pgd", "fast", "free"] = "pgd"
    norm: Literal["l2", "linf"] = "l2"
    steps: Annotated[int, Field(ge=0)] = 3
    step_size: Positive | None = None
    relative_step_size: Positive | None = None
    random_start: Literal["none", "ball", "sphere"] = "none"
    best_iterate: bool = False
    batch_norm: Literal["eval", "train"] = "eval"
    replays: Count | None = None
    eps_at: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in_defaults(cls, settings: Any) -> Any:
        """Set the method's defaults, so that writing out a default changes nothing."""
        if not isinstance(settings, dict):
            return settings
        method = settings.get("method", "pgd")
        values = (
            {"steps": cls.DEFAULT_STEPS, **_DEFAULTS.get(method, {}), **settings}
            if isinstance(method, str)
            else settings
        )
        steps = values.get("steps")
        if (
            values.get("step_size") is None
            and values.get("relative_step_size") is None
            and isinstance(steps, int)
        ):
            values = {
                **values,
                "relative_step_size": _RELATIVE_STEPS.get(method, 2.5 / max(1, steps)),
            }
        return values

    @model_validator(mode="after")
    def _check_conflicts(self) -> Self:
        for name in _FIXED.get(self.method, ()):
            if getattr(self, name) != (value := _DEFAULTS[self.method][name]):
                raise ValueError(
                    f"{name} has no effect with method: {self.method}, which fixes it at {value}"
                )
        if (self.method == "free") != (self.replays is not None):
            raise ValueError("replays has an effect with method: free only")
        if self.step_size is not None and self.relative_step_size is not None:
            raise ValueError("give step_size or relative_step_size, not both")
        if self.eps_at is not None and self.norm == "linf":
            raise ValueError(
                "eps_at has no effect with norm: linf, whose eps is per pixel at every resolution"
            )
        return self

    def step_length(self, eps: float) -> float:
        """Size of one step, in [0, 1] pixel units."""
        return (
            self.step_size if self.step_size is not None else (self.relative_step_size or 0.0) * eps
        )

    def eps_of(self, eps: float, resolution: int) -> float:
        """Radius at `resolution` pixels per side.

        For equal changes per pixel, the L2 norm over all pixels grows in proportion to the side.
        Scaling eps by the side keeps the change per pixel the same: 3 at 224 pixels is 2.14 at 160.
        """
        return eps * resolution / self.eps_at if self.eps_at else eps

    @property
    def num_passes(self) -> float:
        """Cost of the attack in a training step, as a multiple of the cost of a clean step.

        Computing only the gradient of the pixels costs two thirds of a clean step.
        """
        if self.method == "free":
            return (self.replays or 1) - 1.0
        return (2 * self.steps + self.best_iterate) / 3


class EvaluationAttack(AttackSettings):
    """PGD with 20 steps of 2.5 eps / 20, as in the evaluations of Engstrom et al. 2019.

    Attributes:
        restarts: number of attacks on each image, from different random starts. An image counts as
            robust if it withstands all of them.
    """

    DEFAULT_STEPS: ClassVar[int] = 20

    steps: Annotated[int, Field(ge=0)] = 20
    restarts: Count = 1

    @model_validator(mode="after")
    def _check_is_pgd(self) -> Self:
        if self.restarts > 1 and self.random_start == "none":
            raise ValueError("restarts need a random_start: without one each is the same attack")
        if self.method != "pgd":
            raise ValueError(
                f"method must be pgd in an evaluation; {self.method} is for training only"
            )
        return self
