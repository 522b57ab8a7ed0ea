"""Real exceptions of the trainer's libraries, and how each is brought about; make_raised.py runs them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """One exception."""

    #: The class that pi0q is to give it.
    reason: str
    #: What was done, for the header.
    done: str
    run: Callable[[Ground], object]
    packages: tuple[str, ...]
    #: Words of the detail or the fix.
    says: tuple[str, ...] = ()
    argv: str = ""


class Ground:
    """A place for files, and servers that fail."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ports: list[int] = []

    def dead(self) -> str:
        """Return an address at which nobody listens."""
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            self.ports.append(held.getsockname()[1])
        return f"http://127.0.0.1:{self.ports[-1]}"

    def serves(self, answer: bytes, *, reset: bool = False, hold_seconds: float = 0.0) -> str:
        """Return the address of a server that sends these bytes to each request and ends the connection."""
        server = socket.create_server(("127.0.0.1", 0))
        self.ports.append(server.getsockname()[1])

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    connection.sendall(answer)
                    threading.Event().wait(hold_seconds)
                    if reset:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{self.ports[-1]}"

    def answers(self, status: str, body: bytes = b"", headers: str = "") -> str:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
        return self.serves(head.encode() + body)

    def directory(self, **files: bytes | str) -> Path:
        """Return a directory with these files; `_json` at the end of a name stands for `.json`."""
        made = self.place / f"directory{len(list(self.place.iterdir()))}"
        made.mkdir()
        for name, text in files.items():
            base, _, suffix = name.rpartition("_")
            (made / f"{base}.{suffix}").write_bytes(text.encode() if isinstance(text, str) else text)
        return made


