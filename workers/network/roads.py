"""Roads to public files: every route to the Hub, and ModelScope, in the order that this box's owner chose."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from pi0q.queue.settings import Settings
from pi0q.workers.network.routes import MODELSCOPE, Route, hub_routes, ways

#: Names of routes that the settings call otherwise.
_ROAD = {"direct": "hub"}
#: ModelScope's own client, of which the list of a repository's files is used: pip install 'pi0q[modelscope]'.
PACKAGE = "modelscope_hub"


def roads(settings: Settings, env: Mapping[str, str], turbo: Mapping[str, str]) -> tuple[Route, ...]:
    """Return the routes of `PI0Q_ROADS` that this box has, best first."""
    routes = (*hub_routes(settings, env, turbo), *modelscope(settings, env, turbo))
    known = {_ROAD.get(route.name, route.name): route for route in routes}
    return tuple(known[name] for name in settings.roads if name in known)


def modelscope(settings: Settings, env: Mapping[str, str], turbo: Mapping[str, str]) -> tuple[Route, ...]:
    """Return the route to ModelScope, which is never shown the Hub's token; none where its client is missing."""
    if find_spec(PACKAGE) is None:
        return ()
    direct = ways(settings.modelscope, settings, env, turbo)[-1]
    return (Route(name=MODELSCOPE, endpoint=direct.endpoint, trusted=False, variables=direct.variables),)
