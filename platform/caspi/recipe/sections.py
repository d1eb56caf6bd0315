"""The recipe's models: strict, frozen, a sentence under each field. A default is said here and nowhere else."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from caspi.recipe.augmentation import Augmentation, Joining
from caspi.recipe.data import Data
from caspi.recipe.gate import Gate
from caspi.recipe.learning import PARTS, Ema, GradientCheckpointing, Lora, Part, Rates
from caspi.recipe.section import Section

Precision = Literal["auto", "fp32", "bf16"]

# --- model ----------------------------------------------------------------------------------------------------------


class Toy(Section):
    """A Qwen3-ASR of about a million parameters with its own tokenizer, for laptops and tests. Used by `init: toy`."""

    vocabulary: int = Field(512, ge=320, le=20000)
    """Tokens in all: 256 bytes, the special tokens of Qwen3-ASR, and merges learnt from the training transcripts."""

    conv_channels: int = Field(8, ge=4)
    """Channels of the three convolutions in front of the encoder."""

    encoder_width: int = Field(128, ge=16)
    encoder_layers: int = Field(3, ge=1)
    encoder_heads: int = Field(4, ge=1)
    decoder_width: int = Field(128, ge=16)
    decoder_layers: int = Field(3, ge=1)
    decoder_heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _heads_divide_widths(self) -> Self:
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % heads or (width // heads) % 2:
                raise ValueError(f"{part}_width={width} does not split into {part}_heads={heads} of even size")
        return self


class Model(Section):
    """Where training starts."""

    init: str = "toy"
    """`toy`, a folder, a Hub id (`Qwen/Qwen3-ASR-1.7B-hf`), `models:/NAME@alias` or `runs:/ID/model`."""

    toy: Toy = Toy()


# --- training -------------------------------------------------------------------------------------------------------


class Workers(Section):
    """The machines' share of the work."""

    num_workers: int | tuple[int, int] = 2
    """Data-parallel workers; the effective batch does not depend on it. Two numbers, `[2, 8]`: as many as the cluster
    has at the time, within these bounds."""

    resize_every_s: float = Field(60.0, ge=1)
    """With two numbers: how often the run looks whether it can have more workers. Each change costs a restart from the
    newest checkpoint."""

    use_gpu: bool = False
    """One GPU for each worker."""

    cpus_per_worker: float = Field(1.0, gt=0)
    """Logical CPUs that each worker reserves, for reading and decoding."""

    memory_gib: float | None = Field(None, gt=0)
    """What a worker may use, for `max_micro_batch_s: auto`: of its GPU, or of the machine's memory where it computes on
    CPUs. Default: all of its GPU."""

    accelerator_type: str | None = None
    """Ray's name of the GPU that a worker must get, for instance `A100`."""

    max_failures: int = Field(3, ge=0)
    """How many crashes of workers the run survives. Each resumes from the newest checkpoint. Preempted machines do not
    count."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if not 1 <= self.fewest <= self.most:
            raise ValueError(f"num_workers={self.num_workers}: expected a number from 1, or [fewest, most]")
        return self

    @property
    def fewest(self) -> int:
        """The smallest number of workers that the run starts with."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most(self) -> int:
        """The largest number of workers."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[1]


Collation = Literal["packed", "bucketed"]
"""How the utterances of a forward pass are joined, see `training.batches.collation`."""


class Batches(Section):
    """How utterances become batches. Sizes are seconds of audio, because that is what fills a GPU."""

    step_audio_s: float = Field(48.0, gt=0)
    """Audio of one optimizer step, over all workers and micro-batches: the effective batch."""

    max_micro_batch_s: Annotated[float, Field(gt=0)] | Literal["auto"] = 60.0
    """Audio per worker and forward pass, padding included. `auto`: as much as the worker's memory holds, which is
    measured before the first step."""

    max_micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens per worker and forward pass: prompts, audio, texts and padding. Default: seconds alone bound it. One
    utterance that has more is a batch by itself."""

    collation: Literal["auto", Collation] = "auto"
    """`packed`: utterances lie end to end, without padding. `bucketed`: those of similar length are padded to the
    longest. The result is the same. `auto`: packed on CPUs, and where all workers have GPUs with FlashAttention and
    train in bf16; else bucketed."""


class Mixture(Section):
    """How often each source is heard in an epoch, and how much of what is heard is not speech."""

    weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field({})
    """Name of a source -> how many times an epoch repeats its utterances: 2.5 is twice, and half of them a third time;
    0 leaves it out. Sources that are not named count once."""

    silence_share: float = Field(0.0, ge=0, le=0.5)
    """Clips without speech, made up (silence, hum, noise), for each utterance: 0.02 is two for a hundred. The model
    learns to answer them with nothing."""


