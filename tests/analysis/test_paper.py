from __future__ import annotations

import json
from pathlib import Path

import pytest

import strzoo
from strzoo.errors import IntegrityError, StrzooError

HEADER = "epoch,step,top1,sparsity,candidate\n"


def write_run(folder: Path, recipe: str, *, report: object = None, results: str = "") -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"recipe: {recipe}\n")
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    if results:
        (folder / "results.csv").write_text(HEADER + results)


def test_figures_that_do_not_follow_are_named_and_the_others_are_not() -> None:
    found = {
        (line.result.method, line.result.sparsity): line.differences
        for number in strzoo.list_paper_tables()
        for line in strzoo.compare_paper_table(number).lines
        if line.differences
    }
    # 25,502,912 x (1 - 0.8127) = 4.78M; x (1 - 0.8954) = 2.67M; 4,163,584 of MobileNetV1's
    # 4,209,088 weights are prunable: 75 % of them are 74.19 % of all.
    assert found == {
        ("STR", 81.27): ("params 4.47M, computed 4.78M",),
        ("STR-GS", 89.54): ("params 2.42M, computed 2.67M",),
        ("GMP", 74.11): ("sparsity 74.11 %, computed 74.19 %",),
        ("SNFS", 90.0): ("sparsity 90.00 %, computed 90.06 %",),
        **dict.fromkeys(
            [("SNFS + ERK", 90.0), ("RigL + ERK", 90.0), ("DNW + ERK", 90.0)],
            ("FLOPs 960M, computed 991M",),
        ),
    }


def test_figures_are_computed_from_the_budget_or_the_printed_sparsity() -> None:
    lines = {line.result.recipe: line for line in strzoo.compare_paper_table(2).lines}
    assert lines["mobilenetv1_str_89.01"].computed_flops == pytest.approx(41.75e6, rel=1e-3)
    pruned = lines["mobilenetv1_gmp_89.03"]
    assert pruned.computed_params == pytest.approx(4_209_088 - 0.9 * 4_163_584, abs=14)  # layers
    without = lines["mobilenetv1_str_79.07"]
    assert (without.computed_params, without.computed_flops) == (
        round(4_209_088 * (1 - 0.7907)), None,
    )  # fmt: skip
    assert without.command == "strzoo train mobilenetv1_str_79.07 data=FOLDER"


def test_own_runs_stand_beside_the_row_whose_recipe_they_repeat(tmp_path: Path) -> None:
    best = {"epoch": 97, "top1": 74.2, "sparsity": 90.31}
    write_run(
        tmp_path / "a", "resnet50_str_90.23",
        report={"recipe": "resnet50_str_90.23", "best": best, "last": None},
    )  # fmt: skip
    # Epoch 2 is not as sparse as it is meant to be, epochs 3 and 4 are.
    write_run(
        tmp_path / "seeds" / "b", "resnet50_str_90.23",
        results="2,9,79,50,False\n3,9,74.5,90.1,True\n4,9,73,90.2,True\n",
    )  # fmt: skip
    write_run(tmp_path / "new", "resnet50_str_90.23")
    made = strzoo.compare_paper_table(1, runs=tmp_path)
    lines = [line for line in made.lines if line.runs]
    assert [line.result.recipe for line in lines] == ["resnet50_str_90.23"]
    assert [(r.top1, r.sparsity, r.epoch, r.finished) for r in lines[0].runs] == [
        (74.5, 90.1, 3, False), (74.2, 90.31, 97, True),
    ]  # fmt: skip
    row = next(row for row in made.to_dict()["rows"] if row["runs"])
    assert row["runs"][1]["folder"] == str(tmp_path / "a")


def test_own_ranks_and_settings_have_their_runs_too(tmp_path: Path) -> None:
    for name, learned, rows in (
        ("a", "learned", [([9], [8], 95.5), ([9], [7], 95.1), ([9, 9], [8, 8], 99.0)]),
        ("b", 9, [([9], [8], 96.0)]),
    ):
        (tmp_path / name).mkdir()
        passed = [{"rank_w": w, "rank_u": u, "top1": t, "epoch": 3} for w, u, t in rows]
        config = {"dataset": "har2", "rank_w": learned, "rank_u": 8}
        document = {"config": config, "by_rank": passed}
        (tmp_path / name / "result.json").write_text(json.dumps(document))
    made = strzoo.compare_paper_table(3, runs=tmp_path)
    found = {
        (s.row.dataset, s.row.rank_w, s.row.rank_u): [(r.top1, r.learned) for r in s.runs]
        for s in made.settings
        if s.runs
    }
    assert found == {("har2", 9, 8): [(96.0, False), (95.5, True)], ("har2", 9, 7): [(95.1, True)]}
    row = made.to_dict()["rows"][4]
    assert (row["command"], len(row["runs"])) == ("strzoo train har2_9_8 data=FOLDER", 2)
    write_run(tmp_path / "c", "mobilenetv1_str_85.80", results="3,9,61.25,86,True\n")
    settings = strzoo.compare_paper_table(11, runs=tmp_path).settings
    assert [s.row.sparsity for s in settings if s.runs] == [85.8]
    (tmp_path / "a" / "result.json").write_text('{"by_rank": 1}')
    with pytest.raises(IntegrityError, match="is not a run of strzoo train"):
        strzoo.compare_paper_table(12, runs=tmp_path)


def test_a_folder_without_runs_and_a_damaged_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StrzooError, match="is not a folder of runs"):
        strzoo.compare_paper_table(1, runs=tmp_path / "none")
    with pytest.raises(StrzooError, match="holds no run of strzoo train"):
        strzoo.compare_paper_table(1, runs=tmp_path)
    for name, report, results in (
        ("a", {"recipe": "x"}, ""), ("b", [], ""), ("c", None, "1,2,x,4,True\n"),
    ):  # fmt: skip
        write_run(tmp_path / name / "run", "x", report=report, results=results)
        with pytest.raises(IntegrityError, match="is not a run of strzoo train"):
            strzoo.compare_paper_table(1, runs=tmp_path / name)