LIMITED = "429 Too Many Requests", b'{"error": "you have reached your api rate limit"}'
CUT = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nContent-Type: application/json\r\n\r\n{"a":'
PAGE = b"<!DOCTYPE html><html><body>Welcome to the mirror</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 1234\n"


def hub(ground: Ground, endpoint: str) -> Any:
    """huggingface_hub with this endpoint and an empty cache; to be called before it is imported."""
    os.environ.update(HF_ENDPOINT=endpoint, HF_HOME=str(ground.place / "hf"))
    return importlib.import_module("huggingface_hub")


def tokenizer(ground: Ground, endpoint: str) -> object:
    hub(ground, endpoint)
    return importlib.import_module("transformers").AutoTokenizer.from_pretrained("google/paligemma-3b-pt-224")


def model_config(ground: Ground, endpoint: str) -> object:
    hub(ground, endpoint)
    return importlib.import_module("transformers").AutoConfig.from_pretrained("HuggingFaceTB/SmolVLM2-500M")


def file(ground: Ground, endpoint: str) -> object:
    return hub(ground, endpoint).hf_hub_download("lerobot/pi0", "config.json")


def snapshot(ground: Ground, endpoint: str) -> object:
    return hub(ground, endpoint).snapshot_download("you/grab_box", repo_type="dataset")


def refs(ground: Ground, endpoint: str) -> object:
    return hub(ground, endpoint).HfApi().list_repo_refs("you/grab_box", repo_type="dataset")


def streaming(ground: Ground, endpoint: str) -> object:
    hub(ground, endpoint)
    return importlib.import_module("datasets").load_dataset("you/grab_box", split="train", streaming=True)


def offline_tokenizer(ground: Ground) -> object:
    os.environ["HF_HUB_OFFLINE"] = "1"
    return tokenizer(ground, ground.dead())


def httpx_get(ground: Ground, address: str) -> object:
    httpx: Any = importlib.import_module("httpx")
    return httpx.get(address, timeout=1.0).json()


def httpx_pool(ground: Ground) -> object:
    httpx: Any = importlib.import_module("httpx")
    limits, timeout = httpx.Limits(max_connections=1), httpx.Timeout(5.0, pool=0.2)
    client, address = httpx.Client(limits=limits, timeout=timeout), ground.serves(CUT, hold_seconds=4)
    with client.stream("GET", address):
        return client.get(address)


def aiohttp_get(address: str, seconds: float = 5.0) -> object:
    import asyncio

    aiohttp: Any = importlib.import_module("aiohttp")

    async def get() -> object:
        timeout = aiohttp.ClientTimeout(sock_read=seconds)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(address) as answer:
            answer.raise_for_status()
            return await answer.read()

    return asyncio.run(get())


def fsspec_read(address: str) -> object:
    fsspec: Any = importlib.import_module("fsspec")
    importlib.import_module("fsspec.asyn")
    filesystem = fsspec.filesystem("http", client_kwargs={})
    sync: Any = importlib.import_module("fsspec.asyn").sync
    return sync(filesystem.loop, filesystem._cat_file, address + "/a.parquet", timeout=0.5)


def requests_get(address: str) -> object:
    requests: Any = importlib.import_module("requests")
    answer = requests.get(address, timeout=1.0)
    answer.raise_for_status()
    return answer.json()


def torch_hub(ground: Ground, address: str) -> object:
    torch: Any = importlib.import_module("torch")
    return torch.hub.load_state_dict_from_url(f"{address}/resnet18-f37072fd.pth", model_dir=str(ground.place / "hub"))


def closed_pipe(ground: Ground) -> object:
    multiprocessing: Any = importlib.import_module("multiprocessing")
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    return ours.recv()


def reset_pipe(ground: Ground) -> object:
    """A socket of two processes of the trainer whose other end died with words unread."""
    connection: Any = importlib.import_module("multiprocessing.connection")
    listener = connection.Listener(("127.0.0.1", 0))

    def end() -> None:
        accepted = listener.accept()
        raw = socket.socket(fileno=os.dup(accepted.fileno()))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        raw.close()

    threading.Thread(target=end, daemon=True).start()
    client = connection.Client(listener.address)
    threading.Event().wait(0.2)
    return client.recv()


def loader_death(ground: Ground) -> object:
    """A data loader's process that ends without a word, as one that a library ends."""
    torch: Any = importlib.import_module("torch")

    class Ends(torch.utils.data.Dataset):  # type: ignore[name-defined,misc,unused-ignore]
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            os._exit(1)

    return list(torch.utils.data.DataLoader(Ends(), num_workers=1, timeout=20))


def loader_silence(ground: Ground) -> object:
    torch: Any = importlib.import_module("torch")

    class Sleeps(torch.utils.data.Dataset):  # type: ignore[name-defined,misc,unused-ignore]
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> int:
            threading.Event().wait(60)
            return 0

    return list(torch.utils.data.DataLoader(Sleeps(), num_workers=1, timeout=1))


def info(ground: Ground, content: bytes) -> object:
    place = ground.directory()
    (place / "meta").mkdir()
    (place / "meta" / "info.json").write_bytes(content)
    metadata: Any = importlib.import_module("lerobot.datasets.dataset_metadata")
    return metadata.LeRobotDatasetMetadata("you/grab_box", root=place)


def policy_config(ground: Ground, content: bytes) -> object:
    importlib.import_module("lerobot.policies")
    policies: Any = importlib.import_module("lerobot.configs.policies")
    return policies.PreTrainedConfig.from_pretrained(ground.directory(config_json=content))


def policy_path(path: str) -> object:
    importlib.import_module("lerobot.policies")
    return importlib.import_module("lerobot.configs.policies").PreTrainedConfig.from_pretrained(path)


def llama_tokenizer(ground: Ground) -> object:
    os.environ["HF_HUB_OFFLINE"] = "1"
    place = ground.directory(tokenizer_model=b"no model", tokenizer_config_json='{"tokenizer_class": "GemmaTokenizer"}',
                             config_json='{"model_type": "gemma"}')  # fmt: skip
    return importlib.import_module("transformers").AutoTokenizer.from_pretrained(place)


def flash_attention(ground: Ground) -> object:
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers: Any = importlib.import_module("transformers")
    config = transformers.LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="flash_attention_2")


def state_dict(ground: Ground, *, missing: bool) -> object:
    nn: Any = importlib.import_module("torch").nn
    policy: Any = type("PI05Policy", (nn.Module,), {})

    def made(size: int, extra: int) -> Any:
        module = policy()
        module.action_in_proj = nn.Linear(size, 16)
        for number in range(extra):
            setattr(module, f"paligemma_with_expert_layers_{number}", nn.Linear(2, 2))
        return module

    return made(7, 12 if missing else 0).load_state_dict(made(32, 0).state_dict())


def triton_build(ground: Ground, **env: str) -> object:
    os.environ.update(env)
    if not env.get("CC"):
        os.environ.pop("CC", None)
    build: Any = importlib.import_module("triton.runtime.build")
    source = ground.directory(main_c="#include <Python.h>\nint main() { return 0; }") / "main.c"
    return build._build("main", str(source), str(ground.place), [], [], [], [])


