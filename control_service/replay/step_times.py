"""What a decode step costs: a linear model, and the noise around it."""

from __future__ import annotations

from typing import Annotated, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

FloatArray = npt.NDArray[np.float64]
# One step, or an array of steps.
Number = TypeVar("Number", float, FloatArray)
Seconds = Annotated[float, Field(ge=0.0, lt=60.0, allow_inf_nan=False)]

# Noise is drawn in blocks: factor n belongs to step n, whoever decides.
NOISE_BLOCK = 4_096
SECONDS_MIN = 1e-9


class StepTimes(Protocol):
    """The noise-free truth."""

    def seconds(self, batch_size: Number, num_steps: int, context_tokens: Number) -> Number:
        """Seconds of a step of one length; element by element if given arrays."""
        ...

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Seconds of prefilling that many prompt tokens in one go; 0 if prefill is not modelled."""
        ...


class _Terms(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VerifyTerms(_Terms):
    """verify = context_s_per_token * context + token_s * B * (k + 1) + fixed_s."""

    context_s_per_token: Seconds
    token_s: Seconds
    fixed_s: Seconds


class DraftTerms(_Terms):
    """draft = k * (context_s_per_token * context + token_s * B + fixed_s) + verify_share * verify.

    Nothing if k = 0.
    """

    context_s_per_token: Seconds = 0.0
    token_s: Seconds = 0.0
    fixed_s: Seconds = 0.0
    verify_share: Annotated[float, Field(ge=0.0, le=10.0, allow_inf_nan=False)] = 0.0


class PrefillTerms(_Terms):
    """prefill = token_s * prompt tokens + fixed_s, between two decode steps and part of neither."""

    token_s: Seconds = 0.0
    fixed_s: Seconds = 0.0


class DriftTerms(_Terms):
    """A machine whose speed moves: one of `factors`, drawn anew after `mean_s` seconds on average."""

    factors: Annotated[
        tuple[Annotated[float, Field(ge=0.1, le=10.0, allow_inf_nan=False)], ...], Field(min_length=1)
    ]
    mean_s: Annotated[float, Field(gt=0.0, le=86_400.0, allow_inf_nan=False)]


class NoiseTerms(_Terms):
    """A step's factor: lognormal with mean 1, for a share of the steps `outlier_factor` on top, and drift."""

    lognormal_sigma: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 0.0
    outlier_share: Annotated[float, Field(ge=0.0, le=0.5, allow_inf_nan=False)] = 0.0
    outlier_factor: Annotated[float, Field(ge=1.0, le=100.0, allow_inf_nan=False)] = 3.0
    drift: DriftTerms | None = None


class StepTimeFile(_Terms):
    """A step-time model as it stands in a JSON file; seconds and tokens throughout.

    context is the sum of the running requests' sequence lengths, B the batch size, k the length.
    """

    description: str = ""
    verify: VerifyTerms
    draft: Annotated[dict[str, DraftTerms], Field(min_length=1)]
    overhead_s: Seconds = 0.0
    prefill: PrefillTerms = PrefillTerms()
    noise: NoiseTerms = NoiseTerms()

    @model_validator(mode="after")
    def _a_step_takes_time(self) -> StepTimeFile:
        if self.verify.fixed_s + self.verify.token_s + self.overhead_s < SECONDS_MIN:
            raise ValueError("verify.fixed_s, verify.token_s and overhead_s must not all be 0")
        return self


class LinearStepTimes:
    """The file's model for one drafter."""

    def __init__(self, file: StepTimeFile, drafter: str) -> None:
        self._verify = file.verify
        self._draft = file.draft[drafter]
        self._overhead_s = file.overhead_s
        self._prefill = file.prefill

    def seconds(self, batch_size: Number, num_steps: int, context_tokens: Number) -> Number:
        """See StepTimes."""
        terms, draft = self._verify, self._draft
        verify = (
            terms.context_s_per_token * context_tokens
            + terms.token_s * batch_size * (num_steps + 1)
            + terms.fixed_s
        )
        if num_steps == 0:
            return verify + self._overhead_s
        a_token = draft.context_s_per_token * context_tokens + draft.token_s * batch_size + draft.fixed_s
        return verify * (1.0 + draft.verify_share) + a_token * num_steps + self._overhead_s

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """See StepTimes."""
        return self._prefill.token_s * prompt_tokens + self._prefill.fixed_s


class Noise:
    """Factors on step times; the n-th is the same for every policy of one seed."""

    def __init__(self, terms: NoiseTerms, seed: np.random.SeedSequence) -> None:
        self._terms = terms
        self._random = np.random.default_rng(seed)
        self._block: list[float] = []
        self._next = 0

    def factor(self) -> float:
        """The next step's."""
        if self._next == len(self._block):
            self._block, self._next = self._draw().tolist(), 0
        self._next += 1
        return self._block[self._next - 1]

    def _draw(self) -> FloatArray:
        terms = self._terms
        sigma = terms.lognormal_sigma
        scatter = self._random.lognormal(-sigma * sigma / 2.0, sigma, NOISE_BLOCK)
        slow = self._random.random(NOISE_BLOCK) < terms.outlier_share
        return np.where(slow, scatter * terms.outlier_factor, scatter)


class Drift:
    """The machine's speed by the clock: slow seconds are the same ones for every policy of one seed."""

    def __init__(self, terms: DriftTerms | None, seed: np.random.SeedSequence) -> None:
        self._terms = terms
        self._random = np.random.default_rng(seed)
        self._factor = 1.0
        self._until_s = 0.0

    def factor(self, now_s: float) -> float:
        """At a moment, never earlier than the one asked for before."""
        if self._terms is None:
            return 1.0
        while now_s >= self._until_s:
            self._factor = float(self._random.choice(self._terms.factors))
            self._until_s += float(self._random.exponential(self._terms.mean_s))
        return self._factor