class Context(Section):
    """What the prompt says before the audio, so that prompts work when serving. Drawn from (seed, epoch, utterance)."""

    share: float = Field(0.0, ge=0, le=1)
    """Share of utterances with a context; the others have none. Default: no utterance has one."""

    key_term_share: float = Field(0.5, ge=0, le=1)
    """Share of contexts that are key terms: words of the utterance among words of others. The rest is what was said
    just before, where the corpus knows it, and key terms where it does not."""

    max_tokens: int = Field(64, ge=1, le=1024)
    """Longest context. Key terms that do not fit are left out, and of what was said before the end is kept."""


class Optimizer(Section):
    """AdamW with warm-up and decay."""

    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls after the warm-up, to `final_share` of the peak at the last step."""

    warmup_share: float = Field(0.05, ge=0, lt=1)
    """Share of all steps over which the learning rate rises from zero."""

    final_share: float = Field(0.02, ge=0, le=1)
    """Learning rate of the last step as a share of the peak."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0)
    """Not applied to biases, norms and embeddings."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Clip by the norm of the whole gradient, over all workers."""

    rates: Rates = Rates()
    """Parts and layers of the model that learn faster or slower than others."""

    states: Literal["fp32", "8bit"] = "fp32"
    """What AdamW's two moments are kept in. `8bit`: a quarter of their memory, through bitsandbytes."""


class Validation(Section):
    """How the model is judged while it learns."""

    every_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two validations by WER. Default: once an epoch. The model is judged before the first step
    too. A checkpoint is written each time, so that the best model is never lost."""

    max_utterances: int = Field(200, ge=1)
    """Utterances of the validation split that are transcribed each time: always the same ones."""

    aside: Literal["auto", "never", "always"] = "auto"
    """Judge checkpoints in a task beside the run, so that training goes on meanwhile. `auto`: where the cluster has
    room for one worker more; elsewhere the workers stop training and judge together."""

    patience: int | None = Field(None, ge=1)
    """Stop after so many validations in a row without a better WER. Default: never."""

    average_best: int = Field(0, ge=0)
    """At the end, average the weights of so many of the best checkpoints, and keep the average if its WER is lower than
    the best one's. They are kept until then. 0 and 1: no average."""


class Checkpoints(Section):
    """What is kept so that nothing is lost."""

    every_steps: int | None = Field(None, ge=1)
    """Optimizer steps between two checkpoints, besides those of validation. Default: once an epoch."""

    num_to_keep: int = Field(2, ge=2)
    """The newest checkpoints; the best by WER is kept besides. Two at least: when one is damaged the other is used."""


class Cost(Section):
    """What a worker costs and what it could compute: for figures while a run goes on. Nothing of it changes the run."""

    price_per_hour: float | None = Field(None, ge=0)
    """Of one worker. A machine with eight GPUs at 22 an hour is 2.75. Default: no costs are shown."""

    currency: str = "USD"

    peak_tflops: float | None = Field(None, gt=0)
    """What one worker's device could do, in 10^12 operations a second: MFU is a share of it. Default: for GPUs that are
    known, the maker's figure for dense bf16; on CPUs a product of matrices, timed at the start."""


