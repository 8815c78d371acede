"""`harness which-classes`: the classes it keeps, the files it writes, and refused inputs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from harness.cli.commands.which_classes import _print
from harness.cli.main import main
from harness.modeling import classifier
from loaders import open_loader
from loaders.plan import LoaderPlan
from tests.helpers.tiny_stages import write_colors
from writers.beton.store import open_beton
from writers.errors import UserError
from writers.subset.scores import ClassScores, read_class_scores
from writers.subset.spec import named, resolve

CLASSES = [f"source{index}" for index in range(10)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("which")
    (root / "data").mkdir()
    write_colors(root / "data")
    torch.manual_seed(0)
    about = {
        "arch": "resnet10",
        "channels": [16, 16, 16, 16],
        "resolution": 24,
        "classes": CLASSES,
        "stage": "a stage",
    }
    built = classifier.build("resnet10", 10, channels=(16, 16, 16, 16))
    files = sorted((root / "data" / "colors-images").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file).resize((24, 24))) for file in files])
    with torch.no_grad():  # with centered logits, different classes are predicted
        features = built.eval().features(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        built.head.bias.copy_(-(built.head.weight @ features.mean(0)))
    classifier.save(root / "model.pt", built, about)
    classifier.save(root / "headless.pt", built, {**about, "has_head": False})
    return root


def invoke(
    root: Path, *arguments: str, model: str = "model.pt", target: str = "data/colors-images"
) -> Result:
    from harness.cli.main import cli

    return CliRunner().invoke(
        cli,
        [
            "which-classes",
            "--target",
            str(root / target),
            "--surrogate",
            str(root / model),
            "--data-dir",
            str(root / "betons"),
            *arguments,
        ],
    )


def probabilities(root: Path) -> np.ndarray:
    """Compute softmax outputs [N, 10] of train and then val, by a plain loop, at 24 pixels.

    This is the model's resolution.
    """
    model, _ = classifier.load(root / "model.pt")
    model.eval()
    rows = []
    for split in ("train", "val"):
        plan = LoaderPlan(
            root / "betons" / "colors-images-all" / f"{split}.beton", 7, 24, center_fraction=0.875
        )
        with open_loader(plan) as loader, torch.no_grad(), loader.epoch(0) as batches:
            rows += [model(images).softmax(1).numpy() for images, _ in batches]
    return np.concatenate(rows)


def test_classes_that_the_model_predicts_are_kept(root: Path, tmp_path: Path):
    out, scores = tmp_path / "mine.yaml", tmp_path / "scores.csv"
    found = invoke(root, "--keep", "0.4", "--out", str(out), "--csv", str(scores), "--json")
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    probs = probabilities(root)
    counts, means = np.bincount(probs.argmax(1), minlength=10), probs.mean(0)
    expected = sorted(range(10), key=lambda c: (-counts[c], -means[c]))
    assert expected != sorted(range(10), key=lambda c: -means[c]) and (counts > 0).sum() > 4
    assert [row["class"] for row in content["classes"]] == [CLASSES[c] for c in expected]
    assert [row["images"] for row in content["classes"]] == [counts[c] for c in expected]
    assert content["num_images"] == 3 * (20 + 8) and content["num_kept"] == 4
    assert content["saved"] == pytest.approx(0.6)
    subset = resolve(named(str(out)), CLASSES)
    assert set(subset.classes) == {CLASSES[c] for c in expected[:4]}
    assert list(subset.classes) == sorted(subset.classes)  # in the source's order
    assert subset.digest == content["digest"]
    split = open_beton(root / "betons" / "colors-images-all" / "train.beton")
    assert f"sha256 {split.manifest.sha256}" in out.read_text() and "a stage" in out.read_text()
    step = tmp_path / "step.yaml"
    step.write_text(f"steps: [label_mapping: {{by: {scores}, keep: 0.4}}]")
    assert resolve(named(str(step)), CLASSES).classes == subset.classes


def test_names_of_classes_and_targets_may_have_any_characters(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In the YAML file, a # in a name begins no comment, and characters above U+FFFF survive."""
    classes = ["#tag", "a,b", "\N{GRINNING FACE}", 'x"y', "null", "1e3", " z", "h", "i", "j"]
    about = {"arch": "resnet10", "channels": [16] * 4, "resolution": 24, "classes": classes}
    torch.manual_seed(0)
    classifier.save(
        root / "odd.pt", classifier.build("resnet10", 10, channels=(16, 16, 16, 16)), about
    )
    (tmp_path / "my photos").symlink_to(root / "data" / "colors-images")
    monkeypatch.chdir(tmp_path)
    found = invoke(
        root,
        "--keep",
        "0.9",
        "--csv",
        "scores.csv",
        "--json",
        model="odd.pt",
        target=str(tmp_path / "my photos"),
    )
    assert found.exit_code == 0, found.output
    content = json.loads(found.stdout)
    assert content["file"] == "my-photos-90.yaml"
    kept = {row["class"] for row in content["classes"][:9]}
    assert set(resolve(named("my-photos-90.yaml"), classes).classes) == kept
    scores = read_class_scores(Path("scores.csv"))
    assert scores.ranked(classes) == [row["class"] for row in content["classes"]]


