"""The JSON schemas and the README's tables: current, true of every file, and strict."""

import json
from pathlib import Path

import jsonschema
import pytest

from dpg.config import ConfigError, RunConfig, schema, tables, yaml
from dpg.config.run import RunOverrides

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("config/*.yaml"), *ROOT.glob("docs/examples/*/*.yaml")])
MARK = "# yaml-language-server: $schema="


def problems(tree, against) -> list[str]:
    validator = jsonschema.Draft202012Validator(against)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(tree)]


def test_the_files_are_current():
    assert schema.main(["--check"]) == 0, f"make them anew: {schema.COMMAND}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_names_its_schema_and_fits_it(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(MARK)
    named = (path.parent / first.removeprefix(MARK)).resolve()
    kind = "experiments" if path.name == "experiments.yaml" else "scale"
    assert named == ROOT / "config" / "schema" / f"{kind}.schema.json"
    assert problems(yaml.read(path, if_missing=""), json.loads(named.read_text())) == []


def test_the_schemas_are_schemas():
    for made in (schema.scale_schema(), schema.experiments_schema()):
        jsonschema.Draft202012Validator.check_schema(made)


@pytest.fixture(scope="module")
def scale_schema():
    return schema.scale_schema()


@pytest.fixture
def scale(tmp_path, scale_text):
    path = tmp_path / "mine.yaml"
    path.write_text(scale_text)
    return yaml.read(path, if_missing="")


# Each part of a file that holds overrides of a run.
PLACES = {
    "defaults": lambda tree: tree["defaults"],
    "experiment": lambda tree: tree["experiments"]["sixseven"],
    "variant": lambda tree: tree["experiments"]["sixseven"]["variants"].setdefault("sgd-long", {}),
}
RIGHT = [
    {"generator": {"learning_rate": 1e-3}},
    {"generator": {"optimizer": {"b1": 0.5}}},
    {"generator": {"kl_coefficient": 0.0, "update_microbatch": "auto"}},
    {"learner": {"microbatch": None, "steps": 3}},
    {"reward": {"model": None}},
    {"metric": {"column": 3}},
    {"metric": {"text": "ab"}},
    {"metric": {"kind": "custom", "path": "a:b", "arguments": {"any": ["thing"]}}},
    {"validation": {}, "prompt_shuffle": 1, "checkpoint_every": 2},
]
WRONG = [
    {"generatr": {}},
    {"generator": None},
    {"generator": {"learning_rat": 1e-3}},
    {"generator": {"learning_rate": "fast"}},
    {"generator": {"learning_rate": -1e-3}},
    {"generator": {"optimizer": {"b3": 0.5}}},
    {"generator": {"kl_coefficient": 0.1}},
    {"generator": {"update_microbatch": 0}},
    {"learner": {"optimizer": "adamw"}},
    {"learner": {"steps": 1.5}},
    {"reward": {"path": "no colon"}},
    {"metric": {"colum": 3}},
    {"metric": {"kind": "norm", "column": 3}},
    {"validation": {"every": 0}},
    {"checkpoint_every": None},
    {"title": "x"},
]


@pytest.mark.parametrize("place", PLACES)
class TestOverrides:
    @pytest.mark.parametrize("override", RIGHT, ids=json.dumps)
    def test_a_part_of_a_run_is_accepted(self, scale, scale_schema, place, override):
        PLACES[place](scale).update(override)
        assert problems(scale, scale_schema) == []

    @pytest.mark.parametrize("override", WRONG, ids=json.dumps)
    def test_a_wrong_key_or_type_is_refused(self, scale, scale_schema, place, override):
        PLACES[place](scale).update(override)
        assert problems(scale, scale_schema)


@pytest.mark.parametrize(
    ("right", "change"),
    [
        (True, {"downstream": {}}),
        (True, {"downstream": None}),
        (True, {"downstream": {"replay": {"source": "wheel"}, "cpt": {"tokens": 1}}}),
        (True, {"experiments": {"uuid": None, "qr": {"variants": {"adam-long": {"seeds": [1]}}}}}),
        (True, {"experiments_file": "mine/experiments.yaml"}),
        (False, {"downstream": {"cpt": {"token": 1}}}),
        (False, {"downstream": {"sources": {}}}),
        (False, {"downstream": {"sft": {"epochs": []}}}),
        (False, {"seeds": [0, 0]}),
        (False, {"experiments": {"qr": {"seeds": [1]}}}),
        (False, {"experiments": {"qr": {"variants": {"adam-long": {"seeds": [-1]}}}}}),
        (False, {"models": {"a b": {"source": "smollm2"}}}),
        (False, {"models": {"a": {"source": "smollm2", "layers": 2}}}),
        (False, {"text": {"articles": {"source": "wheel"}, "passages": {"source": "debian"}}}),
        (False, {"other": 1}),
    ],
)
def test_the_other_parts_of_a_scale(scale, scale_schema, right, change):
    assert (problems(scale | change, scale_schema) == []) is right


