"""AutoDL's API for Container Pro: which containers there are, what they cost, and switching one on.

https://www.autodl.com/docs/instance_pro_api/ and /docs/common_api/ (balance). The header is `Authorization: TOKEN`
without `Bearer`; money is thousandths of a yuan; a GET takes its parameter in the address. Answers hold the root
password and Jupyter's token: only the fields named here are read, and no answer is kept or shown.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from pi0q.jobs.printable import printable
from pi0q.ops.power.plan import Power

BASE_URL = "https://api.autodl.com"
#: Seconds that the API has to answer, and bytes of an answer that are read.
PATIENCE, MOST_BYTES = 20.0, 1 << 20
#: Containers on a page of the list, and pages that are read.
PAGE_SIZE, MOST_PAGES = 100, 10
POWERS = {"running": Power.ON, "starting": Power.ON, "created": Power.ON, "shutdown": Power.OFF}


class Refused(str, Enum):
    """Why the API did not do what it was asked."""

    #: The host has no free GPU: 暂无库存.
    NO_STOCK = "no stock"
    #: The token is wrong, or the account has no real name.
    TOKEN = "token"
    UNREACHABLE = "unreachable"
    OTHER = "other"


class ApiError(Exception):
    """AutoDL refused, or did not answer."""

    def __init__(self, kind: Refused, text: str) -> None:
        super().__init__(f"{kind.value}: {printable(text)[:200]}")
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class Container:
    """One container of the account."""

    id: str
    power: Power
    #: Milliseconds since 1970; None for one that is on.
    off_ms: int | None


class AutoDlApi:
    """The API with one account's developer token."""

    def __init__(self, token: str, *, base_url: str = "") -> None:
        """`base_url`: of a stand-in; AutoDL's own without."""
        self._token, self._base_url = token, base_url or BASE_URL

    def containers(self) -> dict[str, Container]:
        """Return all containers by id. Raises ApiError."""
        found: dict[str, Container] = {}
        for page in range(1, MOST_PAGES + 1):
            data = _mapping(
                self._ask("POST", "/api/v1/dev/instance/pro/list", {"page_index": page, "page_size": PAGE_SIZE})
            )
            listed = data.get("list")
            for one in listed if isinstance(listed, list) else []:
                if isinstance(one, Mapping) and isinstance(one.get("uuid"), str):
                    found[one["uuid"]] = _container(one)
            if page >= _number(data.get("max_page")):
                break
        return found

    def price(self, container: str) -> float | None:
        """Return what a container costs while it is on, CNY an hour; None where that is not said. Raises ApiError."""
        data = _mapping(self._ask("GET", "/api/v1/dev/instance/pro/snapshot", {"instance_uuid": container}))
        thousandths = _number(data.get("payg_price"))
        return thousandths / 1000 if thousandths > 0 else None

    def balance(self) -> float | None:
        """Return the account's money that can be spent, vouchers included, CNY; None where unknown. Raises ApiError."""
        data = _mapping(self._ask("POST", "/api/v1/dev/wallet/balance", {}))
        if "assets" not in data:
            return None
        spendable = _number(data["assets"]) - _number(data.get("blocked_asset")) + _number(data.get("voucher_balance"))
        return spendable / 1000

    def power_on(self, container: str, start_command: str) -> None:
        """Switch a container on, with its GPUs; it runs `start_command` then. Raises ApiError."""
        body = {"instance_uuid": container, "payload": "gpu"} | (
            {"start_command": start_command} if start_command else {}
        )
        self._ask("POST", "/api/v1/dev/instance/pro/power_on", body)

    def _ask(self, method: str, path: str, values: Mapping[str, Any]) -> Any:
        url, body = self._base_url + path, None
        if method == "GET":
            url += "?" + urllib.parse.urlencode(values)
        else:
            body = json.dumps(values).encode()
        headers = {"Authorization": self._token, "Content-Type": "application/json"}
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            request = urllib.request.Request(url, data=body, headers=headers, method=method)
            with opener.open(request, timeout=PATIENCE) as answer:
                read = answer.read(MOST_BYTES)
        except urllib.error.HTTPError as error:
            kind = Refused.TOKEN if error.code in (401, 403) else Refused.OTHER
            raise ApiError(kind, f"HTTP {error.code} for {path}") from None
        except (OSError, ValueError) as error:
            # Its text may hold the request's headers.
            raise ApiError(Refused.UNREACHABLE, f"{type(error).__name__} for {path}") from None
        try:
            told = _mapping(json.loads(read))
        except (ValueError, RecursionError):
            raise ApiError(Refused.OTHER, f"no JSON for {path}") from None
        if told.get("code") != "Success":
            raise _refusal(str(told.get("code")), str(told.get("msg")))
        return told.get("data")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: the token goes to one host only."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Refuse it."""
        return


def _refusal(code: str, message: str) -> ApiError:
    if "库存" in message:
        return ApiError(Refused.NO_STOCK, message)
    kind = Refused.TOKEN if code in ("TORealName", "AuthorizeFailed") or "token" in message.lower() else Refused.OTHER
    return ApiError(kind, f"{code}: {message}")


def _container(one: Mapping[str, Any]) -> Container:
    power = POWERS.get(str(one.get("status")), Power.OTHER)
    off_ms = None
    if power is Power.OFF:
        stopped = one.get("stopped_at")
        valid = isinstance(stopped, Mapping) and stopped.get("Valid") is True
        off_ms = _moment(stopped["Time"] if valid and isinstance(stopped, Mapping) else one.get("status_at"))
    return Container(id=str(one["uuid"]), power=power, off_ms=off_ms)


def _moment(text: object) -> int | None:
    """Return an ISO time as milliseconds since 1970; None for what is none."""
    try:
        return int(datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    """Return a number of the API; 0 for what is none."""
    return (
        float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12 else 0.0
    )