def compiled(ground: Ground, **env: str) -> object:
    os.environ.update(env, TORCHINDUCTOR_CACHE_DIR=str(ground.place / "cache"))
    torch: Any = importlib.import_module("torch")
    return torch.compile(lambda x: (x.sin() * 2).sum())(torch.ones(64, 64))


def extension(ground: Ground) -> object:
    os.environ["TORCH_EXTENSIONS_DIR"] = str(ground.place)
    loader: Any = importlib.import_module("torch.utils.cpp_extension")
    return loader.load_inline("fused_adam", cpp_sources="int f( { return 1; }", functions=["f"])


def other_cameras(ground: Ground) -> object:
    utils: Any = importlib.import_module("lerobot.policies.utils")
    types: Any = importlib.import_module("lerobot.configs.types")
    feature = types.PolicyFeature(type=types.FeatureType.VISUAL, shape=(3, 224, 224))
    act: Any = importlib.import_module("lerobot.policies.act.configuration_act")
    config = act.ACTConfig(
        input_features={"observation.images.base_0_rgb": feature, "observation.images.left_wrist_0_rgb": feature}
    )
    return utils.validate_visual_features_consistency(
        config, {"observation.images.front": feature, "observation.images.wrist": feature}
    )


def far_timestamp(ground: Ground, asked: float) -> object:
    av: Any = importlib.import_module("av")
    np: Any = importlib.import_module("numpy")
    video = ground.place / "file-001.mp4"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 128, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return importlib.import_module("lerobot.datasets.video_utils").decode_video_frames(video, [asked], 1e-4, "pyav")


def draccus_parse(text: str) -> object:
    draccus: Any = importlib.import_module("draccus")
    configs: Any = importlib.import_module("lerobot.configs.default")
    return draccus.decode(configs.DatasetConfig, json.loads(text))


def torch_load(ground: Ground, content: bytes) -> object:
    path = ground.place / "optimizer_state.pt"
    path.write_bytes(content)
    return importlib.import_module("torch").load(path)


def safetensors_load(ground: Ground, content: bytes) -> object:
    path = ground.place / "model.safetensors"
    path.write_bytes(content)
    return importlib.import_module("safetensors.torch").load_file(path)


_HUB, _TF = ("huggingface_hub", "httpx"), ("transformers", "huggingface_hub", "httpx")
_LEROBOT = ("lerobot",)

