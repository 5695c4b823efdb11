"""AReaL's FSDP engine, unchanged, as one of two ranks over gloo: a tiny model is made, trained for two steps, saved."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from areal.api.alloc_mode import ParallelStrategy
from areal.api.cli_args import MicroBatchSpec, OptimizerConfig, TrainEngineConfig
from areal.api.io_struct import FinetuneSpec, SaveLoadMeta, WeightUpdateMeta
from areal.engine.fsdp_engine import FSDPEngine
from areal.utils import perf_tracer
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

TOKENS = 64


def make_model(path: str) -> None:
    """A random model of one layer, and a tokenizer that it needs to be saved with."""
    config = Qwen2Config(
        vocab_size=TOKENS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    words = Tokenizer(models.WordLevel({str(token): token for token in range(TOKENS)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1", pad_token="0").save_pretrained(path)


def main(folder: str) -> None:
    """Train."""
    path = f"{folder}/model"
    if os.environ["RANK"] == "0":
        make_model(path)
    dist.init_process_group("gloo")
    dist.barrier()
    engine = FSDPEngine(
        TrainEngineConfig(
            experiment_name="e",
            trial_name="t",
            path=path,
            backend="fsdp:d2",
            dtype="float32",
            attn_impl="sdpa",
            mb_spec=MicroBatchSpec(max_tokens_per_mb=256),
            optimizer=OptimizerConfig(lr=1e-3),
        )
    )
    engine.create_process_group(ParallelStrategy(data_parallel_size=2))
    engine.initialize(None, FinetuneSpec(total_train_epochs=1, dataset_size=8, train_batch_size=4))
    engine.connect_engine(object(), WeightUpdateMeta.from_disk("e", "t", folder))
    batch = {
        "input_ids": torch.randint(2, TOKENS, (4, 16)),
        "attention_mask": torch.ones(4, 16, dtype=torch.bool),
        "loss_mask": torch.ones(4, 16),
    }
    for step in range(2):
        with perf_tracer.trace_scope("train.update", category="compute", args={"global_step": step}):
            engine.train_batch(
                dict(batch),
                lambda logprobs, entropy, data, **more: -logprobs.mean(),
                lambda data: torch.tensor(1.0),
            )
        with perf_tracer.trace_scope("train.save", category="io", args={"global_step": step}):
            engine.save(SaveLoadMeta(f"{folder}/saved", "hf", False, None, None))
        perf_tracer.save(step=step)
    engine.destroy()


if __name__ == "__main__":
    main(sys.argv[1])
