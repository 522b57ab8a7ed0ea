"""Asks the Hub for this box's token and the gated tokenizer; prints one line of JSON. A process of its own, so that
the network it is asked over is its environment's, and a hung connection can be ended."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

#: Seconds for one answer.
PATIENCE = 10.0


def main() -> None:
    print(json.dumps(ask(sys.argv[1])))


def ask(repo: str) -> dict[str, object]:
    """`seconds` to the first answer (None: none came, and `error` says why), `user` and `gated` ("open", "refused",
    "unknown"), `token` ("good", "refused", "none", "unknown")."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import HfApi, get_token

    began = time.monotonic()
    told: dict[str, object] = {"seconds": None, "token": "unknown", "gated": "unknown", "user": None}
    token = get_token()
    status, error = _status(lambda: HfApi(token=False).model_info(repo, timeout=PATIENCE))
    if status is None:
        return {**told, "error": error}
    told["seconds"] = round(time.monotonic() - began, 2)
    if not token:
        return {**told, "token": "none"}
    try:
        told |= {"token": "good", "user": HfApi().whoami(token=token).get("name")}
    except Exception as failed:
        code = _code(failed)
        return {**told, "token": "refused" if code in (401, 403) else "unknown", "error": _class(failed)}
    code, error = _status(lambda: HfApi(token=token).auth_check(repo))
    return {**told, "gated": {200: "open", 401: "refused", 403: "refused"}.get(code or 0, "unknown"), "error": error}


def _status(ask: Callable[[], object]) -> tuple[int | None, str]:
    """What the Hub answered; None if it was not the Hub that did."""
    try:
        ask()
    except Exception as error:
        return _code(error), _class(error)
    return 200, ""


def _code(error: Exception) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _class(error: Exception) -> str:
    # Its text can hold signed addresses and what else was sent.
    return type(error).__name__


if __name__ == "__main__":
    main()
