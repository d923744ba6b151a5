from transfergrid.wording import one_line


def test_text_from_outside_is_shown_on_one_line_without_control_characters() -> None:
    assert one_line("a\n\n b\tc") == "a b c"
    assert one_line("\x1b[31mred\u202e \ud800 é") == "\\x1b[31mred\\u202e \\ud800 é"
    assert one_line("x" * 301) == "x" * 300 + "..."
