"""Settings: the environment and an optional TOML file, read and checked once, as frozen values.

One rule names them all: ``WEIR_`` and the setting (``WEIR_PORT``), or ``WEIR_``, a part of the engine and its tunable
(``WEIR_GUARD_SAMPLE_RATE``). In a file they are ``port = 8790`` and, under ``[guard]``, ``sample_rate = 0.01``. The
engine's settings are generated from the dataclasses of ``weir.core.config``, so that none of them is written twice.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

import annotated_types
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from weir.core.config import EngineConfig, Tunables
from weir.errors import InvalidSetting, InvalidSettings
from weir.types import ServiceRole

PREFIX = "WEIR_"
DEFAULT_FILE = Path("weir.toml")
OTHER_VARIABLES = {
    "WEIR_CONFIG": ("`weir.toml`, if it exists", "file with settings; the environment goes before it"),
    "WEIR_URL": ("`http://127.0.0.1:8790`", "where the remote commands find the service"),
    "WEIR_KEY": ("none", "the API key that the remote commands show"),
    "WEIR_INIT": ("the bundled digits", "docker compose: data of the first burn-in, and further options of it"),
    "WEIR_MODEL": ("by the shape of x", "docker compose: model of the first burn-in"),
    "WEIR_PROBE": ("split off the data", "docker compose: trusted samples of the first burn-in"),
}

_S = TypeVar("_S", bound=BaseSettings)
_T = TypeVar("_T", bound=Tunables)


def _none_if_so_named(value: object) -> object:
    return None if isinstance(value, str) and value.lower() == "none" else value


def _generated(config: type[Tunables]) -> dict[str, Any]:
    """The fields of a config as pydantic fields: a nested model per part, the ranges as constraints."""
    hints = typing.get_type_hints(config)
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        kind = hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Tunables):
            strict = ConfigDict(extra="forbid", frozen=True)
            part: Any = create_model(kind.__name__, __config__=strict, **_generated(kind))
            fields[field.name] = (part, Field(default_factory=part))
            continue
        if NoneType in typing.get_args(kind):
            kind = Annotated[kind, BeforeValidator(_none_if_so_named)]
        low, high, meaning = (field.metadata[name] for name in ("low", "high", "help"))
        finite = {} if low is None and high is None else {"ge": low, "le": high, "allow_inf_nan": False}
        fields[field.name] = (kind, Field(default=field.default, description=meaning, **finite))
    return fields


def _with_tunables(config: type[Tunables]) -> Callable[[type[_S]], type[_S]]:
    """A class decorator that adds a setting for every tunable of ``config``."""

    def extend(cls: type[_S]) -> type[_S]:
        fields = _generated(config)
        return cast(
            "type[_S]",
            create_model(cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__, **fields),
        )

    return extend


@_with_tunables(EngineConfig)
class Settings(BaseSettings):
    """Everything that one service needs to know; make it with :func:`load`, which reports errors in plain words."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
    )

    data: Path = Field(Path("weir-data"), description="folder of everything that must survive a restart")
    role: ServiceRole = Field(
        "all",
        description="what this process does: all, or over Redis api (take batches, predict) or learner (learn)",
    )
    host: str = Field("127.0.0.1", description="address to listen on; beyond this machine only when a key exists")
    port: int = Field(8790, ge=0, le=65535, description="port to listen on; 0: any free one")
    step_linger_seconds: float = Field(
        0.2, ge=0, le=3600, allow_inf_nan=False, description="how long an incomplete step waits for more samples"
    )
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="largest request body")
    max_samples: int = Field(10_000, ge=1, description="most samples in one batch")
    redis_url: SecretStr | None = Field(
        None,
        description="Redis for log, journal and quarantine (redis://, unix://); none: SQLite in the data folder",
    )
    redis_password_file: Path | None = Field(
        None, description="file with the password of that server, which is then in no environment and no argument"
    )
    redis_prefix: str = Field(
        "weir", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="what the names of its keys begin with"
    )
    publish_seconds: float = Field(
        1.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="learner: shortest time between two models that it publishes to the replicas",
    )
    sqlite_durability: Literal["full", "relaxed"] = Field(
        "full",
        description="without Redis: full, a 202 survives a crash of the machine; "
        "relaxed, one of the process only, and every 202 says so",
    )
    log_max_batches: int = Field(10_000, ge=1, description="batches that may wait for the learner; then 503")
    log_max_bytes: int = Field(2**30, ge=1024, description="bytes that may wait for the learner; then 503")
    log_keep_bytes: int = Field(
        4 * 2**30, ge=0, description="bytes of learned batches that stay in the log, for replays"
    )
    producer_max_batches: int = Field(5_000, ge=1, description="batches of one producer that may wait; then 429")
    producer_max_bytes: int = Field(2**29, ge=1024, description="bytes of one producer that may wait; then 429")
    attempts: int = Field(3, ge=1, description="how often a batch that cannot be processed is tried before it is dead")
    quarantine_max_samples: int = Field(
        100_000, ge=1, description="samples held for review; then 429 for every producer that has some there"
    )
    quarantine_producer_max: int = Field(
        20_000, ge=1, description="samples of one producer held for review; then 429 for it"
    )
    quarantine_max_age_days: float = Field(
        30.0,
        gt=0,
        le=3650,
        allow_inf_nan=False,
        description="days until a held sample is discarded, and one that was decided on is deleted",
    )
    checkpoint_every: int = Field(500, ge=1, description="steps between two checkpoints")
    checkpoints_kept: int = Field(10, ge=2, description="newest checkpoints that stay on disk")
    checkpoints_max_age_days: float = Field(
        30.0,
        gt=0,
        le=3650,
        allow_inf_nan=False,
        description="days that a checkpoint stays; the newest two stay in any case",
    )
    threads: int = Field(1, ge=1, description="CPU threads of the learner; recovery is exact for the same number")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe log line shown")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people, or one JSON object each")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, _file())

    def engine(self) -> EngineConfig:
        """The part that the engine needs, as its own frozen config."""
        return _config(EngineConfig, self)


