from dpg.text.overlap import Seen

TALE = "By saving my life, Nog fulfilled his debt to me, and we let him go home to his people"


def test_a_scene_with_another_name_counts_as_seen():
    seen = Seen()
    seen.add(TALE)
    assert TALE.upper() + "!" in seen
    assert TALE.replace("Nog", "Jarl") in seen
    assert "Quite another tale of other people, in which nobody saves anybody at all" not in seen


def test_the_share_of_runs():
    seen = Seen()
    seen.add("a b c d e f")
    assert seen.share("a b c d e f g") == 0.5
    assert "a b c d e f g" not in seen
    assert seen.share("x") == 0.0
    assert seen.share("") == 0.0


def test_short_texts_are_one_run():
    seen = Seen()
    seen.add("No, never!")
    assert seen.share("no never") == 1.0
    assert seen.share("never") == 0.0
