from bayesprior.cli.console import print_pairs, print_table, printable, say, written_out


def test_control_characters_are_written_out():
    assert printable("\x1b]0;t\x07") == r"\x1b]0;t\x07"
    assert printable("a\u202eb") == r"a\u202eb"
    assert printable("Zürich 東京") == "Zürich 東京"
    assert printable("\ud800") == r"\ud800"


def test_markup_and_emoji_names_are_text(capsys):
    print_table(("a[/red]", "n"), [("x[bold]:smile:", "1"), ("\x1b[2J", "22")])
    print_pairs({"k[/x]": "v[/y]", "number": 0.123456})
    out = capsys.readouterr().out
    for text in ("a[/red]", "x[bold]:smile:", r"\x1b[2J", "k[/x]   v[/y]", "number  0.1235"):
        assert text in out


def test_rows_keep_their_ends_and_spaces():
    assert written_out("a  b,\x1b[2J\nc\n") == "a  b,\\x1b[2J\nc\n"


def test_an_endless_line_is_cut_in_the_middle(capsys):
    say(f"error: {'x' * 5000} mend it so")
    err = capsys.readouterr().err
    assert len(err) < 1500
    assert err.startswith("bayesprior: error: xxx")
    assert err.endswith("mend it so\n")
