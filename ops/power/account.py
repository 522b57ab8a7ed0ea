"""The account whose developer token is kept on this machine, and what its linked boxes cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pi0q.jobs.errors import UsageError
from pi0q.ops.power import state_file
from pi0q.ops.power.autodl_api import ApiError, AutoDlApi
from pi0q.ops.power.state_file import Linked


def open_account(home: Path) -> AutoDlApi:
    """Return the API of the account. Raises UsageError where no token is kept, or others can read it."""
    token = state_file.read_token(home)
    if not token:
        raise UsageError(
            "No developer token of AutoDL is kept on this machine, so AutoDL can't be asked. Nothing was changed.\n"
            "Fix: pi0q power token < token.txt   (AutoDL's console, settings, developer token; on the queue's machine)"
        )
    return AutoDlApi(token)


def prices(account: AutoDlApi, boxes: Mapping[str, Linked]) -> dict[str, float]:
    """Return what linked boxes cost, CNY an hour, as far as AutoDL says it. Raises ApiError."""
    listed = account.containers()
    asked = {name: account.price(one.instance) for name, one in boxes.items() if one.instance in listed}
    return {name: price for name, price in asked.items() if price is not None}


def no_answer(error: ApiError) -> UsageError:
    """Return the error for a user."""
    return UsageError(
        f"AutoDL did not answer as it should ({error}). Nothing was changed.\n"
        "Fix: check the token (pi0q power token) and whether this machine reaches api.autodl.com"
    )
