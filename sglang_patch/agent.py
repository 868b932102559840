"""The agent: a process beside each SGLang scheduler that talks to the network for it.

Started by ``AgentProcess``; its order comes as JSON on standard input. It reads asks and
step records from the board, keeps the decision stream and ships the spans. It ends
with the scheduler.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from typing import Final

from sglang_patch.board import Board
from sglang_patch.clock import SystemClock
from sglang_patch.exporter import SpanExporter
from sglang_patch.link import Link
from sglang_patch.order import Order

# How often the board is looked at: an ask then waits a quarter of a millisecond on average.
LOOK_S: Final = 0.0005
# After this many looks without an ask the engine is idle, and looking may be slower.
IDLE_LOOKS: Final = 400
IDLE_LOOK_S: Final = 0.005

_PR_SET_PDEATHSIG: Final = 1


def run(order: Order, stop: threading.Event) -> None:
    """Serve the board until ``stop`` is set."""
    board = Board(order.ring_size, order.max_batch_size, order.descriptor)
    exporter = SpanExporter(
        address=order.telemetry_address,
        profile=order.profile,
        board=board,
        interval_ms=order.export_interval_ms,
    )
    exporter.start()
    if order.decide:
        link = Link(address=order.control_address, profile=order.profile, board=board, clock=SystemClock())
        link.start()
        _pass_asks(board, link, stop)
        link.close()
    else:
        stop.wait()
    exporter.close()


def _pass_asks(board: Board, link: Link, stop: threading.Event) -> None:
    seen = looks = 0
    while not stop.wait(LOOK_S if looks < IDLE_LOOKS else IDLE_LOOK_S):
        sequence = board.ask_sequence
        if sequence == seen:
            looks += 1
            continue
        seen, looks = sequence, 0
        link.ask(board.newest_ask())


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s turbospec-agent] %(message)s")
    order = Order.load(sys.stdin.read())
    # Ends with the scheduler however that dies; it may have died while this process started.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    if os.getppid() == order.scheduler_pid:
        run(order, stop)


if __name__ == "__main__":
    main()
