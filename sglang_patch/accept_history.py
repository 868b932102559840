"""Which requests had every draft accepted in their newest step that drafted.

Kept beside SGLang's requests, not on them: a batch is most often that of the step before,
and then no request is touched. With cold caches a look at each would be the dearest part
of control, and it would grow with the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AcceptHistory:
    """Of the requests of the newest batch; on the step thread."""

    def __init__(self) -> None:
        # A copy of SGLang's list, which holds the requests: while they are here no other can take an id.
        self._requests: list[Any] = []
        self._full: list[bool] = []
        self._not_first: list[bool] = []

    def take(
        self, requests: list[Any], num_steps: int, accepted_drafts: Sequence[int]
    ) -> tuple[list[bool], list[bool]]:
        """Of each request in a step whose result is known: whether the step was its first, and whether it
        followed a full accept. Results come in the order of launches.

        A request that was not in the step before counts as new if SGLang has counted one
        step of it, this one; it has not even that if it was over before.
        """
        # Lists of the very same objects compare without a look at any of them.
        if requests == self._requests:
            first_step, after_full_accept = self._not_first, self._full
        else:
            known = {id(request): full for request, full in zip(self._requests, self._full, strict=True)}
            first_step = [id(request) not in known and request.spec_verify_ct == 1 for request in requests]
            after_full_accept = [known.get(id(request), False) for request in requests]
            self._requests, self._full = list(requests), after_full_accept
            self._not_first = [False] * len(requests)
        if num_steps:
            self._full = [count == num_steps for count in accepted_drafts]
        return first_step, after_full_accept

    def clear(self) -> None:
        """The engine idles: its requests are over, and must not be kept alive."""
        self._requests, self._full, self._not_first = [], [], []
