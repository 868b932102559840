"""Kernels that let the released SGLang speculate on a machine without a GPU.

Why: of SGLang's attention backends only `intel_amx` can draft and verify on a CPU, and its kernels live in
`sgl_kernel`, of which no CPU wheel is published. This package stands in for it, for dense Llama-like models
in float32 and bfloat16, on any x86-64 or ARM processor (AMX is used, by oneDNN, if it is there).

How SGLang finds each piece (`python -m sglang_patch.launch ... --device cpu` sees to all of it):

- `activate` puts `site/` first on the path of every process. `site/sgl_kernel` is what SGLang imports;
  `site/torchvision` lets the CUDA-built torchvision wheel import on a CPU build of torch. It also answers
  yes when SGLang asks for AMX tiles, without which SGLang would not take the backend.
- `kernels` loads the compiled operators into `torch.ops.sgl_kernel`, where SGLang calls them (and where
  they run without the GIL), and adds refusals for those of other model families.
- `functions` are the few that SGLang imports by name.
- `hooks` refuses unsupported models while they load, and sends float32 weights and the LM head to the
  kernels.
- `build` compiles `csrc/` with g++ at first use, once per machine, source and torch version.
- `profile_step` measures where a step's time goes.

What the kernels promise: a row of a result has the same bits whatever is computed beside it (other
requests, other draft tokens), because its sums are always taken in the same order. So greedy outputs do not
change with the batch or the speculation length. Two exceptions: in bfloat16, forwards of more than 64
tokens (prefill, large verifications) go to oneDNN where the processor multiplies bfloat16 (AVX-512, AMX,
ARM's BF16), and weights whose dimensions are not multiples of 16 (out) and 32 (in) go to torch, neither of
which promises this.

Memory: weights stay as the checkpoint has them, nothing is packed or copied, tied embeddings are held once.
"""