def test_betons_are_rewritten_for_another_folder_of_photographs_with_the_same_name(tmp_path: Path):
    """Folders of the same name share a folder of `.beton` files; a beton is reused for the same images."""
    from harness.cli.commands._model_and_images import write_betons
    from harness.system.folders import Folders

    folders = Folders.resolve(*(str(tmp_path / name) for name in ("betons", "raw", "runs")))
    splits = {"train": 2, "val": 1}
    for parent, colors in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / parent).mkdir()
        write_colors(tmp_path / parent, colors=colors, splits=splits)
    for file in (tmp_path / "b").rglob("*.png"):
        file.write_bytes((tmp_path / "a/colors-images/train/color0/0.png").read_bytes())

    def written(parent: str) -> tuple[str, int]:
        photos = tmp_path / parent / "colors-images"
        file = write_betons("folder", photos, None, folders)["train"]
        return open_beton(file).manifest.sha256, file.stat().st_mtime_ns

    first, second = written("a"), written("b")
    assert first[0] != second[0]
    assert written("b") == second  # the beton is current, so its file is not touched
    assert written("a")[0] == first[0] and written("c")[0] not in (first[0], second[0])


def test_the_name_of_a_dataset_takes_precedence_over_a_raw_folder(tmp_path: Path):
    """The name `pets` is the dataset with its official splits, even if raw/pets exists."""
    from harness.cli.commands.which_classes import _images_of
    from harness.system.folders import Folders

    folders = Folders.resolve(*(str(tmp_path / name) for name in ("data", "raw", "runs")))
    for name in ("pets", "mine"):
        (folders.raw / name).mkdir(parents=True)
    assert _images_of("pets", folders) == ("pets", None)
    assert _images_of("mine", folders) == ("folder", folders.raw / "mine")
    assert _images_of(str(folders.raw / "pets"), folders) == ("folder", folders.raw / "pets")


def test_no_beton_of_test_images_is_written(root: Path, tmp_path: Path):
    assert invoke(root, "--out", str(tmp_path / "a.yaml")).exit_code == 0
    written = {file.stem for file in (root / "betons" / "colors-images-all").glob("*.beton")}
    assert written == {"train", "val"}


