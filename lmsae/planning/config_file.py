"""A config file as nested dicts: YAML, TOML or JSON, by its suffix."""

import tomllib
from pathlib import Path
from typing import Any

import yaml

from lmsae.config import POINTS_OF_THOUSANDS, parse_float, parse_json
from lmsae.errors import ConfigError, Fault

SUFFIXES = (".toml", ".json", ".yaml", ".yml")


def load(path: Path) -> dict[str, Any]:
    """The sections of a config file. Raises ConfigError where it cannot be read, or says something twice."""
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".toml":
            return tomllib.loads(text, parse_float=parse_float)
        if path.suffix == ".json":
            loaded = parse_json(text, object_pairs_hook=_refuse_twice, parse_float=parse_float)
        else:
            loaded = yaml.load(text, _Loader)
    except FileNotFoundError:
        raise ConfigError([Fault(str(path), None, None, f"there is no such file (looked in {Path.cwd()})")]) from None
    except RecursionError:
        raise ConfigError([Fault(str(path), None, None, "cannot be read: it nests too deeply")]) from None
    except (yaml.YAMLError, ValueError) as error:  # a path with NUL is a ValueError
        raise ConfigError([Fault(str(path), None, None, f"cannot be read: {error}")]) from None
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError([Fault(str(path), None, None, f"holds a {type(loaded).__name__}; wanted sections of fields")])
    return loaded or {}


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, and on, off, yes and no are words, as in YAML 1.2.

    100.000 and the like stay text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> float | str:
        """A float, or the text of one that people may read as thousands."""
        text = str(self.construct_scalar(node))
        return text if POINTS_OF_THOUSANDS.fullmatch(text) else self.construct_yaml_float(node)


_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_number)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if first not in "oOyYnN" or not tag.endswith(":bool")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file; of a name that stands twice, json would take the last value."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands twice in one object")
    return dict(pairs)
