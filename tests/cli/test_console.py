from bayesprior.cli.console import print_pairs, print_table, printable


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
