"""Where messages go: the addresses of the settings, spoken to by apprise. An address is a secret."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from urllib.parse import urlsplit

from pi0q.jobs.errors import UsageError
from pi0q.jobs.notices import Message

#: Takes a message; True once the service has it.
Send = Callable[[Message], bool]
#: AutoDL's messages to the owner's WeChat: autodl://TOKEN (the developer token of its console).
AUTODL = "autodl"
AUTODL_URL = "https://www.autodl.com/api/v1/wechat/message/send"
#: Seconds that a service has to answer.
PATIENCE = 10.0


def labelled(texts: Sequence[str]) -> dict[str, str]:
    """Return addresses by label: `phone=ntfy://topic` or an address alone, which its scheme and number name."""
    found: dict[str, str] = {}
    for text in texts:
        label, equals, url = text.partition("=")
        if not equals or "://" in label:
            label, url = text.partition("://")[0], text
        name, number = label, 2
        while name in found:
            name, number = f"{label}{number}", number + 1
        found[name] = url
    return found


def senders(texts: Sequence[str]) -> dict[str, Send]:
    """Return what sends to each address, by label. Raises UsageError that names labels, never an address."""
    found, wrong = dict[str, Send](), list[str]()
    for label, url in labelled(texts).items():
        send = _autodl(url) if url.startswith(f"{AUTODL}://") else _by_apprise(url)
        if send is None:
            wrong.append(label)
        else:
            found[label] = send
    if wrong:
        raise UsageError(
            f"PI0Q_NOTIFY: {', '.join(wrong)} can't be read as an address of a service (a secret: it is not shown).\n"
            "No message goes there.\n"
            "Fix: write it as apprise does, like ntfy://TOPIC, feishu://TOKEN, dingtalk://TOKEN, wecombot://KEY, "
            "json://HOST/PATH; docs/settings.md has more"
        )
    return found


def _by_apprise(url: str) -> Send | None:
    if find_spec("apprise") is None:
        raise UsageError("Messages need apprise, which is not installed here. Fix: pip install 'pi0q[notify]'")
    import apprise

    service = apprise.Apprise()
    if not service.add(url):
        return None

    def send(message: Message) -> bool:
        return bool(service.notify(title=message.title, body=message.body, body_format=apprise.NotifyFormat.TEXT))

    return send


def _autodl(url: str, *, endpoint: str = AUTODL_URL) -> Send | None:
    """AutoDL is none of apprise's services: its API takes title, name and content with the developer token."""
    token = urlsplit(url).netloc
    if not token:
        return None

    def send(message: Message) -> bool:
        body = {"title": message.title[:64], "name": "pi0q", "content": message.body[:512]}
        asked = urllib.request.Request(
            endpoint,
            data=json.dumps(body).encode(),
            headers={"Authorization": token, "Content-Type": "application/json"},
            method="POST",
        )
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
                return str(json.loads(answer.read(65536)).get("code", "")).lower() == "success"
        except (OSError, ValueError, AttributeError):
            return False

    return send
