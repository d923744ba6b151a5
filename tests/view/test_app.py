import csv
import io
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from starlette.testclient import TestClient

from tests.view.pages import MODEL, TOKEN, slow_change, write_viewed_run
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores, score_parts
from transfergrid.view.app import link, make_app
from transfergrid.view.pages import View
from transfergrid.view.questions import with_probabilities
from transfergrid.view.rows import Key
from transfergrid.view.serve import open_port, prepare

SOURCE, TARGET = "arc_challenge-de", "arc_challenge-en"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_viewed_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def client(run: RunFolder) -> Iterator[TestClient]:
    with TestClient(make_app(View(run, None), token=TOKEN), base_url="http://127.0.0.1:8321") as found:
        found.get(f"/?token={TOKEN}")
        yield found


def test_only_who_has_the_token_gets_in(run: RunFolder) -> None:
    client = TestClient(make_app(View(run, None), token=TOKEN), base_url="http://127.0.0.1:8321")
    for path in ("/", "/matrix", "/static/page.css", "/?token=wrong", "/pair?format=csv"):
        assert client.get(path).status_code == 403, path
    answer = client.get(f"/matrix?model={MODEL}&token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/matrix?model={MODEL}"
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert client.get("/").status_code == 200


def test_another_host_name_is_refused_and_every_answer_has_the_policy(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    for path in ("/", "/static/page.js", "/no-such-page", "/pair"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy


def test_the_pair_page_counts_as_the_definition_does(run: RunFolder, client: TestClient) -> None:
    rows = scan_scores(score_parts(run)).collect()
    expected = slow_change(rows, source=SOURCE, seed=17, target=("arc_challenge", "en"))
    query = {"model": MODEL, "source": SOURCE, "target": TARGET, "seed": 17}
    shown = csv.DictReader(io.StringIO(client.get(link("pair", **query, format="csv")).text))
    assert {row["item_id"]: row["change"] for row in shown} == expected
    for change in ("gained", "lost"):
        page = client.get(link("pair", **query, change=change)).text
        n = sum(each == change for each in expected.values())
        assert f"{n} items, page 1" in page


def test_the_deltas_are_those_of_the_analysis(run: RunFolder) -> None:
    found = View(run, None).items.summaries(MODEL)
    table = read_transfer(run).by_seed.filter(model=MODEL)
    both = found.join(table, on=["source", "seed", "target_task", "target_language"], suffix="_table", validate="1:1")
    assert both.height == found.height == table.height
    for column in ("delta_pp", "base_score", "n_items"):
        assert both[column].to_list() == pytest.approx(both[f"{column}_table"].to_list()), column
    assert both["n_gained"].to_list() == both["n_only_adapter"].to_list()
    assert both["n_lost"].to_list() == both["n_only_base"].to_list()


def test_picks_and_probabilities_are_by_what_the_metric_compares() -> None:
    table = pl.DataFrame(
        {
            "gold": [1, 0, 1],
            "loglikelihoods_nats": [[0.0, 0.0], None, [-103.0, -116.0]],
            "loglikelihoods_nats_source": [[0.0, 1.0], [0.0, 0.0], [-102.0, -117.0]],
            "choice_chars": [[4, 4], [4, 4], [60, 68]],
            "primary_metric": ["acc", "acc", "acc_norm"],
        }
    )
    found = with_probabilities(table)
    # by hand: e / (1 + e) = 0.7311; per character, times 64: -109.867 and -109.176 before, -108.8 and -110.118 after
    assert found["gold_change"].to_list() == [pytest.approx(0.2311, abs=1e-4), None, pytest.approx(-0.4548, abs=1e-4)]
    assert found["pick_base"].to_list() == [0, None, 1]
    assert found["pick_source"].to_list() == [1, 0, 0]


def test_search_sort_and_pages_narrow_the_items(client: TestClient) -> None:
    query = {"model": MODEL, "source": SOURCE, "target": TARGET, "seed": 17}
    assert "1 items, page 1 of 1" in client.get(link("pair", **query, q="Question 3 in en")).text
    assert "0 items, page 1 of 1" in client.get(link("pair", **query, q="nothing like it")).text
    shown = csv.DictReader(io.StringIO(client.get(link("pair", **query, sort="gain", format="csv")).text))
    changes = [float(row["gold_change"]) for row in shown]
    assert changes == sorted(changes, reverse=True)


def test_every_page_answers_and_missing_texts_are_said(client: TestClient) -> None:
    of = {"model": MODEL, "source": SOURCE, "seed": 17}
    item = client.get(link("pair", **of, target=TARGET, format="csv")).text.split("\n")[1]
    name = next(each for each in item.split(",") if each.startswith("q"))
    for page in (
        "/",
        link("matrix", model=MODEL),
        link("source", **of),
        link("compare", **of, other="global_mmlu-en"),
        link("item", **of, task="arc_challenge", item=name),
    ):
        assert client.get(page).status_code == 200, page
        assert client.get(f"{page}{'&' if '?' in page else '?'}format=csv").status_code == 200, page
    missing = client.get(link("pair", **of, target="global_mmlu-ar")).text
    assert "The texts are missing" in missing
    assert "choice 1" in missing


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("/pair?model=nobody", "no model &#39;nobody&#39; in the run"),
        (f"/pair?model={MODEL}&source=base&target=a-b", "no scores of source &#39;base&#39;"),
        (f"/pair?model={MODEL}&source={SOURCE}&target=x", "target &#39;x&#39; is no cell"),
        (f"/pair?model={MODEL}&source={SOURCE}&target=x-yy", "no item of x-yy was scored"),
        (f"/source?model={MODEL}&source={SOURCE}&seed=9", "has no seed 9"),
        (f"/item?model={MODEL}&source={SOURCE}&task=a&item=<b>", "no item &#39;&lt;b&gt;&#39; of task"),
    ],
)
def test_a_wrong_address_is_one_sentence(client: TestClient, page: str, said: str) -> None:
    answer = client.get(page)
    assert answer.status_code == 404
    assert said in answer.text


def test_new_parts_are_seen_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    run = write_viewed_run(tmp_path / "run")
    view = View(run, None)
    before = len(view.items.parts())
    part = next(iter(score_parts(run)))
    (run.scores / "broken.parquet").write_bytes(b"PAR1")
    rows = (
        pl.read_parquet(part).filter(model=MODEL, source=SOURCE, seed=17).with_columns(seed=pl.lit(99, dtype=pl.Int64))
    )
    rows.write_parquet(run.scores / "new.parquet")
    assert len(view.items.parts()) == before + 1
    assert Key(MODEL, SOURCE, 99) in view.items.parts()
    assert view.items.unreadable == {"broken.parquet"}


def test_a_source_of_another_kind_has_a_page_and_a_row_below_the_single_cells(tmp_path: Path) -> None:
    run = write_viewed_run(tmp_path / "run")
    rows = pl.read_parquet(next(iter(score_parts(run)))).filter(model=MODEL, source=SOURCE, seed=17)
    nothing = pl.lit(None, dtype=pl.String)
    blend = {
        "source": pl.lit("blend-x"),
        "source_kind": pl.lit("mixture"),
        "source_task": nothing,
        "source_language": nothing,
    }
    rows.with_columns(**blend).write_parquet(run.scores / "blend.parquet")
    page = View(run, None).matrix({"model": MODEL})
    assert page.values["has_others"]
    chart = page.charts["matrix-chart"]
    shown = chart.datasets["views"][0]
    assert len(shown["delta_pp"]) == 7 * 6
    assert shown["relation"][: 6 * 6] == [None] * 36
    assert sorted(shown["relation"][36:]) == ["CT-CL", "CT-CL", "CT-ML", "IN-MIX", "MT-CL", "MT-CL"]
    names = {each.name: each.value for each in chart.params}
    assert names["sources"][0] == ["arc_challenge", "ar", "arc_challenge-ar"]
    assert names["sources"][-1] == ["mixtures", "blend-x", "blend-x"]
    relations = zip(names["targets"], shown["relation"][36:], strict=True)
    assert ["-".join(target) for target, relation in relations if relation == "IN-MIX"] == [SOURCE]
    assert View(run, None).source({"model": MODEL, "source": "blend-x"}).table.height == 6


def test_a_taken_port_and_a_missing_run_are_one_sentence(tmp_path: Path) -> None:
    with open_port(0) as listening:
        port = listening.getsockname()[1]
        listening.listen()
        with pytest.raises(UserError, match=f"port {port} cannot be used"):
            open_port(port)
        with pytest.raises(UserError, match="there is no run folder"):
            prepare(View(RunFolder(tmp_path / "no"), None), listening)
