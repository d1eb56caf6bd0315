"""The training loss: cross-entropy at supervised positions, and logits nowhere else.

Legend: B utterances, R rows, S positions, L supervised tokens of the whole batch, H hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from caspi.model.batch import IGNORED, Batch
from caspi.model.forward import decode, encode
from caspi.model.output_layer import token_losses


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums (not means) over a batch, in fp32.

    A sum can be added over micro-batches and ranks and divided once by the global number of tokens, so the loss means
    the same for every split of the batch.
    """

    cross_entropy: torch.Tensor  # over the supervised tokens; what is reported
    objective: torch.Tensor  # the same with label smoothing, where it was asked for; what is differentiated
    alignment: torch.Tensor  # CTC over the texts; zero where it was not asked for


def loss_sums(model: Any, batch: Batch, *, with_alignment: bool = False, label_smoothing: float = 0.0) -> Losses:
    """The training losses of a batch.

    `label_smoothing` is the share of each target that is spread evenly over the vocabulary (arXiv 1512.00567), from 0
    to below 1. The reported cross-entropy does not change its meaning with it.
    """
    heard = encode(model, batch.features)
    embeddings = _embed(model, batch.input_ids)  # (R, S, H)
    is_audio = batch.input_ids == model.config.audio_token_id
    embeddings = embeddings.masked_scatter(is_audio.unsqueeze(-1), heard.to(embeddings.dtype))
    hidden = decode(model, embeddings, batch)  # (R, S, H)
    # Position s predicts token s + 1.
    targets = batch.labels[:, 1:]
    supervised = targets != IGNORED
    cross_entropy, objective = token_losses(
        hidden[:, :-1][supervised], model.lm_head.weight, targets[supervised], label_smoothing=label_smoothing
    )
    if not with_alignment:
        return Losses(cross_entropy, objective, torch.zeros_like(cross_entropy))
    return Losses(cross_entropy, objective, _alignment_sum(model, heard, batch.sound.num_tokens, batch.texts))


def _embed(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """The embeddings of tokens: (R, S) -> (R, S, H).

    Where the output layer is the same matrix, the gradient of the few rows that were looked up is added to the output
    layer's as a sparse one. Autograd's dense one is as large as the matrix, and takes longer than the whole encoder.
    """
    table = model.get_input_embeddings()
    is_tied = table.weight is model.lm_head.weight
    return F.embedding(input_ids, table.weight, padding_idx=table.padding_idx, sparse=is_tied)


def _alignment_sum(
    model: Any, heard: torch.Tensor, num_heard: Sequence[int], texts: Sequence[torch.Tensor]
) -> torch.Tensor:
    """CTC between the audio embeddings and the texts, read with the model's own final norm and output layer.

    A decoder that starts from nothing first learns to guess sentences, and long after to listen. Hybrid CTC and
    attention (arXiv 1609.06773) is how speech models learn to align early. Here it needs no weights of its own: the
    embedding of each audio token is drawn to that of the text spoken there, with `<|audio_pad|>` for the blank.
    """
    logits = model.lm_head(model.model.language_model.norm(heard))  # (audio tokens, V)
    log_probabilities = logits.float().log_softmax(-1).split(list(num_heard))
    return F.ctc_loss(
        torch.nn.utils.rnn.pad_sequence(list(log_probabilities)),  # (T, B, V)
        torch.cat(list(texts)),
        torch.tensor(num_heard, device=heard.device),
        torch.tensor([len(text) for text in texts], device=heard.device),
        blank=model.config.audio_token_id,
        reduction="sum",
        zero_infinity=True,  # a text too long for its audio says nothing
    )
