"""What the network of any4d costs: seconds, memory, arithmetic, and the share of each part.

    python benchmarks/any4d.py [--threads 2] [--views 2 4] [--long 50] [--size 518x336] [--repeats 3]

Every row runs in a process of its own, so that its peak memory is its own. `plain` is the baseline of the same run: the
same network with what the published code does on a CPU (torch's linear layers, all encoders on zeros, all views through
the dense heads at once). CPU seconds are the median over repeats after a first pass that is left out, and given beside
it; on shared machines the ratio to `plain` is the figure to trust. `--long N` sends N frames through the whole engine,
in windows. On a machine with a GPU the rows of `cuda` follow, and how far it is from the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

PARTS = {
    "image encoder": ("encoder.model",),
    "transformer": ("info_sharing",),
    "geometry head": ("dpt_feature_head", "dpt_regressor_head"),
    "motion head": ("scene_flow_dpt_feature_head", "scene_flow_dpt_regressor_head"),
    "input encoders": ("ray_dirs_encoder", "depth_encoder", "scene_flow_encoder"),
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    kind: str
    views: int
    width: int
    height: int
    threads: int
    repeats: int
    device: str = "cpu"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--views", type=int, nargs="*", default=[2, 4])
    parser.add_argument("--long", type=int, default=0)
    parser.add_argument("--size", default="518x336")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(measured(Row(**json.loads(options.row)))))
        return
    width, height = (int(n) for n in options.size.split("x"))
    base = Row("", 0, width, height, options.threads, options.repeats)
    rows = [replace(base, kind=k, views=v) for v in options.views for k in ("plain", "float32", "mixed")]
    rows += [replace(base, kind="windows", views=options.long, repeats=1)] if options.long else []
    import torch

    if torch.cuda.is_available():
        rows += [replace(base, kind="agreement", views=2, device="cuda")]
        rows += [replace(base, kind=k, views=v, device="cuda") for v in (2, 50) for k in ("float32", "mixed")]
    table(rows)


def table(rows: list[Row]) -> None:
    print(f"{rows[0].width}x{rows[0].height}, {rows[0].threads} threads on the CPU")
    print(f"{'':18}{'TFLOP':>7}{'CPU s':>8}{'first':>8}{'wall s':>8}{'GiB':>6}{'of plain':>9}{'off %':>7}   shares")
    plain: dict[int, float] = {}
    for row in rows:
        found = run(row)
        plain |= {row.views: found["cpu_s"]} if row.kind == "plain" else {}
        ratio = found["cpu_s"] / plain[row.views] if row.views in plain and row.device == "cpu" else float("nan")
        shares = ", ".join(f"{name} {100 * s:.0f} %" for name, s in found["shares"].items() if s > 0.004)
        name = f"{row.device} {row.kind} x{row.views}"
        print(
            f"{name:18}{found['tflop']:7.2f}{found['cpu_s']:8.1f}{found['first_cpu_s']:8.1f}{found['wall_s']:8.2f}"
            f"{found['peak_gib']:6.2f}{ratio:9.2f}{100 * found['off']:7.2f}   {shares}",
            flush=True,
        )


def run(row: Row) -> dict[str, Any]:
    """In a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(row.threads)}
    command = [sys.executable, __file__, "--row", json.dumps(row.__dict__)]
    return json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)


def measured(row: Row) -> dict[str, Any]:
    import torch

    torch.set_num_threads(row.threads)
    if row.kind == "windows":
        return windows(row)
    network = the_network(row.kind, row.device)
    shares: dict[str, float] = {}
    with torch.inference_mode(), plain_ways(network, on=row.kind == "plain"), timed_parts(network, shares, row.device):
        views = the_views(row)
        seconds = []
        for _ in range(1 + row.repeats):
            shares.clear()
            cpu, wall = time.process_time(), time.perf_counter()
            said = network(views)
            synchronise(row.device)
            seconds.append((time.process_time() - cpu, time.perf_counter() - wall))
    total = sum(shares.values()) or 1.0
    return {
        "tflop": teraflops(row), "cpu_s": statistics.median(s[0] for s in seconds[1:]), "first_cpu_s": seconds[0][0],
        "wall_s": statistics.median(s[1] for s in seconds[1:]), "peak_gib": peak_gib(row.device),
        "shares": {name: s / total for name, s in shares.items()}, "off": off(said, row),
    }  # fmt: skip


def the_network(kind: str, device: str) -> Any:
    """As the engine loads it, with weights that follow from their names."""
    import torch

    from worldline.engines.any4d.asking import VIEWS_AT_ONCE
    from worldline.engines.any4d.config import NetworkConfig
    from worldline.engines.any4d.network import Any4D
    from worldline.nets.hashed_weights import fill
    from worldline.nets.linear import half_linear
    from worldline.nets.position import sine_table

    with torch.device("meta"):
        network = Any4D(NetworkConfig())
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    fill(network)
    network.info_sharing.view_pos_table.copy_(sine_table(1, NetworkConfig().width, base=1e4))
    if kind == "mixed":
        half_linear(network.encoder)
        half_linear(network.info_sharing)
    network.views_at_once = 10**6 if kind == "plain" else VIEWS_AT_ONCE[device]
    return network.to(device)