def test_the_output_reports_kept_classes_and_saved_images(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = invoke(root, "--keep", "0.8", "--show", "3")
    assert found.exit_code == 0, found.output
    counts = np.bincount(probabilities(root).argmax(1), minlength=10)
    seen = int((counts > 0).sum())
    covered = 100 * np.sort(counts)[-8:].sum() / counts.sum()
    assert (
        f"{seen} of 10 classes are seen. The 8 that are kept cover {covered:.1f} %" in found.output
    )
    assert "about 20 % fewer images per epoch" in found.output
    assert "are seen in no image" not in found.output
    assert (tmp_path / "colors-images-80.yaml").is_file()
    assert sum(line.startswith("  ") for line in found.output.splitlines()) == 3
    most = invoke(root, "--keep", "0.99", "--show", "3")
    assert seen < 10 and "are seen in no image" in most.output
    again = invoke(root, "--keep", "0.8")
    assert again.exit_code != 0 and "already exists" in str(again.exception)


def test_the_recommended_fraction_keeps_exactly_the_classes_that_are_predicted(capsys):
    counts = {f"n{index:03d}": int(index < 172) for index in range(1000)}
    nothing = dict.fromkeys(counts, 0.0)
    _print(ClassScores(nothing, nothing, nothing, "mapping"), list(counts), counts, 800, 1)
    assert "--keep 0.172 keeps those that are seen" in capsys.readouterr().out
    one = {**dict.fromkeys(counts, 0), "n000": 1}
    _print(ClassScores(nothing, nothing, nothing, "mapping"), list(one), one, 800, 1)
    assert "--keep 0.001 keeps" in capsys.readouterr().out


def test_a_zip_of_photographs_is_read(root: Path, tmp_path: Path):
    shutil.make_archive(str(tmp_path / "mine"), "zip", root / "data" / "colors-images")
    found = invoke(
        root, "--out", str(tmp_path / "a.yaml"), "--json", target=str(tmp_path / "mine.zip")
    )
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["num_images"] == 3 * (20 + 8)


def test_the_description_of_a_surrogate_adds_no_lines(root: Path, tmp_path: Path):
    model, about = classifier.load(root / "model.pt")
    classifier.save(root / "lines.pt", model, about | {"stage": "a\nclasses: [other]\n#"})
    found = invoke(root, "--out", str(tmp_path / "a.yaml"), "--json", model="lines.pt")
    assert found.exit_code == 0, found.output
    plain = invoke(root, "--out", str(tmp_path / "b.yaml"))
    assert plain.exit_code == 0, plain.output
    digests = {resolve(named(str(tmp_path / f"{name}.yaml")), CLASSES).digest for name in "ab"}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("same.yaml", "does not end in .csv"),
        ("model.pt", "does not end in .csv"),
        ("old.csv", "already exists"),
    ],
)
def test_scores_replace_no_file(root: Path, tmp_path: Path, name: str, message: str):
    """--csv must end in .csv and must not exist; this is checked before anything is computed."""
    (tmp_path / "old.csv").write_text("mine")
    arguments = ("--out", str(tmp_path / "same.yaml"), "--csv", str(tmp_path / name))
    found = invoke(root, *arguments)
    assert isinstance(found.exception, UserError) and message in str(found.exception)
    assert (tmp_path / "old.csv").read_text() == "mine"
    assert not (tmp_path / "same.yaml").exists()


def test_image_counts_of_a_source_beton_give_the_saved_fraction(root: Path, tmp_path: Path):
    source = root / "betons" / "colors-images-all" / "train.beton"
    written = invoke(root, "--out", str(tmp_path / "first.yaml"))
    assert written.exit_code == 0 and source.is_file(), written.output
    found = invoke(root, "--source-beton", str(source), "--out", str(tmp_path / "a.yaml"))
    assert "lacks 10 classes of the surrogate, such as source0" in str(found.exception)
    torch.manual_seed(1)
    about = {
        "arch": "resnet10",
        "channels": [16, 16, 16, 16],
        "resolution": 24,
        "classes": ["color0", "color1", "color2"],
    }
    built = classifier.build("resnet10", 3, channels=(16, 16, 16, 16))
    classifier.save(root / "three.pt", built, about)
    found = invoke(
        root,
        "--source-beton",
        str(source),
        "--keep",
        "0.3",
        "--out",
        str(tmp_path / "b.yaml"),
        model="three.pt",
    )
    assert "needs 67 % fewer images per epoch" in found.output


