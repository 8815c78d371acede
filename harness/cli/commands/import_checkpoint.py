"""Turn anybody's weights into a model that the harness transfers, scores and evaluates."""

from pathlib import Path

import click


@click.command(short_help="Turn a checkpoint of another program into a model.pt.")
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--arch",
    required=True,
    metavar="NAME",
    help="torchvision/NAME, timm/NAME, or one of harness ls models.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The model.pt to write.",
)
@click.option(
    "--classes",
    "subset_name",
    default="in1000",
    show_default=True,
    metavar="SUBSET",
    help="The classes that it was trained on, in label order.",
)
@click.option(
    "--eps",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Of its adversarial training.",
)
@click.option(
    "--resolution",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Of its training. Default: the architecture's.",
)
@click.option(
    "--mean",
    nargs=3,
    type=float,
    help="Of its normalisation, for pixels in [0, 1]. Default: what the file, else the library says.",
)
@click.option("--std", nargs=3, type=float)
@click.option(
    "--average",
    is_flag=True,
    help="Take the exponential average of the weights, where the file has one.",
)
@click.option(
    "--by-order",
    is_flag=True,
    help="Match tensors by order and shape: for files with other names for the same network.",
)
def command(
    checkpoint: Path,
    arch: str,
    out: Path,
    subset_name: str,
    eps: float,
    resolution: int | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    average: bool,
    by_order: bool,
) -> None:
    """Turn weights in a safetensors or torch file into a model.pt of this harness.

    Understands wrapped and prefixed layouts (state_dict, model, module., _orig_mod.), and the robustness library's
    checkpoints with their normalisation. Runs nothing that the file contains.

    \b
    harness import-checkpoint resnet18_l2_eps1.ckpt --arch torchvision/resnet18 --eps 1 --out robust.pt
    """
    from harness.modeling import classifier as model
    from harness.modeling.checkpoint_import import import_checkpoint

    classifier, about = import_checkpoint(
        checkpoint,
        arch,
        subset_name,
        eps=eps,
        resolution=resolution,
        mean=mean,
        std=std,
        average=average,
        by_order=by_order,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    model.save(out, classifier, about)
    num_parameters = sum(parameter.numel() for parameter in classifier.parameters())
    click.echo(
        f"{out}: {arch}, {num_parameters / 1e6:.1f} M parameters, {len(about['classes'])} classes, "
        f"{about['resolution']} px, sha256 of the checkpoint {about['sha256'][:12]}"
    )
