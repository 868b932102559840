"""The command lines that `turbospec up` builds: what SGLang and the service are really told."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_service.cli.commands import (
    Speculation,
    choose_speculation,
    service_command,
    sglang_command,
    sglang_environment,
)
from control_service.cli.errors import CliError
from control_service.cli.models import Model, resolve_model
from control_service.cli.up import _served_name
from tests.unit.cli.factory import up_options

PLAIN = Model("some/model", "some/model", "NGRAM")
KNOB = Model(
    "knob/target", "knob", "STANDALONE", {"STANDALONE": "knob/draft", "EAGLE": "knob/eagle"}, ("--x", "1")
)


def value_of(command: list[str], flag: str) -> str:
    """What argparse would take: the last one wins."""
    position = len(command) - 1 - command[::-1].index(flag)
    return command[position + 1]


def test_a_model_without_a_draft_speculates_by_ngram() -> None:
    assert choose_speculation(up_options(), PLAIN) == Speculation("NGRAM", None)


def test_a_model_brings_its_own_drafts() -> None:
    assert choose_speculation(up_options(), KNOB) == Speculation("STANDALONE", "knob/draft")
    assert choose_speculation(up_options(algorithm="EAGLE"), KNOB) == Speculation("EAGLE", "knob/eagle")


def test_the_users_draft_wins_over_the_models() -> None:
    options = up_options(algorithm="STANDALONE", draft="mine")
    assert choose_speculation(options, KNOB) == Speculation("STANDALONE", "mine")


@pytest.mark.parametrize(
    ("algorithm", "draft", "message"),
    [
        (None, "mine", "--draft is 'mine', so --algorithm must be given; allowed: EAGLE, EAGLE3, STANDALONE"),
        ("NGRAM", "mine", "--draft is 'mine', but NGRAM takes none"),
        ("NONE", "mine", "--draft is 'mine', but NONE takes none"),
        ("EAGLE3", None, "--algorithm is 'EAGLE3', which needs --draft"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    algorithm: str | None, draft: str | None, message: str
) -> None:
    with pytest.raises(CliError, match=message):
        choose_speculation(up_options(algorithm=algorithm, draft=draft), KNOB)


@pytest.mark.parametrize("algorithm", ["EAGLE", "EAGLE3", "STANDALONE"])
def test_a_drafting_engine_is_launched_at_the_longest_length_as_a_chain(algorithm: str) -> None:
    command = sglang_command(up_options(candidates=(0, 2, 7)), PLAIN, Speculation(algorithm, "some/draft"))
    assert value_of(command, "--speculative-algorithm") == algorithm
    assert value_of(command, "--speculative-draft-model-path") == "some/draft"
    assert value_of(command, "--speculative-num-steps") == "7"
    assert value_of(command, "--speculative-num-draft-tokens") == "8"
    assert value_of(command, "--speculative-eagle-topk") == "1"


def test_ngram_is_launched_at_the_longest_length_as_a_chain() -> None:
    command = sglang_command(up_options(candidates=(0, 2, 7)), PLAIN, Speculation("NGRAM", None))
    assert value_of(command, "--speculative-num-draft-tokens") == "8"
    assert value_of(command, "--speculative-ngram-min-bfs-breadth") == "1"
    assert value_of(command, "--speculative-ngram-max-bfs-breadth") == "1"
    assert "--speculative-num-steps" not in command


def test_without_speculation_sglang_is_plain_and_uncontrolled() -> None:
    off = Speculation("NONE", None)
    assert not any("speculative" in word for word in sglang_command(up_options(), PLAIN, off))
    leftovers = {"TURBOSPEC_CONTROL_ADDRESS": "left:1", "TURBOSPEC_MODE": "enforce", "HOME": "/root"}
    environment = sglang_environment(up_options(), off, leftovers)
    assert not any(name.startswith("TURBOSPEC_") for name in environment)
    assert environment["HOME"] == "/root"


def test_the_users_flags_come_last_and_win() -> None:
    options = up_options(sglang_flags=("--context-length", "512", "--served-model-name=mine"))
    model = Model("m", "m", "NGRAM", flags=("--context-length", "4096"))
    command = sglang_command(options, model, Speculation("NGRAM", None))
    assert value_of(command, "--context-length") == "512"
    assert _served_name(options, model) == "mine"
    assert _served_name(up_options(sglang_flags=("--served-model-name", "other")), model) == "other"
    assert _served_name(up_options(), model) == "m"


def test_the_engine_is_told_who_controls_it_and_what_it_may_run() -> None:
    environment = sglang_environment(up_options(), Speculation("NGRAM", None), {"PATH": "/bin"})
    assert environment["TURBOSPEC_CONTROL_ADDRESS"] == "unix:/run/somewhere/control.sock"
    assert environment["TURBOSPEC_CANDIDATES"] == "0,1,2,3,5"
    assert environment["TURBOSPEC_ENGINE_ID"] == "127.0.0.1:30000"
    assert environment["PATH"].endswith(":/bin")


def test_service_and_engine_are_told_the_same_address() -> None:
    command = service_command(up_options(mode="shadow", metrics_port=1234))
    assert value_of(command, "--listen") == up_options().control_address
    assert value_of(command, "--metrics-listen") == "127.0.0.1:1234"
    assert value_of(command, "--mode") == "shadow"


def test_built_in_models_are_made_and_named(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def make(arguments: object) -> Path:
        assert isinstance(arguments, list)
        asked.append(arguments)
        return tmp_path

    assert resolve_model("smollm2", make).served_name == "smollm2-135m-instruct"
    knob = resolve_model("knob:0.06", make)
    assert knob.path == str(tmp_path / "target")
    assert knob.drafts == {"STANDALONE": str(tmp_path / "draft"), "EAGLE": str(tmp_path / "eagle")}
    resolve_model("knob", make)
    assert asked == [
        ["sglang_patch.models.smollm2"],
        ["sglang_patch.models.knob", "--scale", "0.06"],
        ["sglang_patch.models.knob", "--scale", "0.02"],
    ]


def test_other_models_are_left_to_sglang(tmp_path: Path) -> None:
    def make(arguments: object) -> Path:
        raise AssertionError(arguments)

    assert resolve_model("org/name", make).path == "org/name"
    assert resolve_model(str(tmp_path), make).path == str(tmp_path)
    for wrong in (str(tmp_path / "missing"), "knob:", "knob:2", "knob:x"):
        with pytest.raises(CliError, match="--model is "):
            resolve_model(wrong, make)
