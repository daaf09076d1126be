"""The sides of `preference.py` that learn from their own answers: GRPO here and TRL's `GRPOTrainer`.

Enters: an order from `turns.py`. Leaves: turns, whose seconds are those of the whole step, and of the update, which is all but
writing the answers. Both sides have the same weights, prompts in text with a tokenizer of a word for each token, and the same
reward; no token ends an answer, so that all have equally many. `given` has both learn from the same answers, of unequal lengths,
each of them twice, so that losses can be compared: the first time they do not depend on the model. On a CPU `GRPOTrainer` puts
prompts through the head, too.
"""

from __future__ import annotations

import os
import random
import time
from types import SimpleNamespace
from typing import Any

from sft import RATE, VOCABULARY, llama
from turns import Turn

K, SHORTEST, LONGEST, NEW = 8, 64, 200, 32


def make(order: dict[str, Any]) -> Turn:
    """One side on its prompts, in a child process; an order has `prompts`, those of an update, and `given`."""
    asked = texts(order["steps"] * order["prompts"])
    return luthier_side(order, asked) if order["side"] == "luthier" else trl_side(order, asked)


def texts(count: int) -> list[str]:
    """Prompts of words that are a token each."""
    draw = random.Random(1)
    return [_words([draw.randrange(10, VOCABULARY) for _ in range(draw.randint(SHORTEST, LONGEST))]) for _ in range(count)]


