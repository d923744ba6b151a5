import numpy as np
import polars as pl
import pytest

from tests.analysis.statistics.test_bootstrap import rows_with_items
from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.records import ALL_TRANSFER, in_regime
from transfergrid.analysis.statistics.bootstrap import resample_deltas
from transfergrid.analysis.statistics.true_rates import draw_true_deltas
from transfergrid.analysis.tables.matrices import language_matrix_table, matrix_table
from transfergrid.analysis.tables.roles import (
    FRAGILE,
    HUB,
    ONE_MODEL,
    ONE_NAME,
    ONE_OTHER,
    TOO_FEW,
    role_table,
    unit_expr,
    why_unlabelled,
)
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig(bootstrap_resamples=300, seed=1)
LANGUAGES = ("de", "en", "fr", "hi", "zh")
GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), LANGUAGES)
MANY = tuple(f"m{place}-1B" for place in range(6))


def table(rows: pl.DataFrame, settings: AnalysisConfig = SETTINGS) -> pl.DataFrame:
    return role_table(rows, resample_deltas(rows, (), settings), settings, draw_true_deltas(rows, (), settings))


def known_rows() -> pl.DataFrame:
    """German helps by 3 pp, Hindi is harmed by 4 pp, whatever the model; little noise."""
    noise = np.random.default_rng(0).normal(0, 0.3, (len(MANY), len(GRID), len(GRID)))
    source = np.array([3.0 if cell.language == "de" else 0.0 for cell in GRID])
    target = np.array([-4.0 if cell.language == "hi" else 0.0 for cell in GRID])
    return transfer_rows(MANY, GRID, noise + source[:, None] + target[None, :])


def part(found: pl.DataFrame, role: str, unit: str, regime: str) -> pl.DataFrame:
    return found.filter(role=role, unit=unit, regime=regime, models_by="all")


def test_a_score_is_the_mean_over_models_of_their_means_with_the_error_across_models() -> None:
    rows = transfer_rows(MODELS, cells(), np.random.default_rng(1).normal(size=(2, 6, 6)))
    found = table(rows)
    for row in part(found, "donor", "language", "MT-CL").iter_rows(named=True):
        mine = rows.filter(regime="MT-CL", source_language=row["name"])
        means = [mine.filter(model=model)["delta_pp"].mean() for model in MODELS]
        assert row["score_pp"] == pytest.approx(np.mean(means))
        assert row["se_pp"] == pytest.approx(np.std(means, ddof=1) / 2**0.5)
    for row in part(found, "recipient", "task", "CT-ML").iter_rows(named=True):
        mine = rows.filter(regime="CT-ML", target_task=row["name"])
        assert row["score_pp"] == pytest.approx(mine["delta_pp"].mean())
        assert row["harm_rate"] == pytest.approx((mine["delta_pp"] <= -1).mean())
        assert row["n"] == mine.height


def test_the_best_donor_and_the_worst_recipient_are_found_and_labelled() -> None:
    found = table(known_rows())
    donors = part(found, "donor", "language", "MT-CL")
    assert donors.row(0, named=True)["name"] == "de"
    assert donors.filter(label=HUB)["name"].to_list() == ["de"]
    assert donors.filter(name="de").select("rank", "rank_low", "rank_high").row(0) == (1, 1, 1)
    recipients = part(found, "recipient", "language", "MT-CL")
    assert recipients.row(-1, named=True)["name"] == "hi"
    assert recipients.filter(label=FRAGILE)["name"].to_list() == ["hi"]


def test_ties_look_like_ties() -> None:
    donors = part(table(known_rows()), "donor", "language", "MT-CL").filter(pl.col("name") != "de")
    assert (donors["rank_high"] - donors["rank_low"] >= 1).sum() >= 3
    assert donors["label"].null_count() == donors.height


