"""The tables of ``config/README.md``: every key with its type, its default and what it does."""

import json
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import NamedTuple

from dpg.config.base import ConfigError, Tree

_PATTERNS = {r"^[\w.]+:\w+$": "dotted path", r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "name"}
_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_TYPES = {"boolean": "true or false", "object": "mapping", "string": "text"}


class Row(NamedTuple):
    """One key of a file, each cell in Markdown."""

    key: str
    type: str
    default: str
    what: str


def tables(scale: Tree, experiments: Tree) -> dict[str, str]:
    """The Markdown of every table by its name, from the two JSON schemas."""
    run, downstream = (
        scale["$defs"][name] for name in ("RunOverrides", "PartialDownstreamSettings")
    )
    # A section that has its own table is not repeated inside the other tables.
    hidden = {"PartialDownstreamSettings": {*downstream["properties"], "sources"}}
    for prefix in ("Run", "Experiment", "Variant", "Extra"):
        hidden[f"{prefix}Overrides"] = hidden[prefix] = set(run["properties"])
    hidden["ReadingExperiment"] = set(run["properties"])
    return {
        "scale": _markdown(_Reader(scale["$defs"], hidden).rows(scale)),
        "run": _markdown(_Reader(scale["$defs"], {}).rows(run), default=False),
        "downstream": _markdown(_Reader(scale["$defs"], {}).rows(downstream), default=False),
        "experiments": _markdown(_Reader(experiments["$defs"], hidden).rows(experiments)),
    }


class _Reader(NamedTuple):
    """Lists the keys of a JSON schema.

    Attributes:
        definitions: the schemas that others refer to, by name.
        hidden: name of a definition -> keys of it that are left out.
    """

    definitions: Mapping[str, Tree]
    hidden: Mapping[str, Set[str]]

    def rows(self, schema: Tree, at: str = "", hidden: Set[str] = frozenset()) -> Iterator[Row]:
        """Every key of an object in the schema's order; a section's keys follow the section."""
        for name, value in schema["properties"].items():
            if name not in hidden:
                yield from self._key(f"{at}{name}", value, name in schema.get("required", ()))

    def _key(self, key: str, schema: Tree, required: bool) -> Iterator[Row]:
        below = list(self._below(key, schema))
        kind = _type(schema)
        yield Row(
            f"`{key}`",
            kind,
            _default(schema, required) if kind != "section" or required else "",
            schema.get("description", "") or self._description(schema),
        )
        yield from below

    def _below(self, at: str, schema: Tree) -> Iterator[Row]:
        """The keys inside a value: of one section, of a section's kinds, or of sections by name."""
        names = _references(schema)
        if len(names) == 1:
            definition = self.definitions[names[0]]
            yield from self.rows(definition, f"{at}.", self.hidden.get(names[0], frozenset()))
        elif names:
            yield from self._kinds(at, [self.definitions[name] for name in names])
        for inner in _by_name(schema):
            yield from self._below(f"{at}.<name>", inner)

    def _kinds(self, at: str, kinds: list[Tree]) -> Iterator[Row]:
        """The keys of a union's kinds, each once, with the kinds that have it."""
        keys = dict.fromkeys(key for kind in kinds for key in kind["properties"])
        for key in keys:
            having = [kind for kind in kinds if key in kind["properties"]]
            schemas = [kind["properties"][key] for kind in having]
            (row, *_) = self._key(f"{at}.{key}", schemas[0], key in having[0].get("required", ()))
            if all("const" in schema for schema in schemas):
                types = ", ".join(_type(schema) for schema in schemas)
                what = "; ".join(f"`{s['const']}`: {s['description']}" for s in schemas)
                yield row._replace(type=types, what=what)
            elif len(having) == len(kinds):
                yield row
            else:
                yield row._replace(what=f"{', '.join(map(_tag, having))}: {row.what}")

    def _description(self, schema: Tree) -> str:
        texts = (self.definitions[name].get("description", "") for name in _references(schema))
        return next(texts, "")


def _tag(kind: Tree) -> str:
    tags = (value["const"] for value in kind["properties"].values() if "const" in value)
    return f"`{next(tags)}`"


def _alternatives(schema: Tree) -> list[Tree]:
    found: list[Tree] = schema.get("anyOf") or schema.get("oneOf") or [schema]
    return found


def _references(schema: Tree) -> list[str]:
    """The names of the definitions that a value may have."""
    found = (alternative.get("$ref") for alternative in _alternatives(schema))
    return [reference.rsplit("/", 1)[1] for reference in found if reference]


def _by_name(schema: Tree) -> list[Tree]:
    """The schemas of what a mapping holds, where these are sections."""
    inner = [
        value
        for alternative in _alternatives(schema)
        for value in (
            alternative.get("additionalProperties"),
            *alternative.get("patternProperties", {}).values(),
        )
        if isinstance(value, dict)
    ]
    return [value for value in inner if _references(value)]


def _type(schema: Tree) -> str:
    if _references(schema) or _by_name(schema):
        optional = {"type": "null"} in _alternatives(schema)
        return "section or null" if optional else "section"
    names = [_plain_type(alternative) for alternative in _alternatives(schema)]
    return " or ".join(dict.fromkeys(names))


def _plain_type(schema: Tree) -> str:
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return ", ".join(map(_code, schema["enum"]))
    if isinstance(schema["type"], list):
        return " or ".join(_TYPES.get(str(name), str(name)) for name in schema["type"])
    if schema["type"] == "array":
        parts = schema.get("prefixItems") or [schema["items"]]
        return f"list: {', '.join(map(_type, parts))}"
    if schema["type"] == "string":
        named = "path" if schema.get("format") == "path" else "text"
        return _PATTERNS.get(schema.get("pattern", ""), named)
    name = str(schema["type"])
    bounds = [f"{sign} {schema[word]:g}" for word, sign in _BOUNDS.items() if word in schema]
    return " ".join([_TYPES.get(name, name), ", ".join(bounds)]).strip()


def _default(schema: Tree, required: bool) -> str:
    if required:
        return "required"
    return _code(schema["default"]) if "default" in schema else ""


def _code(value: object) -> str:
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _markdown(rows: Iterator[Row], *, default: bool = True) -> str:
    """A Markdown table; `default` false leaves out the column of defaults."""
    heads = ["key", "type", "default", "what it does"]
    lines = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in r] for r in rows)]
    kept = [line if default else [*line[:2], *line[3:]] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in kept)


def filled(path: Path, content: Mapping[str, str]) -> str:
    """The text of a Markdown file with its tables put in.

    The place of the table `scale` is between ``<!-- table: scale -->`` and ``<!-- end -->``.

    Raises:
        ConfigError: there is no such file, or it has no place for one of the tables.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; run this in the repository's folder")
    text = path.read_text(encoding="utf-8")
    for name, table in content.items():
        place = re.compile(rf"(?<=<!-- table: {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        found = place.search(text)
        if found is None:
            raise ConfigError(
                f"{path}: no place for the table '{name}'; write '<!-- table: {name} -->' and "
                "'<!-- end -->' on two lines"
            )
        text = f"{text[: found.start()]}\n{table}\n\n{text[found.end() :]}"
    return text
