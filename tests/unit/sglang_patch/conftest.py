"""SGLang and what it imports warn as they are imported; that is theirs, not what these tests are about."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sglang.srt.managers.scheduler
    import sglang.srt.speculative.eagle_worker_v2
    import sglang.srt.speculative.ngram_worker
    import sglang.srt.speculative.standalone_worker_v2  # noqa: F401
