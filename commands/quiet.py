"""Silences libraries, so that our own display stays readable; their errors still show."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence start-up remarks, progress bars and warnings of vLLM, torch and transformers.

    A command calls this before it loads any of them. ``VLLM_LOGGING_LEVEL`` and ``TORCH_CPP_LOG_LEVEL`` stay as they
    are where they are set.
    """
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR").upper()
    logging.getLogger("vllm").setLevel(level)  # it warns before it has set up its own logging
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
