"""Archives of compiled kernels in a shared directory: packed, vouched for, verified, and refused as a whole."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pi0q.jobs import compiled_kernels
from pi0q.jobs.checkpoint import File
from pi0q.jobs.compiled_kernels import ARCHIVE, MANIFEST, Manifest
from pi0q.workers.compiled import archive, shared_directory
from pi0q.workers.compiled.shared_directory import SharedKernels, Trust
from tests.jobs.test_compiled_kernels import FOR

JOB, OTHER = "a" * 12, "b" * 12


def ignore(_size: int) -> None: ...


@dataclass
class Setting:
    """A directory that two boxes share, and the first one's caches."""

    place: Path
    caches: Path
    into: Path
    shared: SharedKernels
    #: Manifests by job.
    packed: dict[str, str] = field(default_factory=dict)

    def put(self, job: str = JOB) -> Trust:
        """Packs this job's kernels; what its record then vouches for."""
        text = self.shared.put(job, self.caches, FOR.to_json(), ignore)
        self.packed[job] = compiled_kernels.sha256(text)
        return Trust(named=frozenset({self.packed[job]}))

    def fetched(self, trust: Trust) -> dict[str, bytes]:
        """What the second box has afterwards."""
        self.shared.fetch(self.into, trust, ignore)
        return {str(path.relative_to(self.into)): path.read_bytes() for path in self.into.rglob("*") if path.is_file()}

    @property
    def folder(self) -> Path:
        return self.place / "compile" / FOR.key / JOB


KERNELS = {"inductor/ab/graph.py": b"print()", "inductor/fxgraph/x": b"graph" * 1000, "triton/k/k.cubin": b"\0\1"}


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    place, caches = tmp_path / "share", tmp_path / "a"
    place.mkdir()
    for name, data in KERNELS.items():
        (caches / name).parent.mkdir(parents=True, exist_ok=True)
        (caches / name).write_bytes(data)
    (tmp_path / "b").mkdir()
    return Setting(place, caches, tmp_path / "b" / FOR.key, SharedKernels(place=place, key=FOR.key))


def test_kernels_of_one_box_are_those_of_the_other_afterwards(setting: Setting) -> None:
    found = setting.fetched(setting.put())
    assert {name: data for name, data in found.items() if name != MANIFEST} == KERNELS
    assert compiled_kernels.sha256(found[MANIFEST].decode()) == setting.packed[JOB]
    assert setting.shared.refused == []


def test_archive_that_no_record_names_is_not_read_beyond_its_manifest(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.put()
    monkeypatch.setattr(archive, "unpack", lambda *_, **__: pytest.fail("it was unpacked"))
    for trust in (Trust(), Trust(named=frozenset({"0" * 64}))):
        assert not setting.shared.holds(trust)
        assert setting.fetched(trust) == {}
    assert setting.shared.refused[0] == f"that of job {JOB}: the job's record does not name its manifest"


def test_archive_of_any_job_is_taken_where_the_owner_trusts_the_directory(setting: Setting) -> None:
    setting.put(OTHER)
    assert setting.shared.holds(Trust(all_here=True))
    assert set(KERNELS) < set(setting.fetched(Trust(all_here=True)))


def test_newest_archive_that_is_vouched_for_is_taken_where_others_are_damaged(setting: Setting) -> None:
    setting.put(JOB)
    setting.put(OTHER)
    (setting.folder.parent / OTHER / ARCHIVE).write_bytes(b"other bytes")
    os.utime(setting.folder / MANIFEST, (1, 1))
    found = setting.shared.fetch(setting.into, Trust(all_here=True), ignore)
    assert found and (found.job, found.files) == (JOB, len(KERNELS))
    assert setting.shared.refused == [f"that of job {OTHER}: its archive has other bytes than were packed"]


def flipped(folder: Path) -> None:
    data = bytearray((folder / ARCHIVE).read_bytes())
    data[600] ^= 1
    (folder / ARCHIVE).write_bytes(data)


def cut(folder: Path) -> None:
    os.truncate(folder / ARCHIVE, 700)


def manifest_changed(folder: Path) -> None:
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace("graph.py", "graph.pz"))


def archive_gone(folder: Path) -> None:
    (folder / ARCHIVE).unlink()


def archive_is_a_link(folder: Path) -> None:
    (folder / ARCHIVE).rename(folder / "elsewhere")
    (folder / ARCHIVE).symlink_to("elsewhere")


def folder_of_others(folder: Path) -> None:
    folder.chmod(0o777)


@pytest.mark.parametrize(
    "harm",
    [flipped, cut, manifest_changed, archive_gone, archive_is_a_link, folder_of_others],
    ids=lambda f: f.__name__,
)
def test_archive_that_is_not_what_was_packed_leaves_nothing_behind(
    setting: Setting, harm: Callable[[Path], None]
) -> None:
    trust = setting.put()
    harm(setting.folder)
    assert setting.fetched(trust) == {}
    assert list(setting.into.parent.iterdir()) == []


def test_caches_that_were_there_stay_where_the_archive_is_refused(setting: Setting) -> None:
    trust = setting.put()
    flipped(setting.folder)
    (setting.into / "inductor").mkdir(parents=True)
    (setting.into / "inductor" / "own").write_bytes(b"own")
    assert setting.fetched(trust) == {"inductor/own": b"own"}


