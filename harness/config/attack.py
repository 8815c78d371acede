"""What a recipe may say about an attack, in training and in evaluation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from harness.config.base import Count, Positive, Settings

# What each method means by its name; of these, _FIXED are no choice.
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
    """An attack in [0, 1] pixel space (robustness semantics: per-sample normalised step, projection, clamp).

    `eps` is not here: it is an axis of the recipe, a radius in [0, 1]-pixel units.

    method: `pgd` (Madry et al. 2018) is the reference. `fast` (Wong et al. 2020) takes one step of 1.25 eps from a random
    start in the ball; `free` (Shafahi et al. 2019) trains `replays` times on each batch and moves the images by the gradient
    of the same backward pass, so that an epoch costs `replays` clean ones: divide `epochs` and `step_epochs` by it. Cautions:
    both were published for linf. One-step training can lose all its robustness within an epoch or two (catastrophic
    overfitting: steps too long, a start that does not cover the ball, long training at small rates; for l2 a start on the
    sphere does it), which only an evaluation with more steps shows; `free` is harder to tune. For l2 at large eps no
    published model used them: treat them as experiments, and look at the evaluation under 20-step PGD.
    """

    DEFAULT_STEPS: ClassVar[int] = (
        3  # Salman et al. 2020, who step by 2/3 eps: `relative_step_size`
    )

    method: Literal["pgd", "fast", "free"] = "pgd"
    norm: Literal["l2", "linf"] = "l2"
    steps: Annotated[int, Field(ge=0)] = 3  # of `pgd`
    step_size: Positive | None = None  # in [0, 1]-pixel units; None: relative_step_size * eps
    relative_step_size: Positive | None = None  # None: 2.5 / steps (`fast`: 1.25, `free`: 1)
    random_start: Literal["none", "ball", "sphere"] = (
        "none"  # uniform in the ball, or anywhere on its surface
    )
    best_iterate: bool = False  # keep the iterate of highest loss (one more forward pass), as `robustness`; False: the last
    batch_norm: Literal["eval", "train"] = (
        "eval"  # statistics during the attack: the running ones, or the batch's
    )
    replays: Count | None = None  # of `free`: steps on each batch; None: 4
    eps_at: Count | None = (
        None  # eps is meant at this resolution, and scales with it; None: the same at all
    )

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, given: Any) -> Any:
        """So that a default that is spelled out is the same setting."""
        if not isinstance(given, dict):
            return given
        method = given.get("method", "pgd")
        values = (
            {"steps": cls.DEFAULT_STEPS, **_DEFAULTS.get(method, {}), **given}
            if isinstance(method, str)
            else given
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
    def _only_settings_with_effect(self) -> Self:
        for name in _FIXED.get(self.method, ()):
            if getattr(self, name) != (value := _DEFAULTS[self.method][name]):
                raise ValueError(
                    f"{name} has no effect with method: {self.method}, where it is {value}"
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
        """In [0, 1]-pixel units."""
        return (
            self.step_size if self.step_size is not None else (self.relative_step_size or 0.0) * eps
        )

    def eps_of(self, eps: float, resolution: int) -> float:
        """The radius at `resolution` pixels a side. An L2 norm over all pixels grows with the side: scaled by it, the
        change per pixel stays the same (3 at 224 pixels is 2.14 at 160)."""
        return eps * resolution / self.eps_at if self.eps_at else eps

    @property
    def num_passes(self) -> float:
        """What a training step costs beside a clean one, in passes over its images: a gradient of pixels is two thirds."""
        if self.method == "free":
            return (self.replays or 1) - 1.0
        return (2 * self.steps + self.best_iterate) / 3


class EvaluationAttack(AttackSettings):
    """PGD with 20 steps of 2.5 eps / 20, as the evaluations of Engstrom et al. 2019."""

    DEFAULT_STEPS: ClassVar[int] = 20

    steps: Annotated[int, Field(ge=0)] = 20
    restarts: Count = 1  # attacks of each image, from other random starts: it is robust where it withstands all of them

    @model_validator(mode="after")
    def _a_reference(self) -> Self:
        if self.restarts > 1 and self.random_start == "none":
            raise ValueError("restarts need a random_start: without one each is the same attack")
        if self.method != "pgd":
            raise ValueError(
                f"a model is evaluated with method: pgd; {self.method} is a way to train"
            )
        return self
