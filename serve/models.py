"""`GET /v1/models`."""

import time

from fastapi import FastAPI

from serve.backend import Backend
from serve.errors import ApiError
from serve.options import Options
from serve.schemas import ModelCard, ModelList, ServedVersion


def add_to(app: FastAPI, backend: Backend, options: Options) -> None:
    """Add the routes."""
    started = int(time.time())

    async def describe() -> ModelCard:
        states = await backend.describe()
        versions = [
            ServedVersion(
                name=state.model.name, version=state.model.version, sha=state.model.sha, problem=state.problem or None
            )
            for state in states
        ]
        serving, canary = [*versions, None, None][:2]
        created = int(states[0].since) if states else started
        return ModelCard(id=options.name, created=created, serving=serving, canary=canary)

    @app.get("/v1/models")
    async def list_models() -> ModelList:
        """The models that can be asked for: one."""
        return ModelList(data=[await describe()])

    @app.get("/v1/models/{model_id:path}")
    async def get_model(model_id: str) -> ModelCard:
        """One model."""
        check_model(model_id, options)
        return await describe()


def check_model(model_id: str, options: Options) -> None:
    """Raises an ApiError, 404, unless it is the model served here."""
    if model_id != options.name:
        message = f"The model {model_id!r} does not exist; this server has {options.name!r}."
        raise ApiError(404, message, param="model", code="model_not_found")
