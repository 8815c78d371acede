"""The loader for training code: epochs, resuming, ranks, transforms, notebooks."""

import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from ffcv.loader import OrderOption

import loaders
from loaders import Loader, LoaderPlan, open_loader
from tests.helpers import ROOT
from writers.errors import UserError

SETTINGS = {
    "batch_size": 8,
    "resolution": 16,
    "augment": "random_resized_crop",
    "horizontal_flip": True,
    "order": "random",
    "seed": 3,
    "num_workers": 2,
}


def epochs_of_backend(path: Path, count: int) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the batches (images, labels) of each epoch, read by the slow reference backend."""
    settings = {key: value for key, value in SETTINGS.items() if key != "num_workers"}
    with open_loader(LoaderPlan(beton=path, backend="reference", **settings)) as loader:
        return [
            [(images.clone(), labels.clone()) for images, labels in loader.epoch(epoch)]
            for epoch in range(count)
        ]


def assert_equal(batches, expected) -> None:
    assert len(batches) == len(expected)
    for (images, labels), (its_images, its_labels) in zip(batches, expected, strict=True):
        torch.testing.assert_close(images, its_images, rtol=0, atol=0)
        assert labels.tolist() == its_labels.tolist()


def test_each_for_is_the_next_epoch_and_a_list_of_batches_keeps_its_pixels(betons):
    expected = epochs_of_backend(betons["jpeg"], 3)
    with Loader(betons["jpeg"], **SETTINGS) as loader:
        assert len(loader) == 5 and loader.num_samples == 36 and loader.epoch == 0
        # list() keeps all batches, so no batch may share memory with a later one
        for batches in expected:
            assert_equal(list(loader), batches)
        assert loader.epoch == 3


def test_a_break_ends_the_epoch(betons):
    expected = epochs_of_backend(betons["mixed"], 2)
    loader = Loader(betons["mixed"], **SETTINGS)
    for _ in loader:
        break
    assert_equal(list(loader), expected[1])


def test_set_epoch_selects_the_next_epoch(betons):
    expected = epochs_of_backend(betons["jpeg"], 3)
    loader = Loader(str(betons["jpeg"]), **SETTINGS)
    loader.set_epoch(2)
    assert_equal(list(loader), expected[2])
    loader.set_epoch(0)
    assert_equal(list(loader), expected[0])
    with pytest.raises(UserError, match="at least 0"):
        loader.set_epoch(-1)


@pytest.mark.parametrize("num_done", [0, 1, 4, 5])
def test_a_state_of_json_resumes_in_another_loader(betons, num_done: int):
    expected = epochs_of_backend(betons["jpeg"], 3)
    first = Loader(betons["jpeg"], **SETTINGS)
    first.set_epoch(1)
    batches = iter(first)
    for _ in range(num_done):
        next(batches)
    state = json.loads(json.dumps(first.state_dict()))
    second = Loader(betons["jpeg"], **SETTINGS)
    second.load_state_dict(state)
    rest = expected[1][num_done:] if num_done < 5 else expected[2]
    assert_equal(list(second), rest)
    assert second.state_dict()["batch"] == 0


def test_states_of_another_order_are_refused(betons):
    loader = Loader(betons["jpeg"], **SETTINGS)
    for key, value in (("batch_size", 4), ("seed", 9), ("order", "sequential"), ("batch", 99)):
        state = copy.copy(loader.state_dict())
        state[key] = value
        with pytest.raises(UserError, match=str(value)):
            loader.load_state_dict(state)
    with pytest.raises(UserError, match="has no batch"):
        loader.load_state_dict({"epoch": 1})


def test_parameters_of_ffcvs_loader_are_accepted_or_explained(betons):
    loader = Loader(
        betons["jpeg"], batch_size=8, num_workers=1, order=OrderOption.QUASI_RANDOM, seed=None
    )
    assert loader.plan.order == "quasi_random" and loader.plan.num_threads == 1
    assert "36 images" in repr(loader) and "4 classes" in repr(loader)
    with pytest.raises(UserError, match="pipelines") as info:
        Loader(betons["jpeg"], batch_size=8, pipelines={})
    assert "transform" in info.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs batch_size"),
        ({"batch_size": 8, "order": "shuffled"}, "shuffled"),
        ({"batch_size": 8, "horizontl_flip": True}, "horizontl_flip"),
        ({"batch_size": 8, "num_workers": 0}, "num_workers is 0"),
        ({"batch_size": 8, "distributed": True}, "process group"),
    ],
)
def test_wrong_settings_are_user_errors(betons, settings, message):
    with pytest.raises(UserError, match=message):
        Loader(betons["jpeg"], **settings)


@pytest.mark.parametrize(
    ("subset", "kept"),
    [
        (["class3", "class1"], [1, 3]),
        (("class2",), [2]),
        ("all", [0, 1, 2, 3]),
        ("two.txt", [0, 2]),
        (Path("two.txt"), [0, 2]),
    ],
)
def test_a_subset_may_be_a_name_or_a_list_of_classes(
    betons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subset, kept: list[int]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.txt").write_text("class0\nclass2\n")
    settings = {"batch_size": 36, "resolution": 16, "num_workers": 1}
    [(images, labels)] = Loader(betons["raw"], **settings)
    loader = Loader(betons["raw"], subset=subset, **settings)
    [(its_images, its_labels)] = loader
    assert loader.classes == tuple(f"class{label}" for label in kept)
    is_kept = torch.isin(labels, torch.tensor(kept))
    assert its_labels.tolist() == [kept.index(label) for label in labels[is_kept].tolist()]
    torch.testing.assert_close(its_images, images[is_kept], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ("in90", "no subset named 'in90'"),
        ("in900", "Subset in900: "),
        ("class1", r"For one class, use subset=\['class1'\]"),
        (["class1", "zebra"], "zebra"),
        (["class1", "class1"], "listed twice"),
        ([], "no subset: "),
        ([1], "no subset: "),
        (3, "Loader.subset is 3, which is no subset."),
        ({"class1": 1}, "no subset."),
    ],
)
def test_other_subsets_are_user_errors(betons, subset, message: str):
    with pytest.raises(UserError, match=message):
        Loader(betons["raw"], 8, subset=subset)


def test_a_plan_takes_no_names_of_subsets(betons):
    with pytest.raises(UserError, match=r"LoaderPlan.subset is 'all'; it must be a Subset"):
        LoaderPlan(betons["raw"], 8, 16, subset="all")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "num_gpus", "hint"),
    [("cuda:0", 0, "device='cpu'"), ("cuda", 0, "device='cpu'"), ("cuda:3", 2, "smaller number")],
)
def test_a_missing_gpu_is_a_user_error(
    betons, monkeypatch: pytest.MonkeyPatch, device: str, num_gpus: int, hint: str
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(UserError, match=f"Loader.device is '{device}'") as info:
        Loader(betons["raw"], 8, device=device)
    assert hint in info.value.hint


def test_an_unknown_device_is_a_user_error(betons):
    with pytest.raises(UserError, match="which torch does not know"):
        Loader(betons["raw"], 8, device="gpu")


@pytest.mark.parametrize(("batch_size", "num_images"), [(36, 36), (20, 20), (400, 36)])
def test_drop_last_keeps_the_only_batch(betons, batch_size: int, num_images: int):
    with Loader(betons["raw"], batch_size, resolution=16, drop_last=True) as loader:
        assert [len(labels) for _, labels in loader] == [num_images]


@pytest.mark.parametrize("path", ["", "/", "."])
def test_a_path_without_a_name_is_a_folder(path: str):
    with pytest.raises(UserError, match="is a folder, not a beton"):
        Loader(path, batch_size=8)


WORKERS = """
import sys
from pathlib import Path
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from loaders import Loader