@pytest.mark.parametrize(
    ("right", "variant"),
    [
        (True, {"horizon": "long", "source": "Table 1", "sources": {"learner.steps": "ours"}}),
        (True, None),
        (True, {"learner": {"optimizer": "sgd"}}),
        (False, {"horizon": "longest"}),
        (False, {"learner": {"optimiser": "sgd"}}),
        (False, {"seeds": [1]}),
    ],
)
def test_the_variants_of_the_experiments(right, variant):
    experiment = {"title": "t", "section": 4.1, "metric": {"kind": "norm"}}
    tree = {"experiments": {"norm": experiment | {"variants": {"adam": variant}}}}
    assert (problems(tree, schema.experiments_schema()) == []) is right


def test_overrides_cover_every_value_of_a_run_that_is_not_its_name():
    named = {"scale", "experiment", "variant", "title", "section", "seed", "prompt_style"}
    assert set(RunOverrides.model_fields) == set(RunConfig.model_fields) - named


def _undescribed(node, path=""):
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            if "description" not in value and "$ref" not in value:
                yield f"{path}.{name}"
        for key, value in node.items():
            yield from _undescribed(value, f"{path}.{key}")


def test_every_key_says_what_it_does():
    assert list(_undescribed(schema.scale_schema())) == []
    assert list(_undescribed(schema.experiments_schema())) == []


class TestMain:
    @pytest.fixture(autouse=True)
    def _in_copy(self, tmp_path, monkeypatch, root):
        (tmp_path / "config").mkdir()
        text = (root / "config/README.md").read_text(encoding="utf-8")
        (tmp_path / "config" / "README.md").write_text(text, encoding="utf-8")
        monkeypatch.chdir(tmp_path)

    def test_check_names_what_is_not_current_and_writes_nothing(self, capsys):
        assert schema.main(["--check"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert "config/schema/scale.schema.json is not current" in lines[0]
        assert all(line.endswith("python -m dpg.config.schema") for line in lines)
        assert not Path("config/schema").exists()

    def test_what_is_written_is_current(self, root):
        assert schema.main([]) == 0
        assert schema.main(["--check"]) == 0
        for name in ("schema/scale.schema.json", "schema/experiments.schema.json", "README.md"):
            here, there = Path("config") / name, root / "config" / name
            assert here.read_bytes() == there.read_bytes()

    def test_a_table_that_was_edited_is_not_current(self):
        schema.main([])
        readme = Path("config/README.md")
        text = readme.read_text(encoding="utf-8")
        readme.write_text(text.replace("| `seeds` |", "| `sedes` |"), encoding="utf-8")
        assert schema.main(["--check"]) == 1
        assert schema.main([]) == 0
        assert readme.read_text(encoding="utf-8") == text

    def test_a_file_without_a_place_for_a_table_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            tables.filled(tmp_path / "nowhere.md", {"a": ""})
        (tmp_path / "empty.md").write_text("text\n")
        with pytest.raises(ConfigError, match="no place for the table 'a'"):
            tables.filled(tmp_path / "empty.md", {"a": ""})


def test_a_table_says_type_default_and_what_a_key_does():
    made = tables.tables(schema.scale_schema(), schema.experiments_schema())
    row = "| `sweep.first` | number > 0 | `1e-06` | first rate |"
    assert row in made["scale"].splitlines()
    assert "| `models.<name>.layers` | integer > 0 | required | `trained`: number" in made["scale"]
    assert "`experiments.<name>.variants.<name>.seeds`" in made["scale"]
    assert "`generator.learning_rate` | number > 0 | learning rate" in made["run"]
    assert "`generator.learning_rate`" not in made["scale"]
    assert "`cpt.tokens`" in made["downstream"]
    assert "`experiments.<name>.variants.<name>.horizon`" in made["experiments"]
