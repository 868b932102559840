"""The hooks in SGLang, by place: the scheduler's step boundaries and the three kinds of worker."""

from __future__ import annotations

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_patch.config import EngineConfig
from sglang_patch.hooks import eagle, ngram, scheduler
from sglang_patch.hooks.attach import Attacher

_EAGLE = "sglang.srt.speculative.eagle_worker_v2."
_NGRAM = "sglang.srt.speculative.ngram_worker.NGRAMWorker."
_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler."


def register(config: EngineConfig) -> None:
    """Hand every hook to SGLang's registry, which applies them all once plugins are loaded."""
    attach = Attacher(config)
    after, around = HookType.AFTER, HookType.AROUND

    HookRegistry.register(_SCHEDULER + "__init__", scheduler.started, after)
    HookRegistry.register(_SCHEDULER + "run_batch", scheduler.run_batch, around)
    HookRegistry.register(_SCHEDULER + "process_batch_result", scheduler.process_batch_result, around)
    HookRegistry.register(_SCHEDULER + "on_idle", scheduler.on_idle, after)

    for worker in (
        _EAGLE + "EAGLEWorkerV2",
        "sglang.srt.speculative.standalone_worker_v2.StandaloneWorkerV2",
    ):
        HookRegistry.register(worker + ".__init__", eagle.attacher(attach), after)
    HookRegistry.register(_EAGLE + "EagleDraftWorker.draft", eagle.draft, around)
    HookRegistry.register(_EAGLE + "EAGLEWorkerV2.verify", eagle.verify, around)
    HookRegistry.register(_EAGLE + "EagleDraftWorker._draft_extend_for_decode", eagle.draft_extend, around)

    HookRegistry.register(_NGRAM + "__init__", ngram.attacher(attach), after)
    HookRegistry.register(_NGRAM + "alloc_memory_pool", ngram.allocated, after)
    HookRegistry.register(_NGRAM + "forward_batch_generation", ngram.forward, around)
    HookRegistry.register(_NGRAM + "_prepare_for_speculative_decoding", ngram.prepare, around)
    HookRegistry.register(_NGRAM + "_prepare_draft_tokens", ngram.prepare_draft_tokens, around)
    HookRegistry.register(_NGRAM + "_update_ngram_corpus", ngram.update_corpus, around)
