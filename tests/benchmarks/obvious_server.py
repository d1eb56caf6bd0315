"""The server that one writes first: FastAPI around `generate`, one request at a time.

python -m tests.benchmarks.obvious_server MODEL PORT DTYPE
"""

import io
import sys
import threading
from typing import Annotated

import soundfile
import torch
import uvicorn
from fastapi import FastAPI, File
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from tests.benchmarks.serving_material import DEVICE, NUM_TOKENS


def build_app(folder: str, dtype: torch.dtype) -> FastAPI:
    app = FastAPI()
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    model = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=dtype).eval().to(DEVICE)
    head = torch.tensor([processor.tokenizer.encode("language Hebrew<asr_text>")])  # the processor knows no Hebrew
    one_at_a_time = threading.Lock()

    @app.post("/v1/audio/transcriptions")
    def transcribe(file: Annotated[bytes, File()]) -> dict[str, str]:
        samples, _ = soundfile.read(io.BytesIO(file), dtype="float32")
        inputs = processor.apply_transcription_request(samples)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], head], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["input_features"] = inputs["input_features"].to(dtype)
        inputs = {name: values.to(DEVICE) for name, values in inputs.items()}
        with one_at_a_time, torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        text = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return {"text": text}

    return app


if __name__ == "__main__":
    _, model, port, dtype = sys.argv
    uvicorn.run(build_app(model, getattr(torch, dtype)), host="127.0.0.1", port=int(port), log_level="warning")
