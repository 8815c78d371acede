"""Convert weights of another program into a model that the other commands and recipes read."""

from pathlib import Path

import click
from click.core import ParameterSource

from harness.cli.number_types import FloatType, IntType
from harness.cli.path_types import PathType
from writers.text_names import counted, printable

MAX_NAMES = 8  # largest number of left-out tensors that are printed


@click.command(short_help="Convert a checkpoint of another program into a model.pt.")
@click.argument("checkpoint", type=PathType(exists=True, folder=False))
@click.option(
    "--arch",
    required=True,
    metavar="NAME",
    help="Architecture: torchvision/NAME, timm/NAME, or a name of harness ls models.",
)
@click.option(
    "--out",
    required=True,
    type=PathType(folder=False, written=True),
    metavar="FILE",
    help="File to write, such as model.pt.",
)
@click.option(
    "--classes",
    "subset_name",
    default="in1000",
    show_default=True,
    metavar="FILE|SUBSET",
    help="Classes that the model was trained on, in label order: a text file with one per line, or "
    "a subset; none drops the head.",
)
@click.option(
    "--eps",
    type=FloatType(min=0),
    default=0.0,
    show_default=True,
    help="Radius of the adversarial training that the model had; 0 for clean training.",
)
@click.option(
    "--resolution",
    type=IntType(min=1),
    metavar="PIXELS",
    help="Resolution that the model was trained at. Default: the architecture's.",
)
@click.option(
    "--mean",
    nargs=3,
    type=FloatType(0, 1),
    metavar="R G B",
    help="Mean of the normalization, for pixels in [0, 1]. Default: the file's, or else that of "
    "the library which defines the architecture.",
)
@click.option(
    "--std",
    nargs=3,
    type=FloatType(min=0, min_open=True),
    metavar="R G B",
    help="Standard deviation; see --mean.",
)
@click.option(
    "--average",
    is_flag=True,
    help="Use the exponential moving average of the weights, if the file has one.",
)
@click.option(
    "--part",
    metavar="NAME",
    help="Which network to take if the file has several: a part of its tensors' names, such as "
    "encoder_k or student. Default: the one that the method's authors evaluate.",
)
@click.option(
    "--by-order",
    is_flag=True,
    help="Match tensors by order and shape, for files that name the tensors of the same network "
    "differently.",
)
@click.pass_context
def command(
    ctx: click.Context,
    checkpoint: Path,
    arch: str,
    out: Path,
    subset_name: str,
    eps: float,
    resolution: int | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    average: bool,
    part: str | None,
    by_order: bool,
) -> None:
    """Convert weights in a safetensors or torch file into a model.pt.

    Takes the largest part of the file that fits the architecture, under any prefix (module.,
    backbone.), and lists what it leaves out. Reads checkpoints of the robustness library with their
    normalization. In files of MoCo, SimCLR, SwAV, BYOL, DINO, Barlow Twins, VICReg, VISSL, Lightly,
    solo-learn, OpenSelfSup and MMSelfSup, takes the network that their authors evaluate. A linear
    layer outside the network is its head if it has an output per class and the network's features
    as inputs. Never runs code from the file.

    \b
    Example:
    harness import-checkpoint resnet18_l2_eps1.ckpt --arch torchvision/resnet18 \\
        --eps 1 --out robust.pt
    """
    from harness.modeling import classifier, import_notes
    from harness.modeling.checkpoint_import import import_checkpoint

    model, about = import_checkpoint(
        checkpoint,
        arch,
        None if subset_name == "none" else subset_name,
        eps=eps,
        resolution=resolution,
        mean=mean,
        std=std,
        average=average,
        part=part,
        by_order=by_order,
        drop_foreign_head=ctx.get_parameter_source("subset_name") == ParameterSource.DEFAULT,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    classifier.save(out, model, about)
    if names := about["left_out"]:
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        click.echo(f"left out: {', '.join(map(printable, names[:MAX_NAMES]))}{more}")
    if choice := import_notes.choice_of(about):
        click.echo(printable(choice))
    if about["layout"]:
        click.echo(f"layout: {about['layout']} (self-supervised)")
    if not about["has_head"] and subset_name != "none":
        click.echo(
            f"The file has no head for {subset_name}, so the model has none. If it was trained on "
            "other classes, name them with --classes."
        )
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    click.echo(
        f"{out}: {arch}, {num_parameters / 1e6:.1f} M parameters, "
        f"{counted(len(about['classes']), 'class')}, {about['resolution']} px, sha256 of the "
        f"checkpoint {about['sha256'][:12]}"
    )
