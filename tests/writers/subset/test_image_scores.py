"""Files of image scores: clusters are whole numbers, and an image has one row."""

from pathlib import Path

import pytest

from writers.errors import UserError
from writers.random_streams import sample_ids
from writers.subset.scores import read_image_scores


def test_clusters_and_scores_are_read(tmp_path: Path):
    (tmp_path / "s.csv").write_text("image,score,cluster\na/b.jpg,0.5,3\na/c.jpg,-1,-1.0\n")
    scores = read_image_scores(tmp_path / "s.csv")
    assert scores.values.tolist() == [0.5, -1.0]
    assert scores.clusters is not None and scores.clusters.tolist() == [3, -1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a/b.jpg,1,1.5\n", r"the cluster of a/b\.jpg is 1\.5, not a whole number"),
        ("a/b.jpg,1,1e300\n", "not a whole number"),
        ("a/b.jpg,1,9223372036854775808\n", "not a whole number"),
        ("a/b.jpg,1,2\na/c.jpg,1,\n", r"the cluster of a/c\.jpg is nan"),
        (
            "0x00000000000000ab,1,1\n0x00000000000000AB,2,1\n",
            "0x00000000000000AB and 0x00000000000000ab are the same image",
        ),
        ("a/b.jpg,1,1\na/b.jpg,1,1\n", "listed twice"),
    ],
)
def test_other_clusters_and_repeated_images_are_refused(rows: str, words: str, tmp_path: Path):
    (tmp_path / "s.csv").write_text("image,score,cluster\n" + rows)
    with pytest.raises(UserError, match=words):
        read_image_scores(tmp_path / "s.csv")


def test_the_class_of_an_image_without_an_extension_may_have_a_dot(tmp_path: Path):
    (tmp_path / "s.csv").write_text("image,score\n001.ak47/001_1,1\ntrain/001.ak47/2.jpg,2\n")
    scores = read_image_scores(tmp_path / "s.csv")
    assert scores.ids.tolist() == sample_ids(["001.ak47/001_1", "001.ak47/2"]).tolist()
