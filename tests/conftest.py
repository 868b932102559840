"""Tests that import SGLang do it as our launcher does: with the CPU kernels in place."""

import os

from sglang_patch.cpu import activate

activate.mark_environment(os.environ)
activate.activate_in_process()
# Services that tests start keep nothing, unless a test is about that.
os.environ["TURBOSPEC_SERVICE_STORE"] = ""
