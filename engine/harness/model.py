"""Our engine as a model of lm-evaluation-harness, called ``transfergrid`` there.

``lm_eval`` is imported here, so that this module is imported late.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from pydantic import ValidationError

from transfergrid.config.prompts import PromptConfig
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.harness.requests import (
    MODEL_NAME,
    Answer,
    RequestCounts,
    RequestScorer,
    TokenPair,
    encode_pairs,
)
from transfergrid.engine.interfaces import Adapter
from transfergrid.engine.models.chat_template import render_messages
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import encode_texts, load_tokenizer, prefix_token, rolling_windows
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.grid import UserError
from transfergrid.store.files import hash_text

_MAX_GENERATED_TOKENS = 256  # the harness' default
_NO_SAMPLING = ("do_sample", "max_length", "use_cache")


@register_model(MODEL_NAME)
class TransferGridLM(TemplateLM):  # type: ignore[misc]  # the harness is not typed for us
    """One base model, or one adapter on it, that the harness asks; many of them may share one engine."""

    backend = "causal"

    def __init__(
        self,
        pretrained: str | RequestScorer,
        peft: str | Adapter | None = None,
        *,
        revision: str | None = None,
        chat_template_args: Mapping[str, Any] | None = None,
        date: datetime.date | None = None,
        **engine: Any,
    ) -> None:
        """Load a base model, or take one that is loaded.

        Args:
            pretrained: Folder, hub id or bundled model; or a model in memory.
            peft: Folder of an adapter in peft's format; or a checked one, for a model in memory.
            revision: Revision of a hub model.
            chat_template_args: Further variables of the chat template.
            date: The day that a chat template with a clock sees; None: the configuration's default.
            engine: Settings of the configuration's section ``engine``, such as ``dtype`` and ``max_model_len``.

        Raises:
            UserError: If the model or the adapter cannot be used, or a setting is unknown.
        """
        super().__init__()
        ignored = {name: engine.pop(name) for name in ("batch_size", "max_batch_size", "device") if name in engine}
        self.batch_size = ignored.get("batch_size") or "auto"
        if isinstance(pretrained, RequestScorer):
            self.requests, self.adapter = pretrained, peft if isinstance(peft, Adapter) else None
        else:
            self.requests, self.adapter = open_model(pretrained, peft, revision=revision, settings=engine)
        self.tokenizer = self.requests.tokenizer
        self._template = chat_template_args or {}, date or PromptConfig().date
        self.counts = RequestCounts()

    @property
    def eot_token_id(self) -> int:
        """EOS."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context: BOS, or EOS where the family has no BOS."""
        return prefix_token(self.tokenizer)

    @property
    def max_length(self) -> int:
        """Most tokens of one sequence of inputs."""
        return self.requests.max_length

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer for the harness' cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return a text's tokens; None adds special tokens unless the text begins with the prefix token."""
        if add_special_tokens is None:
            return list(encode_texts(self.tokenizer, [string])[0])
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Render a chat in the model's template.

        Raises:
            UserError: If there is none, or it fails.
        """
        messages = [(message["role"], message["content"]) for message in chat_history]
        return render_messages(
            self.tokenizer,
            messages,
            *self._template,
            otherwise="leave out --apply_chat_template",
            prompt=add_generation_prompt,
        )

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-likelihood of every continuation, in nats, and whether greedy decoding would give it."""
        pairs = [request.args for request in requests]
        key = hash_text("loglikelihood", *(text for pair in pairs for text in pair))
        return [
            (value, is_greedy) for value, is_greedy in self._score(key, lambda: encode_pairs(self.tokenizer, pairs))
        ]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Return the same for requests that are tokens already."""
        pairs: list[TokenPair] = [(context, continuation) for _, context, continuation in requests]
        return [
            (value, is_greedy) for value, is_greedy in self._score(hash_text("tokens", repr(pairs)), lambda: (pairs, 0))
        ]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in nats: the sum over windows of ``max_length`` tokens."""
        texts = [text for (text,) in (request.args for request in requests)]
        windows = [
            list[TokenPair](rolling_windows(tokens, self.prefix_token_id, self.max_length))
            for tokens in encode_texts(self.tokenizer, texts)
        ]
        pairs = [pair for each in windows for pair in each]
        answers = iter(self._score(hash_text("rolling", *texts), lambda: (pairs, 0)))
        return [sum(next(answers).loglikelihood_nats for _ in each) for each in windows]

    def _score(self, key: str, encode: Any) -> list[Answer]:
        answers, counts = self.requests.score(key, encode, self.adapter)
        self.counts = RequestCounts(*map(sum, zip(self.counts, counts, strict=True)))
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the texts that vLLM's own scheduler generates in the same engine, cut at the stop sequences.

        Raises:
            UserError: If a sampling setting is unknown to vLLM, or leaves no room for a prompt.
        """
        from vllm import SamplingParams

        prompts, sampling, stops = [], [], []
        for text, wanted in (request.args for request in requests):
            settings = normalize_gen_kwargs(wanted, _MAX_GENERATED_TOKENS)
            stop = handle_stop_sequences(settings.pop("until", None), eos=self.tokenizer.eos_token)
            n_new = int(settings.pop("max_gen_toks"))
            if n_new >= self.max_length:
                raise UserError(
                    f"max_gen_toks {n_new} leaves no room for a prompt in {self.max_length} tokens; lower it with "
                    "--gen_kwargs, or raise engine.max_model_len"
                )
            temperature = settings.get("temperature", 0.0) if settings["do_sample"] else 0.0
            known = {name: value for name, value in settings.items() if name not in _NO_SAMPLING}
            known["temperature"] = temperature
            try:
                sampling.append(SamplingParams(**known, max_tokens=n_new, stop=stop, skip_special_tokens=False))
            except (TypeError, ValueError) as error:
                raise UserError(f"vLLM does not take the generation settings {known}: {error}") from error
            prompts.append(self.tok_encode(text)[-(self.max_length - n_new) :])
            stops.append(stop)
        generated = self.requests.scorer.generate(prompts, sampling, self.adapter)
        texts = (self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in generated)
        return [postprocess_generated_text(text, stop, None) for text, stop in zip(texts, stops, strict=True)]

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness writes beside its settings: the adapter's content, and what was counted."""
        content = None if self.adapter is None else self.adapter.content_hash
        return {MODEL_NAME: {"adapter_sha256": content, **self.counts._asdict()}}


def open_model(
    pretrained: str, peft: str | Adapter | None, *, revision: str | None, settings: Mapping[str, Any]
) -> tuple[RequestScorer, Adapter | None]:
    """Load a base model for the harness and check an adapter on it.

    Raises:
        UserError: If the model or the adapter cannot be used, or a setting is unknown.
    """
    known = EngineConfig.model_fields.keys()
    if unknown := sorted(settings.keys() - known):
        raise UserError(f"unknown model_args {unknown}; expected pretrained, peft, revision or some of {sorted(known)}")
    try:
        config = EngineConfig(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"model_args: {'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg']}"
        ) from error
    folder = resolve_model(pretrained, revision)
    adapter = peft
    if isinstance(adapter, str):
        adapter = check_adapter(Path(adapter), read_linear_shapes(folder), name=Path(adapter).name)
    scorer = start_vllm(folder, config, max_rank=None if adapter is None else adapter.rank, with_tokenizer=True)
    return RequestScorer(scorer, load_tokenizer(folder), folder), adapter