def test_families_and_sizes_of_models_have_their_own_scores() -> None:
    rows = transfer_rows(MODELS, cells(), np.random.default_rng(1).normal(size=(2, 6, 6)))
    found = table(rows).filter(models_by="family", role="donor", unit="language", regime="MT-CL")
    assert set(found["models"]) == {"llama", "qwen"}
    llama = rows.filter(regime="MT-CL", source_language="de", family="llama")
    row = found.filter(models="llama", name="de").row(0, named=True)
    assert row["score_pp"] == pytest.approx(llama["delta_pp"].mean())
    assert (row["reason"], row["rank_low"]) == (ONE_MODEL, None)
    assert sorted(found.filter(models="llama")["rank"]) == [1, 2, 3]


def test_one_model_has_no_standard_error_but_a_ranking_over_targets() -> None:
    found = part(table(known_rows().filter(model=MANY[0])), "donor", "language", "MT-CL")
    assert set(found["reason"]) == {ONE_MODEL}
    assert found["se_pp"].null_count() == found.height
    assert found["rank_low"].null_count() == 0


def test_one_language_has_no_ranking_and_no_mt_cl() -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge", "global_mmlu"), ("de",)), [[[0, 1], [2, 0]]] * 2)
    found = table(rows)
    assert part(found, "donor", "language", "MT-CL").is_empty()
    families = found.filter(unit="task", regime="CT-ML", models_by="all")
    assert families.height == 4
    only = table(rows.filter(source_task="arc_challenge"))
    assert set(part(only, "donor", "task", "CT-ML")["reason"]) == {ONE_NAME}


def test_nothing_to_resample_is_said() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge", "global_mmlu"), ("de",)), [[0, 1], [2, 0]])
    found = part(table(rows.filter(target_task="global_mmlu")), "recipient", "task", "CT-ML")
    assert set(found["reason"]) == {ONE_NAME}
    three = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de",))
    single = transfer_rows(("m",), three, np.arange(9).reshape(3, 3)).filter(target_task="hellaswag")
    assert set(part(table(single), "donor", "task", "CT-ML")["reason"]) == {TOO_FEW}


def test_a_rank_lies_inside_its_interval_when_all_tie() -> None:
    donors = part(table(transfer_rows(MODELS, cells())), "donor", "language", "MT-CL")
    assert donors.select("rank", "rank_low", "rank_high").unique().rows() == [(1, 1, 3)]


@pytest.mark.parametrize(
    ("role", "side", "other"), [("recipient", "source", "donor"), ("donor", "target", "recipient")]
)
def test_with_one_cell_on_the_other_side_nothing_is_labelled_or_ranked(role: str, side: str, other: str) -> None:
    rows, blocks = rows_with_items()
    draws, truth = resample_deltas(rows, blocks, SETTINGS), draw_true_deltas(rows, blocks, SETTINGS)
    one = (pl.col(f"{side}_task") == "arc_challenge") & (pl.col(f"{side}_language") == "de")
    kept = rows.with_row_index("place").filter(one)
    places = kept["place"].to_numpy()
    found = role_table(kept.drop("place"), draws[places], SETTINGS, truth[places])
    units = found.filter(role=role, models_by="all", regime="CT-CL", unit="cell")
    assert units.height == 2
    assert set(units["reason"]) == {f"{ONE_MODEL}; {ONE_OTHER[role]}"}
    for column in ("label", "rank_low", "rank_high", "harm_rate_low", "harm_rate_high"):
        assert units[column].null_count() == units.height, column
    # the items still say how sure a score is
    assert units["score_pp_low"].null_count() == 0
    assert why_unlabelled(found, role) == f"one {side}"
    assert why_unlabelled(role_table(rows, draws, SETTINGS, truth), role) is None


