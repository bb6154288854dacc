from dpg.text.ordering import keyed_hash, short_hash


def test_the_hash_is_fixed_for_ever():
    # Computed once with sha256sum; another value would change every split.
    assert keyed_hash(7, "a") == "04d8652d558d39cdec3dc030187a2d5d5785bee2d539db5f8d6267ff05ffa187"
    assert short_hash("en", "Paris") == "5634bff46fd1"


def test_the_parts_are_kept_apart():
    assert short_hash("ab", "c") != short_hash("a", "bc")
    assert keyed_hash(1, "1a") != keyed_hash(11, "a")
