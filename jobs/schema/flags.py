"""The flags of `lerobot-train` that a job may set: what each takes, and which LeRobot and which policy has it.

Which flags there are comes from LeRobot itself (lerobot_tables.py). A flag that no table has is refused, and so is
one of forbidden_flags.py: LeRobot's parser can import code, open files and submit paid jobs by flag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from functools import cache, cached_property, lru_cache

from pi0q.jobs.schema import later_flags, lerobot_tables, trackers, type_words
from pi0q.jobs.schema.compound_types import Either
from pi0q.jobs.schema.flag_types import Explanation, Flag, Note, Owners
from pi0q.jobs.schema.forbidden_flags import NOT_TRAINED
from pi0q.jobs.schema.forbidden_flags import denial as denial
from pi0q.jobs.schema.lerobot_tables import ALL, RELEASES, Row
from pi0q.jobs.schema.lerobot_tables import line as line
from pi0q.jobs.schema.nodes import node_of
from pi0q.jobs.schema.policy_flags import POLICY_NOTES
from pi0q.jobs.schema.rules import nearest
from pi0q.jobs.schema.train_flags import TRAIN_NOTES
from pi0q.jobs.schema.value_types import Choice, Value, ValueType

#: The flag that no argument class has: a word of LeRobot's parser.
POLICY_PATH = "policy.path"
#: Most names told in one sentence.
_FEW = 6
#: Left empty, these were forgotten: LeRobot would make up a name, or take the first device that it finds.
_NEVER_NULL = frozenset({"job_name", "policy.device", "reward_model.device"})
_NOTES: dict[str, Note] = {note.name: note for note in (*TRAIN_NOTES, *POLICY_NOTES)}


class FlagTable(Mapping[str, Flag]):
    """Every flag that a job may set, by name; each is made when it is asked for."""

    @cached_property
    def names(self) -> dict[str, None]:
        """Names in the order of the newest table, then what only older ones have."""
        found = dict[str, None]()
        for of in reversed(RELEASES):
            for key in lerobot_tables.table(of):
                if key not in found and _is_taken(key):
                    found[key] = None
                if key == "policy.type":
                    found[POLICY_PATH] = None
        return found

    def has_section(self, section: str) -> bool:
        """Return whether there are flags below this name, `wandb` for `wandb.enable`."""
        return any(_is_taken(key) for of in RELEASES for key in lerobot_tables.table(of).below(section))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _is_taken(name)

    def __getitem__(self, name: str) -> Flag:
        if name not in self:
            raise KeyError(name)
        return _flag(name)


@lru_cache(maxsize=2048)
def _is_taken(name: str) -> bool:
    """Return whether a job may set this flag: LeRobot has it for something that it trains, and it is not refused."""
    if name == POLICY_PATH:
        return True
    tables = (lerobot_tables.table(of) for of in RELEASES)
    return any(not all_refused(name, table.owners(name)) for table in tables) and not denial(name)


FLAGS = FlagTable()


def trained(section: str) -> tuple[str, ...]:
    """Return what `policy.type` or `reward_model.type` can be in a job: all that `lerobot-train` trains."""
    return tuple(sorted(_registered(f"{section}.type") - refused_types(section).keys()))


@cache
def refused_types(section: str) -> dict[str, str]:
    """Return the names that this section's `type` does not take, and why: not trained, or of the other section.

    LeRobot 0.4 and 0.5 had reward models among the policies; a job names them as 0.6 does.
    """
    if section not in ("policy", "reward_model"):
        return {}
    rewards = _registered("reward_model.type")
    others = rewards if section == "policy" else _registered("policy.type") - rewards
    right, what = ("reward_model", "reward model") if section == "policy" else ("policy", "policy")
    cure = "is a {}: write {}.type: {} and leave {}.type out"
    return {name: cure.format(what, right, name, section) for name in sorted(others)} | NOT_TRAINED


def all_refused(key: str, owners: Iterable[str]) -> bool:
    """Return whether a flag belongs to nothing that a job can train."""
    return refused_types(key.partition(".")[0]).keys() >= set(owners)


@cache
def _registered(key: str) -> frozenset[str]:
    found = set[str]()
    for owners in lerobot_tables.rows(key).values():
        kind = type_words.read(owners[ALL].type)
        found |= set(kind.options) if isinstance(kind, Choice) else set()
    return frozenset(found)


@cache
def _flag(name: str) -> Flag:
    known = {of: frozenset(owners) for of, owners in _rows(name).items()}
    note = _NOTES.get(name)
    says = note.says if note else f"LeRobot's own setting{_of_whom(known)}; LeRobot's documentation says what it does."
    return Flag(name=name, kind=_any_kind(name), known=known, says=says)


def _rows(name: str) -> Mapping[str, Mapping[str, Row]]:
    """Return a flag's rows by line, without those of what a job can't train."""
    if name == POLICY_PATH:
        return {of: {ALL: Row("str", "")} for of in RELEASES}
    refused = refused_types(name.partition(".")[0])
    return {
        of: {owner: row for owner, row in owners.items() if owner not in refused}
        for of, owners in lerobot_tables.rows(name).items()
        if not all_refused(name, owners)
    }


def _of_whom(known: Mapping[str, Owners]) -> str:
    owners = frozenset[str]().union(*known.values())
    return "" if ALL in owners else f" of {some(sorted(owners))}"


def some(names: Iterable[str]) -> str:
    """Return names for a sentence, at most a few of them."""
    told = list(names)
    return ", ".join(told) if len(told) <= _FEW else f"{', '.join(told[:_FEW])} and {len(told) - _FEW} more"


def _any_kind(name: str) -> ValueType:
    """Return what reads a flag's value while nobody knows yet whose flag it is."""
    section, _, last = name.partition(".")
    if last == "type" and section in ("policy", "reward_model"):
        return Choice(*trained(section), refused=refused_types(section))
    if last == "type" and section in ("optimizer", "scheduler"):
        return Choice(*sorted(_registered(name)))
    owners = dict.fromkeys((owner, row.type) for rows in _rows(name).values() for owner, row in rows.items())
    kinds = list(dict.fromkeys(_kind(name, owner, type_) for owner, type_ in owners))
    return kinds[0] if len(kinds) == 1 else Either(*kinds)


