"""Stand-ins for what a closed machine cannot download: a small dataset and pi0's tokenizer.

    PYTHON standins.py dataset DIR [--size 224]      a LeRobot v3 dataset of noise, DIR must not exist
    PYTHON standins.py tokenizer HF_HOME             eight words in place of google/paligemma-3b-pt-224

They let LeRobot's own training code run, and nothing more: what is trained on them is worth nothing. Only the
standard library is imported at the top and nothing of pi0q, so the trainer's interpreter can run this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

TOKENIZER = "google/paligemma-3b-pt-224"
#: in the place of a commit: no commit of the Hub's looks like this
STANDIN_COMMIT = "0" * 39 + "1"
WORDS = ("<pad>", "<eos>", "<bos>", "<unk>", "grab", "the", "box", "\n")
JOINTS = [f"joint_{i}" for i in range(6)]


def make_dataset(
    root: str | Path, *, size: int = 32, episodes: int = 4, frames: int = 50, repo_id: str = "local/grab_box"
) -> Path:
    """A dataset of seeded noise, written by the LeRobot of this interpreter; images, so no video codec.

    `size` is the side of the one camera's square image in pixels, `frames` the length of each episode.
    Raises FileExistsError if `root` exists, ImportError without LeRobot.
    """
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    image = {"dtype": "image", "shape": (size, size, 3), "names": ["height", "width", "channel"]}
    joints = {"dtype": "float32", "shape": (len(JOINTS),), "names": JOINTS}
    features = {"observation.images.top": image, "observation.state": joints, "action": joints}
    dataset = LeRobotDataset.create(repo_id, fps=10, features=features, root=Path(root), use_videos=False)
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        for _ in range(frames):
            dataset.add_frame(
                {
                    "observation.images.top": rng.integers(0, 255, (size, size, 3), dtype=np.uint8),
                    "observation.state": rng.normal(size=len(JOINTS)).astype(np.float32),
                    "action": rng.normal(size=len(JOINTS)).astype(np.float32),
                    "task": "grab the box",
                }
            )
        dataset.save_episode()
    dataset.finalize()
    return Path(root)


def make_tokenizer(hf_home: str | Path) -> Path:
    """A stand-in for pi0's gated tokenizer, in the cache layout below `hf_home`; the real one is left alone.

    Returns the snapshot that `HF_HUB_OFFLINE=1` will use. Whether it is the stand-in: `is_standin`.
    """
    repo = Path(hf_home) / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
    ref = repo / "refs" / "main"
    if ref.exists():
        return repo / "snapshots" / ref.read_text().strip()
    snapshot = repo / "snapshots" / STANDIN_COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    for name, content in tokenizer_files().items():
        (snapshot / name).write_text(content, encoding="utf-8")
    ref.parent.mkdir(exist_ok=True)
    ref.write_text(STANDIN_COMMIT)
    return snapshot


def is_standin(snapshot: Path) -> bool:
    return snapshot.name == STANDIN_COMMIT


def tokenizer_files() -> dict[str, str]:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 48, **names}
    warning = f"A stand-in written by pi0q, not {TOKENIZER}: it knows {len(WORDS)} words.\n"
    return {
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": json.dumps(config),
        "config.json": json.dumps({"model_type": "paligemma"}),
        "STAND-IN.txt": warning,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="standins_main.py", description=str(__doc__).split("\n", 1)[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    dataset = kinds.add_parser("dataset", help="a small LeRobot dataset of noise")
    dataset.add_argument("dir", type=Path)
    dataset.add_argument("--size", type=int, default=32, help="side of its images, pixels (default 32)")
    tokenizer = kinds.add_parser("tokenizer", help=f"eight words in place of {TOKENIZER}")
    tokenizer.add_argument("hf_home", type=Path)
    args = parser.parse_args(argv)
    if args.kind == "dataset":
        print(make_dataset(args.dir, size=args.size))
        return 0
    snapshot = make_tokenizer(args.hf_home)
    print(f"{snapshot} ({'stand-in' if is_standin(snapshot) else 'was there already, left alone'})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
