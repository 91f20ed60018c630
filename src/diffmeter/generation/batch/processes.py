"""Several processes on one batch, through accelerate: who we are, one message to all, and waiting for all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from diffmeter.devices import best_device
from diffmeter.errors import one_line

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A batch may run for days between two messages; a process that dies is noticed at once all the same, since its
# connection closes.
_TIMEOUT = timedelta(days=30)


@dataclass(frozen=True)
class Processes:
    """This process among those that ``accelerate launch`` started; ``device`` is the one it should use."""

    index: int = 0
    count: int = 1
    device: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that plans, merges and reports."""
        return self.index == 0

    def send_to_all(self, value: T) -> T:
        """The main process's ``value``, in every process. Raises ``RuntimeError`` if a process has died."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        received: T = broadcast_object_list([value], from_process=0)[0]
        return received

    def wait_for_all(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Wait until every process is here; false if one has died or ``stop`` says not to wait any longer."""
        if self.count == 1:
            return True
        import torch.distributed

        # Waiting in small steps leaves room for signal handlers, which a blocking wait would shut out.
        try:
            work = torch.distributed.barrier(async_op=True)
            while not work.is_completed():
                if stop():
                    return False
                time.sleep(0.02)
            work.wait()
        except RuntimeError as error:
            logger.warning("a process of this batch has died: %s", one_line(error))
            return False
        return True

    def leave(self) -> None:
        """End the communication; call it last, and only when all processes are known to have come through."""
        if self.count > 1:
            import torch.distributed

            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def join_processes(device: str | None = None) -> Processes:
    """Join the other processes of an ``accelerate launch`` or ``torchrun``; alone if there are none.

    ``device`` "cpu" forces the CPU. Processes exchange only a plan, so they talk over gloo on every device.
    """
    if int(os.environ.get("WORLD_SIZE", "1") or 1) <= 1 and not _started_by_mpi():
        if "MASTER_ADDR" in os.environ and "KMP_BLOCKTIME" in os.environ and "RANK" not in os.environ:
            # What `accelerate launch --cpu --num_processes N` leaves behind: without MPI it starts one process only.
            logger.warning("accelerate started one process; for several on CPUs use --multi_gpu, see docs/BATCH.md")
        return Processes()
    from accelerate import PartialState

    on_cpu = device == "cpu" or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on")
    on_cpu = on_cpu or best_device() in ("cpu", "mps")  # one process has all of MPS
    if on_cpu and not _started_by_mpi():
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _local_count())))
    # init_process_group's backend: accelerate would take NCCL on GPUs, which blocks the device while it waits.
    state = PartialState(cpu=on_cpu, timeout=_TIMEOUT, **({} if on_cpu else {"backend": "gloo"}))
    return Processes(state.process_index, state.num_processes, str(state.device))


def _started_by_mpi() -> bool:
    return any(
        int(os.environ.get(name, "1") or 1) > 1 for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    )


def _local_count() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")) or 1)
