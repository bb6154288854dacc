import pytest

from dpg.text.cleaning import ends_in_a_word, find_markup, one_line, several_lines


def test_several_lines_keep_their_breaks():
    assert several_lines(" En\u00a0es-tu\u202fs\u00adûr\u00a0? \n\n\r\n\n Oui.\u200b\tNon.\n") == (
        "En es-tu sûr ?\n\nOui. Non."
    )
    assert several_lines("one\r\ntwo\u2028three\u0085 \nfour") == "one\ntwo\nthree\n\nfour"
    assert several_lines("Oslo ( ) is\n\n( )\n\na city") == "Oslo is\n\na city"
    assert several_lines("a single  line") == one_line("a single  line")


def test_one_line_has_single_plain_spaces():
    assert one_line(" En\u00a0es-tu\u202fs\u00adûr\u00a0?\n\nOui.\u200b ") == "En es-tu sûr ? Oui."
    assert (
        one_line("a chair ( ) is, Oslo (;) too, f(x) stays") == "a chair is, Oslo too, f(x) stays"
    )
    assert one_line("Me\u0301moires") == "Mémoires"


@pytest.mark.parametrize(
    "markup",
    [
        "an <i>old</i> tale",
        "a line<br />break",
        'a fact<ref name="x">source</ref>',
        "broken.</ I>",
        "<span color='cyan'>note",
        "a {{cite web}} b",
        "a ''' b",
        "see [[Paris]]",
        "see [https://example.org x]",
        "== History ==",
        "black &amp; white",
        "a&#160;b",
        "where {\\displaystyle x} is",
        "__NOTOC__",
        "{| class",
        "<!-- hidden -->",
        'msgid "tale"',
        "{MACRO_NAME 3}",
    ],
)
def test_markup_is_found(markup):
    found = find_markup(f"Before it.\n{markup}\nAfter it.")
    assert found is not None
    assert found in f"Before it.\n{markup}\nAfter it."


@pytest.mark.parametrize(
    "prose",
    [
        "if a < b and c > d then stop",
        "AT&T; R&D; fish & chips",
        "it costs $5, or US$7",
        "“I see,” she said — «aye».",
        "rock 'n' roll, the ''quoted'' way",
        "the set {1, 2} and f(x) = [0, 1]",
        "3 == 3 in code",
        "*** the end ***",
    ],
)
def test_prose_is_no_markup(prose):
    assert find_markup(prose) is None


def test_ends_in_a_word():
    assert ends_in_a_word("« C'est la fin ! »") == "« C'est la fin"
    assert ends_in_a_word("took the camera") == "took the camera"
    assert ends_in_a_word("Größe…") == "Größe"
    assert ends_in_a_word("…!") == ""