def forged(setting: Setting, entries: list[tarfile.TarInfo], named: dict[str, File]) -> Trust:
    """An archive that a stranger made: hashes are right, and the record names it."""
    setting.put()
    with tarfile.open(setting.folder / ARCHIVE, "w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    with (setting.folder / ARCHIVE).open("rb") as file:
        whole = archive._hash(file, ignore)
    text = Manifest(compiled_for=FOR.to_json(), archive=whole, files=named).to_text()
    (setting.folder / MANIFEST).write_text(text)
    return Trust(named=frozenset({compiled_kernels.sha256(text)}))


def entry(name: str, *, kind: bytes = tarfile.REGTYPE, size: int = 1, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname, made.mode = kind, size, link, 0o4777
    return made


X = File(bytes=1, sha256=compiled_kernels.sha256("x"))


@pytest.mark.parametrize(
    "entries",
    [
        [entry("inductor/x", kind=tarfile.SYMTYPE, size=0, link="/etc/passwd")],
        [entry("inductor/x", kind=tarfile.LNKTYPE, size=0, link="/etc/passwd")],
        [entry("inductor/x", kind=tarfile.FIFOTYPE, size=0)],
        [entry("inductor/x", kind=tarfile.CHRTYPE, size=0)],
        [entry("inductor/x", kind=tarfile.DIRTYPE, size=0)],
        [entry("/etc/x")],
        [entry("../x")],
        [entry("inductor/y")],
        [entry("inductor/x"), entry("inductor/x")],
        [entry("inductor/x"), entry("inductor/y")],
        [entry("inductor/x", size=2)],
        [],
    ],
    ids=["link", "hard link", "pipe", "device", "folder", "absolute", "up", "other", "twice", "more", "longer", "none"],
)
def test_archive_with_an_entry_that_its_manifest_does_not_name_so_is_refused(
    setting: Setting, entries: list[tarfile.TarInfo]
) -> None:
    trust = forged(setting, entries, {"inductor/x": X})
    assert setting.fetched(trust) == {} and setting.shared.refused


def test_unpacked_files_are_plain_whatever_the_archive_says(setting: Setting) -> None:
    trust = forged(setting, [entry("inductor/x")], {"inductor/x": X})
    assert setting.fetched(trust)["inductor/x"] == b"x"
    assert stat.S_IMODE((setting.into / "inductor/x").stat().st_mode) & 0o7111 == 0


def test_links_locks_and_native_code_for_one_processor_are_not_packed(setting: Setting) -> None:
    caches = setting.caches
    for name in ("inductor/ab/native.so", "inductor/x.lock", "inductor/locks/y", "triton/k/launcher.so"):
        (caches / name).parent.mkdir(parents=True, exist_ok=True)
        (caches / name).write_bytes(b"z")
    (caches / "inductor" / "link").symlink_to("/etc/passwd")
    found = setting.fetched(setting.put())
    assert set(found) == {*KERNELS, "triton/k/launcher.so", MANIFEST}


def test_lists_of_triton_name_the_files_of_the_box_that_has_them(setting: Setting) -> None:
    """Triton takes a kernel for missing where a path in its list is."""
    for name in ("triton/k/__grp__k.json", "triton/k/other.json"):
        children = {"k.cubin": str(setting.caches / "triton" / "k" / "k.cubin")}
        (setting.caches / name).write_text(json.dumps({"child_paths": children}))
    found = setting.fetched(setting.put())
    (path,) = json.loads(found["triton/k/__grp__k.json"])["child_paths"].values()
    assert path == str(setting.into / "triton" / "k" / "k.cubin") and Path(path).is_file()
    assert str(setting.caches).encode() in found["triton/k/other.json"]


def test_box_that_compiled_nothing_leaves_nothing_in_the_directory(setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(compiled_kernels.BadArchive, match="compiled nothing"):
        setting.shared.put(JOB, tmp_path / "empty", FOR.to_json(), ignore)
    assert list((setting.place / "compile" / FOR.key).iterdir()) == []


def test_only_the_newest_archives_of_a_key_are_kept(setting: Setting) -> None:
    jobs = [f"{number:012x}" for number in range(shared_directory.KEPT + 2)]
    for age, job in enumerate(jobs):
        setting.put(job)
        os.utime(setting.folder.parent / job / MANIFEST, (1000 + age, 1000 + age))
    setting.put(jobs[-1])
    assert sorted(path.name for path in setting.folder.parent.iterdir()) == jobs[-shared_directory.KEPT :]


def test_the_keys_with_the_oldest_archives_go_and_what_is_no_key_stays(setting: Setting, tmp_path: Path) -> None:
    outer = setting.place / "compile"
    setting.put(JOB)
    keys = [f"{number:064x}" for number in range(shared_directory.KEPT_KEYS + 2)]
    for age, key in enumerate(keys):
        (outer / key / JOB).mkdir(parents=True)
        (outer / key / JOB / MANIFEST).write_text("{}")
        os.utime(outer / key / JOB / MANIFEST, (1000 + age, 1000 + age))
        os.utime(outer / key, (900, 900))
    (outer / "notes").mkdir()
    (tmp_path / "others").mkdir()
    (outer / ("f" * 64)).symlink_to(tmp_path / "others")
    os.utime(outer / ("f" * 64), (1, 1), follow_symlinks=False)
    setting.put(JOB)
    left = {path.name for path in outer.iterdir()}
    assert left == {FOR.key, "notes", "f" * 64, *keys[-(shared_directory.KEPT_KEYS - 1) :]}
    assert (tmp_path / "others").is_dir()
