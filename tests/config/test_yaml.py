"""YAML is read strictly, and what is written is read back as the same values."""

import pytest

from dpg.config import ConfigError, yaml


@pytest.fixture
def read(tmp_path):
    def of(text: str):
        path = tmp_path / "file.yaml"
        path.write_text(text, encoding="utf-8")
        return yaml.read(path, if_missing="")

    return of


@pytest.mark.parametrize("text", ["1e-6", "+1E-6", "1.e-6", ".1e-5", "0.000001", "1.0e-6"])
def test_every_form_of_a_number_is_a_number(read, text):
    assert read(f"x: {text}") == {"x": pytest.approx(1e-6)}
    assert type(read(f"x: {text}")["x"]) is float


@pytest.mark.parametrize("text", ["664747d3-69bf-46db", "1e", "e5", "1e5x", "20231101.en", '"1e5"'])
def test_other_words_stay_text(read, text):
    assert read(f"x: {text}") == {"x": text.strip('"')}


def test_a_key_given_twice_is_refused_with_its_line(read):
    with pytest.raises(ConfigError, match=r"file\.yaml: not valid YAML: key given twice: a, on li"):
        read("a: 1\nb: 2\na: 3\n")
    with pytest.raises(ConfigError, match="key given twice: c, on line 3"):
        read("a:\n  c: 1\n  c: 2\n")


def test_a_merge_key_is_merged_and_may_be_overridden(read):
    assert read("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n")["d"] == {"b": 1, "c": 3}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected a mapping at the top, got nothing"),
        ("[1, 2]", "expected a mapping at the top, got a list"),
        ("[1, 2", "not valid YAML"),
        ("a: !!python/object:os.system {}", "not valid YAML"),
    ],
)
def test_what_is_no_mapping_is_refused(read, text, says):
    with pytest.raises(ConfigError, match=says):
        read(text)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file; write one"):
        yaml.read(tmp_path / "nowhere.yaml", if_missing="write one")


def test_what_is_no_text_file_is_refused(tmp_path):
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "image.yaml"):
        with pytest.raises(ConfigError, match="cannot be read as text"):
            yaml.read(path, if_missing="")


def test_a_dump_is_read_back_as_it_was(read):
    shared = {"rate": 1e-6, "text": "1e-6", "whole": 10_000_000, "section": "4.1"}
    tree = {
        "b": shared,
        "a": [shared, None, True, "true", "null", "", "2023-11-01", "ä: # ö", 1.0, 0.1],
        "empty": {},
    }
    text = yaml.dump(tree)
    assert read(text) == tree
    assert list(read(text)) == ["b", "a", "empty"]
    assert "&" not in text


def test_the_files_of_the_repository_survive_a_dump(read, root):
    for path in sorted((root / "config").glob("*.yaml")):
        tree = yaml.read(path, if_missing="")
        assert read(yaml.dump(tree)) == tree
