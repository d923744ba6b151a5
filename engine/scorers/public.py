"""Scoring through vLLM's public interface alone: slower, with any version, and a check of the planned way.

Every (item, choice) is a request of its own whose prompt is context and continuation; vLLM returns the log-probability
of every prompt token. Nothing is shared between choices: vLLM does not read its prefix cache for such requests.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.applied import require_effect
from transfergrid.engine.adapters.folder import require_unchanged
from transfergrid.engine.interfaces import Adapter, AdapterError, ItemLoglikelihoods, Prepared, TokenisedItem
from transfergrid.engine.models.decoder import text_arguments
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.scorers.launch import plan_engine, start_llm
from transfergrid.engine.scorers.passes import probe_tokens
from transfergrid.engine.scorers.prepared import WholeItems, refuse_greedy, require_fit, require_own
from transfergrid.engine.scorers.vllm import close_llm
from transfergrid.engine.scorers.vllm_way import VllmWay, check_served
from transfergrid.engine.workers.version import set_vllm_environment
from transfergrid.grid import UserError

_ITEMS_AT_ONCE = 64
"""Items handed to vLLM in one call: enough to fill its steps, few enough that results come as they are done."""
_OURS = ("worker_cls",)
_EXTRA_TOKENS = 2  # the last token of the prompt is read, too, and one is generated


class Public(VllmWay):
    """One vLLM engine of any version that takes every adapter in turn."""

    way = "public"
    check_adapter = staticmethod(check_served)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> PublicScorer:
        """Start the engine."""
        return start_public(model_folder, self.config, max_rank=max_rank, longest_tokens=longest_tokens)


def start_public(
    model_folder: Path, config: EngineConfig | None = None, *, max_rank: int, longest_tokens: int
) -> PublicScorer:
    """Load a base model into a vLLM engine without anything of ours inside.

    Raises:
        UserError: If the model does not fit, is one of text and images, or takes no sequence that is two tokens longer.
    """
    if text_arguments(model_folder):
        raise UserError(
            f"model {str(model_folder)!r} takes images, and only our workers serve its text part; leave out --engine "
            "public, or choose a text model"
        )
    _, arguments = plan_engine(
        model_folder, config or EngineConfig(), max_rank=max_rank, longest_tokens=longest_tokens + _EXTRA_TOKENS
    )
    set_vllm_environment()
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)} - set(_OURS)
    taken = {name: value for name, value in arguments.items() if name in known}
    return PublicScorer(start_llm(taken), arguments["max_model_len"], read_model_facts(model_folder).vocab_size)


class PublicScorer:
    """Scores with ``LLM.generate`` and ``prompt_logprobs``; implements ``interfaces.Scorer``."""

    def __init__(self, llm: Any, max_model_len: int, vocab_size: int) -> None:
        self._llm: Any = llm
        self._max_model_len = max_model_len
        self._probe = probe_tokens(vocab_size).tolist()
        self._base_probe: npt.NDArray[np.float32] | None = None
        self._proven: dict[str, Any] = {}

    def prepare(self, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> WholeItems:
        """Keep the items; there is nothing to plan and no step to halve.

        Raises:
            UserError: If an item is longer than the engine was started for.
        """
        require_fit(items, self._max_model_len - _EXTRA_TOKENS)
        return WholeItems.of(items)

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, in order.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer, or greedy matches are asked for.
            AdapterError: If the adapter changed since it was checked, cannot be loaded, or changes no score of a probe.
        """
        refuse_greedy(greedy, "public")
        return self._score_pass(require_own(prepared, WholeItems).items, adapter)

    def prefetch(self, adapter: Adapter) -> None:
        """Do nothing: the public interface loads an adapter with its first request."""

    def close(self) -> None:
        """Free the model."""
        llm, self._llm = self._llm, None
        close_llm(llm)

    def _score_pass(self, items: Sequence[TokenisedItem], adapter: Adapter | None) -> Iterator[ItemLoglikelihoods]:
        """Score some items at a time."""
        request = None if adapter is None else self._prove(adapter)
        for start in range(0, len(items), _ITEMS_AT_ONCE):
            batch = items[start : start + _ITEMS_AT_ONCE]
            rows = iter(
                self._logprobs([[*item.context, *each] for item in batch for each in item.continuations], request)
            )
            for index, item in enumerate(batch, start=start):
                continued = itertools.islice(rows, len(item.continuations))
                # the first prompt token has no log-probability
                sums = (math.fsum(row[len(item.context) - 1 :].tolist()) for row in continued)
                yield ItemLoglikelihoods(index, tuple(sums))

    def _prove(self, adapter: Adapter) -> Any:
        """Check once per adapter that it changes the scores of a probe; return vLLM's request for it."""
        from vllm.lora.request import LoRARequest

        if adapter.content_hash not in self._proven:
            number = len(self._proven) + 1
            request = LoRARequest(f"{number}-{adapter.name}", number, str(adapter.path))
            if self._base_probe is None:
                (self._base_probe,) = self._logprobs([self._probe], None)
            try:
                (probe,) = self._logprobs([self._probe], request)
            except (OSError, ValueError) as error:
                require_unchanged(adapter)
                raise AdapterError(f"vLLM cannot load adapter {adapter.name!r}: {error}; save it again") from error
            require_unchanged(adapter)
            require_effect(adapter, probe, self._base_probe)
            self._proven[adapter.content_hash] = request
        return self._proven[adapter.content_hash]

    def _logprobs(self, prompts: list[list[int]], request: Any) -> list[npt.NDArray[np.float32]]:
        """Return the log-probability of every token of every prompt but its first."""
        from vllm import SamplingParams

        sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], sampling, lora_request=request, use_tqdm=False
        )
        return [
            np.array(
                [row[token].logprob for row, token in zip(output.prompt_logprobs[1:], prompt[1:], strict=True)],
                dtype=np.float32,
            )
            for output, prompt in zip(outputs, prompts, strict=True)
        ]