CASES: dict[str, Case] = {
    "transformers_dead": Case(
        reason="network", done="nobody listens at the Hub's address", packages=_TF,
        run=lambda ground: tokenizer(ground, ground.dead()),
    ),
    "transformers_limited": Case(
        reason="network", done="the Hub answers 429", packages=_TF,
        run=lambda ground: model_config(ground, ground.answers(*LIMITED)),
    ),
    "transformers_broken_gateway": Case(
        reason="network", done="the Hub answers 502", packages=_TF,
        run=lambda ground: tokenizer(ground, ground.answers("502 Bad Gateway")),
    ),
    "transformers_offline": Case(
        reason="not_cached", done="HF_HUB_OFFLINE and an empty cache", packages=_TF, run=offline_tokenizer,
    ),
    "hub_file_dead": Case(
        reason="network", done="nobody listens at the Hub's address", packages=_HUB,
        run=lambda ground: file(ground, ground.dead()),
    ),
    "hub_file_limited": Case(
        reason="network", done="the Hub answers 429", packages=_HUB,
        run=lambda ground: file(ground, ground.answers(*LIMITED)),
    ),
    "hub_snapshot_limited": Case(
        reason="network", done="the Hub answers 429", packages=_HUB,
        run=lambda ground: snapshot(ground, ground.answers(*LIMITED)),
    ),
    "hub_refs_limited": Case(
        reason="network", done="the Hub answers 429", packages=_HUB,
        run=lambda ground: refs(ground, ground.answers(*LIMITED)),
    ),
    "hub_refs_reset": Case(
        reason="network", done="the Hub resets the connection", packages=_HUB,
        run=lambda ground: refs(ground, ground.serves(b"", reset=True)),
    ),
    "hub_refs_page": Case(
        reason="trainer_failed", done="a mirror answers with a page", packages=_HUB,
        run=lambda ground: refs(ground, ground.answers("200 OK", PAGE, "Content-Type: text/html\r\n")),
    ),
    "datasets_streaming_dead": Case(
        reason="network", done="nobody listens at the Hub's address", packages=("datasets", "huggingface_hub"),
        run=lambda ground: streaming(ground, ground.dead()),
    ),
    "httpx_read_error": Case(
        reason="network", done="the connection is reset in the midst of an answer", packages=("httpx",),
        run=lambda ground: httpx_get(ground, ground.serves(CUT, reset=True)),
    ),
    "httpx_pool_timeout": Case(reason="network", done="no free connection", packages=("httpx",), run=httpx_pool),
    "httpx_read_timeout": Case(
        reason="network", done="a server that does not answer", packages=("httpx",),
        run=lambda ground: httpx_get(ground, ground.serves(b"", hold_seconds=5)),
    ),
    "httpx_page": Case(
        reason="trainer_failed", done="a page where JSON was asked for", packages=("httpx",),
        run=lambda ground: httpx_get(ground, ground.answers("200 OK", PAGE)),
    ),
    "aiohttp_disconnected": Case(
        reason="network", done="the server ends the connection", packages=("aiohttp",),
        run=lambda ground: aiohttp_get(ground.serves(b"")),
    ),
    "aiohttp_payload": Case(
        reason="network", done="an answer that is cut", packages=("aiohttp",),
        run=lambda ground: aiohttp_get(ground.serves(CUT)),
    ),
    "aiohttp_timeout": Case(
        reason="network", done="a server that does not answer", packages=("aiohttp",),
        run=lambda ground: aiohttp_get(ground.serves(b"", hold_seconds=5), 0.5),
    ),
    "aiohttp_limited": Case(
        reason="network", done="the server answers 429", packages=("aiohttp",),
        run=lambda ground: aiohttp_get(ground.answers(*LIMITED)),
    ),
    "fsspec_timeout": Case(
        reason="network", done="a server that does not answer", packages=("fsspec", "aiohttp"),
        run=lambda ground: fsspec_read(ground.serves(b"", hold_seconds=5)),
    ),
    "requests_cut": Case(
        reason="network", done="an answer that is cut", packages=("requests", "urllib3"),
        run=lambda ground: requests_get(ground.serves(CUT)),
    ),
    "requests_unavailable": Case(
        reason="network", done="the server answers 503", packages=("requests", "urllib3"),
        run=lambda ground: requests_get(ground.answers("503 Service Unavailable")),
    ),
    "requests_page": Case(
        reason="trainer_failed", done="a page where JSON was asked for", packages=("requests",),
        run=lambda ground: requests_get(ground.answers("200 OK", PAGE)),
    ),
    "torch_hub_dead": Case(
        reason="network", done="nobody listens where torch's weights are", packages=("torch",),
        run=lambda ground: torch_hub(ground, ground.dead()),
    ),
    "torch_hub_unavailable": Case(
        reason="network", done="503 where torch's weights are", packages=("torch",),
        run=lambda ground: torch_hub(ground, ground.answers("503 Service Unavailable")),
    ),
    "pipe_closed": Case(
        reason="trainer_failed", done="a pipe whose other end is closed", packages=("torch",), run=closed_pipe,
    ),
    "pipe_reset": Case(
        reason="trainer_failed", done="a connection between own processes that is reset", packages=("torch",),
        run=reset_pipe,
    ),
    "loader_death": Case(
        reason="trainer_failed", done="a data loader's process that ends by itself", packages=("torch",),
        run=loader_death,
    ),
    "loader_silence": Case(
        reason="trainer_failed", done="a data loader that takes longer than its timeout", packages=("torch",),
        run=loader_silence,
    ),
    "info_json_half": Case(
        reason="dataset_damaged", done="half an info.json", packages=_LEROBOT,
        run=lambda ground: info(ground, b'{"codebase_version": "v3.0", '),
    ),
    "info_json_bytes": Case(
        reason="dataset_damaged", done="an info.json that is no text", packages=_LEROBOT,
        run=lambda ground: info(ground, b"\xff\xfe\x00\x80"),
    ),
    "config_json_half": Case(
        reason="trainer_failed", done="half a config.json of local weights", packages=_LEROBOT,
        run=lambda ground: policy_config(ground, b'{"type": "act", '),
    ),
    "config_json_type": Case(
        reason="spec_refused", done="a config.json of an unknown policy", packages=_LEROBOT,
        run=lambda ground: policy_config(ground, b'{"type": "pi9"}'),
    ),
    "weights_path": Case(
        reason="spec_refused", done="local weights that are not there", packages=(*_LEROBOT, "huggingface_hub"),
        run=lambda ground: policy_path("/data/weights/pi05_base"), says=("/data/weights/pi05_base",),
    ),
    "backend_tokenizer": Case(
        reason="trainer_broken", done="a tokenizer of sentencepiece without that package", packages=("transformers",),
        run=llama_tokenizer, says=("pip install sentencepiece",),
    ),
    "flash_attention": Case(
        reason="trainer_broken", done="flash attention without that package", packages=("transformers",),
        run=flash_attention, says=("pip install flash-attn",),
    ),
    "size_mismatch": Case(
        reason="spec_refused", done="weights of 32 actions into a policy of 7", packages=("torch",),
        run=lambda ground: state_dict(ground, missing=False),
        says=("size mismatch for action_in_proj", "max_action_dim: 32"),
    ),
    "size_mismatch_behind": Case(
        reason="spec_refused", done="the same behind a long list of missing parameters", packages=("torch",),
        run=lambda ground: state_dict(ground, missing=True),
        says=("size mismatch for action_in_proj", "max_action_dim: 32"),
    ),
    "no_c_compiler": Case(
        reason="trainer_broken", done="no compiler on the PATH", packages=("triton",),
        run=lambda ground: triton_build(ground, PATH="/nowhere"), says=("apt-get install -y gcc",),
    ),
    "c_compiler_fails": Case(
        reason="trainer_broken", done="a gcc that fails", packages=("triton",), says=("apt-get install",),
        run=lambda ground: triton_build(ground, CC="/usr/bin/gcc", COMPILER_PATH="/nowhere", PATH="/nowhere"),
    ),
    "no_cxx_compiler": Case(
        reason="trainer_broken", done="torch.compile on the CPU without a C++ compiler", packages=("torch",),
        run=lambda ground: compiled(ground, CXX="", PATH="/nowhere"), says=("apt-get install -y gcc g++",),
    ),
    "extension_fails": Case(
        reason="trainer_broken", done="an extension that can not be compiled", packages=("torch",), run=extension,
        says=("nvcc",),
    ),
    "feature_mismatch": Case(
        reason="spec_refused", done="cameras of other names than the policy's", packages=_LEROBOT, run=other_cameras,
        says=("base_0_rgb", "rename_map: {observation.images.front: observation.images.base_0_rgb"),
    ),
    "timestamp_frame": Case(
        reason="dataset_damaged", done="a timestamp between two frames", packages=(*_LEROBOT, "av"),
        run=lambda ground: far_timestamp(ground, 0.35), says=("file-001.mp4", "asks for 0.3500 s", "at 0.3000 s"),
    ),
    "timestamp_rounding": Case(
        reason="dataset_damaged", done="a timestamp that is off by a rounding", packages=(*_LEROBOT, "av"),
        run=lambda ground: far_timestamp(ground, 0.3004), says=("tolerance_s: 0.0005",),
    ),
    "draccus_fields": Case(
        reason="spec_refused", done="a key that a configuration does not have", packages=("draccus", "lerobot"),
        run=lambda ground: draccus_parse('{"repo_id": "you/grab_box", "episode": [0]}'), says=("episode",),
    ),
    "draccus_union": Case(
        reason="spec_refused", done="a text where a list belongs", packages=("draccus", "lerobot"),
        run=lambda ground: draccus_parse('{"repo_id": "you/grab_box", "episodes": "all"}'), says=("episodes",),
    ),
    "torch_load_pointer": Case(
        reason="weights_damaged", done="a Git LFS pointer instead of weights", packages=("torch",),
        run=lambda ground: torch_load(ground, POINTER),
    ),
    "torch_load_cut": Case(
        reason="weights_damaged", done="the beginning of a file of weights", packages=("torch",),
        run=lambda ground: torch_load(ground, b"PK\x03\x04" + bytes(200)),
    ),
    "safetensors_pointer": Case(
        reason="weights_damaged", done="a Git LFS pointer instead of weights", packages=("safetensors",),
        run=lambda ground: safetensors_load(ground, POINTER),
    ),
}  # fmt: skip
