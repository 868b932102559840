"""Everything of SGLang that the plugin relies on, in one list, checked before anything is applied.

SGLang's plugin loader logs and swallows what goes wrong, so a hook that no longer
fits would leave an engine half patched. Here every target must be present with the
parameters we call it by and every attribute we read must still be an attribute;
otherwise nothing is applied and the drift is named.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any, Final, NamedTuple

TESTED_SGLANG: Final = "0.5.23"


class Callable_(NamedTuple):
    """A function or method, with the leading parameters we rely on."""

    path: str
    parameters: tuple[str, ...]


class Attribute(NamedTuple):
    """An attribute of a class's instances: a field, a member, or a name its own methods use."""

    owner: str
    name: str


_SRT: Final = "sglang.srt."
_EAGLE: Final = _SRT + "speculative.eagle_worker_v2."
_STANDALONE: Final = _SRT + "speculative.standalone_worker_v2."
_NGRAM: Final = _SRT + "speculative.ngram_worker.NGRAMWorker"
_SCHEDULER: Final = _SRT + "managers.scheduler.Scheduler"
_BATCH: Final = _SRT + "managers.schedule_batch.ScheduleBatch"
_RESULT: Final = _SRT + "managers.utils.GenerationBatchResult"
_CONTROLLER: Final = _SRT + "speculative.adaptive_runtime_state.AdaptiveController"
_WORKER_INIT: Final = ("self", "server_args", "gpu_id", "nccl_port", "target_worker")

CONTRACT: Final[tuple[Callable_ | Attribute, ...]] = (
    # Plugin loading
    Callable_(_SRT + "plugins.hook_registry.HookRegistry.register", ("target", "hook", "hook_type")),
    # Step boundaries and results
    Callable_(_SCHEDULER + ".__init__", ("self", "server_args", "port_args")),
    Callable_(_SCHEDULER + ".run_batch", ("self", "batch")),
    Callable_(_SCHEDULER + ".process_batch_result", ("self", "batch", "result")),
    Callable_(_SCHEDULER + ".on_idle", ("self",)),
    Attribute(_SCHEDULER, "_sched_idled"),
    Attribute(_SCHEDULER, "waiting_queue"),
    Attribute(_SCHEDULER, "running_batch"),
    Attribute(_SCHEDULER, "model_worker"),
    Attribute(_SCHEDULER, "max_running_requests"),
    Attribute(_SCHEDULER, "server_args"),
    Attribute(_BATCH, "reqs"),
    Attribute(_BATCH, "forward_mode"),
    Attribute(_BATCH, "seq_lens_cpu"),
    Attribute(_SRT + "managers.schedule_batch.Req", "spec_verify_ct"),
    Attribute(_RESULT, "num_correct_drafts_per_req_cpu"),
    Attribute(_RESULT, "speculative_num_draft_tokens"),
    # EAGLE and STANDALONE: SGLang's own run-time states, steered by a policy of ours
    Callable_(_EAGLE + "EAGLEWorkerV2.__init__", _WORKER_INIT),
    Callable_(_STANDALONE + "StandaloneWorkerV2.__init__", _WORKER_INIT),
    Callable_(_EAGLE + "EAGLEWorkerV2.activate_step_by_batch", ("self", "batch_size")),
    Callable_(_EAGLE + "EAGLEWorkerV2.verify", ("self", "batch")),
    Callable_(_EAGLE + "EagleDraftWorker.draft", ("self", "batch")),
    Callable_(_EAGLE + "EagleDraftWorker._draft_extend_for_decode", ("self", "batch", "batch_result")),
    Callable_(_CONTROLLER + ".__init__", ("self", "worker", "policy")),
    Callable_(_CONTROLLER + ".activate_step_by_batch", ("self", "batch_size")),
    Attribute(_EAGLE + "EAGLEWorkerV2", "adaptive_controller"),
    Attribute(_EAGLE + "EAGLEWorkerV2", "speculative_num_steps"),
    Attribute(_EAGLE + "EAGLEWorkerV2", "topk"),
    # NGRAM: the width of the verified tree
    Callable_(_NGRAM + ".__init__", _WORKER_INIT),
    Callable_(_NGRAM + ".alloc_memory_pool", ("self",)),
    Callable_(_NGRAM + "._init_preallocated_tensors", ("self",)),
    Callable_(_NGRAM + ".forward_batch_generation", ("self", "batch")),
    Callable_(_NGRAM + "._prepare_for_speculative_decoding", ("self", "batch")),
    Callable_(_NGRAM + "._prepare_draft_tokens", ("self", "batch")),
    Callable_(_NGRAM + "._update_ngram_corpus", ("self", "batch")),
    Attribute(_NGRAM, "draft_token_num"),
    Attribute(_NGRAM, "speculative_num_draft_tokens"),
    # ... and its steps of length 0 on a CPU
    Attribute(_NGRAM, "enable_overlap"),
    Attribute(_NGRAM, "model_runner"),
    Attribute(_SRT + "model_executor.model_runner.ModelRunner", "watermark_state"),
    *(
        Attribute(_BATCH, name)
        for name in (
            "input_ids",
            "out_cache_loc",
            "seq_lens",
            "seq_lens_sum",
            "spec_info",
            "req_pool_indices",
            "req_to_token_pool",
            "return_logprob",
            "return_hidden_states",
            "has_grammar",
        )
    ),
    Attribute(_SRT + "managers.schedule_batch.Req", "output_ids"),
    *(
        Attribute(_NGRAM, name + "_batch")
        for name in (
            "retrieve_indexes",
            "retrieve_next_token",
            "retrieve_next_sibling",
            "positions",
            "draft_tokens",
            "tree_mask",
        )
    ),
    Attribute(_SRT + "speculative.ngram_info.NgramVerifyInput", "accept_tokens"),
    Attribute(_SRT + "speculative.ngram_info.NgramVerifyInput", "draft_token_num"),
)


