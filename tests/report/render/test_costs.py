"""The table of costs: a model's accuracy, minutes, and energy and memory of the GPU."""

from dataclasses import replace

from harness.report.data.run_rows import TimingRow
from harness.report.render.tables.runs import cost_table
from harness.report.render.timing import timing_section

ROW = TimingRow(
    kind="pretrain",
    name="pretrain in1000",
    data_wait_ms=1.0,
    copy_ms=0.0,
    augment_ms=0.0,
    attack_ms=0.0,
    forward_ms=20.0,
    backward_ms=40.0,
    optimizer_ms=1.0,
    num_steps=100,
    train_s=1800.0,
    eval_s=None,
    checkpoint_s=None,
    startup_s=None,
    img_per_s=10_000.0,
    replay_img_per_s=None,
    gpu_fed=None,
    data_wait_fraction=None,
    verdict="",
    key="k",
    val_top1=0.669,
    wall_s=2100.0,
    energy_wh=350.0,
    gpu="NVIDIA H100",
    gpu_memory_bytes=int(21.5 * 2**30),
)


def test_a_model_has_its_cost_in_one_row():
    table = cost_table([ROW, replace(ROW, kind="transfer")])
    cells = [cell.text for cell in table.rows[0]]
    assert cells == ["pretrain in1000", "66.9", "35 min 00 s", "350", "21.5", "NVIDIA H100"]
    assert len(table.rows) == 1 and table.rows[0][2].below == "30 min 00 s"


def test_a_missing_measurement_is_a_dash_and_has_no_column_if_all_models_lack_it():
    on_cpu = replace(ROW, val_top1=None, energy_wh=None, gpu="", gpu_memory_bytes=None)
    row = cost_table([ROW, on_cpu]).rows[1]
    assert {cell.text for cell in (row[1], row[3], row[4], row[5])} == {"–"}
    assert [column.label for column in cost_table([on_cpu]).columns] == ["model", "time"]


def test_a_stage_without_steps_has_no_line_and_no_legend():
    fit = replace(ROW, kind="transfer", name="logreg", verdict="Fits cached features.")
    fit = replace(fit, data_wait_ms=0.0, copy_ms=0.0, forward_ms=0.0, backward_ms=0.0)
    fit = replace(fit, optimizer_ms=0.0)
    assert timing_section([fit]).is_empty
    both = timing_section([fit, replace(fit, name="full", forward_ms=3.0)])
    assert [row[0].text for row in both.all_tables[0].rows] == ["full"]
    assert [entry.swatch for entry in both.legend] == ["forward"]


def test_the_section_opens_with_the_costs():
    assert timing_section([ROW]).all_tables[0].name == "costs"
    assert timing_section([]).is_empty
