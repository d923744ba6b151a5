"""vLLM workers that run steps of our own planner, beside everything vLLM's workers do.

Named through vLLM's ``worker_cls`` setting and reached through ``collective_rpc``, so that one process, spawned
workers, tensor parallelism and vLLM's server run the same code. ``steps`` runs them on vLLM's V1 model runner; blocks,
attention and weights stay vLLM's.
"""

from __future__ import annotations

import resource
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import vllm
from safetensors import SafetensorError
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_worker import Worker

from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.planning.answers import hands_back_errors
from transfergrid.engine.planning.packing import AdapterReference
from transfergrid.engine.workers.decoder_names import name_decoder_weights
from transfergrid.engine.workers.steps import StepRunner
from transfergrid.engine.workers.version import check_vllm_version
from transfergrid.grid import UserError
from transfergrid.store.json_text import header_shapes


class ScoringMixin:
    """Methods for ``collective_rpc``: score a step, load adapters ahead, tell sizes."""

    lora_class = "transfergrid.engine.workers.lora.CudaLora"
    model_runner: Any
    _steps: StepRunner | None = None
    _loads: dict[int, Future[Any]]
    _loader: ThreadPoolExecutor

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model as vLLM does, then let adapters come from background loads."""
        check_vllm_version(vllm.__version__)
        name_decoder_weights()
        lora_class = self.lora_class  # not self: what vLLM's platform keeps would keep the model alive
        current_platform.get_punica_wrapper = lambda: lora_class
        super().load_model(*args, **kwargs)  # type: ignore[misc]
        self.model_runner._dummy_sampler_run = lambda hidden_states: hidden_states  # nothing is sampled from it later
        self._loads, self._loader = {}, ThreadPoolExecutor(1, thread_name_prefix="adapter-loader")
        manager = getattr(self.model_runner, "lora_manager", None)
        if manager is not None:
            self._load_adapter_now = manager._load_adapter
            manager._load_adapter = self._take_loaded_adapter

    @hands_back_errors
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

    @hands_back_errors
    def score_step(self, packed: bytes, adapter: AdapterReference | None = None, greedy: bool = False) -> int:
        """Launch one step and return the ticket of its scores; two steps may be in flight.

        Args:
            packed: The step, from ``packing.pack_step``.
            adapter: Adapter of all its sequences; None is the base.
            greedy: Whether its scores say, too, which tokens greedy decoding would choose.
        """
        if self._steps is None:
            self._steps = StepRunner(self.model_runner)
        self._use_adapter(adapter)
        return self._steps.launch(packed, greedy=greedy)

    @hands_back_errors
    def step_scores(self, ticket: int) -> bytes | None:
        """Wait for a step and return the log-probabilities of its scores.

        Returns:
            Float32 little-endian, shape [S], in the order of the step's scores; None on ranks without logits. Where
            greedy choices are asked for, shape [2 S], see ``logprobs.token_logprobs``.

        Raises:
            RuntimeError: If two more steps were launched since.
        """
        if self._steps is None:
            raise RuntimeError("no step was launched")
        return self._steps.scores(ticket)

    def clear_spoilt_blocks(self) -> bool:
        """Set the whole KV cache to zero if a step left NaN or infinity there; return whether one did.

        For the end of a pass in a server, whose scheduler hands the same blocks to other requests. No request may be
        running, and no prefix may be kept.
        """
        return self._steps is not None and self._steps.clear_spoilt_blocks()

    def prefetch_adapter(self, adapter: AdapterReference) -> None:
        """Start to read an adapter's weights in the background; the step that uses it waits for them."""
        request = LoRARequest(*adapter)
        if request.lora_int_id not in self._loads and request.lora_int_id not in self.list_loras():  # type: ignore[attr-defined]
            self._loads[request.lora_int_id] = self._loader.submit(self._load_adapter_now, request)

    @hands_back_errors
    def adapter_modules(self, adapter: AdapterReference) -> list[str]:
        """Load an adapter and return the linear layers that carry non-zero weights of it, in the checkpoint's words.

        A layer that vLLM packs (``qkv_proj``) is named by its parts (``q_proj``, ...).

        Raises:
            AdapterError: If vLLM cannot load it.
        """
        request = LoRARequest(*adapter)
        try:
            self.add_lora(request)  # type: ignore[attr-defined]
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise AdapterError(f"vLLM cannot load adapter {request.lora_name!r}: {reason}; save it again") from error
        manager = self.model_runner.lora_manager._adapter_manager
        slot = manager.lora_index_to_id.index(request.lora_int_id)
        found = []
        for name, module in manager.modules.items():
            parent, _, last = name.rpartition(".")
            parts = manager.packed_modules_mapping.get(last, [last])
            pairs = zip(parts, module.lora_a_stacked, strict=True)
            found += [f"{parent}.{part}" for part, weights in pairs if bool(weights[slot].any())]
        return found

    @hands_back_errors
    def load_weights(self, file: str | None) -> None:
        """Put the weights of a file, under the checkpoint's names, into the running model; None: its own again.

        Raises:
            AdapterError: If the file does not fit the model.
        """
        if file is not None:
            own = Path(self.model_runner.model_config.model).glob("*.safetensors")
            expected = {name for each in own for name in header_shapes(each)} - {"lm_head.weight"}  # may be tied
            if missing := sorted(expected - header_shapes(Path(file)).keys()):
                raise AdapterError(f"{file!r} lacks {len(missing)} of the model's weights, for example {missing[0]!r}")
        weights = None if file is None else safetensors_weights_iterator([file], use_tqdm_on_load=False)
        try:
            self.reload_weights(weights_iterator=weights)  # type: ignore[attr-defined]
        except (OSError, ValueError, KeyError, AssertionError, RuntimeError, SafetensorError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            where = "of the base" if file is None else f"in {file!r}"
            raise AdapterError(f"vLLM cannot load the weights {where}: {reason:.300}") from error
        for module in self.model_runner.get_model().modules():
            head = isinstance(module, ParallelLMHead) and module.quant_method
            if isinstance(head, UnquantizedEmbeddingMethod):  # one with the embeddings' weights is packed for itself
                head.process_weights_after_loading(module)

    def peak_memory_bytes(self) -> int:
        """Return the largest memory of this worker so far: resident on the CPU, allocated on an accelerator."""
        if self.model_runner.device.type == "cpu":
            return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(torch.cuda.max_memory_allocated(self.model_runner.device))

    def _take_loaded_adapter(self, request: LoRARequest) -> Any:
        """Stand in for vLLM's loader: the background load of an adapter if there is one, else a load now."""
        load = self._loads.pop(request.lora_int_id, None)
        return self._load_adapter_now(request) if load is None else load.result()

    def _use_adapter(self, adapter: AdapterReference | None) -> None:
        """Put an adapter, or none, on the tokens of all steps to come until vLLM's scheduler sets another mapping."""
        manager = getattr(self.model_runner, "lora_manager", None)
        if manager is None:
            return
        requests = set() if adapter is None else {LoRARequest(*adapter)}
        manager.set_active_adapters(requests, None)
        slots = manager._adapter_manager
        slots._last_mapping = None  # or vLLM would not set its own again
        for wrapper in slots.punica_wrapper_mapping.values():
            wrapper.use_slot(None if adapter is None else slots.lora_index_to_id.index(adapter[1]))


class ScoringWorker(ScoringMixin, Worker):  # type: ignore[misc]  # vLLM is not typed for us
    """vLLM's CUDA worker that also scores steps."""