def the_views(row: Row) -> Any:
    import torch

    from worldline.engines.any4d.inputs import Views

    noise = torch.Generator().manual_seed(0)
    image = torch.randn(row.views, 1, 3, row.height, row.width, generator=noise)
    return Views(image.to(row.device))


@contextmanager
def plain_ways(network: Any, *, on: bool) -> Any:
    """The published code's ways of computing the same."""
    import torch
    from torch.nn import functional

    from worldline.nets import dpt, linear

    if not on:
        yield
        return

    def fusion(self: Any, x: Any, finer: Any = None) -> Any:
        x = x if finer is None else x + self.resConfUnit1(finer)
        x = functional.interpolate(self.resConfUnit2(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.out_conv(x)

    def levels(self: Any, maps: Any) -> Any:
        pairs = zip(self.input_process, maps, strict=True)
        return self.scratch([process(level.contiguous()) for process, level in pairs])

    def codes(views: Any) -> Any:
        v, b, _, height, width = views.image.shape
        for encoder, channels in (
            (network.ray_dirs_encoder, 3),
            (network.depth_encoder, 1),
            (network.scene_flow_encoder, 3),
        ):
            code = encoder(torch.zeros(v * b, channels, height, width)).unflatten(0, (v, b))
            yield code, torch.zeros(v, b)

    kept = dpt.Fusion.forward, dpt.DptFeatures.forward, linear._HAS_ONEDNN
    dpt.Fusion.forward, dpt.DptFeatures.forward, linear._HAS_ONEDNN = fusion, levels, False  # type: ignore[method-assign]
    network._codes = codes
    yield
    dpt.Fusion.forward, dpt.DptFeatures.forward, linear._HAS_ONEDNN = kept  # type: ignore[method-assign]


@contextmanager
def timed_parts(network: Any, shares: dict[str, float], device: str) -> Any:
    """CPU seconds (on a GPU: wall seconds) of every part, added up in `shares`."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    began: dict[str, float] = {}
    hooks = []

    def start(name: str) -> None:
        synchronise(device)
        began[name] = clock()

    def stop(name: str) -> None:
        synchronise(device)
        shares[name] = shares.get(name, 0.0) + clock() - began[name]

    if device == "cpu":
        for name, modules in PARTS.items():
            for module in modules:
                part = network.get_submodule(module)
                hooks.append(part.register_forward_pre_hook(lambda *_, n=name: start(n)))
                hooks.append(part.register_forward_hook(lambda *_, n=name: stop(n)))
    yield
    for hook in hooks:
        hook.remove()


def teraflops(row: Row) -> float:
    """Of the network on images alone, counted on tensors without content."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from worldline.engines.any4d.config import NetworkConfig
    from worldline.engines.any4d.inputs import Views
    from worldline.engines.any4d.network import Any4D

    with torch.device("meta"):
        network = Any4D(NetworkConfig()).eval()
        views = Views(torch.zeros(row.views, 1, 3, row.height, row.width))
        with FlopCounterMode(display=False) as counter:
            network(views)
    return counter.get_total_flops() / 1e12


def off(said: Any, row: Row) -> float:
    """How far bfloat16 (or a GPU) is from float32 on a CPU: the largest relative L2 difference of all outputs."""
    if row.kind not in ("mixed", "agreement"):
        return float("nan")
    import torch

    with torch.inference_mode():
        exact = the_network("float32", "cpu")(the_views(replace(row, device="cpu")))
    names = ("rays", "depth", "quaternion", "translation", "flow", "confidence", "scale")
    pairs = [(getattr(said, n).float().cpu(), getattr(exact, n)) for n in names]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def windows(row: Row) -> dict[str, Any]:
    """A clip through the whole engine: reading apart, everything else is in."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from worldline.engines.any4d import Config, asking, build
    from worldline.scene.journal import Journal
    from worldline.scene.observations import Observations
    from worldline.scene.video import Video

    asking.load = lambda config, file: the_network("float32", "cpu")  # type: ignore[assignment]
    frames = np.random.default_rng(0).integers(0, 255, (row.views, row.height, row.width, 3), dtype=np.uint8)
    config = replace(Config(), weights=None, device="cpu", size=(row.width, row.height))
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = time.process_time(), time.perf_counter()
        build(config)(Video(frames, np.arange(row.views) / 30), Observations(), Journal("bench", Path(folder)))
        spent = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "tflop": float("nan"), "cpu_s": spent[0], "first_cpu_s": spent[0], "wall_s": spent[1], "shares": {},
        "peak_gib": peak_gib("cpu"), "off": float("nan"),
    }  # fmt: skip


def synchronise(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: str) -> float:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
