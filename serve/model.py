"""The model deployment: owns an engine, answers clips that it decodes together, knows nothing of HTTP.

Its model is exchanged in place. Serve hands a changed `user_config` to `reconfigure`, and while that runs it sends the
replica nothing; so `reconfigure` only starts the exchange. The new model is loaded and warmed in a thread while the old
one answers, and then takes its place between two clips. Clips that the old one has are finished by it.
"""

import asyncio
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray.serve

from caspi.errors import EngineError, TrackingError
from caspi.inference.engine import BatchTranscriber, Engine, as_engine, drain, open_engine
from caspi.recipe.sections import Inference
from serve import autoscaling
from serve.batching import SILENCE, Answer, Batcher, Clip, engine_thread
from serve.board import BoardClient
from serve.company import Company
from serve.metrics import ModelMetrics
from serve.options import Options
from serve.versions import ServedModel, State, locate, pin

logger = logging.getLogger("ray.serve.caspi")

Load = Callable[[str], Engine | BatchTranscriber]
"""Opens the model in a folder, or with a Hub id."""


@dataclass(frozen=True, slots=True)
class _Serving:
    state: State
    batcher: Batcher


class TranscriptionModel:
    """One replica."""

    def __init__(self, load: Load, options: Options, alias: str = "") -> None:
        """`alias`: the `models:/NAME@alias` to follow, which `options.follow_s` says how often to look up."""
        context = ray.serve.get_replica_context()
        self._load = load
        self._options = options
        self._alias = alias
        self._metrics = ModelMetrics(context.replica_id.unique_id)
        self._board = BoardClient(context.app_name, context.replica_id.unique_id)
        self._company = Company()
        self._serving: _Serving | None = None
        self._deployed: Mapping[str, Any] = {}
        self._wanted: Mapping[str, Any] = {}
        self._failure: Exception | None = None
        self._mean_clip_s = 1.0
        self._exchange: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serve the model of `user_config`: wait for the first one, exchange it later.

        Raises:
            CaspiError: the first model cannot be loaded; the deployment fails and says why. A later one that cannot is
                `State.problem`, and the model that is there stays.
        """
        if user_config == self._deployed:  # Serve calls also when a replica's rank changes
            return
        self._deployed = user_config
        await self._want(user_config)

    async def transcribe(self, clip: Clip, suspect: str | None = None) -> tuple[str, Answer]:
        """The version of the model, and its answer.

        `suspect` names an attempt at a clip that was with a replica when that one died. It gets the engine for itself,
        and the board knows: if this replica dies too, it was this clip.
        """
        self._mean_clip_s += 0.05 * (clip.duration_s - self._mean_clip_s)
        if suspect is None:
            async with self._company.together():
                return await self._submit(clip)
        async with self._company.alone():
            await self._board.ask("begin", suspect)
            try:
                return await self._submit(clip)
            finally:
                await self._board.ask("end", suspect)

    async def describe(self) -> State:
        """Which model answers. Returns while the replica's event loop turns."""
        assert self._serving is not None
        state = self._serving.state
        problem = "" if self._failure is None else f"{self._wanted.get('model')}: {self._failure}"
        return State(state.model, state.since, problem)

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serve.autoscaling` decides by."""
        return {autoscaling.BACKLOG: self._backlog_s(), autoscaling.MEAN_CLIP: self._mean_clip_s}

    def check_health(self) -> None:
        """Have Serve replace this replica when a step hangs, as on a wedged GPU, or nothing works any more."""
        if self._serving is None:
            return
        batcher = self._serving.batcher
        if batcher.busy_s > 2 * self._options.request_timeout_s:
            raise RuntimeError(f"a step of the engine has been running for {batcher.busy_s:.0f} s")
        if batcher.broken is not None:
            raise RuntimeError("the engine fails on silence too") from batcher.broken

    async def _submit(self, clip: Clip) -> tuple[str, Answer]:
        assert self._serving is not None
        serving = self._serving  # the one of this moment, to the end
        try:
            return serving.state.model.version, await serving.batcher.submit(clip)
        except EngineError as error:
            # The engine's own process is gone, with all that was inside. As if it had been this one: the ingress then
            # asks another replica, and Serve starts a new one.
            logger.critical("the engine ended, and this replica with it", exc_info=error)
            logging.shutdown()
            os._exit(1)

    def _backlog_s(self) -> float:
        return self._serving.batcher.backlog_s if self._serving else 0.0

    # --- which model --------------------------------------------------------------------------------------------------

    async def _want(self, user_config: Mapping[str, Any]) -> None:
        self._wanted = user_config
        if self._serving is None:
            self._show(await self._open(await asyncio.to_thread(locate, user_config)))
            self._keep_running(self._board.keep_publishing(self._metrics.registry))
            if self._alias and self._options.follow_s:
                self._keep_running(self._follow(self._options.follow_s))
        elif self._exchange is None or self._exchange.done():
            self._exchange = self._keep_running(self._exchange_until_wanted())

    async def _open(self, model: ServedModel) -> _Serving:
        """Load a model and warm it with a second of silence: what is slow once is slow now, and a broken one fails."""

        def open_warm() -> Engine:
            engine = as_engine(self._load(model.place), max_batch_s=self._options.max_batch_s)
            drain(engine, [SILENCE])
            return engine

        thread = engine_thread()
        engine = await asyncio.get_running_loop().run_in_executor(thread, open_warm)
        batcher = Batcher(engine, wait_s=self._options.batch_wait_s, thread=thread)
        return _Serving(State(model, time.time()), batcher)

    def _show(self, serving: _Serving) -> None:
        self._serving = serving
        self._metrics.backlog_s.set_function(self._backlog_s)
        model = serving.state.model
        self._metrics.show_model(name=model.name, version=model.version, sha=model.sha)

    async def _exchange_until_wanted(self) -> None:
        """Load what is wanted; if something else was wanted meanwhile, that as well."""
        done: Mapping[str, Any] | None = None
        while done != self._wanted:
            done = self._wanted
            left = self._serving
            try:
                model = await asyncio.to_thread(locate, done)
                if left is not None and left.state.model == model:  # back to what never went
                    self._failure = None
                    continue
                serving = await self._open(model)
            except Exception as error:  # whatever a broken model raises, the one that is there is better
                self._failure = error
                self._metrics.count_swap("failed")
                logger.error("model not exchanged wanted=%s", done.get("model"), exc_info=error)
                continue
            self._failure = None
            self._show(serving)
            self._metrics.count_swap("done")
            logger.info("model exchanged name=%s version=%s", model.name, model.version)
            if left is not None:
                self._keep_running(_release(left.batcher))

    async def _follow(self, every_s: float) -> None:
        """Exchange the model when the alias means another version. While MLflow is away everything stays as it is."""
        while True:
            try:
                newest = await asyncio.to_thread(pin, self._alias)
            except Exception as error:  # a full disk too: the model stays, and the next look may be better
                logger.warning("alias not resolved alias=%s error=%s", self._alias, error)
            else:
                if newest != self._wanted or isinstance(self._failure, TrackingError):
                    await self._want(newest)
            await asyncio.sleep(every_s)

    def _keep_running(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)  # the event loop itself holds tasks by weak references only
        task.add_done_callback(self._tasks.discard)
        return task


async def _release(batcher: Batcher) -> None:
    """Wait until a batcher that gets nothing new has answered all it has; then its memory is free."""
    while batcher.backlog_s > 0:
        await asyncio.sleep(0.1)
    del batcher
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_engine(place: str, *, options: Options) -> Engine:
    """The model, on this replica's device."""
    limits = Inference(
        max_batch_s=options.max_batch_s, max_tokens_per_s=options.max_tokens_per_s, precision=options.precision
    )
    return open_engine(place, limits=limits, kind=options.engine)
