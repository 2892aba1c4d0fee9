"""Which model belongs to a map: the one given, or the one beside it."""

from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.runtime.map import BaseMap, open_map
from distilplace.runtime.map.space import Space
from distilplace.tools.map.models import Model, load_model

MOST = 12


def open_with_model(where: str, model: Path | None, threads: int | None, index: str) -> tuple[BaseMap, Model]:
    """The map, and the model that made it: ``model``, else the student (.onnx) beside the map that fits.

    Raises:
        UserError: no model fits, or the one given made another map.

    """
    found = None if model is None else load_model(model, threads)
    places = open_map(where, index=index)
    try:
        if found is None:
            return places, _beside(where, places.space, threads)
        places.space.require_admitted(Space.of(found.card.to_dict()), where)
        return places, found
    except BaseException:
        places.close()
        raise


def _beside(where: str, space: Space, threads: int | None) -> Model:
    folder = Path(where).parent
    files = sorted(folder.glob("*.onnx")) if folder.is_dir() and "://" not in where else []
    others: list[str] = []
    for file in files[:MOST]:
        try:
            candidate = load_model(file, threads)
        except UserError:
            others.append(file.name)
            continue
        if space.admits(Space.of(candidate.card.to_dict())):
            return candidate
        others.append(file.name)
    seen = f" ({', '.join(others)} made others)" if others else ""
    raise UserError(f"no student beside map {where} is the one that made it{seen}: give --model student.onnx")
