"""Attack images during an evaluation, and choose the attack's compile mode by trial runs."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from harness.config.attack import AttackSettings, EvaluationAttack
from harness.modeling.module_modes import cudnn_benchmark, eval_mode
from harness.modeling.precision import Precision, autocast
from harness.train import compilation, compile_choice
from harness.train.attack import Attack, PgdAttack, best_of_restarts, pgd_update
from harness.train.compilation import MODES, compiled_for
from harness.train.cuda_graph_attack import CudaGraphAttack
from harness.train.loss import image_losses
from harness.train.mode_trials import FirstRun, free_memory_of_trials, time_step, try_modes
from harness.train.records import CompileMeasurement

# Steps of the attack in a trial run. A few suffice, because a compile mode changes the time of each
# step and not their number.
TRIAL_STEPS = 3


@dataclass(frozen=True)
class AttackPlan:
    """Settings of an evaluation attack.

    Attributes:
        settings: Norm, number and length of steps, random start, and number of restarts.
        eps: Radius at the evaluated resolution, in units of [0, 1] pixels.
        precision: Number format of the passes.
        device: Device of the images.
        compile_mode: Key of `compilation.MODES`.
        batch_size: Images in a full batch on this rank. Batches of another size run eagerly.
        rank: This process's rank, which seeds the random starts.
    """

    settings: AttackSettings
    eps: float
    precision: Precision
    device: str
    compile_mode: str = "eager"
    batch_size: int = 0
    rank: int = 0

    def attack_on(self, model: nn.Module, zero_gradients: Tensor | None = None) -> Attack:
        """Return the attack on a model, with a new generator of random starts.

        If the attack is captured in a CUDA graph, its next call overwrites the returned images.

        Args:
            model: Maps images to logits [B, K]; in evaluation mode.
            zero_gradients: int64 scalar, to which the number of zero gradients is added.
        """
        torch_mode, in_cuda_graph = MODES[self.compile_mode]
        sizes = frozenset([self.batch_size])
        if zero_gradients is None:
            zero_gradients = torch.zeros((), dtype=torch.int64, device=self.device)
        pgd_attack = PgdAttack(
            model,
            self.settings.model_copy(update={"eps_at": None}),  # eps fits the resolution already
            self.eps,
            precision=self.precision,
            logits_of=compiled_for(model, sizes, torch_mode) if torch_mode else model,
            generator=torch.Generator(self.device).manual_seed(self.rank),
            zero_gradients=zero_gradients,
            update=compiled_for(pgd_update, sizes) if torch_mode else pgd_update,
        )
        attack = CudaGraphAttack(pgd_attack, sizes) if in_cuda_graph else pgd_attack
        settings = self.settings
        restarts = settings.restarts if isinstance(settings, EvaluationAttack) else 1
        if restarts == 1:
            return attack

        def restarted(images: Tensor, labels: Tensor) -> Tensor:
            def once() -> Tensor:
                attacked = attack(images, labels)
                return attacked.clone() if in_cuda_graph else attacked

            return best_of_restarts(once, model, labels, restarts, self.precision)

        return restarted


def attack_modes(on_gpu: bool) -> list[str]:
    """Return the keys of `compilation.MODES` that an evaluation attack may use, eager first.

    CUDA graphs of the whole model are left out: the attack's loop still needs the results of a step
    when the next step overwrites them. A captured attack runs the same kernels in one graph.
    """
    return [
        name
        for name, (torch_mode, _) in MODES.items()
        if torch_mode != "reduce-overhead" and (on_gpu or not compilation.uses_graphs(name))
    ]


def choose_attack_mode(
    models: Sequence[nn.Module],
    batch: tuple[Tensor, Sequence[Tensor]],
    plan: AttackPlan,
    setting: Literal["off", "auto", "on"],
    folder: Path,
) -> CompileMeasurement:
    """Choose the compile mode of an evaluation.

    `auto` takes the recorded mode, or else the fastest one. To find it, a batch is attacked with
    a few steps in each mode: eager, compiled, and on a GPU also in a CUDA graph. A mode is skipped
    if the loss, or the length of the perturbations, deviates from the eager attack. Each run
    attacks all models, so that it needs as much memory as the evaluation.

    Args:
        models: Models to attack: the evaluated model, or wrappers with some of its logits.
        batch: Images, uint8 [B, 3, R, R], and for each model the labels, int64 [B].
        plan: The attack and the batch size. Its compile mode is not used.
        setting: `compile` in a recipe.
        folder: Folder of the stage. `compile_choice.record` writes the choice there.

    Returns:
        The chosen mode, and the measurements of the modes that were tried.

    Raises:
        RestartRequiredError: A mode of `auto` left the GPU unusable. It is excluded in the folder.
        UserError: The setting is `on`, and compilation failed.
    """
    if setting == "off":
        return {"chosen": "eager"}
    settings = plan.settings.model_copy(
        update={"steps": min(TRIAL_STEPS, plan.settings.steps), "restarts": 1}
    )
    on_gpu = torch.device(plan.device).type == "cuda"
    attacks: list[Attack] = []
    images, labels = batch

    def use(mode: str) -> None:
        trial = dataclasses.replace(plan, settings=settings, compile_mode=mode)
        attacks[:] = [trial.attack_on(model) for model in models]

    def run() -> list[Tensor]:
        pairs = zip(attacks, labels, strict=True)
        return [attack(images, of_model) for attack, of_model in pairs]

    def first() -> FirstRun:
        attacked: list[Tensor] = []
        seconds = time_step(lambda: attacked.extend(run()), plan.device)
        return FirstRun(seconds, *_loss_and_length(models, images, attacked, labels, plan))

    def measure(
        excluded: Collection[str], exclude: Callable[[str, str], None]
    ) -> CompileMeasurement:
        measured = try_modes(
            attack_modes(on_gpu),
            setting,
            plan.device,
            use=use,
            first=first,
            again=lambda: time_step(run, plan.device),
            excluded=excluded,
            exclude=exclude,
        )
        attacks.clear()
        free_memory_of_trials(plan.device)
        return measured

    compilation.reset()  # graphs of earlier stages must not influence the measurement
    with eval_mode(models[0]), cudnn_benchmark(plan.device):
        if setting == "on":
            return measure((), lambda mode, reason: None)
        return compile_choice.recorded_or(measure, attack_modes(on_gpu), folder)


def _loss_and_length(
    models: Sequence[nn.Module],
    images: Tensor,
    attacked: Sequence[Tensor],
    labels: Sequence[Tensor],
    plan: AttackPlan,
) -> tuple[float, float]:
    """Return the mean loss of attacked images, and the L2 norm of their changes."""
    losses, lengths = [], []
    for model, found, of_model in zip(models, attacked, labels, strict=True):
        with torch.no_grad(), autocast(plan.precision, plan.device, model):
            losses.append(image_losses(model(found).float(), of_model).mean())
        lengths.append((found - images.float().div_(255)).norm())
    return float(torch.stack(losses).mean()), float(torch.stack(lengths).norm())
