"""What a handler's constructor gets as `model_client`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cortex_core.models.tree import DEFAULT_MODEL
from cortex_core.models.versions import LATEST
from cortex_serve.models.holding import GONE
from cortex_serve.models.request import current

if TYPE_CHECKING:
    from cortex_serve.models.table import ModelTable

__all__ = ["ModelClient"]


class ModelClient:
    """Gives out the models that `load_model` returned."""

    def __init__(self, table: ModelTable) -> None:
        self._table = table

    def get_model(self, model_name: str | None = None, model_version: str | int | None = LATEST) -> Any:
        """Get a model for a prediction.

        What is in memory is returned at once; otherwise this waits until it was fetched and loaded. All calls of
        one request for the same model get the same object, whatever becomes live meanwhile. In an `async def`
        method a call that has to wait makes all requests of the process wait, as any blocking call does.

        Args:
            model_name: one of `multi_model_reloading.paths`, or a directory of its `dir`; not looked at with `path`.
            model_version: an integer, or its digits; "latest" or None for the highest.

        Returns:
            What `load_model` returned for this version; always the same object while it is in memory.

        Raises:
            UnknownModel: there is no model of this name.
            UnknownVersion: it has no such version.
            LoadFailed: `load_model` failed on it, or it cannot be fetched.
            ModelUnavailable: not now; the same call may succeed soon.
        """
        table = self._table
        use = current.get()
        if (model_version is None or model_version is LATEST) and table.gives_freely:
            catalog = table.catalog
            name: Any = model_name if catalog.has_names else DEFAULT_MODEL
            try:
                if use is not None and name in use.latest:
                    return use.latest[name]
                holding = table.held[table.read_cell(catalog.cells[name])]
            except (KeyError, TypeError):  # not known, not in memory, or no name at all
                pass
            else:
                model = holding.model if use is None else use.take(holding, latest=True)
                if model is not GONE:
                    table.hits += 1  # no other thread runs between reading and writing it
                    return model
        return table.get(model_name, model_version, use)
