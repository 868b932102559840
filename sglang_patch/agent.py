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
import time
from typing import Final

from sglang_patch.board import Board
from sglang_patch.clock import SystemClock
from sglang_patch.exporter import Collector, SpanExporter
from sglang_patch.link import Link
from sglang_patch.order import Order

# Asks come one a step. After one, the agent sleeps half of the time until the next one that matters, then
# looks this often: an agent that looked all the time would take cycles, and on one core's second thread
# the step's own.
LOOK_S: Final = 0.0005
UNLEASED_SLEEP_S: Final = 0.005
# While a lease holds for some steps more, or the engine idles and the heartbeat keeps its lease, nothing is
# to be passed on but a batch that its tiers do not cover. Who wakes finds cold caches, so it costs more than
# what is done then.
LONGEST_SLEEP_S: Final = 0.02
IDLE_S: Final = 0.25

_PR_SET_PDEATHSIG: Final = 1


def run(order: Order, stop: threading.Event) -> None:
    """Serve the board until ``stop`` is set."""
    board = Board(order.ring_size, order.max_batch_size, order.descriptor)
    link = Link(
        address=order.control_address,
        profile=order.profile,
        board=board,
        clock=SystemClock(),
        tls=order.tls,
        step_deadline_us=order.step_deadline_us,
    )
    exporter = SpanExporter(
        way=Collector(order.otlp_address, order.tls) if order.otlp_address else link,
        profile=order.profile,
        board=board,
        interval_ms=order.export_interval_ms,
    )
    link.start()
    exporter.start()
    _pass_asks(board, link, stop)
    # The records first: they may go the way of the stream.
    exporter.close()
    link.close()


def _pass_asks(board: Board, link: Link, stop: threading.Event) -> None:
    seen, left = 0, 0
    asked_s = time.monotonic()
    nap_s = LOOK_S
    while not stop.is_set():
        time.sleep(nap_s)
        link.tick()
        sequence = board.ask_sequence
        if sequence == seen:
            # Nothing yet: look closely while one is due that matters, seldom once the engine idles.
            due = left == 0 and time.monotonic() - asked_s < IDLE_S
            nap_s = LOOK_S if due else LONGEST_SLEEP_S
            continue
        left = link.ask(board.newest_ask())
        now_s = time.monotonic()
        interval_s = (now_s - asked_s) / (sequence - seen)
        longest_s = LONGEST_SLEEP_S if left else UNLEASED_SLEEP_S
        nap_s = min(max(interval_s * (left + 1) / 2, LOOK_S), longest_s)
        seen, asked_s = sequence, now_s


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
