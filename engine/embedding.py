"""Embeddings of places, and what they score: shared by validation, test, teacher stores and ``evaluate.py``."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from distilplace.datasets.records import Benchmark, PlaceRecord
from distilplace.engine import processes
from distilplace.engine.caches.fingerprint import Augmented
from distilplace.engine.context import Batch, Context
from distilplace.engine.progress import bar
from distilplace.engine.scales import describe_at
from distilplace.engine.scoring import Table, score_table
from distilplace.evaluation.retrieval.measures import Result


@dataclass(frozen=True)
class Embedder:
    """Runs networks over places of one data set: in eval mode, without gradient, training state left untouched."""

    context: Context[Any]
    project: Callable[[Tensor], Tensor] | None = None
    """What becomes of every batch of embeddings, such as a PCA whitening; so the wide ones never pile up. Of several
    scales, it is applied to the unit embeddings of each."""

    def embed(
        self, network: nn.Module, records: Sequence[PlaceRecord], title: str, augmented: Augmented | None = None
    ) -> tuple[list[str], Table]:
        """Keys and outputs ``{name: [n, D]}`` (CPU, float32) of the places.

        Inputs are clean unless ``augmented`` asks for training augmentation, drawn once (upstream's teacher cache).
        Several processes share the work, and all get all of it.
        """
        was_training = network.training
        network.eval()
        parts: list[Table] = []
        own = processes.own_records(records, self.context.options.val_batch_size)
        loader = self.context.loader(network, own, augmented=augmented)
        try:
            for batch in bar(loader, title, delay=1):
                outputs = self._forward(network, self.context.move(batch))
                parts.append(
                    {name: self._kept(name, value) for name, value in outputs.items() if isinstance(value, Tensor)}
                )
        finally:
            network.train(was_training)
        names = parts[0] if parts else {}
        table = {name: torch.cat([part[name] for part in parts]) for name in names}
        return [record.key for record in records], processes.joined(table)

    def score(self, network: nn.Module, test: Benchmark, title: str) -> Result:
        """What a network scores on a benchmark."""
        return self.embed_and_score(network, test, title)[1]

    def embed_and_score(self, network: nn.Module, test: Benchmark, title: str) -> tuple[Table, Result]:
        """Outputs ``{name: [n, D]}`` of a benchmark's distinct records, in their order, and what they score."""
        keys, tables = self.embed(network, test.distinct_records(), title)
        return tables, score_table(keys, tables, test)

    def facts(self, network: nn.Module, records: Sequence[PlaceRecord]) -> dict[str, str]:
        """Size and speed of a network, for tables: parameters, MB of weights, median time of a forward pass at batch 1.

        Inputs are loaded before the clock starts; up to 20 places after two warm-ups. The fastest pass stands in
        brackets: on a quiet machine it is near the median, on a busy one far below.
        """
        network.eval()
        return processes.on_first(self._facts, network, records)

    def _facts(self, network: nn.Module, records: Sequence[PlaceRecord]) -> dict[str, str]:
        times = []
        for batch in self.context.loader(network, records[:22], batch_size=1):
            batch = self.context.move(batch)
            _synchronise(self.context.device)
            start = time.perf_counter()
            self._forward(network, batch)
            _synchronise(self.context.device)
            times.append(1000 * (time.perf_counter() - start))
        size = sum(values.numel() * values.element_size() for values in network.state_dict().values())
        taken = times[2:] or times
        return {
            "parameters": parameter_count(network),
            "MB": f"{size / 1e6:.1f}",
            "ms per place": f"{median(taken):.1f} (min {min(taken):.1f})",
        }

    def feature_maps(self, network: nn.Module, records: Sequence[PlaceRecord], name: str) -> Iterator[Tensor]:
        """One feature map [B, C, h, w] (CPU, float32) of the places, batch by batch."""
        network.eval()
        loader = self.context.loader(network, records)
        for batch in bar(loader, f"{name} of {len(records)} places", delay=1):
            with torch.no_grad():
                outputs = network(self.context.move(batch), feature_maps=(name,))
            yield outputs[f"maps.{name}"].float().cpu()

    def _kept(self, name: str, value: Tensor) -> Tensor:
        value = value.float().cpu()
        at_once = name == "embedding" and self.context.scales == (1.0,)
        return self.project(value) if at_once and self.project is not None else value

    @torch.no_grad()
    def _forward(self, network: nn.Module, batch: Batch) -> Table:
        scales = self.context.scales
        with self.context.fabric.autocast():
            found: Table = network(batch) if scales == (1.0,) else describe_at(network, batch, scales, self.project)
        return found


def parameter_count(network: nn.Module) -> str:
    """How many parameters a network has, as tables say it: 11,689,512."""
    return f"{sum(parameter.numel() for parameter in network.parameters()):,}"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