@pytest.mark.parametrize(
    ("arguments", "model", "target", "message"),
    [
        ((), "headless.pt", "data/colors-images", "has no head for source classes"),
        ((), "model.pt", "data/nothing", "There are no images at"),
        (("--out", "x.txt"), "model.pt", "data/colors-images", "does not end in .yaml"),
        (("--out", "my photos.yaml"), "model.pt", "data/colors-images", "cannot name a subset"),
        ((), "mdoel.pt", "data/colors-images", "There is no model file"),
        ((), "model.pt", "flat", "has photographs, but no folder of them"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    root: Path, arguments: tuple[str, ...], model: str, target: str, message: str, capsys
):
    (root / "flat").mkdir(exist_ok=True)
    (root / "flat" / "1.jpg").touch()
    with pytest.raises(SystemExit) as exit_code:
        main(
            [
                "which-classes",
                "--target",
                str(root / target),
                "--surrogate",
                str(root / model),
                "--data-dir",
                str(root / "betons"),
                *arguments,
            ]
        )
    lines = capsys.readouterr().err.splitlines()
    assert exit_code.value.code == 2 and message in lines[0] and len(lines) <= 2
    if target == "flat":
        assert "one folder is enough" in lines[1]


WRONG_SURROGATES = {
    "too few names": ({"classes": CLASSES[:5]}, "there are 5, and its head has 10 outputs"),
    "equal names": ({"classes": ["a"] * 10}, "the name a occurs more than once"),
    "a text": ({"classes": "abcdefghij"}, "no list of texts"),
    "numbers": ({"classes": list(range(10))}, "no list of texts"),
    "no resolution": ({"resolution": None}, "does not state the resolution"),
    "a resolution of 0": ({"resolution": 0}, "does not state the resolution"),
}


@pytest.mark.parametrize("wrong", WRONG_SURROGATES)
def test_a_surrogate_whose_description_does_not_fit_is_refused(
    root: Path, tmp_path: Path, wrong: str
):
    settings, message = WRONG_SURROGATES[wrong]
    model, about = classifier.load(root / "model.pt")
    classifier.save(root / "wrong.pt", model, about | settings)
    found = invoke(root, "--out", str(tmp_path / "a.yaml"), model="wrong.pt")
    assert isinstance(found.exception, UserError)
    assert message in str(found.exception) and not (tmp_path / "a.yaml").exists()


def test_a_surrogate_with_weights_that_are_not_finite_is_refused(root: Path, tmp_path: Path):
    """With NaN logits, argmax would return class 0 for every image."""
    model, about = classifier.load(root / "model.pt")
    with torch.no_grad():
        model.head.weight[3, 5] = float("nan")
    classifier.save(root / "nan.pt", model, about)
    found = invoke(root, "--out", str(tmp_path / "a.yaml"), model="nan.pt")
    assert isinstance(found.exception, UserError)
    assert "head.weight" in str(found.exception) and not (tmp_path / "a.yaml").exists()


def test_weights_of_another_program_name_the_command_that_reads_them(root: Path):
    model, _ = classifier.load(root / "model.pt")
    torch.save(model.state_dict(), root / "plain.pt")
    found = invoke(root, model="plain.pt")
    assert isinstance(found.exception, UserError)
    assert "no description of the network" in str(found.exception)
    assert "import-checkpoint" in found.exception.hint


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0 cut"])
def test_photographs_that_cannot_be_read_are_named_with_a_command_that_exists(
    root: Path, tmp_path: Path, content: bytes
):
    (tmp_path / "mine" / "cat").mkdir(parents=True)
    (tmp_path / "mine" / "cat" / "bad.jpg").write_bytes(content)
    found = invoke(root, target=str(tmp_path / "mine"))
    assert isinstance(found.exception, UserError)
    assert "bad.jpg" in str(found.exception)
    assert "harness write-beton --on-error skip" in found.exception.hint


def test_a_resolution_that_needs_too_much_memory_is_refused_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = [
        "--target",
        str(root / "data/colors-images"),
        "--surrogate",
        str(root / "model.pt"),
    ]
    arguments += ["--data-dir", str(root / "betons"), "--out", str(tmp_path / "a.yaml")]
    with pytest.raises(SystemExit) as caught:
        main(["which-classes", *arguments, "--resolution", "10000000"])
    assert caught.value.code == 2
    assert "There is not enough memory" in capsys.readouterr().err