class ContractDrift(RuntimeError):
    """SGLang is not what the plugin was written against; ``drifts`` says where."""

    def __init__(self, drifts: list[str]) -> None:
        super().__init__("; ".join(drifts))
        self.drifts = drifts


def verify(contract: Iterable[Callable_ | Attribute] = CONTRACT) -> None:
    """Check every entry.

    Raises:
        ContractDrift: naming every entry that does not hold.
    """
    drifts = [drift for entry in contract if (drift := _drift(entry))]
    if drifts:
        raise ContractDrift(drifts)


def sglang_version() -> str:
    version: str = importlib.import_module("sglang.version").__version__
    return version


def _drift(entry: Callable_ | Attribute) -> str:
    path = entry.path if isinstance(entry, Callable_) else entry.owner
    try:
        found = pkgutil.resolve_name(path)
    except (ImportError, AttributeError) as error:
        return f"{path} is gone ({error})"
    if isinstance(entry, Attribute):
        return (
            "" if entry.name in _attribute_names(found) else f"{path} has no attribute {entry.name} any more"
        )
    if not callable(found):
        return f"{path} is not callable any more"
    parameters = tuple(inspect.signature(inspect.unwrap(found)).parameters)
    if parameters[: len(entry.parameters)] != entry.parameters:
        return f"{path} takes ({', '.join(parameters)}), expected ({', '.join(entry.parameters)}, ...)"
    return ""


def _attribute_names(owner: type) -> set[str]:
    names = set(dir(owner))
    if dataclasses.is_dataclass(owner):
        names.update(field.name for field in dataclasses.fields(owner))
    for cls in owner.__mro__[:-1]:
        names.update(inspect.get_annotations(cls))
        for member in vars(cls).values():
            for code in _code_of(member):
                names.update(code.co_names)
    return names


def _code_of(member: Any) -> Iterator[CodeType]:
    """The code of a method, however it is wrapped, and of functions inside it."""
    function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)))
    pending = [function.__code__] if hasattr(function, "__code__") else []
    while pending:
        code = pending.pop()
        yield code
        pending.extend(constant for constant in code.co_consts if isinstance(constant, CodeType))
