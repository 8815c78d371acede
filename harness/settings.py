"""What a recipe may say: every setting, its type, its default and its unit, as frozen pydantic models.

`harness.recipe` reads YAML into `Recipe`; `harness.matrix` cuts it into stages; each stage gets back one of the smaller
models here. Imports no torch, so that `plan`, `ls` and `--help` stay fast.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from writers.encode import Encoding
from writers.subset import SubsetSpec

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSettings(Settings):
    """A dataset as a recipe names it: a file of `writers/datasets/`, or any tree of class folders."""

    dataset: str = "folder"                 # a name in writers/datasets; `folder`: any tree (or tar) of class folders
    path: str | None = None                 # a folder or archive; relative to $HARNESS_RAW. None: $HARNESS_RAW/<dataset>
    name: str | None = None                 # what reports call it; default: dataset, or for `folder` the path's stem
    val: Fraction = 0.1                     # seeded, stratified share of train that becomes val, where no val is given
    test: Fraction = 0.2                    # likewise for test, where no test is given (targets only)
    split_seed: int = 0
    metric: Literal["top1", "mean_per_class", "map11"] | None = None     # None: the dataset's own metric (`folder`: top1)
    encoding: Encoding | None = None        # None: the recipe's

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        if self.dataset == "folder" and self.path:
            return self.path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        return self.dataset


class AttackSettings(Settings):
    """PGD in [0, 1] pixel space (robustness semantics: per-sample normalised step, projection, clamp).

    `eps` is not here: it is an axis of the recipe, an L2 radius in [0, 1]-pixel units at the resolution of training.
    """

    norm: Literal["l2", "linf"] = "l2"
    steps: Annotated[int, Field(ge=0)] = 3
    relative_step_size: Positive = 2 / 3    # step size = relative_step_size * eps (Salman et al. 2020: 2/3 with 3 steps)
    random_start: bool = False
    best_iterate: bool = False              # keep the iterate of highest loss (one more forward pass) instead of the last


class ScheduleSettings(Settings):
    """SGD with momentum and one learning-rate curve, per step, from 0 to the end of training."""

    lr: Positive = 0.5
    schedule: Literal["cosine", "cyclic", "step", "constant"] = "cosine"
    warmup_epochs: NotNegative = 0          # linear from 0 (`cyclic`: the epoch of the peak)
    step_epochs: Count | None = None        # `step`: every so many epochs the rate is multiplied by step_factor
    step_factor: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-5
    decay_norm_and_bias: bool = False       # False: weight decay on weights of convolutions and linear layers only

    @model_validator(mode="after")
    def _only_settings_with_effect(self) -> Self:
        if (self.schedule == "step") != (self.step_epochs is not None):
            raise ValueError("step_epochs goes with schedule: step, and only with it")
        if self.schedule != "step" and "step_factor" in self.model_fields_set:
            raise ValueError("step_factor has an effect with schedule: step only")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0")
        return self


class TrainSettings(Settings):
    """What pretraining and fine-tuning share."""

    epochs: Count = 16
    batch_size: Count = 256
    resolution: Count = 224                 # pixels a side, of training
    eval_resolution: Count | None = None    # None: as training
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 224 / 256  # centre crop: share of the shorter side
    crop_scale: tuple[Positive, Positive] = (0.08, 1.0)         # RandomResizedCrop: share of the area
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)      # RandomResizedCrop: aspect ratio
    horizontal_flip: bool = True
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    optimizer: ScheduleSettings = ScheduleSettings()
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"


class PretrainSettings(TrainSettings):
    """Training from random weights on a source subset; adversarial where the axis `eps` is above 0."""

    attack: AttackSettings = AttackSettings()
    channels: tuple[Count, ...] | None = None   # widths of the stages, for archs that let one choose (resnet10)
    length: Literal["equal_epochs", "equal_steps"] = "equal_epochs"  # what subsets share: epochs, or the steps of `all`


class RankingSettings(Settings):
    """How the recipe's own class ranking is made, for subsets that say `by: reference`."""

    split: Literal["val", "train"] = "val"      # whose images score the classes
    seed: int = 1000                            # of the reference model: none of `seeds`, so that ranking and result differ
    epochs: Count | None = None                 # None: as pretrain


class EvaluateSettings(Settings):
    """Every pretrained model on the classes that all subsets share, clean and under PGD at its own eps."""

    attack: AttackSettings = AttackSettings(steps=20, relative_step_size=2.5 / 20)
    batch_size: Count = 256
    eps_of_clean: NotNegative | None = None     # also attack the clean model, at this eps; None: it is not attacked


class TransferSettings(TrainSettings):
    """One transfer method. Every lr of the grid trains; val chooses; test is read once, with the chosen model."""

    epochs: Count = 150
    batch_size: Count = 64
    optimizer: ScheduleSettings = ScheduleSettings(lr=0.01, schedule="step", step_epochs=50, weight_decay=5e-4,
                                                   decay_norm_and_bias=True)
    lrs: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.01, 0.001)
    bn_stats: Literal["frozen", "update"] | None = None   # None: frozen for `fixed`, update for `full`

    @model_validator(mode="after")
    def _one_lr(self) -> Self:
        if "lr" in self.optimizer.model_fields_set and "optimizer" in self.model_fields_set:
            raise ValueError("the learning rates of a transfer method are its `lrs`; optimizer.lr has no effect here")
        return self


class Recipe(Settings):
    """The whole question: which sources, which subsets, which robustness, which targets, which methods."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    question: str = ""
    source: DataSettings
    encoding: Encoding = Encoding()
    ranking: RankingSettings | None = None
    subsets: Annotated[tuple[SubsetSpec, ...], Field(min_length=1)]
    archs: Annotated[tuple[str, ...], Field(min_length=1)] = ("resnet18",)
    eps: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0.0,)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    pretrain: PretrainSettings = PretrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    targets: tuple[DataSettings, ...] = ()
    methods: dict[str, TransferSettings] = {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for axis in ("archs", "eps", "seeds"):
            values = getattr(self, axis)
            if len(set(values)) != len(values):
                raise ValueError(f"{axis} names a value twice: {list(values)}")
        for axis, labels in (("subsets", [s.name for s in self.subsets]), ("targets", [t.label for t in self.targets])):
            if len(set(labels)) != len(labels):
                raise ValueError(f"two of the {axis} have the same name: {labels}; give each its own `name:`")
        if bool(self.targets) != bool(self.methods):
            raise ValueError("targets and methods go together: one without the other has no effect")
        needs_reference = any(subset.needs_ranking == "reference" for subset in self.subsets)
        if needs_reference != (self.ranking is not None):
            raise ValueError("`ranking:` goes with a subset that says `by: reference`, and only with one")
        return self