def load(**overrides: Any) -> Settings:
    """Read the settings: ``overrides`` go before the environment, and that goes before the file.

    Raises InvalidSettings with every problem there is.
    """
    problems = {problem.field: problem for problem in _unknown_variables()}
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        for details in error.errors():
            problem = _problem(details)
            problems.setdefault(problem.field, problem)
    except tomllib.TOMLDecodeError as error:
        problems["WEIR_CONFIG"] = InvalidSetting("WEIR_CONFIG", f"{_file()} ({error})", "a file in TOML")
    except InvalidSetting as problem:
        problems[problem.field] = problem
    else:
        problems |= {problem.field: problem for problem in _contradictions(settings)}
    if problems:
        raise InvalidSettings(tuple(problems.values()))
    return settings


def names() -> dict[str, FieldInfo]:
    """Every setting's variable with its field, in the order of the table."""
    return dict(_flat(Settings, ()))


def render_table() -> str:
    """All variables as a Markdown table: name, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, info in names().items():
        limits = _limits(info)
        meaning = f"{info.description} ({limits})" if limits else str(info.description)
        rows.append(f"| `{name}` | `{_shown(info.default)}` | {meaning} |")
    rows += [f"| `{name}` | {default} | {meaning} |" for name, (default, meaning) in OTHER_VARIABLES.items()]
    return "\n".join(rows) + "\n"


def _config(config: type[_T], values: BaseModel) -> _T:
    parts = {field.name: getattr(values, field.name) for field in dataclasses.fields(config)}
    hints = typing.get_type_hints(config)
    return config(
        **{name: _config(hints[name], part) if isinstance(part, BaseModel) else part for name, part in parts.items()}
    )


def _file() -> Path | None:
    named = os.environ.get("WEIR_CONFIG")
    if not named:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not Path(named).is_file():
        raise InvalidSetting("WEIR_CONFIG", named, "the path of a file that exists")
    return Path(named)


def _flat(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _flat(info.annotation, (*path, name))
        else:
            yield _variable((*path, name)), info


def _variable(path: tuple[str | int, ...]) -> str:
    return PREFIX + "_".join(str(part) for part in path).upper()


def _unknown_variables() -> list[InvalidSetting]:
    known = names().keys() | OTHER_VARIABLES.keys()
    mine = (name for name in sorted(os.environ) if name.upper().startswith(PREFIX))
    return [_unknown(name.upper()) for name in mine if name.upper() not in known]


def _unknown(name: str) -> InvalidSetting:
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    # The value stays out of the message: behind a wrong name it may be a secret.
    return InvalidSetting(name, name, f"a name that Weir knows{hint}")


def _problem(details: ErrorDetails) -> InvalidSetting:
    name = _variable(details["loc"])
    info = names().get(name)
    if info is None:
        return _unknown(name)
    return InvalidSetting(name, repr(details["input"]), _expected(info))


def _contradictions(settings: Settings) -> Iterator[InvalidSetting]:
    expected = f"at least WEIR_MAX_BODY_BYTES ({settings.max_body_bytes}), or a largest body never fits"
    for name in ("log_max_bytes", "producer_max_bytes"):
        if getattr(settings, name) < settings.max_body_bytes:
            yield InvalidSetting(_variable((name,)), getattr(settings, name), expected)
    if settings.role != "all" and settings.redis_url is None:
        expected = f"the Redis that learner and replicas share, since WEIR_ROLE is {settings.role}"
        yield InvalidSetting("WEIR_REDIS_URL", "none", expected)
    yield from _password_contradictions(settings)


def _password_contradictions(settings: Settings) -> Iterator[InvalidSetting]:
    if settings.redis_password_file is None:
        return
    if settings.redis_url is None:
        yield InvalidSetting(
            "WEIR_REDIS_PASSWORD_FILE", settings.redis_password_file, "WEIR_REDIS_URL beside it, or no file"
        )
    elif urlsplit(settings.redis_url.get_secret_value()).password is not None:
        yield InvalidSetting("WEIR_REDIS_URL", "(not shown)", "no password beside WEIR_REDIS_PASSWORD_FILE")


def _expected(info: FieldInfo) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    kinds = [kind for kind in typing.get_args(info.annotation) or (info.annotation,) if kind is not NoneType]
    none = ", or none" if NoneType in typing.get_args(info.annotation) else ""
    if typing.get_origin(info.annotation) is Literal:
        return f"one of {', '.join(kinds)}"
    if isinstance(kinds[0], type) and issubclass(kinds[0], Enum):
        return f"one of {', '.join(str(member.value) for member in kinds[0])}{none}"
    limits = _limits(info)
    return f"{words[kinds[0]]}{', ' if limits else ''}{limits}{none}"


def _limits(info: FieldInfo) -> str:
    low = next((item.ge for item in info.metadata if isinstance(item, annotated_types.Ge)), None)
    high = next((item.le for item in info.metadata if isinstance(item, annotated_types.Le)), None)
    if low is None:
        return "" if high is None else f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def _shown(value: object) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
