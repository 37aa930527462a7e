"""A spec: one stage's share of a row, everything that determines the bytes of one artifact. Its hash is the key."""

from collections.abc import Mapping
from functools import lru_cache
from json.encoder import encode_basestring as _text
from typing import Any, TypeVar

from pydantic import GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

from lmsae.config import Frozen, JsonObject, canonical_json, key_of, parse_json

Config = TypeVar("Config", bound=Frozen)
REMEMBERED = 1024
"""The configs that are parsed at a time. Most stages have a few for all rows."""


class Spec:
    """One stage's share of a row. `inputs` maps the stage's names for its inputs to references `<stage>/<key>`.

    A large plan has hundreds of thousands. So a spec holds its config as canonical JSON, which specs may share, and
    parses it when it is asked for. Nobody changes what he gets.
    """

    __slots__ = ("_config", "inputs", "reference", "stage", "version")

    stage: str
    version: int
    inputs: Mapping[str, str]
    reference: str

    def __init__(self, *, stage: str, version: int, config: JsonObject | str, inputs: Mapping[str, str]) -> None:
        """A spec of a config, or of its canonical JSON."""
        self.stage, self.version, self.inputs = stage, version, inputs
        self._config = config if isinstance(config, str) else canonical_json(config)
        self.reference = f"{stage}/{key_of(*self.pieces())}"

    @property
    def config(self) -> JsonObject:
        """The config, as JSON has it."""
        return _parse(self._config)

    def config_as(self, model: type[Config]) -> Config:
        """The config as a stage reads it."""
        return _parse_as(model, self._config)

    @property
    def canonical(self) -> str:
        """The canonical JSON of the spec."""
        return "".join(self.pieces())

    def pieces(self) -> tuple[str, ...]:
        """The canonical JSON in pieces, for a spec of a whole sweep has a hundred megabytes."""
        inputs = ",".join([f"{_text(name)}:{_text(self.inputs[name])}" for name in sorted(self.inputs)])
        rest = f'"stage":{_text(self.stage)},"version":{self.version}'
        return '{"config":', self._config, f',"inputs":{{{inputs}}},{rest}}}'

    @property
    def key(self) -> str:
        """The key of its artifact."""
        return self.reference.rpartition("/")[2]

    @classmethod
    def read(cls, text: str) -> "Spec":
        """The spec that a JSON text holds. Raises ValueError with what is wrong."""
        try:
            return _Fields.model_validate_json(text).spec()
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"]) from None

    def fields(self) -> dict[str, Any]:
        """Its stage, version, config and inputs, by name."""
        return {"stage": self.stage, "version": self.version, "config": self.config, "inputs": dict(self.inputs)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.reference == other.reference

    def __repr__(self) -> str:
        return f"Spec({self.reference})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema by which pydantic reads and writes a spec as a field of something else."""
        del source
        read = core_schema.no_info_after_validator_function(lambda found: found.spec(), handler(_Fields))
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), read],
            serialization=core_schema.plain_serializer_function_ser_schema(lambda spec: spec.fields()),
        )


class _Fields(Frozen):
    """A spec as JSON has it."""

    stage: str
    version: int
    config: JsonObject
    inputs: dict[str, str]

    def spec(self) -> Spec:
        return Spec(stage=self.stage, version=self.version, config=self.config, inputs=self.inputs)


@lru_cache(maxsize=REMEMBERED)
def _parse_as(model: type[Config], config: str) -> Config:
    return model.model_validate_json(config)


@lru_cache(maxsize=REMEMBERED)
def _parse(config: str) -> JsonObject:
    return parse_json(config)