def answers(prompt: str) -> list[list[int]]:
    """Answers to learn from that nobody wrote, in tokens."""
    draw = random.Random(prompt)
    return [[draw.randrange(10, VOCABULARY) for _ in range(draw.randint(NEW // 2, NEW))] for _ in range(K)]


def reward(text: str) -> float:
    """A number from 0 to 0.9 that differs from answer to answer."""
    return sum(int(word[1:]) for word in text.split()) % 10 / 10


def repeats_of(order: dict[str, Any]) -> int:
    """How often answers are learned from."""
    return 2 if order["given"] else 1


def _words(ids: list[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


def tokenizer() -> Any:
    """A word for each of the model's tokens; the end of a text is none of them."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<pad>": 0, **{f"t{i}": i for i in range(1, VOCABULARY)}, "</s>": VOCABULARY}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")


def luthier_side(order: dict[str, Any], prompts: list[str]) -> Turn:
    """Our loop, as `luthier train` sets it up: answers are drawn in it, judged, and learned from as trees."""
    import numpy as np

    from luthier.alignment import rollouts
    from luthier.inference.rows import Written
    from luthier.models import forward, host, load
    from luthier.models.heads import Head
    from luthier.models.reference import Began
    from luthier.recipe.sections import Data, Training
    from luthier.recipe.tasks.policy import PolicyOptions
    from luthier.tasks.policy import Policy, Question
    from luthier.training.batches import UpdateStream
    from luthier.training.loop import train
    from luthier.training.optim import Optimizer

    machine, head, known = host.set_up(precision="fp32"), Head("causal", trees=True), tokenizer()
    model = llama(order["layers"])
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=0, kind="causal", trees=True)
    kept = load.for_training(model, device=machine.device, dtype=machine.dtype, head=head)
    optimizer = Optimizer(model, Training(weight_decay=0.0), kept=kept)
    options = PolicyOptions(
        rewards=["length"], completions=K, max_new_tokens=NEW, beta=0.0, normalize="token", iterations=repeats_of(order)
    )
    task = Policy(options, Data(train=["none"]))

    def judge(asked: Any, said: Any) -> Any:
        earned = np.array([[reward(text) for text in row] for row in said])
        return SimpleNamespace(total=earned, parts={"length": earned})

    task.judge = judge
    written, spent = rollouts.generate, [0.0]

    def write(model: Any, known: Any, asked: Any, *given: Any, **rest: Any) -> Any:
        begun = time.perf_counter()
        if order["given"]:
            each = [answers(_words(ids)) for ids in asked]
            found = [
                [Written(_words(a), tuple(a), "length", None, None, len(ids)) for a in row] for ids, row in zip(asked, each, strict=True)
            ]
        else:
            found = written(model, known, asked, *given, **rest)
        spent[0] += time.perf_counter() - begun
        return found

    rollouts.generate = write
    examples = [{"input_ids": np.array(known(text)["input_ids"])} for text in prompts]
    stream = UpdateStream(examples, {}, size=order["prompts"], max_tokens=16384, seed=0)
    stream._order = lambda epoch: list(range(len(prompts)))  # type: ignore[method-assign]  # as the other side has them
    drawing = rollouts.Drawing(tokenizer=known, layout=layout, stop_ids=(), max_length=2048, max_tokens=16384, seed=0)
    questions = [Question([], None, {})] * len(prompts)
    updates = rollouts.Rollouts(stream, examples, questions, task=task, model=model, began=Began(model), drawing=drawing, max_tokens=16384)
    reports = train(model, updates, loss=task.loss(layout), optimizer=optimizer, rate=lambda step: RATE)

    def turn(first: int, count: int) -> tuple[list[float], dict[str, float]]:
        begun, spent[0] = time.perf_counter(), 0.0
        losses = [next(reports).loss for _ in range(count)]
        whole = time.perf_counter() - begun
        return losses, {"step": whole, "update": whole - spent[0]}

    return turn


def trl_side(order: dict[str, Any], prompts: list[str]) -> Turn:
    """`GRPOTrainer` with its defaults on a CPU."""
    import torch
    import transformers
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    known, model, size = tokenizer(), llama(order["layers"]), order["prompts"]
    repeats = repeats_of(order)
    model.generation_config.eos_token_id = None
    state: dict[str, Any] = {"optimizer": None}

    def turn(first: int, count: int) -> tuple[list[float], dict[str, float]]:
        losses: list[float] = []
        spent = [0.0]

        class Inner(GRPOTrainer):  # type: ignore[misc]
            def _generate(self, *given: Any) -> Any:
                begun = time.perf_counter()
                found = super()._generate(*given)
                spent[0] += time.perf_counter() - begun
                return found

            def _generate_single_turn(self, prompt_ids: Any, *given: Any, **rest: Any) -> Any:
                if not order["given"]:
                    return super()._generate_single_turn(prompt_ids, *given, **rest)
                return [answers(_words(ids))[i % K] for i, ids in enumerate(prompt_ids)], None

            def compute_loss(self, *given: Any, **rest: Any) -> Any:
                value = super().compute_loss(*given, **rest)
                losses.append(float(value.detach()))
                return value

        class Clock(transformers.TrainerCallback):
            begun = ended = 0.0

            def on_train_begin(self, *_: Any, **__: Any) -> None:
                self.begun = time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.ended = time.perf_counter()

        start = first // repeats * size
        part = Dataset.from_list([{"prompt": text} for text in prompts[start : start + count * size]])
        arguments = GRPOConfig(
            output_dir="/tmp/luthier-benchmark", per_device_train_batch_size=size * K, num_generations=K, max_completion_length=NEW,
            max_steps=count, learning_rate=RATE, lr_scheduler_type="constant", num_iterations=repeats,
            shuffle_dataset=False, report_to=[], save_strategy="no", disable_tqdm=True, logging_strategy="no", use_cpu=True, bf16=False,
        )  # fmt: skip
        clock = Clock()
        trainer = Inner(
            model, reward_funcs=lambda completions, **_: [reward(text) for text in completions], args=arguments, train_dataset=part,
            processing_class=known, callbacks=[clock],
        )  # fmt: skip
        if state["optimizer"] is not None:
            trainer.optimizer = state["optimizer"]
        trainer.train()
        inner = trainer.optimizer
        state["optimizer"] = inner.optimizer if hasattr(inner, "optimizer") else inner
        whole = clock.ended - clock.begun
        return losses, {"step": whole, "update": whole - spent[0]}

    return turn
