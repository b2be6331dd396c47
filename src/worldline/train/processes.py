"""One process or many: what `torchrun` tells each of them, and the few words they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from worldline.errors import InputError


@dataclass(frozen=True)
class Place:
    """This process among all of them: its number, how many there are, and the device that is its own."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process; all of them must ask."""
        if self.count == 1:
            return flag
        told = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(told, op=distributed.ReduceOp.MAX)
        return bool(told)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()

    def spread(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean over all processes."""
        if self.count == 1:
            return network
        own = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=own, find_unused_parameters=True)


@contextmanager
def joined_processes(device: str) -> Iterator[Place]:
    """The place of this process; under `torchrun` it has met all others.

    Raises:
        InputError: there is no such device.
    """
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = chosen_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if count == 1:
        yield Place(0, 1, chosen)
        return
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(rank, count, chosen)
    finally:
        distributed.destroy_process_group()


def chosen_device(name: str, number: int = 0) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:1"; of several GPUs every process of a machine takes the one of its number.

    Raises:
        InputError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {name!r} cannot be used here; choose auto, cpu or cuda.") from error
    return torch.device("cuda", number) if name == "cuda" else device
