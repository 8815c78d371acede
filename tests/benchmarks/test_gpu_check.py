"""The GPU check: time budget, failing and hanging steps, missing C kernel, bundle of wheels."""

import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks import gpu_bundle, gpu_check, gpu_check_parts, gpu_predictions, installation
from benchmarks.gpu_check_parts import Step
from harness.cli.benches import attack, load, matrix, train
from loaders import kernel
from writers.jpeg import native

ROOT = Path(__file__).parents[2]
VARIABLES = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("tiny", [False, True])
def test_the_step_limits_of_each_part_fit_its_budget(tmp_path, tiny):
    parts = gpu_check_parts.plan(tmp_path / "tiles", tmp_path, tmp_path, tiny)
    assert list(parts) == ["A", "B", "C"] and gpu_check.PART_S < 9 * 60
    slack = gpu_check_parts.TINY_SLACK if tiny else 1
    for steps in parts.values():
        limit_s = sum(step.limit_s for step in steps) / slack
        assert limit_s + gpu_check_parts.INSTALL_S <= gpu_check.PART_S
        assert steps[0].name == "installation"
        assert len({step.name for step in steps}) == len(steps)


@pytest.mark.parametrize("tiny", [False, True])
def test_benchmarks_accept_the_options_of_the_check(tmp_path, tiny):
    corpus = tmp_path / "tiles"
    corpus.mkdir()
    commands = {
        module.__name__.rpartition(".")[2]: module.command
        for module in (train, attack, load, matrix)
    }
    benches = [
        step
        for steps in gpu_check_parts.plan(corpus, tmp_path, tmp_path, tiny).values()
        for step in steps
        if step.is_bench
    ]
    assert {step.arguments[3] for step in benches} == set(commands)
    for step in benches:
        options = [*step.arguments[4:], "--json", str(tmp_path / "x.json"), "--time-limit", "9"]
        commands[step.arguments[3]].make_context(step.name, options)  # raises for a wrong option


def test_a_part_continues_after_failed_and_hanging_steps(tmp_path, monkeypatch):
    """The summary is saved after each step, with the number of rounds of a stopped benchmark."""
    monkeypatch.setattr(gpu_check, "MIN_STEP_S", 2.0)
    hanging = (
        "import json, sys, time; from pathlib import Path\n"
        "record = {'rounds_complete': 2, 'rounds_planned': 5, 'absent': {'b': 'why'}}\n"
        "Path(sys.argv[sys.argv.index('--json') + 1]).write_text(json.dumps(record))\n"
        "time.sleep(600)"
    )
    # The exit code is the number of summaries: 1 after the first step, so this step fails.
    count = (
        "import sys; from pathlib import Path; "
        f"sys.exit(len(list(Path({str(tmp_path)!r}).glob('gpu*'))))"
    )
    steps = [
        Step("bad", ("-c", "import sys; sys.exit('no | luck')"), 60),
        Step("saved", ("-c", count), 60),
        Step("hanging", ("-c", hanging), 5, is_bench=True),
        Step("good", ("-c", "print('fine')"), 60),
    ]
    deadline = time.monotonic() + 3600
    ended = gpu_check.run_part("B", steps, deadline, tmp_path, "card", VARIABLES)
    assert [result.outcome for result in ended] == ["failed", "failed", "stopped", "ok"]
    assert ended[0].message == "no | luck" and ended[2].rounds == (2, 5)
    assert "absent: b: why" in ended[2].message and ended[2].record.startswith("hanging_card_")
    (summary,) = gpu_check.summaries(tmp_path, "card")
    assert summary["part"] == "B"
    assert [row["name"] for row in summary["steps"]] == [step.name for step in steps]
    text = gpu_check.table([summary])
    assert "| bad | FAILED |" in text and "no \\| luck" in text and "| 2 of 5 |" in text
    (late,) = gpu_check.run_part("C", steps[3:], time.monotonic() + 1, tmp_path, "card", VARIABLES)
    assert late.outcome == "not run" and len(gpu_check.summaries(tmp_path, "card")) == 2