def test_a_single_source_harms_nobody_more_often_than_others() -> None:
    """Two of five targets are 6 items below the base and three at it: rates of 0 and 1, but no label."""
    grid = cells(("arc_challenge", "global_mmlu"), LANGUAGES)
    rows = transfer_rows(("m",), grid, np.zeros((10, 10))).filter(
        pl.col("source_task") == "arc_challenge", pl.col("source_language") == "de", pl.col("regime") == "CT-CL"
    )
    rows = rows.with_columns(delta_pp=pl.Series([-20.0, -20, 0, 0]))
    noise = np.random.default_rng(0).normal(0, 0.1, (4, SETTINGS.bootstrap_resamples)).astype(np.float32)
    found = role_table(
        rows,
        rows["delta_pp"].to_numpy()[:, None].astype(np.float32) + noise,
        SETTINGS,
        draw_true_deltas(rows, (), SETTINGS),
    )
    assert found["label"].null_count() == found.height


def test_matrices_hold_the_means_of_their_rows() -> None:
    rows = transfer_rows(MODELS, cells(), np.random.default_rng(1).normal(size=(2, 6, 6)))
    found = matrix_table(rows)
    row = found.filter(unit="language", regime="MT-CL", source="de", target="fr").row(0, named=True)
    mine = rows.filter(regime="MT-CL", source_language="de", target_language="fr")
    assert row["mean_pp"] == pytest.approx(mine["delta_pp"].mean())
    assert (row["n"], row["n_models"]) == (4, 2)
    tasks = found.filter(unit="task", regime="CT-ML")
    assert tasks.select("source", "target").rows() == [
        ("arc_challenge", "global_mmlu"),
        ("global_mmlu", "arc_challenge"),
    ]


def test_language_matrices_hold_the_mt_cl_means_of_one_task() -> None:
    rows = transfer_rows(MODELS, cells(), np.random.default_rng(1).normal(size=(2, 6, 6)))
    found = language_matrix_table(rows)
    assert found.height == 2 * 6
    row = found.filter(task="global_mmlu", source="fr", target="de").row(0, named=True)
    keys = {
        "source_task": "global_mmlu",
        "target_task": "global_mmlu",
        "source_language": "fr",
        "target_language": "de",
    }
    by_model = rows.filter(**keys)["delta_pp"]
    assert row["mean_pp"] == pytest.approx(by_model.mean())
    assert row["se_pp"] == pytest.approx(by_model.std() / 2**0.5)
    assert (row["n"], row["n_models"], row["reason"]) == (2, 2, None)


def test_language_matrices_without_language_pairs_are_empty() -> None:
    found = language_matrix_table(transfer_rows(MODELS, cells(languages=("de",))))
    assert found.is_empty()
    assert found.columns == language_matrix_table(transfer_rows(MODELS, cells())).columns


def test_cells_are_ranked_in_every_transfer_regime() -> None:
    found = table(known_rows()).filter(unit="cell", role="donor", models_by="all")
    assert set(found["regime"]) == {"MT-CL", "CT-ML", "CT-CL", "all transfer"}
    assert found.filter(regime="CT-CL").height == len(GRID)


def test_true_rates_of_a_unit_are_the_mean_probabilities_of_its_rows() -> None:
    rows, blocks = rows_with_items()
    truth = draw_true_deltas(rows, blocks, SETTINGS)
    found = role_table(rows, resample_deltas(rows, blocks, SETTINGS), SETTINGS, truth)
    unit = found.filter(role="recipient", unit="cell", regime=ALL_TRANSFER, models_by="all").row(1, named=True)
    mine = (
        rows.select(in_regime(ALL_TRANSFER) & (unit_expr("recipient", "cell") == unit["name"])).to_series().to_numpy()
    )
    harm = (truth[mine] <= -1).mean(axis=0)
    assert unit["harm_rate_true"] == pytest.approx(harm.mean(), abs=1e-6)
    assert (unit["harm_rate_true_low"], unit["harm_rate_true_high"]) == pytest.approx(np.quantile(harm, [0.025, 0.975]))
    assert unit["win_rate_true"] == pytest.approx((truth[mine] > 0).mean(), abs=1e-6)
    assert (
        found.filter(pl.col("models_by") != "all")["win_rate_true"].null_count()
        == found.filter(pl.col("models_by") != "all").height
    )
