"""SGLang's entry point (group ``sglang.srt.plugins``): all of it, or nothing.

SGLang calls ``register`` in each of its processes. Without ``TURBOSPEC_CONTROL_ADDRESS``
it does nothing. Otherwise settings and contract are checked first; what is wrong with
the settings stops the engine, what is wrong with SGLang leaves it unpatched (or stops
it too, with ``TURBOSPEC_STRICT=1``).
"""

from __future__ import annotations

import logging

from sglang_patch.config import ConfigError, EngineConfig

logger = logging.getLogger(__name__)


def register() -> None:
    """Apply every hook, or none.

    Raises:
        SystemExit: a setting is unusable, or SGLang has drifted and strict is set. SGLang's
            plugin loader swallows exceptions, but not this one.
    """
    try:
        config = EngineConfig.from_env()
    except ConfigError as error:
        raise SystemExit(f"turbospec: {error}") from None
    if config is None:
        logger.info("turbospec: TURBOSPEC_CONTROL_ADDRESS is not set; SGLang runs as it is")
        return

    # Only now: an engine without us must not pay for our imports.
    from sglang_patch import contract, hooks  # noqa: PLC0415

    try:
        contract.verify()
    except contract.ContractDrift as drift:
        message = (
            f"turbospec: SGLang {contract.sglang_version()} does not fit this plugin "
            f"(written against {contract.TESTED_SGLANG}): {drift}"
        )
        if config.strict:
            raise SystemExit(message) from None
        logger.error("%s. SGLang runs unpatched.", message)
        return
    if contract.sglang_version() != contract.TESTED_SGLANG:
        logger.warning(
            "turbospec: SGLang %s is not the tested %s, though everything we rely on is in place",
            contract.sglang_version(),
            contract.TESTED_SGLANG,
        )
    hooks.register(config)
