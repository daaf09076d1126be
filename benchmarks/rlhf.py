"""Does it learn what is preferred and rewarded? The starter, on rules that can be checked; and the whole loop with a rater.

    python benchmarks/rlhf.py [--quick] [--parts dpo,policy,hacking,loop] [--seeds 3] [--threads 1]

`dpo`: answers of the starter, all of 40 tokens, in pairs of which one gives somebody a name ("a fox named Tom") and the other does not;
accuracy on held-out pairs, and how many sampled answers to new prompts give a name, before and after. `policy`: the same rule as a reward,
for GRPO, RLOO and PPO, each seed by itself; mean reward of sampled answers before and after, with a 95% t interval over the seeds.
`hacking`: a reward for length; what the report says of it. `loop`: a rater who follows a hidden rule, with a tenth of its choices the
wrong way round, makes 1,000 comparisons; a reward model (MiniLM) learns from them, is tried on pairs without noise, and a policy learns
from it; the hidden rule's score of sampled answers before and after, and what each run records of where it came from. `--quick` does `dpo` and
GRPO with one seed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import luthier
from luthier.evaluation.learning import signs
from luthier.inference.sampling import Sampling
from luthier.inference.writer import Writer
from rater import ANIMALS, Rater, comparable, joy, prompts, starter

NAMED, TOKENS = r"\b(?:named|called) [A-Z]", 40
QUESTIONS = ("What does a {} eat?", "Where does a {} live?", "Is a {} bigger than a {}?", "Can a {} be a friend of a {}? Answer yes or no.")
"""What the starter answers in few words."""
FRESH = 128
"""New prompts whose sampled answers are looked at."""


def sampled(model: str, asked: Sequence[str], *, tokens: int = TOKENS, candidates: int = 2) -> list[list[str]]:
    """Answers at temperature 1, for each prompt."""
    writer = Writer.open(model, threads=THREADS)
    wishes = [Sampling(max_new_tokens=tokens, temperature=1.0, seed=1000 + i, candidates=candidates) for i in range(len(asked))]
    return [[w.text for w in row] for row in writer.write(list(asked), wishes)]


def names(text: str) -> bool:
    return re.search(NAMED, text) is not None


def share(answers: Sequence[Sequence[str]]) -> tuple[float, float]:
    """The share of answers that give a name, and half of its 95% interval over prompts."""
    each = np.array([np.mean([names(a) for a in row]) for row in answers])
    return float(each.mean()), float(1.96 * each.std(ddof=1) / math.sqrt(len(each)))


def save(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return str(path)


def recipe(name: str, train: str, task: dict[str, Any], **training: Any) -> dict[str, Any]:
    return {
        "data": {"train": train, "validation_share": 0.1, "test_share": 0.15},
        "task": task,
        "model": "starter",
        "method": "lora",
        "training": {"threads": THREADS, "schedule": "constant", "warmup": 0, **training},
        "evaluation": {"written": 32, "general_probe": False},
        "output": {"folder": "runs", "name": name},
    }


def show(name: str, value: float, low: float, high: float) -> None:
    print(f"  {name:<46}{value:7.3f} [{low:.3f}, {high:.3f}]", flush=True)


def dpo(count: int) -> dict[str, float]:
    """Pairs by the rule, and what a model that learns from them says."""
    asked = prompts(2000, seed=1)
    pairs = []
    for first in range(0, len(asked) - FRESH, 200):
        for prompt, answers in zip(asked[first : first + 200], sampled("starter", asked[first : first + 200], candidates=4), strict=True):
            good, bad = [a for a in answers if names(a)], [a for a in answers if not names(a)]
            pairs += [{"prompt": prompt, "chosen": a, "rejected": b} for a, b in zip(good[:1], bad[:1], strict=False)]
        if len(pairs) >= count:
            break
    print(
        f"dpo: {len(pairs)} pairs; words {np.mean([len(p['chosen'].split()) for p in pairs]):.1f} and {np.mean([len(p['rejected'].split()) for p in pairs]):.1f}"
    )
    run = luthier.train(
        recipe(
            "dpo",
            save(Path("pairs.jsonl"), pairs),
            {"type": "preference", "max_new_tokens": TOKENS},
            epochs=4,
            batch_size=16,
            learning_rate=1e-3,
        )
    )
    scores, fresh = run.scores["methods"], asked[-FRESH:]
    before, after = (share(sampled(m, fresh)) for m in ("starter", str(run.model)))
    for name, key in (("accuracy before (the start beside itself)", "base"), ("accuracy after", "model")):
        show(name, *(scores[key]["accuracy"][k] for k in ("value", "low", "high")))
    show("likelier before", *(scores["base"]["likelier"][k] for k in ("value", "low", "high")))
    for name, (value, half) in (("answers that give a name before", before), ("after", after)):
        show(name, value, value - half, value + half)
    show("KL on people's answers, nats a token", *(scores["model"]["kl"][k] for k in ("value", "low", "high")))
    accuracy = scores["model"]["accuracy"]["value"]
    return {"dpo_accuracy": accuracy, "dpo_before": scores["base"]["accuracy"]["value"], "dpo_rule_gain": after[0] - before[0]}


def policy(algorithms: Sequence[str], seeds: int, updates: int) -> dict[str, float]:
    """Each algorithm on the rule as a reward."""
    asked = prompts(400, seed=2)
    rows, fresh = save(Path("prompts.jsonl"), [{"prompt": p} for p in asked]), prompts(2000, seed=1)[-FRESH:]
    before = share(sampled("starter", fresh))
    found = {"reward_before": before[0]}
    show("reward of sampled answers before", before[0], before[0] - before[1], before[0] + before[1])
    for algorithm in algorithms:
        gains, kls = [], []
        for seed in range(seeds):
            task = {
                "type": "policy", "algorithm": algorithm, "rewards": [{"type": "regex", "pattern": NAMED, "name": "named"}],
                "max_new_tokens": TOKENS, "completions": 8, "beta": 0.02,
            }  # fmt: skip
            run = luthier.train(
                recipe(algorithm, rows, task, max_steps=updates, batch_size=4, learning_rate=1e-3, seed=seed)
                | {"evaluation": {"written": 16, "every": updates, "general_probe": False}}
            )
            log = run.lines("log.jsonl")
            after = share(sampled(str(run.model), fresh))
            gains.append(after[0] - before[0])
            kls.append(float(np.mean([r["parts"]["kl"] for r in log[-5:]])))
            show(f"{algorithm}, seed {seed}: after {len(log)} updates", after[0], after[0] - after[1], after[0] + after[1])
        mean, half = float(np.mean(gains)), 0.0
        if seeds > 1:
            half = float(stats.t.ppf(0.975, seeds - 1) * np.std(gains, ddof=1) / math.sqrt(seeds))
        show(f"{algorithm}: gain over {seeds} seeds", mean, mean - half, mean + half)
        print(f"    KL divergence from the start at the end: {np.mean(kls):.3f} nats a token", flush=True)
        found[f"{algorithm}_gain"] = mean
    return found


def hacking(updates: int) -> dict[str, float]:
    """A reward for length."""
    asked = [q.format(a, b) for q in QUESTIONS for a in ANIMALS for b in ANIMALS[:5] if a != b]
    rows = save(Path("questions.jsonl"), [{"prompt": q} for q in dict.fromkeys(asked)])
    task = {"type": "policy", "rewards": [{"type": "length", "per": 60}], "max_new_tokens": 96, "completions": 8, "beta": 0.0}
    run = luthier.train(recipe("length", rows, task, max_steps=updates, batch_size=4, learning_rate=2e-3))
    told = signs(run.lines("log.jsonl"))
    for sign in told:
        print(f"  the report says: {sign}")
    lengths = [r["parts"]["length"] for r in run.lines("log.jsonl")]
    return {"hacking_signs": len(told), "length_before": float(np.mean(lengths[:3])), "length_after": float(np.mean(lengths[-3:]))}


def loop(count: int, updates: int) -> dict[str, float]:
    """Rater, reward model, policy."""
    from luthier.feedback.rows import training_rows
    from luthier.feedback.store import Store

    right, noisy = Rater(noise=0.0), Rater(noise=0.1)
    with Store(Path("rated.db")) as store:
        duel, asked = starter(store), prompts(2000, seed=4)
        made, place = [], 0
        while len(made) < count + 200 and place < len(asked) - FRESH:
            made += [p for p in comparable(duel.pairs(asked[place : place + 64])) if right.right(p) != "tie"]
            place += 64
        train, held = made[: len(made) - 200], made[len(made) - 200 :]
        rated = noisy.rate(store, train[:count])
        wrong = sum(noisy.picks(p) != right.right(p) for p in train[:count])
        print(f"loop: {rated} comparisons, {wrong} of them the wrong way round")
        rows = training_rows(store, "pairs")
    pairs = save(Path("rated.jsonl"), rows.rows)
    order = [(p, right.right(p)) for p in held]
    clean = save(
        Path("held.jsonl"),
        [
            {"prompt": p.content["prompt"], "chosen": p.content["answers"][b], "rejected": p.content["answers"][1 - b]}
            for p, b in order
            if isinstance(b, int)
        ],
    )
    asked_rewards = recipe("rewarder", pairs, {"type": "reward"})
    asked_rewards |= {"model": "minilm", "method": "full", "training": {"threads": THREADS, "epochs": 2, "batch_size": 16}}
    asked_rewards["data"] = {"train": pairs, "test": clean, "validation_share": 0.1}
    rewarder = luthier.train(asked_rewards)
    accuracy = rewarder.scores["methods"]["model"]["accuracy"]
    show("reward model on held-out pairs without noise", *(accuracy[k] for k in ("value", "low", "high")))
    fresh = prompts(2000, seed=4)[-FRESH:]
    task = {
        "type": "policy",
        "rewards": [{"type": "model", "run": str(rewarder.folder)}],
        "max_new_tokens": 64,
        "completions": 8,
        "beta": 0.05,
    }
    learner = luthier.train(
        recipe(
            "policy",
            save(Path("asked.jsonl"), [{"prompt": p} for p in asked[:400]]),
            task,
            max_steps=updates,
            batch_size=4,
            learning_rate=1e-3,
        )
    )
    joys = {}
    for name, model in (("before", "starter"), ("after", str(learner.model))):
        each = np.array([np.mean([joy(a) for a in row]) for row in sampled(model, fresh, tokens=64)])
        joys[name], half = float(each.mean()), 1.96 * each.std(ddof=1) / math.sqrt(len(each))
        show(f"hidden rule's score {name}", joys[name], joys[name] - half, joys[name] + half)
    log = learner.lines("log.jsonl")
    print(
        f"  reward {log[0]['parts']['reward']:.2f} -> {np.mean([r['parts']['reward'] for r in log[-5:]]):.2f}, KL {np.mean([r['parts']['kl'] for r in log[-5:]]):.3f} nats a token"
    )
    for run in (rewarder, learner):
        print(
            f"  {run.id}: base {run.facts['base'].get('name', run.facts['model'])}, files {[Path(f).name for f in run.facts['data']['files']]}"
        )
    return {"reward_accuracy": accuracy["value"], "rule_before": joys["before"], "rule_after": joys["after"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="dpo and GRPO, one seed, few rows")
    parser.add_argument("--parts", default="dpo,policy,hacking,loop")
    parser.add_argument("--algorithms", default="grpo,rloo,ppo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    global THREADS
    THREADS = options.threads
    random.seed(0)
    parts = ["dpo", "policy"] if options.quick else options.parts.split(",")
    import os

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if "dpo" in parts:
            figures |= dpo(200 if options.quick else 600)
        if "policy" in parts:
            algorithms = ["grpo"] if options.quick else options.algorithms.split(",")
            figures |= policy(algorithms, 1 if options.quick else options.seeds, 25 if options.quick else options.updates)
        if "hacking" in parts:
            figures |= hacking(options.updates)
        if "loop" in parts:
            figures |= loop(1000, options.updates)
        os.chdir("/")
    print(json.dumps({k: float(f"{v:.3g}") for k, v in figures.items()}))


THREADS = 1

if __name__ == "__main__":
    main()
