"""What is compared: each variant is one way to launch the same SGLang on the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

ALGORITHMS = ("STANDALONE", "EAGLE", "NGRAM")


class VariantKind(StrEnum):
    """Who decides the speculation length."""

    NOSPEC = "nospec"  # nobody: launched without a drafter
    FIXED = "fixed"  # the launch flags
    ADAPTIVE = "adaptive"  # SGLang's own --speculative-adaptive
    TURBOSPEC = "turbospec"  # our plugin and control service


@dataclass(frozen=True, slots=True)
class Variant:
    """One launch of the engine; `num_steps` is the length of a fixed one, else 0.

    >>> Variant.parse("fixed:3").label, Variant.parse("nospec").label
    ('fixed:3', 'nospec')
    """

    kind: VariantKind
    num_steps: int = 0

    @property
    def label(self) -> str:
        return f"{self.kind}:{self.num_steps}" if self.kind is VariantKind.FIXED else str(self.kind)

    @classmethod
    def parse(cls, label: str) -> Variant:
        """The variant that `label` names.

        Raises:
            ValueError: the label names none.
        """
        name, _, length = label.partition(":")
        fixed = name == VariantKind.FIXED
        if (
            name not in set(VariantKind)
            or fixed != (length.isdigit() and int(length) > 0)
            or (length and not fixed)
        ):
            raise ValueError(
                f"variant={label!r}: allowed are nospec, fixed:K with K > 0, adaptive, turbospec"
            )
        return cls(VariantKind(name), int(length) if fixed else 0)


def variants_for(algorithm: str, lengths: tuple[int, ...]) -> list[Variant]:
    """Everything that can be compared under `algorithm`: `adaptive` exists for EAGLE only."""
    variants = [Variant(VariantKind.NOSPEC), *(Variant(VariantKind.FIXED, k) for k in lengths)]
    if algorithm == "EAGLE":
        variants.append(Variant(VariantKind.ADAPTIVE))
    return [*variants, Variant(VariantKind.TURBOSPEC)]


def hosts(variants: Sequence[Variant], *, arms: bool) -> dict[Variant, tuple[Variant, ...]]:
    """The variants that are launched, and what each of them plays, itself first.

    arms: whether our server plays the fixed lengths too.
    """
    ours = next((variant for variant in variants if variant.kind is VariantKind.TURBOSPEC), None)
    fixed = tuple(variant for variant in variants if variant.kind is VariantKind.FIXED)
    if not arms or ours is None:
        return {variant: (variant,) for variant in variants}
    return {
        variant: (variant, *fixed) if variant is ours else (variant,)
        for variant in variants
        if variant not in fixed
    }


def speculation_flags(
    variant: Variant, algorithm: str, draft_model: str | None, lengths: tuple[int, ...]
) -> list[str]:
    """SGLang's flags for `variant`; all other flags are the same for every variant.

    `lengths` are the lengths compared, 0 excluded; turbospec is launched at the largest of them.

    Raises:
        ValueError: the algorithm needs a draft model and none is given, or has no such variant.
    """
    if variant.kind is VariantKind.NOSPEC:
        return []
    flags = ["--speculative-algorithm", algorithm]
    if algorithm == "NGRAM":
        flags += ["--speculative-ngram-min-bfs-breadth", "1", "--speculative-ngram-max-bfs-breadth", "1"]
    elif draft_model:
        flags += ["--speculative-draft-model-path", draft_model, "--speculative-eagle-topk", "1"]
    else:
        raise ValueError(f"algorithm={algorithm!r} needs a draft model, and this model has none for it")
    if variant.kind is VariantKind.ADAPTIVE:
        if algorithm != "EAGLE":
            raise ValueError(f"variant='adaptive' exists for EAGLE only, not for algorithm={algorithm!r}")
        return [*flags, "--speculative-adaptive"]
    num_steps = variant.num_steps if variant.kind is VariantKind.FIXED else max(lengths)
    if algorithm != "NGRAM":
        flags += ["--speculative-num-steps", str(num_steps)]
    return [*flags, "--speculative-num-draft-tokens", str(num_steps + 1)]


def plan_groups(variants: list[Variant], capacity: int) -> list[list[Variant]]:
    """Split `variants` so that at most `capacity` servers are up at once, in their given order.

    `nospec` and `turbospec` are in every group, so that every ratio pairs runs of one group.

    Raises:
        ValueError: the capacity leaves no room for anything beside those two.
    """
    if len(variants) <= capacity:
        return [variants]
    anchors = [v for v in variants if v.kind in (VariantKind.NOSPEC, VariantKind.TURBOSPEC)]
    others = [v for v in variants if v not in anchors]
    room = capacity - len(anchors)
    if room < 1:
        raise ValueError(
            f"memory for {capacity} servers at once is too little: {len(anchors) + 1} are needed"
        )
    return [
        [v for v in variants if v in anchors or v in others[start : start + room]]
        for start in range(0, len(others), room)
    ]
