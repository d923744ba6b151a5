"""The sides of the engine's benchmark, each run in a process of its own: ours, lm-evaluation-harness, stock vLLM.

Every side prints one line of JSON: seconds net of start-up, and what else it measured.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from transfergrid.config.settings import EngineConfig
from transfergrid.perf.workload import Workload

GEMM_SIZE = 2048
FEW_ADAPTERS = 4
MODULES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"]
Result = dict[str, Any]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds a call takes, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def gemm_rate(dtype: str) -> float:
    """Return FLOP/s of a large square matrix product, the median of five."""
    import torch

    left, right = (torch.randn(GEMM_SIZE, GEMM_SIZE, dtype=getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)
    seconds = [timed(lambda: torch.mm(left, right, out=out))[0] for _ in range(5)]
    return float(2 * GEMM_SIZE**3 / statistics.median(seconds))


def run_ours(workload: Workload) -> Result:
    """Score base and adapters in turns, then many adapters on a small part; profile one pass of each kind."""
    from transfergrid.engine.models.facts import read_model_facts
    from transfergrid.engine.scorers.launch import start_vllm

    model = Path(workload.model)
    start_s, scorer = timed(lambda: start_vllm(model, EngineConfig(dtype=workload.dtype), longest_tokens=2048))
    items, part = workload.tokenised(), workload.tokenised(per_cell=1)
    prepare_s, prepared = timed(lambda: scorer.prepare(items))
    small = scorer.prepare(part)
    first = workload.adapter(0)

    def score(plan: Any, adapter: Any = None) -> float:
        return timed(lambda: list(scorer.score(plan, adapter)))[0]

    score(small), score(small, first)
    memory = {"one item per cell": scorer.peak_memory_bytes()}
    rates, base_s, adapter_s = [gemm_rate(workload.dtype)], [], []
    for _ in range(workload.repeats):
        base_s.append(score(prepared))
        adapter_s.append(score(prepared, first))
        rates.append(gemm_rate(workload.dtype))
    memory[f"{workload.items_per_cell} items per cell"] = scorer.peak_memory_bytes()
    unseen = [workload.adapter(index) for index in range(1, 1 + FEW_ADAPTERS + workload.many_adapters)]
    few_s = _score_in_turn(scorer, small, unseen[:FEW_ADAPTERS])
    many_s = _score_in_turn(scorer, small, unseen[FEW_ADAPTERS:])
    memory[f"{workload.many_adapters} adapters"] = scorer.peak_memory_bytes()
    facts, plan = read_model_facts(model), prepared.plan
    n_rows = sum(len(np.unique(step.score_rows)) for step in plan.steps)
    flop = 2 * (plan.n_computed_tokens * facts.n_layer_parameters + n_rows * facts.hidden_size * facts.vocab_size)
    results = sorted(scorer.score(prepared, first), key=lambda result: result.index)
    return {
        "start_s": start_s,
        "prepare_s": prepare_s,
        "base_s": base_s,
        "adapter_s": adapter_s,
        "few_adapters_s": few_s,
        "many_adapters_s": many_s,
        "gemm_flop_per_s": rates,
        "flop": flop,
        "n_items": plan.n_items,
        "n_rows": n_rows,
        "n_computed_tokens": plan.n_computed_tokens,
        "n_unique_tokens": plan.n_unique_tokens,
        "n_repeated_tokens": plan.n_repeated_tokens,
        "python_share": {
            "base": _python_share(scorer, prepared, None),
            "adapter": _python_share(scorer, prepared, first),
        },
        "memory_bytes": memory,
        "loglikelihoods": [value for result in results for value in result.loglikelihoods_nats],
    }


def _score_in_turn(scorer: Any, prepared: Any, adapters: list[Any]) -> float:
    """Return seconds per adapter, loading included; the next one is loaded while one is scored."""

    def run() -> None:
        for index, adapter in enumerate(adapters):
            for following in adapters[index + 1 : index + 2]:
                scorer.prefetch(following)
            list(scorer.score(prepared, adapter))

    return timed(run)[0] / len(adapters)


def _python_share(scorer: Any, prepared: Any, adapter: Any) -> float:
    """Return the share of a profiled pass outside tensor operations: Python, sums, vLLM's bookkeeping, the profiler."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        seconds, _ = timed(lambda: list(scorer.score(prepared, adapter)))
    operations_s = sum(event.self_cpu_time_total for event in profiler.key_averages()) / 1e6
    return max(0.0, 1 - float(operations_s) / seconds)


