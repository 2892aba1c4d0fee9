"""Embeddings of places, and what they score: shared by validation, test, teacher stores and ``evaluate.py``."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from distilplace.datasets.base import PlaceData
from distilplace.datasets.loading import RATES, Rates, evaluation_loader
from distilplace.datasets.records import Benchmark, PlaceRecord
from distilplace.engine.building import quantizer_for
from distilplace.engine.maps import map_builder
from distilplace.engine.options import ModelOptions
from distilplace.engine.scales import describe_at
from distilplace.engine.scoring import Table, score_table
from distilplace.evaluation.retrieval.measures import Result


def move(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors, and kernel maps if it has any, on ``device``."""
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    if "maps" in batch and device.type != "cpu":
        moved["maps"] = tuple(each.to(device, non_blocking=True) for each in batch["maps"])
    return moved


@dataclass(frozen=True)
class Embedder:
    """Runs networks over places of one data set: in eval mode, without gradient, training state left untouched."""

    data: PlaceData
    fabric: Any
    batch_size: int = 160
    num_workers: int = 0
    options: ModelOptions | None = None
    project: Callable[[Tensor], Tensor] | None = None
    """What becomes of every batch of embeddings, such as a reduction by PCA; so the wide ones never pile up. Of several
    scales, it is applied to the unit embeddings of each."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which every image is described; the descriptors are averaged."""
    rates: Rates = RATES
    """How images are augmented, where :meth:`embed` is asked for augmented ones."""
    view: int = 0
    """The recipe of augmented images, where the data set's view has several."""

    def embed(
        self, network: nn.Module, records: Sequence[PlaceRecord], title: str, augment_seed: int | None = None
    ) -> tuple[list[str], Table]:
        """Keys and outputs ``{name: [n, D]}`` (CPU, float32) of the places.

        Inputs are clean unless ``augment_seed`` asks for training augmentation, drawn once (upstream's teacher cache).
        """
        was_training = network.training
        network.eval()
        keys: list[str] = []
        parts: list[Table] = []
        loader = self._loader(network, records, self.batch_size, augment_seed)
        try:
            for batch in tqdm(loader, desc=title, leave=False, delay=1, disable=None):
                outputs = self._forward(network, move(batch, self.fabric.device))
                keys += batch["keys"]
                parts.append(
                    {name: self._kept(name, value) for name, value in outputs.items() if isinstance(value, Tensor)}
                )
        finally:
            network.train(was_training)
        names = parts[0] if parts else {}
        return keys, {name: torch.cat([part[name] for part in parts]) for name in names}

    def score(self, network: nn.Module, test: Benchmark, title: str) -> Result:
        """What a network scores on a benchmark."""
        keys, tables = self.embed(network, test.distinct_records(), title)
        return score_table(keys, tables, test)

    def facts(self, network: nn.Module, records: Sequence[PlaceRecord]) -> dict[str, str]:
        """Size and speed of a network, for tables: parameters, and the median time of a forward pass at batch 1.

        Inputs are loaded before the clock starts; up to 20 places after two warm-ups. The fastest pass stands in
        brackets: on a quiet machine it is near the median, on a busy one far below.
        """
        network.eval()
        times = []
        for batch in self._loader(network, list(records[:22]), 1, None):
            batch = move(batch, self.fabric.device)
            _synchronise(self.fabric.device)
            start = time.perf_counter()
            self._forward(network, batch)
            _synchronise(self.fabric.device)
            times.append(1000 * (time.perf_counter() - start))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        taken = times[2:] or times
        return {"parameters": f"{parameters:,}", "ms per place": f"{median(taken):.1f} (min {min(taken):.1f})"}

    def feature_maps(self, network: nn.Module, records: Sequence[PlaceRecord], name: str) -> Iterator[Tensor]:
        """One feature map [B, C, h, w] (CPU, float32) of the places, batch by batch."""
        network.eval()
        loader = self._loader(network, records, self.batch_size, None)
        for batch in tqdm(loader, desc=f"{name} of {len(records)} places", leave=False, delay=1, disable=None):
            with torch.no_grad():
                outputs = network(move(batch, self.fabric.device), feature_maps=(name,))
            yield outputs[f"maps.{name}"].float().cpu()

    def sample(self, records: Sequence[PlaceRecord], wants: Collection[str]) -> dict[str, Any]:
        """One clean batch of these places with all keys in ``wants``, on the device."""
        loader = evaluation_loader(
            self.data,
            records,
            wants=wants,
            quantize=quantizer_for(wants),
            batch_size=len(records),
            num_workers=0,
            one_size=True,
        )
        return move(next(iter(loader)), self.fabric.device)

    def _kept(self, name: str, value: Tensor) -> Tensor:
        value = value.float().cpu()
        at_once = self.project is not None and name == "embedding" and self.scales == (1.0,)
        return self.project(value) if at_once and self.project is not None else value

    @torch.no_grad()
    def _forward(self, network: nn.Module, batch: dict[str, Any]) -> Table:
        with self.fabric.autocast():
            outputs: Table = self._describe(network, batch)
        return outputs

    def _describe(self, network: nn.Module, batch: dict[str, Any]) -> Table:
        if self.scales == (1.0,):
            found: Table = network(batch)
            return found
        return describe_at(network, batch, self.scales, self.project)

    def _loader(
        self, network: nn.Module, records: Sequence[PlaceRecord], batch_size: int, augment_seed: int | None
    ) -> Any:
        requires: tuple[str, ...] = network.requires  # type: ignore[assignment]
        return evaluation_loader(
            self.data,
            records,
            wants=requires,
            quantize=quantizer_for(requires),
            batch_size=batch_size,
            num_workers=self.num_workers,
            augment_seed=augment_seed,
            rates=self.rates,
            view=self.view,
            finish=map_builder(self.options, [network], batch_size, self.fabric.device) if self.options else None,
        )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
