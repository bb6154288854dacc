"""The JSON schemas of both kinds of files, and the tables of ``config/README.md``.

Editors complete and check a YAML file by the schema that its first line names. Both schemas and the
tables are made from the settings' own classes:

    python -m dpg.config.schema            # write them
    python -m dpg.config.schema --check    # exit status 1 if a file is not current
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from dpg.config import tables
from dpg.config.base import Tree
from dpg.config.downstream import DownstreamSettings
from dpg.config.experiments import Experiment, ExperimentsFile, ReadingExperiment, Variant
from dpg.config.run import RunConfig, RunOverrides
from dpg.config.scale import ExperimentOverrides, ExtraOverrides, ScaleFile, VariantOverrides
from dpg.config.study import EXPERIMENTS_FILE

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COMMAND = "python -m dpg.config.schema"

# Class names say nothing to a reader, and `discriminator` is not JSON Schema.
_NOISE = frozenset({"title", "discriminator"})
# An override sets what it names: nothing is required, and what is absent has no default.
_OF_WHOLE_OBJECTS = frozenset({"required", "default"})
# Keywords that hold names of the user's files, each with a schema.
_BY_NAME = ("properties", "patternProperties", "$defs")


class _WithoutTitles(GenerateJsonSchema):
    """Makes no titles such as "Learning Rate" from the fields' names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def scale_schema() -> Tree:
    """The JSON schema of a scale file, its partial overrides of runs included."""
    about = "A scale: models, text, sizes, and what it overrides of config/experiments.yaml."
    return _schema(ScaleFile, about)


def experiments_schema() -> Tree:
    """The JSON schema of ``experiments.yaml``."""
    schema = _schema(
        ExperimentsFile, "The experiments of a study, and where their values are from."
    )
    keys = schema["$defs"][_partial_name(DownstreamSettings)]["properties"]
    keys["sources"] = schema["properties"]["sources"]
    return schema


def _schema(model: type[BaseModel], about: str) -> Tree:
    definitions = _definitions(model)
    overrides = _definitions(RunConfig) | _definitions(DownstreamSettings)
    partial = {f"Partial{name}": _partial(schema) for name, schema in overrides.items()}
    sections = partial.pop(_partial_name(RunConfig))["properties"]
    of_scale = (RunOverrides, ExperimentOverrides, VariantOverrides, ExtraOverrides)
    for cls in (*of_scale, Experiment, Variant, ReadingExperiment):
        if cls.__name__ in definitions:
            keys = definitions[cls.__name__]["properties"]
            keys |= {key: sections[key] for key in RunOverrides.model_fields}
    top = definitions.pop(model.__name__)
    values = {"$ref": f"#/$defs/{_partial_name(DownstreamSettings)}"}
    top["properties"]["downstream"] |= {"anyOf": [values, {"type": "null"}]}
    return {"$schema": DIALECT, **top, "description": about, "$defs": definitions | partial}


def _definitions(model: type[BaseModel]) -> dict[str, Tree]:
    """The schema of a model and of every model in it, by name."""
    schema = _without(model.model_json_schema(schema_generator=_WithoutTitles), _NOISE)
    return {**schema.pop("$defs", {}), model.__name__: schema}


def _partial_name(model: type[BaseModel]) -> str:
    return f"Partial{model.__name__}"


def _partial(schema: Any) -> Any:
    """The schema of an override: the same keys, none of them required, not even a union's kind."""
    return _for_partials(_without(schema, _OF_WHOLE_OBJECTS))


def _for_partials(node: Any) -> Any:
    """Refer to partial objects; an override that names no kind may fit several of them."""
    if isinstance(node, list):
        return [_for_partials(one) for one in node]
    if not isinstance(node, dict):
        return node
    changed = {"anyOf" if key == "oneOf" else key: _for_partials(node[key]) for key in node}
    if isinstance(node.get("$ref"), str):
        changed["$ref"] = node["$ref"].replace("#/$defs/", "#/$defs/Partial")
    return changed


def _without(node: Any, keywords: frozenset[str]) -> Any:
    """A schema without these keywords at any depth; keys of the user's files stay."""
    if isinstance(node, list):
        return [_without(one, keywords) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: {name: _without(one, keywords) for name, one in value.items()}
        if key in _BY_NAME
        else _without(value, keywords)
        for key, value in node.items()
        if key not in keywords
    }


def files() -> dict[Path, str]:
    """The text of every file that is made here, by its path in the repository.

    Raises:
        ConfigError: ``config/README.md`` is missing or has no place for a table.
    """
    folder = EXPERIMENTS_FILE.parent
    scale, experiments = scale_schema(), experiments_schema()
    readme = folder / "README.md"
    return {
        folder / "schema" / "scale.schema.json": _text(scale),
        folder / "schema" / "experiments.schema.json": _text(experiments),
        readme: tables.filled(readme, tables.tables(scale, experiments)),
    }


def _text(schema: Tree) -> str:
    # Docstrings have double backticks, which editors do not show as code.
    return json.dumps(schema, indent=2, sort_keys=True).replace("``", "`") + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Write the files, or check them; return the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a file is not current"
    )
    check = parser.parse_args(arguments).check
    stale = [
        (path, text)
        for path, text in files().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in stale:
        if check:
            print(f"{path} is not current; run {COMMAND}", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