class Training(Section):
    """Fine-tuning."""

    epochs: int = Field(3, ge=1)
    """Passes over the training split."""

    seed: int = 42
    """Seed of the order, the augmentation and a fresh model's weights."""

    precision: Precision = "auto"
    """Arithmetic of forward and backward; weights and optimizer are fp32 always. `auto`: bf16 on GPUs that have it."""

    alignment_weight: float = Field(0.0, ge=0)
    """Weight of a CTC loss on the audio embeddings beside the cross-entropy. For models that start from nothing, which
    learn to listen several times sooner with it; a pretrained model needs none. `train/loss` never includes it."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target's probability that is spread over the whole vocabulary. `train/loss` never includes it."""

    gradient_checkpointing: GradientCheckpointing = GradientCheckpointing()
    """Recompute activations in the backward pass: less memory, about a third more time where it is `true` for all."""

    sharding: Literal["none", "full"] = "none"
    """`full`: the weights of layers, their gradients and moments are shared out over the workers (FSDP2), where a model
    does not fit otherwise; each layer is sent around for every micro-batch. `none`: every worker has all."""

    compile: bool = False
    """Let torch.compile make code of the layers when the run starts, which takes a minute or two. Needs a C++ compiler,
    on GPUs Triton besides; where it does not work the run says so and goes on without."""

    frozen: tuple[Part, ...] = ()
    """Parts of the model that are not trained: they need neither gradients nor optimizer states."""

    lora: Lora | None = None
    """Train adapters and nothing else. Default: train the weights themselves."""

    ema: Ema | None = None
    """Judge and keep a moving average of the weights. Default: the weights as they are."""

    log_every_steps: int = Field(10, ge=1)
    """Optimizer steps between two points of a curve."""

    record_utterances: bool = False
    """Write down which utterances each step saw, in `RUN/seen/`: a proof of what was trained on, 20 bytes an
    utterance."""

    workers: Workers = Workers()
    batches: Batches = Batches()
    mixture: Mixture = Mixture()
    context: Context = Context()
    optimizer: Optimizer = Optimizer()
    augmentation: Augmentation = Augmentation()
    joining: Joining = Joining()
    validation: Validation = Validation()
    checkpoints: Checkpoints = Checkpoints()
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if self.lora and self.frozen:
            raise ValueError(
                f"frozen={list(self.frozen)} beside lora: adapters freeze all weights but their own; "
                "name the parts that get some in training.lora.parts, and leave training.frozen out"
            )
        if set(self.frozen) == set(PARTS):
            raise ValueError(f"frozen={list(self.frozen)} leaves nothing to train; leave one part out")
        return self

    @model_validator(mode="after")
    def _shards_go_together(self) -> Self:
        apart = {"lora": self.lora, "optimizer.states=8bit": self.optimizer.states == "8bit", "compile": self.compile}
        if self.sharding == "full" and (others := [name for name, is_on in apart.items() if is_on]):
            raise ValueError(f"sharding=full does not go together with {' and '.join(others)}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _memory_is_known(self) -> Self:
        if self.batches.max_micro_batch_s == "auto" and not (self.workers.use_gpu or self.workers.memory_gib):
            raise ValueError(
                "batches.max_micro_batch_s=auto: how much memory a worker may use is not known without a GPU; "
                "say it in training.workers.memory_gib"
            )
        return self


# --- after training -------------------------------------------------------------------------------------------------


class Tracking(Section):
    """MLflow."""

    experiment: str = "caspi"
    """The experiment that runs are filed under."""

    registered_name: str | None = None
    """Register the best model under this name when training ends. Default: only `caspi promote` registers."""


class Inference(Section):
    """Transcribing, in evaluation as in serving."""

    max_batch_s: float = Field(120.0, gt=0)
    """Audio that is decoded together, padding included; it decides the size of the cache. A longer clip goes alone."""

    max_tokens_per_s: float = Field(12.0, gt=0)
    """Text tokens generated per second of audio before an answer is cut: a guard against endless repetition."""

    precision: Precision = "auto"
    """Of the weights and of what is multiplied. `auto`: bf16 on a GPU, fp32 on a CPU. CPUs with instructions for bf16
    (AVX512-BF16, AMX) are faster with it; others are slower."""


class Serving(Section):
    """The endpoint."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What decodes. `vllm` wants an environment of its own, named by CASPI_VLLM_PYTHON; docs/guides/vllm.md."""

    replicas: int = Field(1, ge=1)
    """Copies of the model."""

    batch_wait_s: float = Field(0.02, ge=0)
    """How long a request waits for company."""

    request_timeout_s: float = Field(120.0, gt=0)
    """Deadline of a request, queueing and retries included."""

    max_in_flight: int = Field(64, ge=1)
    """Requests that are worked on at once. The next is refused at once with 429 and told when to come again."""

    max_upload_mb: int = Field(25, ge=1)
    """Larger uploads are refused. OpenAI's limit."""


class Recipe(Section):
    """One run, whole."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Default: the file's name."""

    data: Data
    model: Model = Model()
    training: Training = Training()
    tracking: Tracking = Tracking()
    inference: Inference = Inference()
    gate: Gate = Gate()
    serving: Serving = Serving()

    @model_validator(mode="after")
    def _one_utterance_fits_a_batch(self) -> Self:
        longest = self.data.filters.max_duration_s
        if longest > self.inference.max_batch_s:
            raise ValueError(
                f"data.filters.max_duration_s={longest} does not fit in "
                f"inference.max_batch_s={self.inference.max_batch_s}; raise the batch or lower the duration"
            )
        bound_s = self.training.batches.max_micro_batch_s
        if bound_s == "auto":
            return self
        augmentation, joining = self.training.augmentation, self.training.joining
        heard, joined = (
            length_s / (1 - augmentation.speed) + augmentation.max_shift_s
            for length_s in (longest, joining.target_s[1])
        )
        if joining.share and joined > bound_s:
            raise ValueError(
                f"training.joining.target_s={list(joining.target_s)} (up to {joined:.1f} with training.augmentation) "
                f"does not fit in training.batches.max_micro_batch_s={bound_s}; raise the batch or join less"
            )
        if heard > bound_s:
            slowed = f" (up to {heard:.1f} with training.augmentation)" if heard > longest else ""
            raise ValueError(
                f"data.filters.max_duration_s={longest}{slowed} does not fit in "
                f"training.batches.max_micro_batch_s={bound_s}; raise the batch or lower the duration"
            )
        return self
