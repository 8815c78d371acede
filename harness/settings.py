"""What a recipe may say: every setting, its type, its default and its unit, as frozen pydantic models.

`harness.recipe` reads YAML into `Recipe`; `harness.matrix` cuts it into stages; each stage gets back one of the smaller
models here. Imports no torch, so that `plan`, `ls` and `--help` stay fast.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.attack_settings import AttackSettings, EvaluationAttack
from harness.base_settings import Count, Fraction, NotNegative, Positive, Settings
from writers import names
from writers.encode import Encoding
from writers.subset import SubsetSpec


class DataSettings(Settings):
    """A dataset as a recipe names it: a file of `writers/datasets/`, or any tree of class folders."""

    dataset: str = "folder"                 # a name in writers/datasets; `folder`: any tree (or tar) of class folders
    path: str | None = None                 # a folder or archive; relative to $HARNESS_RAW. None: $HARNESS_RAW/<dataset>
    name: str | None = None                 # what reports call it; default: dataset, or for `folder` the path's stem
    val: Fraction = 0.1                     # seeded, stratified share of train that becomes val, where no val is given
    test: Fraction = 0.2                    # likewise for test, where no test is given (targets only)
    split_seed: int = 0
    protocol: str | None = None             # whose splits: a name in the dataset's SPEC.protocols; None: the dataset's own
    accept_counts: bool = False             # write it although its counts differ from those published; the manifest says how
    metric: Literal["top1", "mean_per_class", "map11"] | None = None     # None: the dataset's own metric (`folder`: top1)
    encoding: Encoding | None = None        # None: the recipe's

    @field_validator("dataset")
    @classmethod
    def _as_its_file(cls, dataset: str) -> str:
        return names.normalise(dataset)     # clevr-count is clevr_count

    @property
    def label(self) -> str:
        if self.name:
            return self.name
        if self.dataset == "folder" and self.path:
            return self.path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
        return self.dataset


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
    flip_tta: bool = False                  # evaluate with the mean of the logits of each image and its mirror image
    optimizer: ScheduleSettings = ScheduleSettings()
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"


class ProgressiveSettings(Settings):
    """Smaller images first, as ffcv-imagenet: `start_resolution` up to the first epoch of `ramp`, the full `resolution` from
    its second on, a line in between that is rounded to a `multiple`. Epochs count from 0."""

    start_resolution: Count                 # pixels a side
    ramp: tuple[Annotated[int, Field(ge=0)], Count]     # epochs
    multiple: Count = 32                    # pixels

    def resolution(self, epoch: int, full: int) -> int:
        """Pixels a side in that epoch."""
        first, last = self.ramp
        share = min(1.0, max(0.0, (epoch - first) / (last - first)))
        return round((self.start_resolution + share * (full - self.start_resolution)) / self.multiple) * self.multiple


class PretrainSettings(TrainSettings):
    """Training from random weights on a source subset; adversarial where the axis `eps` is above 0.

    In a recipe, `preset: NAME` stands for a published set of these (`harness/presets.py`); other keys go over it.
    """

    attack: AttackSettings = AttackSettings()
    progressive: ProgressiveSettings | None = None  # None: every epoch at `resolution`
    blur_pool: bool = False                 # a 3x3 binomial filter before strided convolutions (Zhang 2019)
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None    # per step; the averaged weights are the model's
    accumulate: Count | Literal["auto"] = 1     # parts of a batch, one after another; `auto`: as few as fit into memory
    compile: Literal["off", "auto", "on"] = "off"   # torch.compile; `auto`: where a measurement at the start says it pays
    sync_batch_norm: bool = False           # BatchNorm over the whole batch where several GPUs share it; False: over each one's
    channels: tuple[Count, ...] | None = None   # widths of the stages, for archs that let one choose (resnet10)
    length: Literal["equal_epochs", "equal_steps"] = "equal_epochs"  # what subsets share: epochs, or the steps of `all`

    @model_validator(mode="after")
    def _free_takes_whole_batches(self) -> Self:
        if self.attack.method == "free" and self.accumulate != 1:
            raise ValueError("accumulate does not go with attack.method: free, which keeps one noise for a whole batch")
        return self

    @model_validator(mode="after")
    def _ramp_within_training(self) -> Self:
        if (progressive := self.progressive) is None:
            return self
        first, last = progressive.ramp
        if not first < last < self.epochs:
            raise ValueError(f"progressive.ramp is {list(progressive.ramp)}: it must rise, and end before epoch {self.epochs}")
        if not progressive.start_resolution < self.resolution:
            raise ValueError(f"progressive.start_resolution is {progressive.start_resolution}: it must be below `resolution`, "
                             f"which is {self.resolution}")
        for name, side in (("progressive.start_resolution", progressive.start_resolution), ("resolution", self.resolution)):
            if side % progressive.multiple:
                raise ValueError(f"{name} is {side}, which is no multiple of progressive.multiple, {progressive.multiple}")
        return self

    def resolution_at(self, epoch: int) -> int:
        """Pixels a side of training in that epoch, counted from 0."""
        return self.progressive.resolution(epoch, self.resolution) if self.progressive else self.resolution


class RankingSettings(Settings):
    """How the recipe's own class ranking is made, for subsets that say `by: reference`."""

    split: Literal["val", "train"] = "val"      # whose images score the classes
    seed: int = 1000                            # of the reference model: none of `seeds`, so that ranking and result differ
    epochs: Count | None = None                 # None: as pretrain


class EvaluateSettings(Settings):
    """Every pretrained model on the classes that all subsets share, clean and under PGD at its own eps."""

    attack: EvaluationAttack = EvaluationAttack()
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
    methods: dict[str, TransferSettings] = Field(default_factory=dict)

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
        if self.ranking and self.ranking.epochs and self.pretrain.progressive \
                and self.pretrain.progressive.ramp[1] >= self.ranking.epochs:
            raise ValueError(f"ranking.epochs is {self.ranking.epochs}: the reference model's training would end before "
                             "pretrain.progressive.ramp does")
        return self
