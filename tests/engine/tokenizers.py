"""Small tokenizers that split, mark the start and lay out a chat as the Llama 3, Qwen 2.5 and Gemma families do."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_LLAMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_QWEN_CHAT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n{{ system | default('You help.') }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_GEMMA_CHAT = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _byte_level(specials: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    vocabulary = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _put_bos(tokenizer: Tokenizer, bos: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


_MERGES = [("Ġ", "A"), ("Ġ", "B"), ("Ċ", "Ċ"), ("e", "r"), ("er", "s")]


def llama_style() -> Any:
    """Byte-level BPE, BOS by the post-processor and by the template, header that ends in two newlines."""
    specials = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = _byte_level(specials, _MERGES)
    _put_bos(tokenizer, "<|begin_of_text|>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=specials[0], eos_token=specials[3], chat_template=_LLAMA_CHAT
    )


def qwen_style() -> Any:
    """Byte-level BPE without BOS, a system message by default, header that ends in a newline."""
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(specials, _MERGES)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=specials[2], pad_token=specials[0], chat_template=_QWEN_CHAT
    )


def gemma_style() -> Any:
    """SentencePiece-like BPE over blanks with byte fallback, BOS by both, header that ends in a newline."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    merges = [("▁", "A"), ("▁", "B"), ("\n", "\n"), ("e", "r"), ("er", "s")]
    letters = ["▁", "\n", *(chr(code) for code in range(33, 127))]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = [*specials, *fallback, *letters, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(
        models.BPE({token: at for at, token in enumerate(vocabulary)}, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(specials)
    _put_bos(tokenizer, "<bos>")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=_GEMMA_CHAT,
    )


STYLES = {"llama": llama_style, "qwen": qwen_style, "gemma": gemma_style}