def run_lm_eval(workload: Workload) -> Result:
    """Score with lm-evaluation-harness' hf backend, batch 16, the adapter merged into the base."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        base = AutoModelForCausalLM.from_pretrained(workload.model, dtype=torch.float32)
        PeftModel.from_pretrained(base, workload.adapter(0).path).merge_and_unload().save_pretrained(folder)
        AutoTokenizer.from_pretrained(workload.model).save_pretrained(folder)
        model = HFLM(pretrained=folder, dtype=workload.dtype, batch_size=16, device="cpu", max_length=2048)
        requests = [
            Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=index)
            for index, pair in enumerate(workload.text_pairs())
        ]
        seconds, scores = timed(lambda: model.loglikelihood(requests, disable_tqdm=True))
    return {"seconds": [seconds], "loglikelihoods": [score for score, _ in scores], "n_items": len(workload.items())}


def run_stock(workload: Workload, *, with_adapter: bool, per_cell: int) -> Result:
    """Score with stock vLLM: one request per choice, ``prompt_logprobs=1``; lm_head is kept out of the adapter."""
    os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="2", VLLM_LOGGING_LEVEL="ERROR")
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    items = workload.tokenised(per_cell)
    lora = {"enable_lora": True, "max_lora_rank": 32, "lora_target_modules": MODULES} if with_adapter else {}
    llm = LLM(
        workload.model,
        dtype=workload.dtype,
        max_model_len=2048,
        block_size=32,
        enforce_eager=True,
        disable_log_stats=True,
        max_num_batched_tokens=2048,
        **lora,
    )
    prompts = [{"prompt_token_ids": [*item.context, *choice]} for item in items for choice in item.continuations]
    sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1, detokenize=False)
    request = LoRARequest("a0", 1, str(workload.adapter(0).path)) if with_adapter else None
    llm.generate(prompts[:1], sampling, lora_request=request, use_tqdm=False)
    seconds, _ = timed(lambda: llm.generate(prompts, sampling, lora_request=request, use_tqdm=False))
    return {"seconds": [seconds], "n_items": len(items), "n_tokens": sum(len(p["prompt_token_ids"]) for p in prompts)}


def run_ours_alone(workload: Workload, per_cell: int) -> Result:
    """Score the part that stock vLLM gets with an adapter, so that both have the same items."""
    from transfergrid.engine.scorers.launch import start_vllm

    scorer = start_vllm(Path(workload.model), EngineConfig(dtype=workload.dtype), longest_tokens=2048)
    prepared, adapter = scorer.prepare(workload.tokenised(per_cell)), workload.adapter(0)
    list(scorer.score(prepared, adapter))
    seconds = [timed(lambda: list(scorer.score(prepared, adapter)))[0] for _ in range(workload.repeats)]
    return {"seconds": seconds, "n_items": prepared.n_items}


SIDES: dict[str, Callable[[Workload], Result]] = {
    "ours": run_ours,
    "lm-eval": run_lm_eval,
    "stock-base": lambda workload: run_stock(workload, with_adapter=False, per_cell=workload.items_per_cell),
    "stock-adapter": lambda workload: run_stock(workload, with_adapter=True, per_cell=1),
    "ours-part": lambda workload: run_ours_alone(workload, per_cell=1),
}
"""What ``perf/engine.py`` starts, by name."""


def main() -> None:
    """Run the side named first on the workload given second (JSON); print its result as the last line."""
    fields = json.loads(sys.argv[2])
    workload = Workload(**{**fields, "languages": tuple(fields["languages"])})
    result = SIDES[sys.argv[1]](workload)
    result["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(result))


if __name__ == "__main__":
    main()
