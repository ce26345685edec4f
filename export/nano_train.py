"""The training of an embedded model: its shape, its optimiser, and the checkpoint that is left."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenizers import Tokenizer

from edge.errors import UserError, ignore
from export import nano_corpus as corpus
from export.nano_corpus import BOS, END, PAD, TURN_END, VOCABULARY, Sample
from export.nano_items import Item

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CONTEXT = 2048
SEED = 20260403
STEPS = 2200
PEAK_RATE = 2e-3
MAX_BYTES = 6_000_000

TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('a message is from system, user or assistant') }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


class NanoModel(NamedTuple):
    """A model: its architecture, and what differs from SHAPE."""

    model_type: str
    settings: dict[str, Any]


# Row lengths are multiples of 256, the block of llama.cpp's K-quants; few tokens, so that the weights fit in
# git.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
# Three layers see 32 keys and one sees all, so that most answers are longer than the window.
WINDOWS: dict[str, Any] = {
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 32,
}
NANO = {
    "nano-llama": NanoModel("llama", {}),
    "nano-qwen2": NanoModel("qwen2", {}),
    "nano-qwen3": NanoModel("qwen3", {"rope_theta": 1e6}),
    "nano-gemma3": NanoModel("gemma3_text", {"rope_theta": 1e6, "query_pre_attn_scalar": 64, **WINDOWS}),
}


class Training(NamedTuple):
    """A trained model in FP32, its mean loss over the last tenth of the steps, and the minutes it took."""

    model: PreTrainedModel
    loss: float
    minutes: float


def registered(name: str) -> NanoModel:
    """The architecture of a name. Raises UserError for a name that is not in NANO."""
    if name not in NANO:
        raise UserError(f"unknown nano model {name!r}: choose from {', '.join(NANO)}")
    return NANO[name]


def new_model(name: str, tokenizer: Tokenizer) -> PreTrainedModel:
    """An untrained model in FP32, its weights from torch's seed."""
    import transformers

    spec = registered(name)
    bos, end, turn_end, pad = (tokenizer.token_to_id(token) for token in (BOS, END, TURN_END, PAD))
    ids = {"bos_token_id": bos, "eos_token_id": [turn_end, end], "pad_token_id": pad}
    config = transformers.AutoConfig.for_model(spec.model_type, **(SHAPE | ids | spec.settings))
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.generation_config = transformers.GenerationConfig(do_sample=False, **ids)  # type: ignore[no-untyped-call]
    return model


def train_model(
    name: str,
    items: Sequence[Item],
    tokenizer: Tokenizer,
    steps: int,
    seed: int = SEED,
    report: Callable[[int, float], None] = ignore,
) -> Training:
    """AdamW with warm-up and cosine decay; the same arguments give the same weights on one machine.

    `report` gets the step and its loss (nats, weighted mean over tokens).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # sums depend on the number of threads, so it is fixed
    torch.manual_seed(seed)
    model = new_model(name, tokenizer)
    model.train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses: list[float] = []
    started = time.perf_counter()
    rng = random.Random(seed)
    for step, batch in enumerate(islice(corpus.batches(items, tokenizer, rng), steps), 1):
        ids, weights = padded(batch, tokenizer.token_to_id(PAD))
        # Padding stands on the right of causal attention: no token that counts can see it, so no mask is
        # needed.
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (each * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        report(step, losses[-1])
    torch.set_num_threads(threads)
    model.eval()  # type: ignore[no-untyped-call]
    tail = losses[-max(1, steps // 10) :]
    return Training(model, sum(tail) / len(tail), (time.perf_counter() - started) / 60)


def padded(batch: Sequence[Sample], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [B, T] and weights [B, T] of a batch, filled on the right with `pad` and weight 0."""
    import torch

    length = max(len(text.ids) for text in batch)
    ids = torch.tensor([text.ids + [pad] * (length - len(text.ids)) for text in batch])
    weights = torch.tensor([text.weights + [0.0] * (length - len(text.weights)) for text in batch])
    return ids, weights


def save(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights (BF16), configuration and tokenizer in the hub's layout."""
    import torch
    from transformers import PreTrainedTokenizerFast

    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    (folder / "model.safetensors").chmod(0o644)  # the writer leaves it readable by its owner alone
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=TEMPLATE,
        additional_special_tokens=[END, corpus.HEAD, corpus.HEAD_END],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder, save_jinja_files=False)
    size = (folder / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"the weights take {size} bytes, more than {MAX_BYTES}: make the model smaller")
