"""The agent is started again whatever kept it from starting; its end is told to the step thread at once."""

import os
import sys

import pytest

from sglang_patch import agent_process
from sglang_patch.addresses import TlsFiles
from sglang_patch.agent_process import AgentProcess
from sglang_patch.board import Board
from sglang_patch.order import Order
from tests.support.wait import eventually
from turbospec.v1.control_pb2 import EngineProfile


def order(board: Board) -> Order:
    return Order(
        descriptor=board.descriptor,
        ring_size=board.ring_size,
        max_batch_size=board.max_batch_size,
        control_address="unix:/nowhere.sock",
        otlp_address="",
        tls=None,
        export_interval_ms=100,
        step_deadline_us=0,
        profile=EngineProfile(engine_id="test", epoch=1, candidate_num_steps=(0, 1)),
        scheduler_pid=os.getpid(),
    )


def test_an_agent_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_process, "FIRST_BACKOFF_S", 0.01)
    board = Board(16, 16)
    board.connect()
    process = AgentProcess(order(board), board)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/nowhere/python")
        process.start()
        assert eventually(lambda: not board.connected())
        assert process._thread.is_alive()
    try:
        assert eventually(lambda: process._process is not None)
    finally:
        process.close()
    assert eventually(lambda: not process._thread.is_alive())


def test_an_order_arrives_as_it_was_given() -> None:
    board = Board(16, 16)
    plain = order(board)
    assert Order.load(plain.dump()) == plain
    secured = plain._replace(tls=TlsFiles("ca", "certificate", "key"))
    assert Order.load(secured.dump()) == secured
