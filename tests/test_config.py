from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from weir import config
from weir.core.config import BreakerConfig, EngineConfig, GuardConfig, Tunables
from weir.errors import InvalidSettings
from weir.types import BreakerPolicy, EvidenceSet, GuardMode


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tunables(part: type[Tunables], prefix: str = "WEIR_") -> set[str]:
    names: set[str] = set()
    for field in dataclasses.fields(part):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        name = prefix + field.name.upper()
        names |= tunables(type(default), f"{name}_") if isinstance(default, Tunables) else {name}
    return names


def problems(**overrides: object) -> dict[str, str]:
    with pytest.raises(InvalidSettings) as caught:
        config.load(**overrides)
    return {problem.field: str(problem) for problem in caught.value.problems}


def test_an_untouched_environment_gives_the_engine_its_own_defaults() -> None:
    settings = config.load()
    assert settings.engine() == EngineConfig()
    assert (settings.host, settings.port, settings.data) == ("127.0.0.1", 8790, Path("weir-data"))


def test_every_tunable_of_the_engine_has_its_variable() -> None:
    assert tunables(EngineConfig) <= config.names().keys()


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("WEIR_GUARD_SAMPLE_RATE", "0.02", EngineConfig(guard=GuardConfig(sample_rate=0.02))),
        ("WEIR_GUARD_MODE", "observe", EngineConfig(guard=GuardConfig(mode=GuardMode.OBSERVE))),
        ("WEIR_GUARD_DSC_BASE", "none", EngineConfig(guard=GuardConfig(dsc_base=None))),
        ("WEIR_GUARD_VACCINE", "no", EngineConfig(guard=GuardConfig(vaccine=False))),
        ("WEIR_GUARD_EVIDENCE", "model", EngineConfig(guard=GuardConfig(evidence=EvidenceSet.MODEL))),
        ("WEIR_BREAKER_POLICY", "observe", EngineConfig(breaker=BreakerConfig(policy=BreakerPolicy.OBSERVE))),
        ("WEIR_SEED", "7", EngineConfig(seed=7)),
        ("WEIR_GUARD_SAMPLE_RATE", "", EngineConfig()),
    ],
)
def test_a_variable_reaches_the_engine(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: EngineConfig
) -> None:
    monkeypatch.setenv(name, text)
    assert config.load().engine() == expected


def test_overrides_go_before_the_environment_and_that_before_the_file(
    monkeypatch: pytest.MonkeyPatch, empty_folder: Path
) -> None:
    (empty_folder / "weir.toml").write_text("port = 1\nstep_size = 1\nthreads = 3\n[guard]\nsample_rate = 0.03\n")
    monkeypatch.setenv("WEIR_PORT", "2")
    monkeypatch.setenv("WEIR_STEP_SIZE", "2")
    settings = config.load(port=4)
    assert (settings.port, settings.engine().step_size, settings.threads) == (4, 2, 3)
    assert settings.engine().guard.sample_rate == 0.03


def test_a_named_file_is_read_and_must_exist(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> None:
    named = empty_folder / "other.toml"
    monkeypatch.setenv("WEIR_CONFIG", str(named))
    assert problems() == {
        "WEIR_CONFIG": f"WEIR_CONFIG: expected the path of a file that exists, got {named}",
    }
    named.write_text("port = 5")
    assert config.load().port == 5
    named.write_text("port =")
    assert "a file in TOML" in problems()["WEIR_CONFIG"]


def test_all_problems_are_shown_together_in_plain_words(monkeypatch: pytest.MonkeyPatch, empty_folder: Path) -> None:
    (empty_folder / "weir.toml").write_text("[gate]\nrate = 2\n")
    for name, text in {
        "WEIR_PORT": "99999",
        "WEIR_GUARD_MODE": "paranoid",
        "WEIR_GUARD_DSC_BASE": "nan",
        "WEIR_GATE_ENABLED": "perhaps",
        "WEIR_LOG_LEVEL": "loud",
        "WEIR_LEARNER": "sgd",
    }.items():
        monkeypatch.setenv(name, text)
    found = problems()
    assert "a name that Weir knows" in found.pop("WEIR_LEARNER")
    assert found == {
        "WEIR_PORT": "WEIR_PORT: expected a whole number, 0 to 65535, got '99999'",
        "WEIR_GUARD_MODE": "WEIR_GUARD_MODE: expected one of weir, dsc, observe, off, got 'paranoid'",
        "WEIR_GUARD_DSC_BASE": "WEIR_GUARD_DSC_BASE: expected a number, at least 0.0, or none, got 'nan'",
        "WEIR_GATE_ENABLED": "WEIR_GATE_ENABLED: expected true or false, got 'perhaps'",
        "WEIR_GATE_RATE": "WEIR_GATE_RATE: expected a number, 1e-09 to 0.5, got 2",
        "WEIR_LOG_LEVEL": "WEIR_LOG_LEVEL: expected one of debug, info, warning, error, got 'loud'",
    }


def test_an_unknown_variable_is_refused_with_a_guess_and_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIR_GAURD_MODE", "hunter2")
    monkeypatch.setenv("WEIR_KEY", "the client's, and none of the service's business")
    found = problems(prot=1)
    assert "did you mean WEIR_GUARD_MODE?" in found["WEIR_GAURD_MODE"]
    assert "hunter2" not in str(found)
    assert "did you mean WEIR_PORT?" in found["WEIR_PROT"]
    assert found.keys() == {"WEIR_GAURD_MODE", "WEIR_PROT"}


def test_a_body_must_fit_into_the_log() -> None:
    assert "WEIR_MAX_BODY_BYTES (4096)" in problems(max_body_bytes=4096, log_max_bytes=2048)["WEIR_LOG_MAX_BYTES"]


def test_a_password_has_one_place() -> None:
    assert "WEIR_REDIS_URL beside it" in problems(redis_password_file="p")["WEIR_REDIS_PASSWORD_FILE"]
    told = problems(redis_password_file="p", redis_url="redis://:hush@somewhere")
    assert "WEIR_REDIS_PASSWORD_FILE" in told["WEIR_REDIS_URL"]
    assert "hush" not in str(told)
    assert config.load(redis_password_file="p", redis_url="redis://weir@somewhere").redis_password_file == Path("p")


@pytest.mark.parametrize("role", ["api", "learner"])
def test_who_shares_the_work_needs_a_redis_to_share(role: str) -> None:
    assert f"since WEIR_ROLE is {role}" in problems(role=role)["WEIR_REDIS_URL"]
    assert config.load(role=role, redis_url="redis://somewhere").role == role
    assert problems(role="replica")["WEIR_ROLE"] == "WEIR_ROLE: expected one of all, api, learner, got 'replica'"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load().port = 1


def test_the_table_names_every_variable_with_default_and_meaning() -> None:
    lines = config.render_table().splitlines()
    for name in config.names().keys() | config.OTHER_VARIABLES.keys():
        (line,) = [line for line in lines if line.startswith(f"| `{name}` |")]
        assert line.count("|") == 4
        assert all(cell.strip() not in {"", "None"} for cell in line.strip("|").split("|"))
    assert "| `WEIR_GUARD_SAMPLE_RATE` | `0.01` |" in config.render_table()
