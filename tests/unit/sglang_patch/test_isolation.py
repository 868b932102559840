"""Our own failure on the step thread ends control and nothing else: SGLang's calls return its own results."""

import ast
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sglang_patch
from sglang_patch.accept_history import AcceptHistory
from sglang_patch.board import Board
from sglang_patch.config import EngineConfig
from sglang_patch.control import LAST_FAILURE, StepControl
from sglang_patch.decision import ERROR, FALLBACK
from sglang_patch.hooks import eagle, ngram, scheduler
from sglang_patch.hooks.attach import Attacher, carry, control_of
from sglang_patch.mailbox import Mailbox
from sglang_patch.recorder import StepRecorder
from sglang_patch.switches import Switches

CANDIDATES = (0, 1, 3)
LAUNCH = 3


def config(**env: str) -> EngineConfig:
    made = EngineConfig.from_env({"TURBOSPEC_CONTROL_ADDRESS": "unix:/nowhere.sock", **env})
    assert made is not None
    return made


class Engine:
    """The parts of SGLang's scheduler that the hooks touch, and the hooks as SGLang's registry calls them."""

    def __init__(self) -> None:
        self.control = StepControl(config(), CANDIDATES, LAUNCH, 16)
        self.scheduler = SimpleNamespace(
            waiting_queue=[], running_batch=SimpleNamespace(reqs=[], seq_lens_cpu=None), _sched_idled=False
        )
        carry(self.scheduler, self.control)
        self.draft_worker = SimpleNamespace()
        carry(self.draft_worker, self.control)
        self.control.times_phases = True

    def batch(self, *, decode: bool) -> Any:
        return SimpleNamespace(
            reqs=[SimpleNamespace(spec_verify_ct=1), SimpleNamespace(spec_verify_ct=0)],
            seq_lens_cpu=torch.tensor([7, 9]),
            forward_mode=SimpleNamespace(is_decode=lambda: decode),
            spec_info="of the step before",
        )

    def prefill_and_decode(self) -> None:
        """A prefill, a decode step with its phases, its result, and an idle engine; all as SGLang made it."""
        for decode in (False, True):
            batch = self.batch(decode=decode)
            made = SimpleNamespace(
                speculative_num_draft_tokens=self.control.num_steps + 1,
                num_correct_drafts_per_req_cpu=[0, 0],
            )

            def run(_scheduler: Any, _batch: Any, made: Any = made) -> Any:
                for phase in (eagle.draft, eagle.verify, eagle.draft_extend):
                    drafted = object()
                    assert phase(lambda _owner, drafted=drafted: drafted, self.draft_worker) is drafted
                return made

            assert scheduler.run_batch(run, self.scheduler, batch) is made
            processed = object()
            process = lambda *_, processed=processed: processed  # noqa: E731
            returned = scheduler.process_batch_result(process, self.scheduler, batch, made)
            assert returned is processed
        scheduler.on_idle(None, self.scheduler)


