"""Transformers and peft, float32, one sequence at a time: slow, and simple enough to trust.

Every (item, choice) is one forward pass over context and continuation without padding, cache or sharing, so nothing
that makes the engine fast is in here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import require_unchanged
from transfergrid.engine.interfaces import Adapter, AdapterError, ItemLoglikelihoods, Prepared, TokenisedItem
from transfergrid.engine.models.device import device_name
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.prepared import WholeItems, require_own
from transfergrid.store.provenance import installed_version


class Reference:
    """Makes scorers on transformers and peft."""

    device_name = staticmethod(device_name)

    def key_parts(self) -> Mapping[str, Any]:
        """Return transformers, its version and the way."""
        return {"name": "transformers", "version": installed_version("transformers"), "way": "reference"}

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        """Check that an adapter is one that every engine takes, so that peft leaves no weight of it out.

        Raises:
            AdapterError: If it is missing, broken, not a plain LoRA, or of another base.
        """
        return check_adapter(folder, read_linear_shapes(model_folder), name=name)

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> ReferenceScorer:
        """Load the model; neither length nor rank matters."""
        return ReferenceScorer(model_folder)


class ReferenceScorer:
    """Scores with transformers, adapters with peft."""

    def __init__(self, model: Path | str) -> None:
        """Load the base model, a local folder or hub id, in float32."""
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model: Any = AutoModelForCausalLM.from_pretrained(str(model), dtype=torch.float32).eval()
        self._loaded: list[str] = []
        """Content hashes of the adapters in memory, in the order in which they were loaded."""

    def prepare(self, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> WholeItems:
        """Keep the items; there is nothing to plan and no step to halve."""
        return WholeItems.of(items)

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, in order.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer.
            AdapterError: If peft cannot load the adapter for this model.
        """
        for index, item in enumerate(require_own(prepared, WholeItems).items):
            self._switch_to(adapter)
            answers = [self._answer(item.context, continuation) for continuation in item.continuations]
            sums, are_greedy = zip(*answers, strict=True)
            yield ItemLoglikelihoods(index, sums, are_greedy if greedy else None)

    def prefetch(self, adapter: Adapter) -> None:
        """Load the adapter's weights."""
        self._load(adapter)

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _load(self, adapter: Adapter) -> None:
        """Add the adapter to the model if it is not there.

        Raises:
            AdapterError: If peft cannot load it for this model.
        """
        if adapter.content_hash in self._loaded:
            return
        from peft import PeftModel

        try:
            if self._loaded:
                self._model.load_adapter(str(adapter.path), adapter_name=adapter.content_hash)
            else:
                self._model = PeftModel.from_pretrained(self._model, str(adapter.path), adapter.content_hash).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise AdapterError(f"peft cannot load adapter {adapter.name!r} for this model: {error}") from error
        try:
            require_unchanged(adapter)
        except AdapterError:
            self._model = self._model.unload()  # without any adapter
            self._loaded.clear()
            raise
        self._loaded.append(adapter.content_hash)

    def _switch_to(self, adapter: Adapter | None) -> None:
        """Make the adapter, or none, the one that is applied; those loaded before it were scored and are deleted."""
        if adapter is not None:
            self._load(adapter)
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(adapter.content_hash)
            while self._loaded[0] != adapter.content_hash:
                self._model.delete_adapter(self._loaded.pop(0))
        elif self._loaded:
            self._model.base_model.disable_adapter_layers()

    def _answer(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """Return the log-likelihood of one continuation (float32 log-softmax, exact sum), and if it is greedy."""
        torch = self._torch
        tokens = torch.tensor([[*context, *continuation]])
        with torch.inference_mode():
            logits = self._model(tokens[:, :-1]).logits[0, len(context) - 1 :].float()
        rows, continued = torch.log_softmax(logits, dim=-1), tokens[0, len(context) :]
        is_greedy = bool((logits.argmax(dim=-1) == continued).all())
        return math.fsum(rows.gather(1, continued[:, None])[:, 0].tolist()), is_greedy
