"""A setting is either understood or stops the engine with its name, its value and what is allowed."""

import pytest

from sglang_patch.config import ConfigError, EngineConfig

ADDRESS = {"TURBOSPEC_CONTROL_ADDRESS": "unix:/run/turbospec/control.sock"}


def test_no_address_means_not_active() -> None:
    assert EngineConfig.from_env({}) is None
    assert EngineConfig.from_env({"TURBOSPEC_CANDIDATES": "nonsense"}) is None


def test_defaults() -> None:
    config = EngineConfig.from_env(ADDRESS)
    assert config is not None
    assert config.mode == "enforce"
    assert config.candidates == ()
    assert config.telemetry_address == ADDRESS["TURBOSPEC_CONTROL_ADDRESS"]
    assert not config.kill_switch
    assert not config.strict


def test_everything_set() -> None:
    config = EngineConfig.from_env(
        {
            "TURBOSPEC_CONTROL_ADDRESS": "10.0.0.7:7031",
            "TURBOSPEC_OTLP_ADDRESS": "collector:4317",
            "TURBOSPEC_CANDIDATES": "0, 1,3",
            "TURBOSPEC_MODE": "shadow",
            "TURBOSPEC_STEP_DEADLINE_US": "500",
            "TURBOSPEC_KILL_SWITCH": "1",
            "TURBOSPEC_SERVICE_LISTEN": "belongs to the service",
        }
    )
    assert config is not None
    assert config.candidates == (0, 1, 3)
    assert config.telemetry_address == "collector:4317"
    assert (config.mode, config.step_deadline_us, config.kill_switch) == ("shadow", 500, True)


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
        ("TURBOSPEC_MODE", "Enforce"),
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