def broken(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("ours")


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (StepControl, "begin"),
        (StepControl, "begin_other"),
        (StepControl, "processed"),
        (StepControl, "idle"),
        (AcceptHistory, "take"),
        (AcceptHistory, "clear"),
        (Mailbox, "at_hand"),
        (Mailbox, "wait"),
        (Board, "lease"),
        (Board, "ask"),
        (Board, "push"),
        (StepRecorder, "launch"),
        (StepRecorder, "processed"),
        (StepRecorder, "end"),
        (StepRecorder, "running"),
    ],
)
def test_an_exception_anywhere_on_the_step_thread_ends_control_and_nothing_else(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(owner, name, property(broken) if name == "running" else broken)
    engine = Engine()
    for _ in range(10):
        engine.prefill_and_decode()
    assert engine.control.failed
    assert engine.control.num_steps == 0
    assert engine.control.board.disabled(), "the agent and the operator know"
    traces = [record for record in caplog.records if record.exc_info]
    assert len(traces) == 1, "one trace, whatever follows"
    assert "control is off" in traces[0].getMessage()
    assert traces[0].levelno == logging.ERROR
    assert engine.control.silent == (engine.control.board.failures >= LAST_FAILURE)
    assert engine.control.board.failures <= LAST_FAILURE + 3, (
        "what fails again and again is not called any more"
    )


def test_nothing_fails_by_itself() -> None:
    engine = Engine()
    for _ in range(10):
        engine.prefill_and_decode()
    assert not engine.control.failed
    assert len(engine.control.board.take(99)) == 10


def test_a_failure_once_leaves_records_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    with monkeypatch.context() as patch:
        patch.setattr(Mailbox, "at_hand", broken)
        scheduler.run_batch(lambda *_: SimpleNamespace(), engine.scheduler, engine.batch(decode=True))
    assert engine.control.board.failures == 1
    for _ in range(3):
        engine.prefill_and_decode()
    records = engine.control.board.take(99)
    assert len(records) == 3
    assert all((r.decision.source, r.decision.reason, r.num_steps) == (FALLBACK, ERROR, 0) for r in records)
    assert not engine.control.silent


def test_sglangs_own_exceptions_pass_through_every_hook() -> None:
    engine = Engine()
    calls: list[Callable[[], Any]] = [
        lambda: scheduler.run_batch(broken, engine.scheduler, engine.batch(decode=True)),
        lambda: eagle.draft(broken, engine.draft_worker),
        lambda: ngram.forward(broken, Worker(engine.control), engine.batch(decode=True)),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="ours"):
            call()
    assert not engine.control.failed


def test_a_failed_start_leaves_the_engine_at_length_0(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(scheduler, "engine_profile", broken)
    made = SimpleNamespace(model_worker=engine.draft_worker)
    scheduler.started(None, made)
    assert control_of(made) is engine.control
    assert (engine.control.failed, engine.control.num_steps) == (True, 0)


class Worker(SimpleNamespace):
    """An NGRAM worker as far as the hooks know it; ``forward`` makes what SGLang's makes, by shape."""

    def __init__(self, control: StepControl | None = None) -> None:
        super().__init__(draft_token_num=LAUNCH + 1, speculative_num_draft_tokens=LAUNCH + 1, device="cpu")
        self._init_preallocated_tensors()
        if control is not None:
            carry(self, control)
            ngram.allocated(None, self)

    def _init_preallocated_tensors(self) -> None:
        for name in ngram._BUFFERS:
            setattr(self, name, f"{name} of {self.draft_token_num}")

    def forward(self, batch: Any) -> Any:
        count = len(batch.reqs) * self.draft_token_num
        return SimpleNamespace(
            next_draft_input=SimpleNamespace(
                accept_tokens=torch.zeros(count), draft_token_num=self.draft_token_num
            )
        )


@pytest.mark.parametrize(("owner", "name"), [(ngram.Widths, "use"), (ngram, "_widen")])
def test_ngram_runs_on_with_a_whole_width(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    control = StepControl(config(), CANDIDATES, LAUNCH, 16)
    worker, engine = Worker(control), Engine()
    control.num_steps = 1
    monkeypatch.setattr(owner, name, broken)
    for _ in range(5):
        made: list[Any] = []

        def forward(worker: Any, batch: Any, made: list[Any] = made) -> Any:
            buffers = {getattr(worker, name) for name in ngram._BUFFERS}
            assert buffers == {f"{name} of {worker.draft_token_num}" for name in ngram._BUFFERS}
            made.append(worker.forward(batch))
            return made[0]

        assert ngram.forward(forward, worker, engine.batch(decode=True)) is made[0]
    assert (control.failed, control.num_steps) == (True, 0)
    assert sum(bool(record.exc_info) for record in caplog.records) == 1


def test_an_ngram_worker_whose_widths_cannot_be_made_stays_as_launched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ngram.Widths, "use", broken)
    control = StepControl(config(), CANDIDATES, LAUNCH, 16)
    worker = Worker(control)
    assert control_of(worker) is None
    assert worker.draft_token_num == LAUNCH + 1
    assert worker.positions_batch == f"positions_batch of {LAUNCH + 1}"


@pytest.mark.parametrize("attacher", [eagle.attacher, ngram.attacher])
def test_a_worker_that_cannot_be_attached_stays_as_launched(
    attacher: Callable[[Attacher], Callable[..., None]], caplog: pytest.LogCaptureFixture
) -> None:
    worker = SimpleNamespace()
    attacher(Attacher(config()))(None, worker)
    assert control_of(worker) is None
    assert "runs as launched" in caplog.text


def test_a_setting_that_cannot_be_used_still_stops_the_engine() -> None:
    args = SimpleNamespace(tp_size=1, pp_size=1, dp_size=1, max_running_requests=4)
    worker = SimpleNamespace(server_args=args, draft_token_num=3, device="cpu")
    with pytest.raises(SystemExit, match="TURBOSPEC_CANDIDATES"):
        ngram.attacher(Attacher(config(TURBOSPEC_CANDIDATES="0,7")))(None, worker)


def wall_clock_reads() -> Iterator[tuple[str, str]]:
    """Every mention of a clock that can jump, by file."""
    for path in Path(sglang_patch.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"time", "time_ns", "now", "utcnow", "today"}:
                yield path.name, f"{ast.unparse(node.value)}.{node.attr}"


def test_no_decision_depends_on_a_clock_that_can_jump() -> None:
    # The epoch must grow from one start of the engine to the next; spans carry Unix time, by one offset.
    assert set(wall_clock_reads()) == {("profile.py", "time.time_ns"), ("exporter.py", "time.time_ns")}


def test_switches_that_fail_do_not_reach_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Switches(
        kill=False, kill_file=str(tmp_path / "kill"), mode=config().mode, mode_file=str(tmp_path / "mode")
    )
    made.changed = broken
    (tmp_path / "kill").touch()
    made._watch_once()
    assert made.killed, "what the file says holds even so"
