from transfergrid.wording import listed, one_line


def test_text_from_outside_is_shown_on_one_line_without_control_characters() -> None:
    assert one_line("a\n\n b\tc") == "a b c"
    assert one_line("\x1b[31mred\u202e \ud800 é") == "\\x1b[31mred\\u202e \\ud800 é"
    assert one_line("x" * 301) == "x" * 300 + "..."


def test_a_long_list_of_names_ends_with_the_number_of_the_others() -> None:
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"
