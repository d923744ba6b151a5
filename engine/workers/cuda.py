"""vLLM workers that run steps of our own planner, beside everything vLLM's workers do.

Named through vLLM's ``worker_cls`` setting and reached through ``collective_rpc``, so that one process, spawned
workers, tensor parallelism and vLLM's server run the same code. The workers build the step's ``SchedulerOutput``
themselves, hand it to vLLM's V1 model runner, take the hidden states and sample nothing. Blocks, attention, LoRA and
weights stay vLLM's.
"""

from __future__ import annotations

import itertools
import resource
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import vllm
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import KVCacheBlockCopy
from vllm.v1.core.sched.output import CachedRequestData, NewRequestData, SchedulerOutput
from vllm.v1.worker.gpu_worker import Worker

from transfergrid.engine.planning.packing import AdapterReference, unpack_step
from transfergrid.engine.workers.decoder_names import name_decoder_weights
from transfergrid.engine.workers.logprobs import token_logprobs
from transfergrid.engine.workers.server_watch import end_with_server
from transfergrid.engine.workers.version import check_vllm_version
from transfergrid.grid import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from transfergrid.engine.planning.planner import Step

_NO_SAMPLING = SamplingParams(max_tokens=1, temperature=0, detokenize=False)


class ScoringMixin:
    """Methods for ``collective_rpc``: score a step, load adapters ahead, tell sizes."""

    model_runner: Any
    _request_ids: Iterator[int]
    _running: set[str]
    _loads: dict[int, Future[Any]]
    _loader: ThreadPoolExecutor
    _has_spoilt_blocks: bool = False
    """Whether a step left NaN or infinity in the KV cache: masked rows are multiplied by 0, and 0 x NaN is NaN."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model as vLLM does, then let adapters come from background loads."""
        check_vllm_version(vllm.__version__)
        end_with_server()
        name_decoder_weights()
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self._request_ids, self._running = itertools.count(), set()
        self._loads, self._loader = {}, ThreadPoolExecutor(1, thread_name_prefix="adapter-loader")
        manager = getattr(self.model_runner, "lora_manager", None)
        if manager is not None:
            self._load_adapter_now = manager._load_adapter
            manager._load_adapter = self._take_loaded_adapter

    def scoring_limits(self) -> dict[str, int]:
        """Return what a step may use: blocks of the KV cache, their size, sequences and tokens.

        Raises:
            UserError: If the KV cache has several groups of layers with block tables of their own.
        """
        runner = self.model_runner
        groups = runner.kv_cache_config.kv_cache_groups
        if len(groups) != 1:
            raise UserError(
                f"this model's KV cache has {len(groups)} groups of layers; expected 1, which "
                "disable_hybrid_kv_cache_manager gives for sliding windows (state-space layers are not supported)"
            )
        return {
            "n_blocks": runner.kv_cache_config.num_blocks - 1,  # block 0 is vLLM's null block
            "block_size": groups[0].kv_cache_spec.block_size,
            "max_step_sequences": runner.max_num_reqs,
            "max_step_tokens": runner.max_num_tokens,
        }

    def vocabulary_size(self) -> int:
        """Return the number of token ids that the model takes."""
        return int(self.model_runner.model_config.get_vocab_size())

    @torch.inference_mode()
    def score_step(self, packed: bytes, adapter: AdapterReference | None = None) -> bytes | None:
        """Run one step and return the log-probabilities of its scores.

        Args:
            packed: The step, from ``steps.pack_step``.
            adapter: Adapter of all its sequences; None is the base.

        Returns:
            Float32 little-endian, shape [S], in the order of the step's scores; None on ranks without logits.
        """
        step = unpack_step(packed)
        runner = self.model_runner
        if self._has_spoilt_blocks:
            self._clear_blocks(_new_blocks(step, self.scoring_limits()["block_size"]))
        output = self._scheduler_output(step, None if adapter is None else LoRARequest(*adapter))
        with _without_sampling(runner.model):
            runner.execute_model(output)
        state, runner.execute_model_state = runner.execute_model_state, None
        self._has_spoilt_blocks |= not bool(torch.isfinite(state.hidden_states).all())
        if len(step.score_rows) == 0:
            return b""
        rows = self._runner_rows(step, list(output.num_scheduled_tokens))
        device = state.hidden_states.device
        logprobs = token_logprobs(
            state.hidden_states,
            torch.from_numpy(rows).to(device),
            torch.from_numpy(step.score_tokens.astype(np.int64)).to(device),
            compute_logits=runner.model.compute_logits,
            vocab_size=self.vocabulary_size(),
        )
        return None if logprobs is None else logprobs.cpu().numpy().astype("<f4").tobytes()

    @torch.inference_mode()
    def clear_spoilt_blocks(self) -> bool:
        """Set the whole KV cache to zero if a step left NaN or infinity there; return whether one did.

        For the end of a pass in a server, whose scheduler hands the same blocks to other requests. No request may be
        running, and no prefix may be kept.
        """
        was_spoilt, self._has_spoilt_blocks = self._has_spoilt_blocks, False
        if was_spoilt:
            self._clear_blocks(slice(None))
        return was_spoilt

    def prefetch_adapter(self, adapter: AdapterReference) -> None:
        """Start to read an adapter's weights in the background; the step that uses it waits for them."""
        request = LoRARequest(*adapter)
        if request.lora_int_id not in self._loads and request.lora_int_id not in self.list_loras():  # type: ignore[attr-defined]
            self._loads[request.lora_int_id] = self._loader.submit(self._load_adapter_now, request)

    def adapter_modules(self, adapter: AdapterReference) -> list[str]:
        """Load an adapter and return the linear layers that carry non-zero weights of it, in the checkpoint's words.

        A layer that vLLM packs (``qkv_proj``) is named by its parts (``q_proj``, ...).
        """
        request = LoRARequest(*adapter)
        self.add_lora(request)  # type: ignore[attr-defined]
        manager = self.model_runner.lora_manager._adapter_manager
        slot = manager.lora_index_to_id.index(request.lora_int_id)
        found = []
        for name, module in manager.modules.items():
            parent, _, last = name.rpartition(".")
            parts = manager.packed_modules_mapping.get(last, [last])
            pairs = zip(parts, module.lora_a_stacked, strict=True)
            found += [f"{parent}.{part}" for part, weights in pairs if bool(weights[slot].any())]
        return found

    def peak_memory_bytes(self) -> int:
        """Return the largest memory of this worker so far: resident on the CPU, allocated on an accelerator."""
        if self.model_runner.device.type == "cpu":
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(torch.cuda.max_memory_allocated(self.model_runner.device))

    def _take_loaded_adapter(self, request: LoRARequest) -> Any:
        """Stand in for vLLM's loader: the background load of an adapter if there is one, else a load now."""
        load = self._loads.pop(request.lora_int_id, None)
        return self._load_adapter_now(request) if load is None else load.result()

    def _scheduler_output(self, step: Step, adapter: LoRARequest | None) -> SchedulerOutput:
        """Return a step in the scheduler's words: all sequences are new requests, those of the last step are done."""
        new_requests = [
            NewRequestData(
                req_id=f"step-sequence-{next(self._request_ids)}",
                prompt_token_ids=sequence.token_ids.tolist(),
                mm_features=[],
                sampling_params=_NO_SAMPLING,
                pooling_params=None,
                block_ids=(list(sequence.block_ids),),
                num_computed_tokens=sequence.n_computed,
                lora_request=adapter,
            )
            for sequence in step.sequences
        ]
        n_new_tokens = {
            request.req_id: len(sequence.token_ids) - sequence.n_computed
            for request, sequence in zip(new_requests, step.sequences, strict=True)
        }
        finished, self._running = self._running, set(n_new_tokens)
        return SchedulerOutput(
            scheduled_new_reqs=new_requests,
            scheduled_cached_reqs=CachedRequestData.make_empty(),
            num_scheduled_tokens=n_new_tokens,
            total_num_scheduled_tokens=sum(n_new_tokens.values()),
            scheduled_spec_decode_tokens={},
            scheduled_encoder_inputs={},
            finished_req_ids=finished,
            free_encoder_mm_hashes=[],
            kv_cache_block_copies=[KVCacheBlockCopy(*copy) for copy in step.block_copies],
        )

    def _clear_blocks(self, blocks: list[int] | slice) -> None:
        """Set blocks of the KV cache to zero in all layers; one of ours may be several of the attention kernel's."""
        runner = self.model_runner
        for cache in runner.kv_caches:
            cache.unflatten(0, (runner.kv_cache_config.num_blocks, -1))[blocks] = 0

    def _runner_rows(self, step: Step, request_ids: list[str]) -> npt.NDArray[np.int64]:
        """Return the scored rows among the runner's hidden states; attention backends may reorder sequences."""
        runner = self.model_runner
        n_new = [len(sequence.token_ids) - sequence.n_computed for sequence in step.sequences]
        planned_starts = np.concatenate(([0], np.cumsum(n_new)[:-1]))
        positions = [runner.input_batch.req_id_to_index[request_id] for request_id in request_ids]
        shifts = runner.query_start_loc.np[positions] - planned_starts
        owners = np.searchsorted(planned_starts, step.score_rows, side="right") - 1
        rows: npt.NDArray[np.int64] = (step.score_rows + shifts[owners]).astype(np.int64)
        return rows


def _new_blocks(step: Step, block_size: int) -> list[int]:
    """Return the blocks that a step is the first to write, but those that are copied elsewhere before it."""
    first = {block for each in step.sequences for block in each.block_ids[-(-each.n_computed // block_size) :]}
    return sorted(first - {source for source, _ in step.block_copies})


@contextmanager
def _without_sampling(model: Any) -> Iterator[None]:
    """Keep the runner from projecting every sequence's last row onto the vocabulary for a sampler."""
    model.compute_logits = lambda hidden: None
    try:
        yield
    finally:
        del model.compute_logits


class ScoringWorker(ScoringMixin, Worker):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's CUDA worker that also scores steps."""