def _kind(name: str, owner: str, type_: str) -> ValueType:
    note = _NOTES.get(name)
    if note is None or note.kind is None or (note.only is not None and owner not in note.only):
        return type_words.read(type_)
    return _nullable(note.kind) if type_.endswith("null") and name not in _NEVER_NULL else note.kind


@cache
def _nullable(kind: ValueType) -> ValueType:
    """Return the same for a flag that LeRobot takes null for."""
    other = copy(kind)
    other.nullable = True
    return other


def chosen(train: Mapping[str, Value], name: str) -> str | None:
    """Return the policy (reward model, optimizer, scheduler) of this job whose flag this would be."""
    found = train.get(f"{name.partition('.')[0]}.type")
    return found if isinstance(found, str) else None


def misfit(name: str, of: str | None) -> str | None:
    """Return what is wrong with giving this flag to this policy (reward model, optimizer …); None if nothing."""
    owners = frozenset[str]().union(*FLAGS[name].known.values())
    if of is None or of in owners or ALL in owners or of not in _registered(f"{name.partition('.')[0]}.type"):
        return None
    return f"is not a setting of {of}, but of {some(sorted(owners))}; leave it out"


def faults(name: str, value: Value, of: str | None) -> list[str]:
    """Return what is wrong with a value for this policy's flag, where policies differ in what they take."""
    types = dict.fromkeys(row.type for rows in _rows(name).values() for owner, row in rows.items() if owner == of)
    kinds = dict.fromkeys(_kind(name, str(of), type_) for type_ in types)
    if not kinds or FLAGS[name].kind in kinds:
        return []
    told = list[str]()
    Either(*kinds).read(node_of(value), lambda _, text: told.append(text))
    return told


