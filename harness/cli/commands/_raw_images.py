"""Refuse a dataset whose images are missing, with the place to get them."""

from pathlib import Path


def check_images(dataset: str, path: Path, option: str = "--source") -> None:
    """Check that the images of a dataset exist.

    Args:
        dataset: name in `writers/datasets`, or `folder`.
        path: folder or archive of the images.
        option: option of the command that names this path.

    Raises:
        UserError: there is nothing at the path, and the images are not generated.
    """
    from harness.config.missing_inputs import where_to_get
    from writers.dataset import spec_of
    from writers.errors import UserError

    if not spec_of(dataset).generated and not path.exists():
        raise UserError(
            f"The images of {dataset} are not at {path}.{where_to_get(dataset)}",
            f"Put them there, or pass {option} PATH or --raw-dir DIR.",
        )
