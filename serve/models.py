"""`GET /v1/models`."""

import time

from fastapi import FastAPI

from serve.errors import ApiError
from serve.options import Options
from serve.schemas import ModelCard, ModelList


def add_to(app: FastAPI, options: Options) -> None:
    """Add the routes."""
    card = ModelCard(id=options.name, created=int(time.time()))

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The models that can be asked for: one."""
        return ModelList(data=[card])

    @app.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> ModelCard:
        """One model."""
        check_model(model_id, options)
        return card


def check_model(model_id: str, options: Options) -> None:
    """Raises an ApiError, 404, unless it is the model served here."""
    if model_id != options.name:
        message = f"The model {model_id!r} does not exist; this server has {options.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")
