"""What the engine's benchmark scores: items of three kinds of tasks in some languages, and random adapters."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transfergrid.benchmarks.cells import load_items
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.values import Dtype
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.null import make_random_adapter
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.models.device import engine_device_type
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import TokenisationSettings, load_tokenizer, render_contexts
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.perf.scaling import Decoder

TASKS = ("arc_challenge", "truthfulqa", "global_mmlu")
RANK = 32
TINY = Decoder(2, 64, 64, 2, 2, 32, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Everything a side needs to know; crosses processes as JSON."""

    model: str
    data: str
    languages: tuple[str, ...]
    items_per_cell: int
    adapters: str
    """Folder of the adapters ``0``, ``1``, ..."""
    dtype: Dtype
    repeats: int = 1
    many_adapters: int = 1

    def as_json(self) -> dict[str, object]:
        """Return the fields."""
        return asdict(self)

    def items(self, per_cell: int | None = None) -> list[Item]:
        """Return the first items of every cell."""
        count = per_cell or self.items_per_cell
        return [
            item
            for task in TASKS
            for language in self.languages
            for item in load_items(Path(self.data), get_task(task), language, "test", "eval")[:count]
        ]

    def settings(self) -> TokenisationSettings:
        """Return the study's: under the chat template."""
        return TokenisationSettings(max_length=2048, chat_template=True)

    def tokenised(self, per_cell: int | None = None) -> list[TokenisedItem]:
        """Return the items as tokens; all of them must fit."""
        results = tokenise_items(load_tokenizer(Path(self.model)), self.items(per_cell), self.settings()).results
        return [result for result in results if isinstance(result, TokenisedItem)]

    def text_pairs(self, per_cell: int | None = None) -> list[tuple[str, str]]:
        """Return (context, continuation) texts as lm-evaluation-harness takes them."""
        items = self.items(per_cell)
        tokenizer = load_tokenizer(Path(self.model))
        contexts = render_contexts(tokenizer, [item.context for item in items], self.settings())
        return [(context, choice) for item, context in zip(items, contexts, strict=True) for choice in item.choices]

    def adapter(self, index: int) -> Adapter:
        """Return one of the adapters, checked."""
        return check_adapter(Path(self.adapters) / str(index), read_linear_shapes(Path(self.model)), name=f"a{index}")


@contextmanager
def made_up_workload(
    data: str, model: str, items: int, languages: str, *, n_adapters: int, **more: Any
) -> Iterator[Workload]:
    """Give out what command-line options ask for; its adapters are made now and removed at the end."""
    folder = resolve_model(model)
    with tempfile.TemporaryDirectory() as adapters:
        make_adapters(folder, Path(adapters), n_adapters)
        cells = {"data": data, "languages": tuple(languages.split(",")), "items_per_cell": items}
        yield Workload(model=str(folder), adapters=adapters, **cells, **more)


def make_adapters(model: Path, folder: Path, count: int) -> None:
    """Write rank-32 adapters on all seven projections with random A and small random B."""
    for index in range(count):
        make_random_adapter(model, folder / str(index), rank=RANK, seed=index)


def make_model(folder: Path, shape: Decoder) -> Path:
    """Write a Llama with random weights in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=2048,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device(engine_device_type()):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    gc.collect()
    if engine_device_type() == "cuda":
        torch.cuda.empty_cache()
    return folder
