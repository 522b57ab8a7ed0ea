"""Read a dataset in the trainer's Python and print one line of JSON about it. Imports nothing of pi0q.

stdin: {"root": directory, "names": paths of a repository or null, "meta_only": whether its data are read elsewhere,
        "episodes": [...] or null, "seconds": CPU seconds}
Keys of the answer: info (meta/info.json), files (those that can't be read: path, fault, detail), v2_files, stats
(feature -> statistic -> size, finite), tasks, episodes, rows, extra_columns, lacking_columns, absent_episodes,
max_task, images, frames; jobs/dataset_checks/contents.py says what each means. What was not looked at is absent.

Whoever wrote the files may be anyone: memory and processor time are limited, and no more than what is listed above
leaves this process. Beside `root` nothing is read. `names` is given where only a part of a repository lies there.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

#: Bytes of a file of JSON, and of all memory.
MOST_JSON, MOST_MEMORY = 64 << 20, 8 << 30
#: Files whose first bytes are looked at, tables whose footers are, and rows whose numbers are.
MOST_FILES, MOST_TABLES, MOST_ROWS = 5_000, 500, 5_000_000
#: Episodes whose frames are looked at in each camera, frames of each, and images of a camera.
EPISODES, FRAMES, IMAGES = 8, 2_000, 48
#: What a file begins with that Git LFS has not fetched.
POINTER = b"version https://git-lfs.github.com/spec/"
#: Columns that every dataset has beside its features.
INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")


class Reader:
    """Reads one dataset."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.root = Path(request["root"])
        names = request.get("names")
        #: Paths of all files; None where the directory holds all of them.
        self.names: set[str] | None = None if names is None else set(names)
        self.meta_only = bool(request.get("meta_only"))
        self.wanted: list[int] | None = request.get("episodes")
        self.files: list[dict[str, str]] = []
        self.told: dict[str, Any] = {"files": self.files}
        self.info: dict[str, Any] = {}
        self.table: Any = None

    def run(self) -> None:
        """Read all that there is, each part for itself."""
        self.read_info()
        for part in (self.read_stats, self.read_pointers, self.read_tasks, self.read_episodes, self.read_data):
            with contextlib.suppress(ImportError):
                part()

    # -- files -----------------------------------------------------------------------------------------

    def bad(self, path: str, fault: str, error: object = "") -> None:
        self.files.append({"path": path, "fault": fault, "detail": " ".join(str(error).split())[:200]})

    def lies_here(self, path: str) -> bool:
        return (self.root / path).is_file()

    def exists(self, path: str) -> bool:
        return path in self.names if self.names is not None else self.lies_here(path)

    def tables(self, folder: str) -> list[str]:
        """Return the tables below a folder, as LeRobot finds them."""
        return sorted(str(file.relative_to(self.root)) for file in (self.root / folder).glob("*/*.parquet"))

    def json_of(self, path: str) -> Any:
        """Return what a file holds; None where it is not there or can't be read, which is told."""
        if not self.lies_here(path):
            if not self.exists(path):
                self.bad(path, "missing")
            return None
        if is_pointer(self.root / path):
            return None
        try:
            with (self.root / path).open("rb") as file:
                return json.loads(file.read(MOST_JSON))
        except (OSError, ValueError, RecursionError) as error:
            self.bad(path, "unreadable", error)
            return None

    def read_info(self) -> None:
        info = self.json_of("meta/info.json")
        if isinstance(info, dict):
            keys = ("codebase_version", "fps", "total_episodes", "total_tasks", "features")
            self.info, self.told["info"] = info, {key: info.get(key) for key in keys}
        self.told["v2_files"] = any(map(self.exists, ("meta/episodes.jsonl", "meta/tasks.jsonl")))

    def read_pointers(self) -> None:
        """Look for what Git LFS has not fetched."""
        found = [*self.root.glob("meta/*"), *self.root.glob("meta/episodes/*/*")]
        found += [*self.root.glob("data/*/*"), *self.root.glob("videos/*/*/*")]
        for file in sorted(found)[:MOST_FILES]:
            if file.is_file() and is_pointer(file):
                self.bad(str(file.relative_to(self.root)), "pointer")

    def read_stats(self) -> None:
        stats = self.json_of("meta/stats.json")
        if isinstance(stats, dict):
            self.told["stats"] = {
                name: {stat: numbers(value) for stat, value in one.items()}
                for name, one in stats.items()
                if isinstance(one, dict)
            }

    # -- tables ----------------------------------------------------------------------------------------

    def open_table(self, path: str) -> Any:
        """Return a parquet file; None where it can't be read, which is told."""
        import pyarrow.parquet as parquet

        if is_pointer(self.root / path):
            return None
        try:
            return parquet.ParquetFile(self.root / path)
        except Exception as error:
            self.bad(path, "unreadable", error)
            return None

    def read_tasks(self) -> None:
        path = "meta/tasks.parquet"
        if not self.lies_here(path):
            if not self.exists(path) and self.info.get("total_tasks") != 0:
                self.bad(path, "missing")
            return
        if table := self.open_table(path):
            schema = table.schema_arrow
            index = ((schema.pandas_metadata or {}).get("index_columns") or [None])[0]
            field = schema.field(index) if isinstance(index, str) and index in schema.names else None
            self.told["tasks"] = {
                "rows": table.metadata.num_rows,
                "indexed_by_text": field is not None and "string" in str(field.type),
            }

    def read_episodes(self) -> None:
        paths = self.tables("meta/episodes")
        if not paths:
            listed = self.names is not None and any(name.startswith("meta/episodes/") for name in self.names)
            if not listed and self.info.get("total_episodes") != 0:
                self.bad("meta/episodes", "missing")
            return
        import pyarrow

        tables = [table for path in paths[:MOST_TABLES] if (table := self.open_table(path))]
        if len(tables) < len(paths) or sum(table.metadata.num_rows for table in tables) > MOST_ROWS:
            return
        shared = set.intersection(*(set(table.schema_arrow.names) for table in tables))
        columns = [name for name in tables[0].schema_arrow.names if name in shared and not name.startswith("stats/")]
        self.table = pyarrow.concat_tables([table.read(columns=columns) for table in tables])
        with contextlib.suppress(KeyError):
            self.tell_episodes()

    def tell_episodes(self) -> None:
        numbers_of = self.table.column("episode_index").to_pylist()
        begins = self.table.column("dataset_from_index").to_pylist()
        ends = self.table.column("dataset_to_index").to_pylist()
        before = [0, *ends[:-1]]
        rows = zip(numbers_of, begins, ends, before, strict=True)
        odd = [number for number, begin, end, last in rows if begin != last or end <= begin]
        self.told["episodes"] = {"rows": len(ends), "frames": max(ends), "disordered": odd[0] if odd else None}
        if "tasks" in self.table.column_names:
            tasks = self.table.column("tasks").to_pylist()
            chosen = range(len(tasks)) if self.wanted is None else self.wanted
            first = Counter((tasks[n] or [""])[0] for n in chosen if 0 <= n < len(tasks))
            self.told["episodes"]["per_task"] = list(first.values())[:1000]

    # -- rows and frames -------------------------------------------------------------------------------

    def read_data(self) -> None:
        if self.meta_only:
            return
        paths = self.tables("data")
        if not paths:
            if self.names is None and self.info.get("total_episodes") != 0:
                self.bad("data", "missing")
            elif self.table is not None:
                self.find_videos()
            return
        tables = {path: table for path in paths[:MOST_TABLES] if (table := self.open_table(path))}
        if len(tables) < len(paths):
            return
        # Of a repository no more than the first table lies here.
        whole = self.names is None
        if whole:
            self.told["rows"] = sum(table.metadata.num_rows for table in tables.values())
        self.compare_columns(tables)
        rows = sum(table.metadata.num_rows for table in tables.values())
        if rows <= MOST_ROWS:
            self.read_indices(tables, whole=whole)
        self.read_images(tables)
        if self.table is not None:
            self.find_videos()
            if whole:
                self.read_frames(tables)

    def compare_columns(self, tables: dict[str, Any]) -> None:
        features = self.info.get("features")
        if not isinstance(features, dict):
            return
        known = {name for name, one in features.items() if isinstance(one, dict) and one.get("dtype") != "video"}
        stored = [set(table.schema_arrow.names) for table in tables.values()]
        self.told["lacking_columns"] = sorted(known - set.intersection(*stored))
        self.told["extra_columns"] = sorted(set.union(*stored) - known - set(INDEX))

    def read_indices(self, tables: dict[str, Any], *, whole: bool) -> None:
        import pyarrow.compute as compute

        there, largest = set[int](), -1
        for table in tables.values():
            names = [name for name in ("episode_index", "task_index") if name in table.schema_arrow.names]
            read = table.read(columns=names)
            if "episode_index" in names:
                there |= set(compute.unique(read.column("episode_index")).to_pylist())
            if "task_index" in names and read.num_rows:
                largest = max(largest, compute.max(read.column("task_index")).as_py())
        if largest >= 0:
            self.told["max_task"] = largest
        if whole:
            count = self.info.get("total_episodes")
            wanted = self.wanted if self.wanted is not None else range(count if isinstance(count, int) else 0)
            self.told["absent_episodes"] = [one for one in wanted if one not in there][:100]

    def read_images(self, tables: dict[str, Any]) -> None:
        """Look at the sizes of some images of each camera, spread over all tables."""
        features = self.info.get("features")
        features = features if isinstance(features, dict) else {}
        cameras = [name for name, one in features.items() if isinstance(one, dict) and one.get("dtype") == "image"]
        found = []
        for camera in cameras:
            sizes, looked, first = dict[tuple[int, int], int](), 0, 0
            step = max(1, len(tables) * 4 // IMAGES)
            for table in list(tables.values())[::step]:
                for group in spread(table.num_row_groups, 4):
                    for frame, cell in some_cells(table, group, camera, IMAGES // 4):
                        if size := size_of(cell, self.root):
                            looked += 1
                            sizes.setdefault(size, first + frame)
                first += table.metadata.num_rows
            told = [[height, width, frame] for (height, width), frame in sizes.items()]
            found.append({"camera": camera, "sizes": told[:10], "looked": looked})
        self.told["images"] = found

    def video_keys(self) -> list[str]:
        features = self.info.get("features")
        features = features if isinstance(features, dict) else {}
        return [name for name, one in features.items() if isinstance(one, dict) and one.get("dtype") == "video"]

    def episodes(self) -> list[int]:
        """Return the rows of the table of episodes that the job uses."""
        count = self.table.num_rows
        return [n for n in (range(count) if self.wanted is None else self.wanted) if 0 <= n < count]

    def video_of(self, row: int, camera: str) -> str:
        pattern = self.info.get("video_path")
        if not isinstance(pattern, str):
            pattern = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        chunk, file = (self.table.column(f"videos/{camera}/{of}_index")[row].as_py() for of in ("chunk", "file"))
        return pattern.format(video_key=camera, chunk_index=chunk, file_index=file)

    def find_videos(self) -> None:
        """Tell which videos of the job's episodes are not there."""
        missing = dict[str, None]()
        for camera in self.video_keys():
            with contextlib.suppress(KeyError, ValueError, IndexError, TypeError):
                for path in dict.fromkeys(self.video_of(row, camera) for row in self.episodes()[:MOST_FILES]):
                    if not self.exists(path):
                        missing[path] = None
        for path in list(missing)[:20]:
            self.bad(path, "missing")

    def read_frames(self, tables: dict[str, Any]) -> None:
        """Hold the times of some episodes' frames against those of the videos, as LeRobot does when it decodes."""
        rows = [self.episodes()[n] for n in spread(len(self.episodes()), EPISODES)]
        worst: dict[str, Any] = {"worst": 0.0}
        looked = 0
        for row in rows:
            times = self.times_of(row, tables)
            for camera in self.video_keys():
                with contextlib.suppress(Exception):
                    path = self.video_of(row, camera)
                    offset = float(self.table.column(f"videos/{camera}/from_timestamp")[row].as_py())
                    if not times or not self.lies_here(path) or is_pointer(self.root / path):
                        continue
                    looked += len(times)
                    distance, frame = furthest(self.root / path, [offset + time for time in times])
                    if distance > worst["worst"]:
                        number = self.table.column("episode_index")[row].as_py()
                        worst = {"worst": distance, "video": path, "episode": number, "frame": frame}
                        worst["wanted"] = offset + times[frame]
        if looked:
            self.told["frames"] = {**worst, "looked": looked, "episodes": len(rows)}

    def times_of(self, row: int, tables: dict[str, Any]) -> list[float]:
        """Return the column `timestamp` of an episode's first frames."""
        import pyarrow.compute as compute
        import pyarrow.parquet as parquet

        try:
            number = self.table.column("episode_index")[row].as_py()
            chunk, file = (self.table.column(f"data/{of}_index")[row].as_py() for of in ("chunk", "file"))
            pattern = self.info.get("data_path") or "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
            path = pattern.format(chunk_index=chunk, file_index=file)
            if path not in tables:
                return []
            read = parquet.read_table(self.root / path, columns=["episode_index", "timestamp"])
            read = read.filter(compute.equal(read.column("episode_index"), number))
            return list(read.column("timestamp").to_pylist()[:FRAMES])
        except (KeyError, ValueError, TypeError, IndexError, AttributeError):
            return []


def is_pointer(file: Path) -> bool:
    """Return whether a file is what Git LFS leaves in place of one that was not fetched."""
    try:
        if file.stat().st_size > 1024:
            return False
        with file.open("rb") as opened:
            return opened.read(len(POINTER)) == POINTER
    except OSError:
        return False


def numbers(value: Any) -> dict[str, Any]:
    """Return how many numbers a statistic has, and whether all are finite."""
    found, rest, finite = 0, [value], True
    while rest:
        one = rest.pop()
        if isinstance(one, list):
            rest += one
        else:
            found += 1
            finite = finite and isinstance(one, (int, float)) and math.isfinite(one)
    return {"size": found, "finite": finite}


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` numbers below `count`, spread evenly; the first and the last are among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(n * (count - 1) / (most - 1)) for n in range(most)})


def some_cells(table: Any, group: int, column: str, most: int) -> list[tuple[int, Any]]:
    """Return some cells of a column of one row group, with their numbers in the table."""
    first = sum(table.metadata.row_group(n).num_rows for n in range(group))
    try:
        read = table.read_row_group(group, columns=[column]).column(column)
    except Exception:
        return []
    return [(first + n, read[n].as_py()) for n in spread(len(read), most)]


def size_of(cell: Any, root: Path) -> tuple[int, int] | None:
    """Return height and width of a stored image, by its header."""
    from PIL import Image

    cell = cell if isinstance(cell, dict) else {}
    data, path = cell.get("bytes"), cell.get("path")
    try:
        with Image.open(io.BytesIO(data) if data else root / str(path)) as image:
            return image.height, image.width
    except Exception:
        return None


def furthest(video: Path, times: list[float]) -> tuple[float, int]:
    """Return how far the worst of these times is from any frame of the video, in seconds, and which one it is.

    In 32 bits, as LeRobot compares them. Nothing is decoded: the times of all packets are in the container.
    """
    import av
    import numpy

    first, last = min(times), max(times)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        base = float(stream.time_base)
        container.seek(max(0, round(first / base) - 1), backward=True, any_frame=False, stream=stream)
        shown = list[float]()
        for packet in container.demux(stream):
            if packet.pts is not None:
                shown.append(float(packet.pts * stream.time_base))
            # Frames may lie in the file in another order than they are shown in.
            if shown and packet.dts is not None and packet.dts * base > last + 1:
                break
    there = numpy.sort(numpy.array(shown, dtype=numpy.float32))
    asked = numpy.array(times, dtype=numpy.float32)
    after = numpy.clip(numpy.searchsorted(there, asked), 1, max(1, len(there) - 1))
    nearest = numpy.minimum(numpy.abs(asked - there[after - 1]), numpy.abs(asked - there[after % len(there)]))
    worst = int(nearest.argmax())
    return float(nearest[worst]), worst


def main() -> None:
    request = json.loads(sys.stdin.readline())
    seconds = int(request.get("seconds") or 60)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.RLIM_INFINITY))
    reader = Reader(request)
    reader.run()
    print(json.dumps(reader.told))


if __name__ == "__main__":
    main()
