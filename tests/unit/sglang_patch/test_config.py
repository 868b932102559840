"""A setting is either understood or stops the engine with its name, its value and what is allowed."""

from pathlib import Path

import pytest

from sglang_patch.config import ConfigError, EngineConfig
from sglang_patch.modes import ENFORCE

ADDRESS = {"TURBOSPEC_CONTROL_ADDRESS": "unix:/run/turbospec/control.sock"}


def test_no_address_means_not_active() -> None:
    assert EngineConfig.from_env({}) is None
    assert EngineConfig.from_env({"TURBOSPEC_CANDIDATES": "nonsense"}) is None


def test_defaults() -> None:
    config = EngineConfig.from_env(ADDRESS)
    assert config is not None
    assert config.mode == ENFORCE
    assert config.candidates == ()
    assert config.otlp_address == "", "records go the way of the stream"
    assert config.tls is None
    assert not config.kill_switch
    assert not config.strict


def test_everything_set() -> None:
    config = EngineConfig.from_env(
        {
            "TURBOSPEC_CONTROL_ADDRESS": "10.0.0.7:7031, unix:/run/control.sock",
            "TURBOSPEC_OTLP_ADDRESS": "collector:4317",
            "TURBOSPEC_INSECURE": "1",
            "TURBOSPEC_CANDIDATES": "0, 1,3",
            "TURBOSPEC_MODE": "canary:25",
            "TURBOSPEC_STEP_DEADLINE_US": "500",
            "TURBOSPEC_KILL_SWITCH": "1",
            "TURBOSPEC_SERVICE_LISTEN": "belongs to the service",
        }
    )
    assert config is not None
    assert config.candidates == (0, 1, 3)
    assert config.control_address == "10.0.0.7:7031,unix:/run/control.sock"
    assert config.otlp_address == "collector:4317"
    assert (str(config.mode), config.step_deadline_us, config.kill_switch) == ("canary:25", 500, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TURBOSPEC_CONTROL_ADDRESS", "unix:relative.sock"),
        ("TURBOSPEC_CONTROL_ADDRESS", "nohost"),
        ("TURBOSPEC_CONTROL_ADDRESS", "host:99999"),
        ("TURBOSPEC_CANDIDATES", "1,2,3"),
        ("TURBOSPEC_CANDIDATES", "0,3,2"),
        ("TURBOSPEC_CANDIDATES", "0,1,1"),
        ("TURBOSPEC_CANDIDATES", "0,one"),
        ("TURBOSPEC_CANDIDATES", "0,65"),
        ("TURBOSPEC_CONTROL_ADDRESS", "unix:/a.sock,unix:/a.sock"),
        ("TURBOSPEC_OTLP_ADDRESS", "unix:/a.sock,unix:/b.sock"),
        ("TURBOSPEC_INSECURE", "true"),
        ("TURBOSPEC_TLS_CA_FILE", "/nowhere/ca.pem"),
        ("TURBOSPEC_MODE", "Enforce"),
        ("TURBOSPEC_MODE", "canary"),
        ("TURBOSPEC_MODE", "canary:100"),
        ("TURBOSPEC_STEP_DEADLINE_US", "-1"),
        ("TURBOSPEC_STEP_DEADLINE_US", "1e3"),
        ("TURBOSPEC_KILL_SWITCH", "yes"),
        ("TURBOSPEC_RING_SIZE", "0"),
        ("TURBOSPEC_ENGINE_ID", "x" * 129),
        # A misspelt name must not pass as a default.
        ("TURBOSPEC_CANDIDATE", "0,1"),
    ],
)
def test_refusal_names_field_and_value(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        EngineConfig.from_env({**ADDRESS, name: value})
    assert name in str(refusal.value)
    assert repr(value) in str(refusal.value)
    assert "allowed is" in str(refusal.value)


REMOTE = {"TURBOSPEC_CONTROL_ADDRESS": "unix:/run/control.sock,control.example:7031"}
TLS_VARIABLES = ("TURBOSPEC_TLS_CA_FILE", "TURBOSPEC_TLS_CERT_FILE", "TURBOSPEC_TLS_KEY_FILE")


def test_plain_text_beyond_this_machine_must_be_meant() -> None:
    for env in (REMOTE, {**ADDRESS, "TURBOSPEC_OTLP_ADDRESS": "10.0.0.7:4317"}):
        with pytest.raises(ConfigError, match="TURBOSPEC_INSECURE=1"):
            EngineConfig.from_env(env)
        assert EngineConfig.from_env({**env, "TURBOSPEC_INSECURE": "1"}) is not None
    assert EngineConfig.from_env({"TURBOSPEC_CONTROL_ADDRESS": "localhost:7031,[::1]:7031"}) is not None


def test_tls_takes_all_three_files(tmp_path: Path) -> None:
    env = dict(REMOTE)
    for name in TLS_VARIABLES:
        (tmp_path / name).touch()
        env[name] = str(tmp_path / name)
    config = EngineConfig.from_env(env)
    assert config is not None
    assert config.tls == tuple(env[name] for name in TLS_VARIABLES)
    for missing in TLS_VARIABLES:
        with pytest.raises(ConfigError, match=f"{missing}.*all three or none"):
            EngineConfig.from_env({name: value for name, value in env.items() if name != missing})