def unknown(name: str, *, prefix: str = "") -> str:
    """Return the fault of a flag that no table has, to follow its name; `prefix` goes before a suggestion."""
    if why := denial(name) or later_flags.told(name):
        return why
    near = nearest(name, FLAGS)
    hint = f"; did you mean {prefix}{near}?" if near else ""
    return f"is not a flag that pi0q passes to lerobot-train{hint}"


def place(name: str) -> str | None:
    """Return the flag that takes this name: itself, or the mapping of which it is a part; None if none does."""
    if name in FLAGS:
        return name
    parts = name.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next((flag for flag in above if flag in FLAGS and FLAGS[flag].kind.open), None)


def explain(name: str) -> Explanation | None:
    """Return what there is to say of a flag, refused ones included; None for one that no LeRobot has."""
    refused = denial(name) or (later_flags.told(name) if name not in FLAGS else None)
    if name not in FLAGS:
        return Explanation(name, "", "", (), {}, {}, refused) if refused else None
    flag, rows = FLAGS[name], _rows(name)
    newest = rows[max(rows, key=list(RELEASES).index)]
    return Explanation(
        name=name,
        says=flag.says,
        wants=flag.kind.wants,
        choices=flag.kind.options if isinstance(flag.kind, Choice) else (),
        defaults={owner: row.default for owner, row in newest.items()},
        known=flag.known,
        refused="",
    )


def unsupported(version: str) -> str:
    """Return why pi0q can't train with this LeRobot, and the cure; "" if it can."""
    if line(version):
        return ""
    lines = [f"{of}.x" for of in RELEASES]
    return (
        f"LeRobot {version} is none that this pi0q knows the flags of ({', '.join(lines)}). "
        f"Fix: pip install 'lerobot=={[*RELEASES.values()][-1]}' there, or install a newer pi0q."
    )


def problems(train: Mapping[str, Value], version: str) -> list[str]:
    """Return what in this job a LeRobot of that version would refuse; empty if it fits."""
    mine = line(version)
    if mine is None:
        return [unsupported(version)]
    told, idle = [], trackers.idle_flags(train, version)
    for name, value in train.items():
        if name in idle:
            continue
        if name not in FLAGS:
            told.append(f"{name} {unknown(name)}")
        elif why := refused_types(name.removesuffix(".type")).get(str(value)):
            told.append(f"{name} is {value}, which {why}")
        elif not _knows(mine, name, train):
            have = [of for of in RELEASES if _knows(of, name, train)]
            cure = f"LeRobot {' and '.join(have)} has it" if have else "leave it out"
            told.append(f"{name} is unknown to LeRobot {version}; {cure}")
        elif value is not None and (lacks := _lacks(mine, name, value)):
            told.append(f"{name} {lacks} is unknown to LeRobot {version}; {_where(name, value)}")
    starts = any(train.get(name) for name in ("policy.pretrained_path", "policy.path", "reward_model.pretrained_path"))
    if train.get("rename_map") and mine not in ("0.4", "0.5") and not starts:
        told.append("rename_map needs weights to start from in LeRobot 0.6: set policy.pretrained_path")
    return told


def _knows(of: str, name: str, train: Mapping[str, Value]) -> bool:
    owners, who = FLAGS[name].known.get(of, frozenset()), chosen(train, name)
    return bool(owners) if who is None or ALL in owners else who in owners


def _lacks(of: str, name: str, value: Value) -> str:
    """Return the name that this line's list of choices doesn't have (a policy, an optimizer); "" if it has it."""
    row = _rows(name)[of].get(ALL)
    kind = type_words.read(row.type) if row and row.type.startswith("enum(") else None
    return str(value) if isinstance(kind, Choice) and value not in kind.options else ""


def _where(name: str, value: Value) -> str:
    have = [of for of in _rows(name) if not _lacks(of, name, value)]
    return f"LeRobot {' and '.join(have)} has it" if have else "leave it out"
