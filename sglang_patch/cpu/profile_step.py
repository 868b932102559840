"""Where a decode step's time goes on a CPU: the kernels by part, and the whole step as SGLang serves it.

    python -m sglang_patch.cpu.profile_step MODEL_DIRECTORY [--dtype bfloat16] [--context 128] [--rounds 9]

First table: every kernel call of one step, in order, with the model's shapes and as many layers (so weights
come from memory, not from the cache), for batches of 1 and 8 and verification widths of 1 to 8. Second table:
the step of a real engine without speculation. What lies between the two is SGLang's own Python. Medians, and
(lowest - highest) over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_patch.cpu import activate

BATCHES = (1, 8)
WIDTHS = range(1, 9)
SERVED_STEPS = 48


@dataclass(frozen=True)
class Shape:
    """What of a model's `config.json` sets the cost of a step."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @classmethod
    def read(cls, model: Path) -> Shape:
        """From a checkpoint's directory."""
        config = json.loads((model / "config.json").read_text())
        heads = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
        )


class KernelStep:
    """One decode step made of kernel calls alone, each timed and booked under its part."""

    def __init__(self, shape: Shape, dtype_name: str, context: int) -> None:
        import torch  # noqa: PLC0415  (after the environment is set)

        self._torch, self._ops = torch, torch.ops.sgl_kernel
        self._shape, self._context, self._dtype = shape, context, getattr(torch, dtype_name)
        self._layers = [self._weights() for _ in range(shape.layers)]
        self._head = self._random(shape.vocabulary, shape.hidden)
        self._norm = self._random(shape.hidden)
        self._angles = self._random(context + WIDTHS[-1] + 1, shape.head_dim)

    def run(self, batch: int, width: int) -> dict[str, float]:
        """Milliseconds by part, for `batch` requests of `width` tokens behind `context` committed ones."""
        torch, ops, shape = self._torch, self._ops, self._shape
        spent: dict[str, float] = defaultdict(float)

        def timed(part: str, operator: Callable[..., Any], *arguments: object) -> Any:
            started_s = time.perf_counter()
            result = operator(*arguments)
            spent[part] += (time.perf_counter() - started_s) * 1e3
            return result

        rows, length = batch * width, self._context + width
        requests = torch.arange(batch)
        table = torch.arange(batch * length, dtype=torch.int32).view(batch, length)
        lengths = torch.full((batch,), length)
        new_slots = table[:, self._context :].flatten().long()
        positions = torch.arange(self._context, length).repeat(batch)
        counts, starts = torch.full((batch,), width), torch.arange(0, rows, width)
        key_size, scale = shape.kv_heads * shape.head_dim, shape.head_dim**-0.5
        hidden, residual = self._random(rows, shape.hidden), self._random(rows, shape.hidden)
        for qkv_weight, out_weight, gate_up_weight, down_weight, k_cache, v_cache in self._layers:
            timed("norms", ops.fused_add_rmsnorm_cpu, hidden, residual, self._norm, 1e-5)
            fused = timed("linear", ops.weight_packed_linear, hidden, qkv_weight, None, True)
            query, key, value = fused.split([fused.shape[1] - 2 * key_size, key_size, key_size], dim=1)
            turn = (positions, query, key, shape.head_dim, self._angles, True)
            query, key = timed("rotary", ops.rotary_embedding_cpu, *turn)
            timed("attention", ops.store_cache_cpu, key, value, k_cache, v_cache, new_slots, key_size)
            seen = torch.empty_like(query)
            views = [t.view(rows, shape.heads, shape.head_dim) for t in (query, seen)]
            table_and_lengths = (table, requests, lengths, counts, starts, width)
            options = (scale, 0.0, False, 0, None, None, None, True)
            buffers = (views[1], k_cache, v_cache, 1.0, 1.0)
            timed(
                "attention",
                ops.extend_attention_cpu,
                views[0],
                key,
                value,
                *buffers,
                *table_and_lengths,
                *options,
            )
            hidden = timed("linear", ops.weight_packed_linear, seen, out_weight, None, True)
            timed("norms", ops.fused_add_rmsnorm_cpu, hidden, residual, self._norm, 1e-5)
            gate_up = timed("linear", ops.weight_packed_linear, hidden, gate_up_weight, None, True)
            active = timed("activation", ops.silu_and_mul_cpu, gate_up)
            hidden = timed("linear", ops.weight_packed_linear, active, down_weight, None, True)
        logits = timed("logits", ops.weight_packed_linear, hidden, self._head, None, True)
        timed("argmax", torch.argmax, logits, -1)
        return dict(spent)

    def _random(self, *sizes: int) -> Any:
        return (self._torch.randn(*sizes) * 0.02).to(self._dtype)

    def _weights(self) -> tuple[Any, ...]:
        shape = self._shape
        attention = shape.heads * shape.head_dim
        qkv = attention + 2 * shape.kv_heads * shape.head_dim
        cache = (BATCHES[-1] * (self._context + WIDTHS[-1]), shape.kv_heads, shape.head_dim)
        return (
            self._random(qkv, shape.hidden),
            self._random(shape.hidden, attention),
            self._random(2 * shape.intermediate, shape.hidden),
            self._random(shape.hidden, shape.intermediate),
            self._random(*cache),
            self._random(*cache),
        )


