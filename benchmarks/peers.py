"""Edgetrace beside the installed peers at Llama-3.2-1B's shape: onnxruntime-genai, llama-cpp-python,
transformers.

Interleaved rounds, each contestant in a process of its own that is stopped while another runs
(edge/jobs/bench.py). A peer that is not installed is left out with a message. onnxruntime-genai needs a
model of its own builder (--genai, see docs/performance.md). transformers runs eager in BF16 with
output_attentions and output_hidden_states, and reduces nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.checkpoints import checkpoint
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import open_backend
from edge.errors import ignore
from edge.jobs.bench import (
    Contestant,
    Opened,
    Round,
    peak_rss,
    race,
    random_ids,
    read_bandwidth,
    summarise,
    trace_rounds,
    weight_bytes,
)
from export.build import build

VOCABULARY = 128256


def bare(pipe: Connection, path: Path, runtime: Runtime, capacity: int) -> None:
    """Our own untapped loop: a step and an argmax, nothing recorded."""
    began = time.perf_counter()
    backend = open_backend(Artifact.open(path), runtime, capacity, ignore)
    pipe.send(Opened(time.perf_counter() - began))
    while request := pipe.recv():
        context, tokens = request
        ids = random_ids(VOCABULARY, context, tokens)
        backend.rewind(0)
        began = time.perf_counter()
        backend.prefill(ids[:context]).logits.argmax()
        times = [time.perf_counter() - began]
        for token in ids[context:-1]:
            began = time.perf_counter()
            backend.step(token).logits.argmax()
            times.append(time.perf_counter() - began)
        pipe.send(Round(times[0], times[1:], peak_rss()))


def genai(pipe: Connection, path: Path, threads: int, capacity: int) -> None:
    """onnxruntime-genai, untapped, greedy on the tokens that it chooses."""
    import onnxruntime_genai as og

    began = time.perf_counter()
    config = og.Config(str(path))
    config.overlay(
        json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}})
    )
    model = og.Model(config)
    pipe.send(Opened(time.perf_counter() - began))
    while request := pipe.recv():
        context, tokens = request
        ids = random_ids(VOCABULARY, context, tokens)
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(
            max_length=context + tokens + 2, min_length=context + tokens + 2, do_sample=False
        )
        generator = og.Generator(model, parameters)
        began = time.perf_counter()
        generator.append_tokens(ids[:context])
        generator.generate_next_token()
        times = [time.perf_counter() - began]
        for _ in range(tokens):
            began = time.perf_counter()
            generator.generate_next_token()
            times.append(time.perf_counter() - began)
        pipe.send(Round(times[0], times[1:], peak_rss()))


def llama_cpp(pipe: Connection, path: Path, threads: int, capacity: int) -> None:
    """llama-cpp-python's own generation, untapped, greedy, with flash attention."""
    from llama_cpp import Llama

    began = time.perf_counter()
    model = Llama(
        str(path), n_ctx=capacity, n_threads=threads, n_threads_batch=threads, flash_attn=True, verbose=False
    )
    pipe.send(Opened(time.perf_counter() - began))
    while request := pipe.recv():
        context, tokens = request
        ids = random_ids(VOCABULARY, context, tokens)
        model.reset()
        times: list[float] = []
        began = time.perf_counter()
        for _ in model.generate(ids[:context], temp=0.0, reset=True):
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
            if len(times) > tokens:
                break
        pipe.send(Round(times[0], times[1:], peak_rss()))


def transformers_eager(pipe: Connection, path: Path, threads: int) -> None:
    """transformers with contestants attention and hidden state of each step as tensors, BF16."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, attn_implementation="eager", local_files_only=True
    )
    pipe.send(Opened(time.perf_counter() - began))
    outputs = {"use_cache": True, "output_attentions": True, "output_hidden_states": True}
    while request := pipe.recv():
        context, tokens = request
        ids = random_ids(VOCABULARY, context, tokens)
        with torch.inference_mode():
            began = time.perf_counter()
            out = model(torch.tensor([ids[:context]]), logits_to_keep=1, **outputs)
            times = [time.perf_counter() - began]
            for token in ids[context:-1]:
                began = time.perf_counter()
                out = model(torch.tensor([[token]]), past_key_values=out.past_key_values, **outputs)
                out.logits[0, -1].argmax()
                times.append(time.perf_counter() - began)
        pipe.send(Round(times[0], times[1:], peak_rss()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the checkpoint and the artifacts (7 GB)"
    )
    parser.add_argument(
        "--genai", type=Path, help="model that onnxruntime-genai's builder made of the same checkpoint"
    )
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", nargs="+", help="contestants; untapped is always among them")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = checkpoint(options.work)
    rows, none = (
        build(str(source), ["onnx-int4"], options.work / taps, taps=taps)[0].artifact
        for taps in ("rows", "none")
    )
    gguf = build(str(source), ["gguf-q4_k_m"], options.work / "rows")[0].artifact
    threads, capacity = options.threads, max(options.contexts) + options.tokens + 8
    runtime = Runtime(threads)
    contestants: dict[str, Contestant] = {
        "untapped": (bare, (none.path, runtime, capacity)),
        "untapped (2)": (bare, (none.path, runtime, capacity)),
        "tapped": (trace_rounds, (rows.path, runtime, capacity)),
        "tapped gguf-q4_k_m": (trace_rounds, (gguf.path, runtime, capacity)),
    }
    weights = dict.fromkeys(("untapped", "untapped (2)", "tapped"), weight_bytes(rows)) | {
        "tapped gguf-q4_k_m": weight_bytes(gguf)
    }
    peers = {
        "onnxruntime-genai": ("onnxruntime_genai", genai, (options.genai, threads, capacity)),
        "llama-cpp-python q4_k_m": ("llama_cpp", llama_cpp, (gguf.weights, threads, capacity)),
        "transformers eager bf16": ("transformers", transformers_eager, (source, threads)),
    }
    for name, (module, target, arguments) in peers.items():
        if importlib.util.find_spec(module) is None or arguments[0] is None:
            print(f"{name} is not installed or has no model: left out")
        else:
            contestants[name] = (target, arguments)
    if options.only:
        names = (*options.only, "untapped")
        contestants = {name: contestants[name] for name in contestants if name in names}
    bandwidth = read_bandwidth(threads)
    measurements = race(contestants, options.contexts, options.rounds, options.tokens)
    results = summarise(*measurements, weights, bandwidth)
    print(f"read bandwidth {bandwidth / 1e9:.1f} GB/s, {threads} threads")
    for r in results:
        low, middle, high = r.ratio
        print(
            f"{r.context:5} {r.name:26} {r.token_ms[1]:8.2f} ms/token  "
            f"over untapped {middle:.3f} ({low:.3f} to {high:.3f})  "
            f"prompt {r.first_s:6.2f} s  load {r.load_s:5.1f} s  "
            f"peak {r.peak_rss / 1e6:6.0f} MB  of bandwidth {r.bandwidth:.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps([r._asdict() for r in results], indent=1))


if __name__ == "__main__":
    main()
