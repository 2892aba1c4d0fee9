"""No engine leaks: training steps leave neither managers nor tensors behind, and resident memory stays level."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import pytest
import torch

from distilplace.common.randomness import forked_random_state
from distilplace.models import create_model
from distilplace.models.sparse import batched_coordinates, quantize
from distilplace.models.sparse.backends import available_backends, list_backends
from distilplace.models.sparse.manager import Manager
from distilplace.tools.bench.inputs import VOXEL, street

STATM = Path("/proc/self/statm")
BATCH, POINTS, PERIOD = 32, 400, 50
# What freed blocks leave in the heap moves the resident memory of equal steps by some 30 MiB. Over the 400 steps
# between the windows, 64 MiB are 160 KiB a step: a third of what one manager's finest level alone takes (12 700
# voxels of 40 bytes), and a thirtieth of its kernel maps.
TOLERANCE = 64 * 2**20
ON_THE_CPU = [name for name in list_backends() if name not in ("triton", "spconv")]
ENGINES = [pytest.param(name, marks=pytest.mark.minkowski if name == "minkowski" else ()) for name in ON_THE_CPU]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that can run on the CPU."""
    if request.param not in available_backends("cpu"):
        pytest.skip(f"the engine {request.param} cannot run on this machine's CPU")
    return request.param


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Reference counts alone must free a step: what waits for the garbage collector piles up on a GPU."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def training(engine: str, batches: list[torch.Tensor], device: str = "cpu") -> Iterator[None]:
    """Training steps without end, over the batches again and again."""
    with forked_random_state("sparse memory"):
        network = create_model("minkloc", sparse_backend=engine).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    for coords in cycle(batches):
        batch = {"coords": coords.to(device), "features": torch.ones(len(coords), 1, device=device)}
        optimiser.zero_grad()
        network(batch)["embedding"].square().mean().backward()
        optimiser.step()
        del batch
        yield


def make_batches(count: int, clouds: int) -> list[torch.Tensor]:
    grids = [quantize(street(POINTS, number), VOXEL)[0] for number in range(count * clouds)]
    return [torch.from_numpy(batched_coordinates(grids[first::count])) for first in range(count)]


def living() -> Counter[str]:
    """How many tensors and managers Python holds."""
    kinds = [type(each) for each in gc.get_objects()]
    return Counter(
        {
            "tensors": sum(issubclass(kind, torch.Tensor) for kind in kinds),
            "managers": sum(issubclass(kind, Manager) for kind in kinds),
        }
    )


def resident() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("no_collector")
def test_steps_leave_no_manager_and_no_tensor(engine: str) -> None:
    steps = training(engine, make_batches(5, 2))
    next(steps)
    before = living()
    assert before["managers"] == 0
    for _ in islice(steps, 29):
        pass
    assert living() == before


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_500_steps_keep_memory_flat(engine: str) -> None:
    if not STATM.is_file():
        pytest.skip("the resident memory is read from /proc")
    steps = training(engine, make_batches(PERIOD, BATCH))
    sizes, counts = [], []
    for number, _ in enumerate(islice(steps, 10 * PERIOD), 1):
        sizes.append(resident())
        if number in (2 * PERIOD, 10 * PERIOD):
            gc.collect()
            counts.append(living())
    early, late = sizes[PERIOD : 2 * PERIOD], sizes[-PERIOD:]  # the same batches
    assert median(late) - median(early) < TOLERANCE
    assert counts[0] == counts[1]
    assert counts[0]["managers"] == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_keep_device_memory_flat(no_collector: None) -> None:
    steps = training("auto", make_batches(PERIOD, BATCH), "cuda")
    sizes = []
    for _ in islice(steps, 4 * PERIOD):
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_allocated())
    assert max(sizes[-PERIOD:]) <= max(sizes[PERIOD : 2 * PERIOD])