def show(values_ms: list[float]) -> str:
    """Median and spread."""
    return f"{statistics.median(values_ms):6.2f} ({min(values_ms):.2f} - {max(values_ms):.2f})"


def profile_kernels(shape: Shape, dtype: str, context: int, rounds: int) -> None:
    """Print the table of kernel times."""
    step = KernelStep(shape, dtype, context)
    print(f"Kernels of one step, {dtype}, context {context}: total ms, then the medians by part")
    for batch in BATCHES:
        for width in WIDTHS:
            step.run(batch, width)
            runs = [step.run(batch, width) for _ in range(rounds)]
            parts = "  ".join(
                f"{part} {statistics.median(run[part] for run in runs):.2f}" for part in runs[0]
            )
            print(f"  batch {batch} width {width}: {show([sum(run.values()) for run in runs])}   {parts}")


def profile_served(model: Path, dtype: str, context: int, rounds: int) -> None:
    """Print what a step takes in a real engine, from the time that further tokens take."""
    import sglang  # noqa: PLC0415

    engine = sglang.Engine(
        model_path=str(model),
        dtype=dtype,
        device="cpu",
        disable_cuda_graph=True,
        disable_radix_cache=True,
        skip_tokenizer_init=True,
        max_total_tokens=BATCHES[-1] * (context + 2 * SERVED_STEPS),
        max_running_requests=BATCHES[-1],
        log_level="error",
    )

    def seconds(batch: int, tokens: int) -> float:
        prompts = [[100 + i] * context for i in range(batch)]
        started_s = time.perf_counter()
        engine.generate(
            input_ids=prompts,
            sampling_params={"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True},
        )
        return time.perf_counter() - started_s

    try:
        print(f"A served step without speculation, {dtype}, context {context}: ms")
        for batch in BATCHES:
            seconds(batch, 2)
            times = [seconds(batch, SERVED_STEPS + 1) - seconds(batch, 1) for _ in range(rounds)]
            print(f"  batch {batch}: {show([spent * 1e3 / SERVED_STEPS for spent in times])}")
    finally:
        engine.shutdown()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="directory of a checkpoint")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--context", type=int, default=128, help="committed tokens per request")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    activate.mark_environment(os.environ)
    activate.activate_in_process()
    profile_kernels(Shape.read(options.model), options.dtype, options.context, options.rounds)
    profile_served(options.model, options.dtype, options.context, options.rounds)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__" and activate.is_marked():
    activate.activate_in_process()
