"""vLLM in a process of its own: `python -P vllm_worker.py DESCRIPTOR`, started by `caspi.inference.vllm_engine`.

Runs in vLLM's environment, where Caspi, its transformers and its Ray may be missing. So it imports nothing of Caspi,
and what passes through the socket is pickled tuples of plain Python values:

    in    ("open", engine arguments)                                              once, first
          ("add", key, prompt ids, samples, sample rate, sampling parameters)     samples: the bytes of float32
          ("drop", key)
    out   ("open", versions and `max_model_len`)                                  once, first
          ("step", [(key, new ids, their log probabilities or None, finish or None), ...])
          ("refused", key, why)
"""

import os
import select
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


class Worker:
    """One vLLM engine: requests come in while others run."""

    def __init__(self, connection: Connection, arguments: dict[str, Any]) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        self._connection = connection
        self._engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
        self._names: dict[int, str] = {}  # vLLM's own names of the requests that it has

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together."""
        return int(self._engine.model_config.max_model_len)

    def run(self) -> None:
        """Until the other side closes the socket."""
        while True:
            # Beside running requests only what lies there already: others wait for their text.
            while not self._names or self._connection.poll():
                self._take(self._connection.recv())
            self._send_step()

    def _take(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("add", key, prompt_ids, samples, sample_rate, parameters):
                self._add(key, prompt_ids, np.frombuffer(samples, np.float32), sample_rate, parameters)
            case ("drop", key):
                if key in self._names:  # else it has ended, and the news crossed this message
                    self._engine.abort_request([self._names.pop(key)], internal=True)

    def _add(
        self, key: int, prompt_ids: list[int], samples: np.ndarray, sample_rate: int, parameters: dict[str, Any]
    ) -> None:
        from vllm.inputs import TokensPrompt
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        prompt = TokensPrompt(
            prompt_token_ids=prompt_ids, multi_modal_data={"audio": (np.array(samples), float(sample_rate))}
        )
        sampling = SamplingParams(temperature=0.0, detokenize=False, output_kind=RequestOutputKind.DELTA, **parameters)
        try:
            self._names[key] = self._engine.add_request(str(key), prompt, sampling)
        except ValueError as error:  # vLLM's word for a request that it cannot take, such as one that is too long
            self._connection.send(("refused", key, str(error)))

    def _send_step(self) -> None:
        news = []
        for output in self._engine.step():
            key = int(output.request_id)
            if key not in self._names:  # dropped
                continue
            answer = output.outputs[0]
            ids = list(answer.token_ids)
            scores = answer.logprobs and [
                {token: score.logprob for token, score in position.items()} for position in answer.logprobs
            ]
            finish = answer.finish_reason if output.finished else None
            news.append((key, ids, scores, finish))
            if finish:
                del self._names[key]
        if news:
            self._connection.send(("step", news))


def guard(descriptor: int) -> None:
    """Have a process beside this one that ends its group as soon as this one has ended, in whatever way.

    vLLM's own processes, which hold the GPU's memory, would go on. And this one may be killed: Ray kills what a replica
    started, though not what that started in turn. To be called before there are threads.
    """
    this = os.pidfd_open(os.getpid())  # readable once it has ended
    if os.fork() == 0:
        os.close(descriptor)  # or our owner would not learn by it that this process is gone
        select.select([this], [], [])
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    descriptor = int(sys.argv[1])
    guard(descriptor)

    import transformers
    import vllm

    connection = Connection(descriptor)
    name, arguments = connection.recv()
    assert name == "open", name
    try:
        worker = Worker(connection, arguments)
        told = {"vllm": vllm.__version__, "transformers": transformers.__version__}
        connection.send(("open", told | {"max_model_len": worker.max_model_len}))
        worker.run()
    except (EOFError, ConnectionError):
        return  # nobody asks any more


if __name__ == "__main__":
    main()
