"""Our engine as lm-evaluation-harness's model against its hf backend, on its own task files, in float32."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.parity.families import TASKS, serve_rows
from transfergrid.benchmarks.harness.index import FoundTask, LoadedTask, TaskIndex
from transfergrid.benchmarks.harness.rows import HarnessReader
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.item_scores import CellOrigin
from transfergrid.engine.evaluation.modes import get_mode
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.engine.work.base_model import tokenisation_settings
from transfergrid.grid import BASE, Cell, UserError
from transfergrid.store.score_store import Origin

TOLERANCE_NATS = 1e-3
_FLOAT32 = 1e-6  # relative: the peer adds up whole texts in float32
_MUTUAL = {
    "task": "mutual_information",
    "dataset_path": "cambridgeltl/xcopa",
    "validation_split": "validation",
    "output_type": "multiple_choice",
    "doc_to_text": "{{premise}}",
    "doc_to_target": "label",
    "doc_to_choice": "{{[choice1, choice2]}}",
    "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "brier_score")],
}
"""Metrics that none of the stock tasks has."""


@pytest.fixture(scope="module", autouse=True)
def rows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        serve_rows(patch)
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "a machine")  # it takes seconds
        yield


@pytest.fixture(scope="module")
def ours(tiny_llama: Path, tiny_adapters: tuple[Path, ...]) -> Iterator[Any]:
    """Our model under the first adapter; it shares its engine with the base."""
    from lm_eval.api.registry import get_model

    import transfergrid.engine.harness.model  # noqa: F401  # registers it

    settings = {"dtype": "float32", "kv_cache_gib": 0.5, "token_budget": 1024}
    arguments = {"pretrained": str(tiny_llama), "peft": str(tiny_adapters[0]), **settings}
    model = get_model("transfergrid").create_from_arg_obj(arguments, {"batch_size": 1, "device": "cpu"})
    yield model
    model.requests.scorer.close()


def evaluate(model: Any, tasks: Any, manager: Any, *, chat: bool, shots: int) -> Any:
    import lm_eval

    return lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        num_fewshot=shots,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
        log_samples=True,
        limit=2,
    )


def assert_equal(ours: Any, theirs: Any) -> None:
    """Every log-likelihood within the tolerance, every greedy match and every metric equal."""
    assert ours["samples"].keys() == theirs["samples"].keys()
    largest = 0.0
    for task, samples in theirs["samples"].items():
        for mine, peer in zip(ours["samples"][task], samples, strict=True):
            assert mine["arguments"] == peer["arguments"], task
            for answer, expected in zip(mine["filtered_resps"], peer["filtered_resps"], strict=True):
                pair = zip(
                    *(each if isinstance(each, tuple) else (each, True) for each in (answer, expected)), strict=True
                )
                (value, other), flags = pair
                largest = max(largest, abs(value - other) / max(1.0, _FLOAT32 * abs(other) / TOLERANCE_NATS))
                assert len(set(flags)) == 1, task
    assert largest <= TOLERANCE_NATS
    for task, scores in theirs["results"].items():
        for name, value in scores.items():
            found = ours["results"][task][name]
            same = (
                math.isclose(found, value, rel_tol=1e-4)
                if isinstance(value, float) and value == value
                else found == value
            )
            assert same or found != found, (task, name, found, value)


@pytest.mark.engine
@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("chat", [False, True])
def test_every_stock_task_family_equals_the_hf_backend(
    tiny_llama: Path,
    ours: Any,
    manager: Any,
    chat: bool,
    shots: int,
) -> None:
    from lm_eval.models.huggingface import HFLM

    from transfergrid.engine.harness.model import TransferGridLM

    asked = {"chat": chat, "shots": shots}
    # loaded once, as 'grid lm-eval' hands them to every adapter
    loaded = LoadedTask("all", manager.load([*TASKS, _MUTUAL]), manager.task_index)
    peer = HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", batch_size=16)
    theirs = evaluate(peer, [*TASKS, _MUTUAL], manager, **asked)
    assert len(theirs["results"]) >= len(TASKS)
    assert_equal(evaluate(TransferGridLM(ours.requests), ["all"], loaded, **asked), theirs)


@pytest.mark.engine
def test_an_adapter_equals_the_hf_backend(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], ours: Any, manager: Any
) -> None:
    from lm_eval.models.huggingface import HFLM

    from tests.parity.test_lm_eval_scores import padded_tokenizer

    peer = HFLM(
        pretrained=str(tiny_llama),
        peft=str(tiny_adapters[0]),
        tokenizer=padded_tokenizer(tiny_llama),
        device="cpu",
        dtype="float32",
        batch_size=16,
    )
    tasks = ["xnli_sw", "arc_de", "lambada_openai", "wikitext"]
    assert_equal(*(evaluate(each, tasks, manager, chat=False, shots=0) for each in (ours, peer)))


@pytest.mark.engine
@pytest.mark.parametrize("chat", [False, True])
def test_cells_of_every_kind_are_scored_as_the_harness_scores_them_with_our_model(
    tiny_llama: Path, ours: Any, manager: Any, chat: bool
) -> None:
    from transfergrid.engine.harness.model import TransferGridLM

    config = GridConfig(prompts={"eval_chat_template": chat, "shots": 3, "shots_as_turns": True})
    kinds = {
        "winogrande": "acc",
        "lambada_openai": "acc",
        "wikitext": "byte_perplexity",
        _MUTUAL["task"]: "acc_mutual_info",
    }
    tokenizer, scorer = ours.requests.tokenizer, ours.requests.scorer
    for adapter in (None, ours.adapter):
        logged = evaluate(
            TransferGridLM(ours.requests, adapter), [*list(kinds)[:3], _MUTUAL], manager, chat=chat, shots=3
        )
        for name, metric in kinds.items():
            found = FoundTask(TaskIndex(manager), _MUTUAL if name == _MUTUAL["task"] else name)  # type: ignore[arg-type]
            cell = HarnessReader(config).read(found, "sw", train=False, metric=metric)
            task = get_task("mine", {"mine": HarnessTask(lm_eval=name, languages={"sw": "sw"})})
            items = [task.formats["eval"].build(task.question(row)) for row in cell.test[:2]]
            tokenised = tokenise_items(tokenizer, items, tokenisation_settings(config, tiny_llama)).results
            mode = get_mode("choice" if name == "winogrande" else "lm_eval")
            origin = CellOrigin(
                origin=Origin("tiny", BASE), target=Cell("mine", "sw"), primary_metric=cell.metric, run_key=""
            )
            said = dict(mode.score(scorer, mode.prepare(scorer, tokenised), adapter))  # type: ignore[arg-type]
            for at, sample in enumerate(logged["samples"][name]):
                score, answers = mode.outcome(items[at], said[at], origin), sample["filtered_resps"]
                kept = {"loglikelihoods_nats": score.loglikelihoods_nats, **json.loads(score.output or "{}")}
                pairs = [each if isinstance(each, tuple) else (each, None) for each in answers]
                assert kept["loglikelihoods_nats"] == pytest.approx([value for value, _ in pairs], abs=1e-6), name
                assert kept.get("are_greedy", [greedy for _, greedy in pairs]) == [greedy for _, greedy in pairs]
                for each, (_, value) in kept.get("results", {}).items():
                    assert value == pytest.approx(sample[each], rel=1e-9), each
                right = sample[metric]
                assert score.value == (
                    right if metric.startswith("acc") else pytest.approx(math.exp(right[0] / right[1]))
                )


@pytest.mark.engine
def test_texts_longer_than_the_window_and_odd_requests_equal_the_hf_backend(tiny_llama: Path, ours: Any) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from transfergrid.engine.harness.model import TransferGridLM

    def ask(kind: str, model: Any, *arguments: Any) -> Any:
        requests = [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]
        return getattr(model, kind)(requests, disable_tqdm=True)

    base = TransferGridLM(ours.requests)
    peer = HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", batch_size=4)
    texts = [("abc " * 1200,), ("maji",)]
    rolling = [ask("loglikelihood_rolling", model, *texts) for model in (base, peer)]
    assert rolling[0] == pytest.approx(rolling[1], rel=1e-6)
    stop = {"until": ["\n\n"], "max_gen_toks": 6}
    (said,), (expected,) = (ask("generate_until", model, ("The cat", stop)) for model in (base, peer))
    assert said == expected
    pairs = [("", " hello"), ("A: ", " b"), ("x" * 3000, " hello"), ("The cat", said), ("<|begin_of_text|>A", " b")]
    answers = [ask("loglikelihood", model, *pairs) for model in (base, peer)]
    assert [value for value, _ in answers[0]] == pytest.approx([value for value, _ in answers[1]], abs=TOLERANCE_NATS)
    assert (
        [greedy for _, greedy in answers[0]]
        == [greedy for _, greedy in answers[1]]
        == [False, False, False, True, False]
    )
    assert base.counts.n_truncated == 1  # the long context; windows of a text fit
    adapted = ask("generate_until", ours, ("The cat", stop))
    assert adapted != [said]
    assert ask("loglikelihood", base, *pairs) == answers[0]  # planned steps again, after vLLM's scheduler
    with pytest.raises(UserError, match="request 0 of 1 has a continuation of 0 tokens"):
        ask("loglikelihood", base, ("The cat", ""))
    with pytest.raises(UserError, match="max_gen_toks 2048 leaves no room for a prompt in 2048 tokens"):
        ask("generate_until", base, ("The cat", {"max_gen_toks": 2048}))
    with pytest.raises(UserError, match="vLLM does not take the generation settings"):
        ask("generate_until", base, ("The cat", {"nonsense": 1}))
