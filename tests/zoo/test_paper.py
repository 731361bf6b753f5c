from __future__ import annotations

import pytest

import strzoo
from strzoo.errors import UnknownNameError
from strzoo.training.recipes import list_recipes
from strzoo.zoo.paper import find_paper_result, load_paper_table, read_paper


def test_the_tables_name_models_budgets_and_recipes_that_exist() -> None:
    results = [row for table in read_paper().tables for row in table.results]
    for row in results:
        assert row.recipe is None or row.recipe in list_recipes()
        assert row.budget is None or strzoo.load_budget(row.budget).name == row.budget
        if row.model is not None:
            printed = strzoo.get_card(row.model).published
            assert (printed.params, printed.sparsity, printed.top1, printed.flops) == (
                row.params, row.sparsity, row.top1, row.flops,
            )  # fmt: skip
    for table in read_paper().tables:
        assert {row.recipe for row in table.hyperparameters} <= set(list_recipes())
        assert {row.recipe for row in table.ranks} <= set(strzoo.rnn.list_recipes())
    assert {row.model for row in results if row.model} == set(strzoo.list_models())


def test_every_row_of_tables_4_5_and_9_and_every_str_row_has_a_recipe() -> None:
    for number, rows in ((4, 6), (5, 4), (9, 4)):
        table = load_paper_table(number)
        assert len(table.results) == rows
        assert all(row.recipe for row in table.results)
    learned = [r for n in (1, 2) for r in load_paper_table(n).results if r.method == "STR"]
    assert len({row.recipe for row in learned}) == len(learned) == 21


def test_a_recipe_gets_the_figures_of_its_row_and_a_table_its_number() -> None:
    row = find_paper_result("resnet50_gmp_str_98.05")
    assert row is not None
    assert (row.top1, row.sparsity, row.params, row.flops) == (59.47, 98.05, "0.50M", "73M")
    assert find_paper_result("digits_str") is None
    assert load_paper_table("Table 3") == load_paper_table(3)
    assert load_paper_table("12").ranks[3].weight_decay == 0.005
    with pytest.raises(UnknownNameError, match="no table '7'; choose from 1, 2, 3, 4, 5, 9, 10"):
        strzoo.load_paper_table(7)
    assert strzoo.list_paper_tables() == ["1", "2", "3", "4", "5", "9", "10", "11", "12"]
