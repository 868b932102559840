"""Goodput of every length for a batch: tokens over seconds, with the uncertainty of differences."""

from __future__ import annotations

from copy import copy

import numpy as np
import numpy.typing as npt

from control_service.core.acceptance import AcceptanceTable
from control_service.core.buckets import BatchBuckets
from control_service.core.step_fit import StepTimeFit
from control_service.core.types import Prediction

FloatArray = npt.NDArray[np.float64]

# Log goodput that a length outside the limit is worse by: finite, so that differences are too.
RULED_OUT = 1e3


class Forecaster:
    """Both models frozen at one refit, ready to be asked about any batch.

    goodput(k) = B * tokens(k) / seconds(k). Lengths are compared by log goodput: what they
    share (the acceptance of common positions, a common factor of time) cancels there.
    """

    def __init__(
        self,
        lengths: tuple[int, ...],
        buckets: BatchBuckets,
        acceptance: AcceptanceTable,
        fit: StepTimeFit,
        changes_total: int,
    ) -> None:
        """changes_total: how often acceptance has changed so far."""
        self.lengths = lengths
        self.buckets = buckets
        self.fit = fit
        self.changes_total = changes_total
        chosen = list(lengths)
        self._drafts = np.array(lengths, dtype=np.float64)
        self._tokens = acceptance.tokens[chosen]
        self._log_tokens = np.log(self._tokens)
        # [K, K] The most that each length could commit for all that steps of another one tell: every draft
        # beyond theirs accepted.
        reach = np.array([acceptance.tokens[k] - acceptance.tokens[k - 1] if k else 1.0 for k in chosen])
        beyond = np.maximum(self._drafts[None, :] - self._drafts[:, None], 0.0)
        self._most_log_tokens = np.log(self._tokens[:, None] + reach[:, None] * beyond)
        relative = acceptance.gradient[chosen] / self._tokens[:, None]
        self._token_variance = (relative**2) @ acceptance.variance
        difference = relative[:, None, :] - relative[None, :, :]
        self._difference_variance = (difference**2) @ acceptance.variance

    def accepted_drafts(self, length_index: int) -> float:
        """Expected accepted drafts of a request in a step of one length, once it has run for a while."""
        return float(self._tokens.item(length_index)) - 1.0

    def step_seconds(self, length_index: int, batch_size: int, context_tokens: float) -> float:
        """Expected seconds of a step of this batch with one length."""
        bucket, paid = self.buckets.index(batch_size), self.buckets.paid_size(batch_size)
        return self.fit.step_seconds(bucket, length_index, paid, context_tokens)

    def step_tokens(self, length_index: int, batch_size: int) -> float:
        """Expected tokens that a step of this batch commits with one length."""
        return self._tokens.item(length_index) * batch_size

    def batch(self, batch_size: int, context_tokens: float) -> BatchForecast:
        """Forecast for one batch."""
        bucket = self.buckets.index(batch_size)
        seconds = self.fit.seconds(bucket, self.buckets.paid_size(batch_size), context_tokens)
        log_seconds = np.log(seconds)
        return BatchForecast(
            lengths=self.lengths,
            batch_size=batch_size,
            tokens=self._tokens * batch_size,
            seconds=seconds,
            log_goodput=self._log_tokens - log_seconds,
            most_log_goodput=self._most_log_tokens - np.log(self._at_a_known_price(bucket, seconds)),
            time_variance=self.fit.variance[bucket],
            token_variance=self._token_variance,
            difference_variance=self._difference_variance,
        )

    def _at_a_known_price(self, bucket: int, seconds: FloatArray) -> FloatArray:
        """[K] seconds, with no length beyond the longest that ran here cheaper a draft than that one."""
        ran = np.flatnonzero(self.fit.weight[bucket] > 0.0)
        longest = int(ran[-1]) if len(ran) else 0
        if longest == 0:
            return seconds
        priced = seconds[0] + (seconds[longest] - seconds[0]) / self._drafts[longest] * self._drafts
        return np.where(self._drafts > self._drafts[longest], np.maximum(seconds, priced), seconds)


class BatchForecast:
    """What every length would do for one batch; arrays are [K] over the candidates.

    most_log_goodput: [K, K] were every draft accepted that is beyond those of the first length. It says whom
    to look at, so it must not come from a price that nobody has paid: the fit prefers constants, and prices
    lengths that never ran here too low.
    """

    def __init__(
        self,
        *,
        lengths: tuple[int, ...],
        batch_size: int,
        tokens: FloatArray,
        seconds: FloatArray,
        log_goodput: FloatArray,
        most_log_goodput: FloatArray,
        time_variance: FloatArray,
        token_variance: FloatArray,
        difference_variance: FloatArray,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seconds = seconds
        self.log_goodput = log_goodput
        self._most_log_goodput = most_log_goodput
        self._tokens = tokens
        self._time_variance = time_variance
        self._token_variance = token_variance
        self._difference_variance = difference_variance

    def within(self, step_limit_s: float) -> BatchForecast:
        """The same with every length ruled out whose step takes longer; the fastest one always stays."""
        allowed = self.seconds <= max(step_limit_s, float(self.seconds.min()))
        limited = copy(self)
        limited.log_goodput = np.where(allowed, self.log_goodput, self.log_goodput - RULED_OUT)
        most = self._most_log_goodput
        limited._most_log_goodput = np.where(allowed, most, most - RULED_OUT)
        return limited

    @property
    def best(self) -> int:
        """Index of the length with the highest expected goodput."""
        return int(np.argmax(self.log_goodput))

    def gains(self, index: int) -> tuple[FloatArray, FloatArray]:
        """Log-goodput gain of every length over `index`, and its standard error ([K], [K])."""
        gain = self.log_goodput - self.log_goodput[index]
        variance = self._difference_variance[index] + self._time_variance + self._time_variance[index]
        error = np.sqrt(variance)
        error[index] = 0.0
        return gain, error

    def most_gains(self, index: int, z: float) -> FloatArray:
        """[K] log-goodput gain of every longer length over `index`, if every draft that `index` does not see
        were accepted and prices were z standard errors better; minus infinity of the others."""
        gain = self._most_log_goodput[index] - self.log_goodput[index]
        error = np.sqrt(self._time_variance + self._time_variance[index])
        longer = np.arange(len(self.lengths)) > index
        return np.where(longer, gain + z * error, -np.inf)

    def predictions(self) -> tuple[Prediction, ...]:
        """The same as plain values."""
        rate = self._tokens / self.seconds
        relative = np.sqrt(self._time_variance + self._token_variance)
        columns = (
            self._tokens,
            self.seconds,
            rate,
            rate * relative,
            np.sqrt(self._token_variance),
            np.sqrt(self._time_variance),
            self.gains(self.best)[1],
        )
        return tuple(
            Prediction(length, *values)
            for length, values in zip(
                self.lengths, zip(*(c.tolist() for c in columns), strict=True), strict=True
            )
        )