def test_an_old_record_is_deleted_before_the_step(tmp_path):
    record = tmp_path / "x.json"
    record.write_text('{"rounds_complete": 5, "rounds_planned": 5}')
    ended = gpu_check.run_step(Step("x", ("-c", "pass"), 60, is_bench=True), 60, record, VARIABLES)
    assert ended.rounds is None and not record.exists()


def test_the_installation_check_fails_without_the_c_kernel(tmp_path):
    """Without the C libraries, the faults are in the record and the exit code is 1."""
    script = (
        "import sys; from writers.jpeg import native; native.library_file = lambda module: None\n"
        "from benchmarks import installation\n"
        f"sys.argv[1:] = ['--json', {str(tmp_path / 'x.json')!r}]\n"
        "sys.exit(installation.main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=VARIABLES, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "FAULT: the loaders do not decode with the C" in ended.stderr
    report = json.loads((tmp_path / "x.json").read_text())
    assert report["decoding_kernel"] == "numba" and report["writing_kernel"] == "none"
    assert len(report["faults"]) == 2 and report["environment"]["packages"]["torch"]


def test_the_installation_check_names_a_module_that_is_missing(monkeypatch):
    monkeypatch.setattr(installation, "MODULES", ("json", "no_such_module"))
    (fault,) = installation.describe("cpu")["faults"]
    assert "no_such_module cannot be imported" in fault


@pytest.mark.skipif(
    native.library() is None or kernel.best_kernel() == "numba",
    reason="the package's C parts were not built",
)
def test_the_installation_check_passes_with_the_c_parts():
    assert installation.kernel_faults() == []


def test_the_installation_check_names_what_torch_compile_lacks(monkeypatch, tmp_path):
    """Triton needs Python.h and a compiler: CC if it is set, otherwise gcc or clang from PATH."""
    headers = tmp_path / "include"
    headers.mkdir()
    monkeypatch.setattr(installation.sysconfig, "get_path", lambda *_: str(headers))
    monkeypatch.setattr(installation, "import_fault", lambda module: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    compiler, header = installation.compiler_faults()
    assert "no C compiler" in compiler and "no Python.h" in header
    (headers / "Python.h").touch()
    for name in ("clang", "mycc"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert installation.compiler_faults() == []
    monkeypatch.setenv("CC", "mycc")
    assert installation.compiler_faults() == []
    monkeypatch.setenv("CC", "othercc")
    (missing,) = installation.compiler_faults()
    assert "C compiler" in missing


def wheel(folder: Path, name: str, *requires: str) -> Path:
    file = folder / f"{name}-1.0-py3-none-any.whl"
    lines = [f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {name}" for name in requires)]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(
            f"{name}-1.0.dist-info/METADATA", "\n".join(lines) + "\n\nRequires-Dist: text"
        )
    return file


def test_the_bundle_follows_requirements_and_skips_present_packages(tmp_path):
    wheels = {
        "top": wheel(
            tmp_path, "top", "Torch>=2", "inner[fast]==1.0", "old; python_version < '3.12'"
        ),
        "inner": wheel(tmp_path, "inner", "top", "leaf_er>=1", "docs; extra == 'docs'"),
        "leaf-er": wheel(tmp_path, "leaf_er"),
    }
    fetched = []

    def fetch(requirement: Requirement) -> Path:
        fetched.append(str(requirement))
        return wheels[requirement.name.replace("_", "-")]

    collected = gpu_bundle.collect(
        gpu_bundle.missing(
            [Requirement("top"), Requirement("numpy>=2")], ["torch", "NumPy"], "3.12"
        ),
        fetch,
        lambda file: gpu_bundle.missing(gpu_bundle.requirements_of(file), ["torch"], "3.12"),
    )
    assert collected == wheels
    # Each package is fetched once, with the required version.
    assert fetched == ["top", "inner[fast]==1.0", "leaf_er>=1"]


def test_the_bundle_starts_from_the_project_requirements():
    requirements = gpu_bundle.project_requirements(ROOT / "pyproject.toml")
    names = {requirement.name for requirement in requirements}
    assert {"ffcv", "pydantic", "ruamel.yaml", "torch", "nvidia-ml-py", "pytest"} <= names
    left = {
        requirement.name
        for requirement in gpu_bundle.missing(requirements, gpu_bundle.PRESENT, "3.12")
    }
    assert {"ffcv", "pydantic", "ruamel.yaml", "pytest"} <= left
    assert not left & {"torch", "torchvision", "numba", "numpy", "ray", "mypy"}


def test_system_libraries_are_those_outside_the_wheel(tmp_path):
    output = f"""{tmp_path}/x.libs/libGLX.so.0:
\tlinux-vdso.so.1 (0x00007ff6a74f0000)
\tlibX11.so.6 => /lib/x86_64-linux-gnu/libX11.so.6 (0x00007ff6a6e00000)
\tlibGLX.so.0 => {tmp_path}/x.libs/libGLX.so.0 (0x00007ff6a6e00000)
\tlibstdc++.so.6 => /lib/x86_64-linux-gnu/libstdc++.so.6 (0x00007ff6a6600000)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007ff6a681e000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007ff6a74f2000)
"""
    libraries = gpu_bundle.system_libraries(output, tmp_path)
    assert libraries == {"libX11.so.6": Path("/lib/x86_64-linux-gnu/libX11.so.6")}


def test_a_bundle_of_other_sources_or_another_python_is_not_installed(
    monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(gpu_check, "WHEELS", tmp_path)
    assert gpu_check.install(tmp_path)["PYTHONPATH"] == str(ROOT)  # no bundle at all
    record = {"python": "3.1", "c_sources": "", "wheels": []}
    (tmp_path / gpu_bundle.RECORD).write_text(json.dumps(record))
    assert gpu_check.install(tmp_path)["PYTHONPATH"] == str(ROOT)
    assert "are for Python 3.1" in capsys.readouterr().out
    record["python"] = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / gpu_bundle.RECORD).write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="other C sources"):
        gpu_check.install(tmp_path)


def test_the_digest_covers_c_files_in_all_folders(tmp_path):
    for folder in ("loaders", "writers"):
        (tmp_path / folder).mkdir()
    digests = {gpu_bundle.c_sources_digest(tmp_path)}
    for file, text in (
        ("loaders/a.c", "1"),
        ("loaders/a.c", "2"),
        ("writers/b.h", "2"),
        ("writers/jpeg/c.c", "2"),
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
        digests.add(gpu_bundle.c_sources_digest(tmp_path))
    assert len(digests) == 5


def test_a_broken_pytest_plugin_does_not_stop_the_gpu_tests(tmp_path):
    """The broken plugin is not imported, and the marker of a plugin that the tests use is known."""
    (tmp_path / "broken-1.0.dist-info").mkdir()
    (tmp_path / "broken-1.0.dist-info/METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (tmp_path / "broken-1.0.dist-info/entry_points.txt").write_text(
        "[pytest11]\nbroken = nowhere\n"
    )
    file = tmp_path / "test_x.py"
    file.write_text("import pytest\n@pytest.mark.gpu\n@pytest.mark.timeout(60)\ndef test(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\naddopts = --strict-markers\n")
    step = gpu_check_parts.plan(tmp_path, tmp_path, tmp_path, False)["A"][1]
    options = [word for word in step.arguments if word not in gpu_check_parts.gpu_tests()]
    codes = [
        subprocess.run(
            [sys.executable, *options, str(file)],
            cwd=tmp_path,
            env=VARIABLES | {"PYTHONPATH": str(tmp_path)} | variables,
            capture_output=True,
        ).returncode
        for variables in ({}, dict(step.variables))
    ]
    assert codes[0] != 0 and codes[1] == 0


def test_gpu_tests_are_found_by_their_marker():
    files = gpu_check_parts.gpu_tests()
    assert "tests/train/test_cuda_graph_attack.py" in files
    assert all("gpu" in (ROOT / file).read_text() for file in files) and len(files) < 20


def test_predictions_equal_the_documented_roofline():
    """The table in docs/benchmarks.md has upper limits in 1,000 images/s, eager / fused, by GPU."""
    table = (ROOT / "docs/benchmarks.md").read_text()
    for arch, name in (("resnet18", "ResNet-18"), ("resnet50", "ResNet-50")):
        for attacked, kind in ((False, "clean"), (True, "PGD-3")):
            (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} {kind} |"))
            for card, cell in zip(("h100-80gb", "h200"), line.split("|")[4:6], strict=True):
                for is_fused, documented in zip((False, True), cell.split("/"), strict=True):
                    low, high = gpu_predictions.predicted_rate(card, arch, attacked, is_fused)
                    # The table rounds the traffic and the rate.
                    assert high / 0.6 == pytest.approx(1000 * float(documented), rel=0.06)
                    assert low / 0.4 == pytest.approx(high / 0.6)
    assert gpu_predictions.predicted_rate("rtx-4090", "resnet18", False, False) is None
    assert gpu_predictions.predicted_rate("h100", "vit", False, False) is None
    small = gpu_predictions.predicted_rate("h100", "resnet18", False, False, resolution=112)
    assert small[0] == 4 * gpu_predictions.predicted_rate("h100", "resnet18", False, False)[0]


def test_the_table_has_each_measurement_with_its_prediction():
    row = {"median": 12_000.0, "spread": 0.02, "what": "ours, compiled, fed by our loader: dct, 8"}
    details = [{"allocated_peak_bytes": 7e9, "power_w": 500.0}, {"allocated_peak_bytes": 8e9}]
    record = {
        "benchmark": "train",
        "work": {"arch": "resnet18", "eps": 0.0, "resolution": 224},
        "flops_per_image": 10.9e9,
        "contenders": {
            "plain": row,
            "ours:fed:dct:8": {**row, "details": details, "opened": {"warm_up_s": 31.26}},
        },
        "ratios": [
            {"title": "gpu_fed", "median": 0.99, "must": 0.97, "verdict": "reached"},
            {"title": "only reported", "median": 1.3, "must": None, "verdict": ""},
        ],
    }
    text = gpu_predictions.comparison({"train_x_h100-80gb_2026-01-01.json": record}, "h100-80gb")
    assert "| train_x | plain | 12,000 | 2 % | 10,800 to 16,200 |  |  | 13 % |  |" in text
    fed = "| train_x | ours:fed:dct:8 | 12,000 | 2 % | 15,211 to 22,817 | 8.0 | 500 | 13 % | 31.3 |"
    assert fed in text
    assert "| train_x | gpu_fed | 0.99x | 0.97x | reached |" in text
    assert "| train_x | only reported | 1.30x |  |  |" in text
    assert gpu_predictions.comparison({"installation.json": {"faults": []}}, "h100") == ""


def test_a_rehearsal_of_the_gpu_tests_has_a_fake_gpu(tmp_path):
    tiny, real = (
        gpu_check_parts.plan(tmp_path, tmp_path, tmp_path, flag)["A"][1] for flag in (True, False)
    )
    assert not real.variables.keys() & gpu_check_parts.rehearsal_variables().keys()
    assert "tests/gpu/test_gpu_correctness.py" in real.arguments
    code = "import torch; print(torch.cuda.get_device_name(0))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=VARIABLES | dict(tiny.variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.stdout.strip() == "NVIDIA H100 80GB HBM3", ended.stderr
