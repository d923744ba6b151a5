"""Planned steps run on vLLM's V1 model runner: our inputs, vLLM's attention metadata, model and KV blocks.

vLLM's own way to a forward pass keeps a persistent batch of requests up to date in Python, some 40 microseconds a
sequence. A planned step shares no sequence with the one before, so its arrays are made from the packed step and handed
to the model directly. Two steps may be in flight: the second is prepared and launched while the first one runs.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from transfergrid.engine.planning.packing import N_IN_FLIGHT, unpack_step
from transfergrid.engine.planning.step_inputs import StepInputs, step_inputs
from transfergrid.engine.workers.logprobs import ScoredRows, token_logprobs
from transfergrid.engine.workers.staging import Staging

_ON_HOST = ("query_starts", "sequence_lengths")


class StepRunner:
    """Launches steps and hands back their scores by ticket."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._group = runner.kv_cache_config.kv_cache_groups[0]
        self._table_width: int = runner.input_batch.block_table[0].block_table.np.shape[1]
        self._blocks = _block_views(runner.kv_caches, runner.kv_cache_config.num_blocks)
        self._staging = [Staging(runner.device) for _ in range(N_IN_FLIGHT)]
        self._outcomes: list[bool | Exception] = [False] * N_IN_FLIGHT
        """Per set of buffers whether its step has scores, or what went wrong with it."""
        self._n_launched = 0
        self._is_spoilt = torch.zeros((), dtype=torch.bool, device=runner.device)
        """Whether a step left NaN or infinity in the KV cache, which attention multiplies by 0 in masked rows: NaN."""

    @torch.inference_mode()
    def launch(self, packed: bytes, *, greedy: bool = False) -> int:
        """Launch a step and return its ticket; waits only where the step before the last one still runs."""
        inputs = step_inputs(
            unpack_step(packed),
            block_size=self._group.kv_cache_spec.block_size,
            table_width=self._table_width,
            short_tokens=self._runner.reorder_batch_threshold,
        )
        ticket = self._n_launched
        self._n_launched += 1
        place = ticket % N_IN_FLIGHT
        staging = self._staging[place]
        staging.wait()
        try:
            logprobs = self._run(inputs, staging.send(inputs._asdict()), greedy=greedy)
            if logprobs is not None:
                staging.fetch(logprobs)
            self._outcomes[place] = logprobs is not None
        except Exception as error:  # the step before is still to be taken
            self._outcomes[place] = error
        finally:
            staging.mark()
        return ticket

    def scores(self, ticket: int) -> bytes | None:
        """Wait for a step and return its scores, float32 little-endian; None on ranks without logits.

        Raises:
            RuntimeError: If two more steps were launched since, which took over its buffers.
            Exception: What went wrong with this step.
        """
        if not self._n_launched - N_IN_FLIGHT <= ticket < self._n_launched:
            raise RuntimeError(f"ticket {ticket} is not one of the last {N_IN_FLIGHT} of {self._n_launched} steps")
        place = ticket % N_IN_FLIGHT
        outcome, staging = self._outcomes[place], self._staging[place]
        staging.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return staging.scores() if outcome else None

    def _run(self, inputs: StepInputs, tensors: dict[str, torch.Tensor], *, greedy: bool) -> torch.Tensor | None:
        """Copy blocks, compute the new tokens and score."""
        runner = self._runner
        if inputs.block_copies.size:
            self.copy_blocks(*tensors["block_copies"])
        if runner.device.type != "cpu" or self._is_spoilt:  # elsewhere asking would wait for the step before
            self._clear_blocks(tensors["new_blocks"])
        with set_forward_context(
            self._attention_metadata(inputs, tensors),
            runner.vllm_config,
            num_tokens=len(inputs.token_ids),
            slot_mapping=dict.fromkeys(self._group.layer_names, tensors["slot_mapping"]),
        ):
            hidden = runner.model(
                input_ids=tensors["token_ids"],
                positions=tensors["positions"],
                intermediate_tensors=None,
                inputs_embeds=None,
            )
        self._is_spoilt |= ~torch.isfinite(hidden).all()
        if not len(inputs.score_tokens):
            return torch.empty(0)
        return token_logprobs(
            hidden,
            ScoredRows(tensors["scored_rows"], tensors["score_owners"], tensors["score_tokens"], inputs.first_scores),
            compute_logits=runner.model.compute_logits,
            vocab_size=runner.model_config.get_vocab_size(),
            greedy=greedy,
        )

    def copy_blocks(self, sources: torch.Tensor, destinations: torch.Tensor) -> None:
        """Copy whole KV blocks in every layer; no block is source and destination in one step."""
        for blocks in self._blocks:
            blocks.index_copy_(0, destinations, blocks.index_select(0, sources))

    @torch.inference_mode()
    def clear_spoilt_blocks(self) -> bool:
        """Set the whole KV cache to zero if a step left NaN or infinity there; return whether one did."""
        was_spoilt = bool(self._is_spoilt)
        if was_spoilt:
            self._is_spoilt.fill_(False)
            for blocks in self._blocks:
                blocks.zero_()
        return was_spoilt

    def _clear_blocks(self, numbers: torch.Tensor) -> None:
        """Set some blocks of the KV cache to zero in all layers."""
        for blocks in self._blocks:
            blocks.index_fill_(0, numbers, 0)

    def _attention_metadata(self, inputs: StepInputs, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Have vLLM's builders make the metadata of every layer."""
        query_starts, lengths = (torch.from_numpy(getattr(inputs, name)) for name in _ON_HOST)
        common = CommonAttentionMetadata(
            query_start_loc=tensors["query_starts"],
            query_start_loc_cpu=query_starts,
            seq_lens=tensors["sequence_lengths"],
            seq_lens_cpu_upper_bound=lengths,
            num_reqs=len(lengths),
            num_actual_tokens=len(inputs.token_ids),
            max_query_len=int(query_starts.diff().max()),
            max_seq_len=int(lengths.max()),
            block_table_tensor=tensors["block_table"],
            slot_mapping=tensors["slot_mapping"],
            is_prefilling=torch.ones(len(lengths), dtype=torch.bool),
            positions=tensors["positions"],
        )
        metadata = {}
        for group in self._runner.attn_groups[0]:
            metadata.update(dict.fromkeys(group.layer_names, _build(group, common)))
        return metadata


def _build(group: Any, common: CommonAttentionMetadata) -> Any:
    """Return a group's metadata; vLLM 0.26 has no ``build_metadata`` yet, and asks the device for lengths not given."""
    if hasattr(group, "build_metadata"):
        return group.build_metadata(common)
    common._seq_lens_cpu = common.seq_lens_cpu_upper_bound
    return group.get_metadata_builder().build(0, common)


def _block_views(kv_caches: list[torch.Tensor], n_blocks: int) -> list[torch.Tensor]:
    """Return the KV caches with one row per block, each memory once; layers may share theirs."""
    views = {
        cache.data_ptr(): cache.unflatten(0, (n_blocks, -1))  # type: ignore[no-untyped-call]
        for cache in kv_caches
    }
    return list(views.values())
