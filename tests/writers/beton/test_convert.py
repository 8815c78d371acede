"""Adding restart indices to a `.beton` file gives the file that writing with them gives."""

from pathlib import Path

import numpy as np
import pytest

from writers.beton.convert import add_index
from writers.beton.encoding import Encoding
from writers.beton.store import manifest_path, open_beton
from writers.beton.verify import verify
from writers.beton.write import write_split
from writers.errors import UserError
from writers.source import Source
from writers.subset.spec import everything

PLAIN = Encoding(format="passthrough", restart_index=False)


@pytest.mark.parametrize("num_threads", [1, 3])
def test_adding_the_index_equals_writing_with_it(source: Source, tmp_path: Path, num_threads: int):
    write_split(source, "train", everything(source.classes), PLAIN, tmp_path / "plain.beton")
    indexed = Encoding(format="passthrough", restart_index=True)
    write_split(source, "train", everything(source.classes), indexed, tmp_path / "own.beton")
    manifest = add_index(tmp_path / "plain.beton", tmp_path / "new.beton", num_threads=num_threads)
    assert (tmp_path / "new.beton").read_bytes() == (tmp_path / "own.beton").read_bytes()
    assert manifest.encoding == indexed and verify(tmp_path / "new.beton") == []
    assert manifest.copied_from == {
        "file": "plain.beton",
        "sha256": open_beton(tmp_path / "plain.beton").manifest.sha256,
    }
    assert np.array_equal(
        open_beton(tmp_path / "new.beton").ids, open_beton(tmp_path / "plain.beton").ids
    )


def test_invalid_inputs_are_refused_without_output(source: Source, tmp_path: Path):
    write_split(source, "train", everything(source.classes), Encoding(), tmp_path / "indexed.beton")
    write_split(
        source, "train", everything(source.classes), Encoding(format="raw"), tmp_path / "raw.beton"
    )
    write_split(source, "train", everything(source.classes), PLAIN, tmp_path / "plain.beton")
    for name, message in (("indexed", "already"), ("raw", "no JPEG")):
        with pytest.raises(UserError, match=message):
            add_index(tmp_path / f"{name}.beton", tmp_path / "new.beton")
    with pytest.raises(UserError, match="is the input file"):
        add_index(tmp_path / "plain.beton", tmp_path / "plain.beton")
    beton = open_beton(tmp_path / "plain.beton")
    number = int(np.flatnonzero(beton.rows["mode"] == 0)[2])
    middle = int(beton.rows["offset"][number]) + int(beton.sizes[number]) // 2
    data = bytearray((tmp_path / "plain.beton").read_bytes())
    data[middle : middle + 40] = b"\xff\xd9" * 20  # truncate the image in its middle
    (tmp_path / "plain.beton").write_bytes(data)
    with pytest.raises(UserError, match=f"Sample {number} of"):
        add_index(tmp_path / "plain.beton", tmp_path / "new.beton")
    assert not list(tmp_path.glob("*new*")) and not manifest_path(tmp_path / "new.beton").exists()


def test_the_index_is_the_default_for_encoded_jpegs():
    assert Encoding().restart_index and Encoding.model_validate("500_0.50_90").restart_index
    assert not Encoding(format="raw").restart_index
    assert not Encoding(format="passthrough").restart_index
    assert Encoding(format="passthrough", restart_index=True).restart_index
    assert not Encoding(restart_index=False).restart_index
