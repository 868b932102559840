"""Mutual TLS on the engine's side: stream and step records, with certificates that are renewed meanwhile."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificates import AuthorityFiles
from tests.support.scripted_service import ScriptedService
from tests.support.stepped_engine import SteppedEngine
from tests.support.wait import eventually
from turbospec.v1 import telemetry as names


@pytest.fixture
def authority(tmp_path: Path) -> AuthorityFiles:
    return AuthorityFiles(tmp_path / "authority")


@pytest.fixture
def service(authority: AuthorityFiles) -> Iterator[tuple[ScriptedService, str]]:
    scripted = ScriptedService(lambda step: 3)
    address = scripted.start_tcp(authority.server_credentials())
    yield scripted, address
    scripted.stop()


def controlled(engine: SteppedEngine, timeout_s: float = 15.0) -> bool:
    return eventually(lambda: names.SOURCES[engine.step().decision.source] == names.SOURCE_LEASE, timeout_s)


def test_stream_and_records_go_over_tls_and_certificates_are_read_again(
    authority: AuthorityFiles, service: tuple[ScriptedService, str]
) -> None:
    engine = SteppedEngine(service[1], **authority.engine_environment())
    engine.start()
    try:
        assert controlled(engine, 30)
        assert eventually(lambda: len(service[0].spans()) > 0)
        service[0].stop()
        # The authority itself is replaced, and with it the certificates of both ends.
        renewed = AuthorityFiles(authority.ca_file.parent)
        renewed.engine_environment()
        successor = ScriptedService(lambda step: 1)
        port = int(service[1].rpartition(":")[2])
        successor.start_tcp(renewed.server_credentials(), port)
        try:
            assert controlled(engine)
            assert engine.step().num_steps == 1
        finally:
            successor.stop()
    finally:
        engine.control.close()


def test_a_service_of_another_authority_is_not_obeyed(
    service: tuple[ScriptedService, str], tmp_path: Path
) -> None:
    stranger = AuthorityFiles(tmp_path / "stranger")
    engine = SteppedEngine(service[1], **stranger.engine_environment())
    engine.start()
    try:
        assert not controlled(engine, 3)
        assert service[0].profiles == []
    finally:
        engine.control.close()


def test_an_engine_without_a_certificate_is_not_served(service: tuple[ScriptedService, str]) -> None:
    engine = SteppedEngine(service[1])
    engine.start()
    try:
        assert not controlled(engine, 3)
        assert service[0].profiles == []
    finally:
        engine.control.close()