class Images(IterableDataset):
    def __init__(self, shared):
        self.shared = shared

    def __iter__(self):
        worker = get_worker_info()
        ranks = {"rank": worker.id, "world_size": worker.num_workers} if self.shared else {}
        for images, labels in Loader(Path(sys.argv[1]), batch_size=8, num_workers=1, **ranks):
            yield len(labels)

for num_workers, shared in ((1, False), (2, True), (2, False)):
    print(sum(DataLoader(Images(shared), None, num_workers=num_workers, multiprocessing_context="fork")))
"""


def test_workers_of_torch_do_not_deliver_each_image_twice(betons):
    command = [sys.executable, "-c", WORKERS, str(betons["jpeg"])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["36", "36"]
    assert "in one of 2 workers of torch's DataLoader" in done.stderr


def test_a_plan_is_used_as_it_is(betons):
    plan = LoaderPlan(beton=betons["raw"], batch_size=12, resolution=8)
    with Loader(plan) as loader:
        assert loader.plan == plan
        assert [images.shape for images, _ in loader] == [(12, 3, 8, 8)] * 3
    with pytest.raises(UserError, match="batch_size"):
        Loader(plan, batch_size=8)


def test_transforms_of_torchvision_are_functions_of_seed_epoch_and_batch(betons):
    from torchvision.transforms import v2

    def opened() -> Loader:
        return Loader(
            betons["jpeg"],
            transform=v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.MixUp(num_classes=4)]),
            **SETTINGS,
        )

    torch.manual_seed(1)
    first = list(opened())
    before = torch.random.get_rng_state()
    torch.rand(5)
    second = opened()
    assert_equal(list(second), first)
    assert first[0][1].shape == (8, 4) and first[0][0].dtype == torch.float32
    assert not torch.equal(next(iter(second))[1], first[0][1])  # other pairs are mixed
    torch.random.set_rng_state(before)
    list(opened())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_importing_the_package_imports_no_torch():
    code = "import sys, loaders; assert 'torch' not in sys.modules; loaders.Loader"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    assert {"Loader", "LoaderPlan"} <= set(loaders.__all__)


def test_ranks_of_torchrun_share_each_batch(betons, tmp_path: Path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        import torch, torch.distributed as dist
        from loaders import Loader
        dist.init_process_group("gloo")
        loader = Loader({str(betons["jpeg"])!r}, batch_size=8, resolution=16, order="random",
                        seed=3, num_workers=1)
        torch.save(list(loader), f"{tmp_path}/{{dist.get_rank()}}.pt")
        dist.destroy_process_group()
        """)
    )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *command, str(script)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    with Loader(betons["jpeg"], batch_size=8, resolution=16, order="random", seed=3) as loader:
        for (images, labels), *shares in zip(loader, *parts, strict=True):
            for rank, (part_images, part_labels) in enumerate(shares):
                assert torch.equal(part_images, images[rank::2])
                assert torch.equal(part_labels, labels[rank::2])


def test_a_loader_iterates_in_a_notebook(betons, tmp_path: Path):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [
        "from loaders import Loader\n"
        f"loader = Loader({str(betons['jpeg'])!r}, batch_size=8, resolution=16)\nloader",
        "for images, labels in loader:\n    break\nlen(list(loader)), loader.epoch",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    kernel = nbclient.NotebookClient(book, timeout=240, resources={"metadata": {"path": str(ROOT)}})
    kernel.execute()
    shown = [cell["outputs"][-1]["data"]["text/plain"] for cell in book.cells]
    assert "36 images" in shown[0] and shown[1] == "(5, 2)"
