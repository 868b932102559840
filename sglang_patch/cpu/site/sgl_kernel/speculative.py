"""The name from which SGLang's NGRAM worker takes its tree bookkeeping."""

from sglang_patch.cpu.functions import reconstruct_indices_from_tree_mask

__all__ = ["reconstruct_indices_from_tree_mask"]
