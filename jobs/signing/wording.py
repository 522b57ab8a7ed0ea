"""What a person reads of a job file that a box does not trust. Pure."""

from __future__ import annotations

_HAPPENED = {
    "unsigned": "its job file is not signed, and this box runs signed jobs only",
    "unknown_signer": "it is signed with key {key}, which this box does not trust",
    "other_job": "its signature (key {key}) is that of another job: somebody copied it here",
    "other_queue": "it was signed (key {key}) for another queue",
    "changed": "its job file was changed after it was signed (key {key})",
    "outside_sweep": "its sweep was signed (key {key}), and this is no trial of it: a value lies outside its space, or "
    "another key differs",
    "replayed": "it has ended before, and its record was put back into the queue",
    "expired": "it was signed more than 30 days ago (key {key}) and no trusted box has run it since",
    "no_keys": "this box can't verify signatures: {detail}",
}
_SIGN = "look at it with `pi0q get {job}`; if it is what you want: `pi0q key sign {job}`"
_AGAIN = "`pi0q cancel {job}`, then submit its file again; whoever can write to the queue may have done it"
_FIXES = {
    "unsigned": _SIGN,
    "unknown_signer": "if you know the signer, trust the key on the box: `pi0q key trust LINE` (`pi0q key show` of the "
    "signer prints LINE)",
    "other_job": _AGAIN,
    "other_queue": "`pi0q cancel {job}`, then submit its file to this queue",
    "changed": _AGAIN,
    "outside_sweep": _AGAIN,
    "replayed": "`pi0q cancel {job}` removes it; to run it once more: `pi0q retry {job}`",
    "expired": _SIGN,
    "no_keys": "`pi0q key list` on the box shows its keys; `pip install 'pi0q[sign]'` brings what verifies",
}


def sentence(why: str, *, job: str, key: str, detail: str) -> str:
    """Return what happened and its cure, for one reason of `Distrust`; an unknown reason tells itself."""
    happened, fix = _HAPPENED.get(why, why), _FIXES.get(why, "")
    text = f"signature: {happened}. Fix: {fix}" if fix else f"signature: {happened}"
    return text.replace("{job}", job).replace("{key}", key).replace("{detail}", detail)
