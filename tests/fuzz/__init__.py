"""Any bytes in any file from outside give a value or one sentence: never a traceback, never more than two seconds.

``make fuzz`` (ten minutes) and ``python -m tests.fuzz --seconds 60 [READER ...]`` try all readers in turn and print for
each how many inputs were tried and how many held; an input that broke is written to ``.build/fuzz/``. ``make test``
does the same for a minute. To add a reader, add a module ``tests/fuzz/read_NAME.py`` with two names; nothing else
has to know of it::

    CONTENTS = damaged_json({"r": 8, "lora_alpha": 16})  # a strategy of bytes, see strategies.py

    def read(content: bytes, folder: Path) -> None:
        (folder / "adapter_config.json").write_bytes(content)  # the folder is empty and removed afterwards
        read_adapter_config(folder)  # may return anything, or raise a UserError

A reader whose message lists several faults, one a line, says ``SEVERAL_LINES = True``. An input holds if ``read`` returns, or raises a `UserError` of one line without control characters, within two seconds
of processor time.
"""
