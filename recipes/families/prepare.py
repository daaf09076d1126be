"""Families of instructions from T0's templates: a file a family, for recipes/families.yaml and benchmarks/families.py.

    python recipes/families/prepare.py T0 OUT

T0 is a file t0.jsonl(.gz) with prompt, completion and template in each row, or the folder of the files that it is made of,
one a template: data/finetuning/t0_train_50k/data_per_template of github:yizhongw/self-instruct, Apache-2.0, at commit
0b26ccaa415992100fa32df62d41b994cf928e23. OUT gets FAMILY.jsonl with prompt, completion, template and `passage`.

T0 shows the same two hundred instances under every template, in one order, and several instances may be about one passage.
Rows of one instance get the same `passage`, and so do instances that share a run of words that is not the template's own:
with data.group: passage nothing is trained on in one shape and tested on in another.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

FAMILIES = {
    "paws": ("labeled_final_Meaning", "labeled_final_Rewrite", "labeled_final_context_question"),
    "wiqa": ("effect_with_string_answer", "does_the_supposed_perturbation_have_an_effect", "which_of_the_following_is_the_supposed_perturbation"),
    "quarel": ("choose_between", "heres_a_story", "logic_test"),
    "quartz": ("answer_question_below", "paragraph_question_plain_concat", "read_passage_below_choose"),
    "qasc": ("qa_with_combined_facts_1", "qa_with_separated_facts_1", "qa_with_separated_facts_3"),
    "commonsense_qa": ("most_suitable_answer", "question_answering", "question_to_answer_index"),
    "social_i_qa": ("Check_if_a_random_answer_is_valid_or_not", "Show_choices_and_generate_answer", "Show_choices_and_generate_index"),
    "common_gen": ("Given_concepts_type_1", "Put_together", "sentence_to_concepts", "topics_from_the_sentence"),
}  # fmt: skip
"""What is taken: permissive sets with short texts, and of their templates those whose answers differ in kind or wording."""
STOP = "<|endoftext|>"
"""Ends every completion in the files."""
RUN, OWN_RUN = 8, 4
"""Words in a row that instances of one passage share, and words in a row by which a template is told."""
OFTEN = 0.25
"""Share of a template's rows from which on words are the template's own."""
NAMED = ("common_gen_sentence_to_concepts",)
"""Templates whose completions say what several instances are about, in too few words for a run."""


def rows_of(source: Path) -> Iterator[dict[str, str]]:
    """Every row with its template."""
    if source.is_dir():
        for path in sorted(source.glob("*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                yield {**json.loads(line), "template": path.stem}
        return
    content = source.read_bytes()
    text = (gzip.decompress(content) if source.suffix == ".gz" else content).decode("utf-8")
    yield from (json.loads(line) for line in text.split("\n") if line)


def families(source: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of every family: the prompt, the completion without what ended it, the template, the passage."""
    chosen = {f"{family}_{t}": family for family, templates in FAMILIES.items() for t in templates}
    found: dict[str, list[dict[str, str]]] = {family: [] for family in FAMILIES}
    for row in rows_of(source):
        if row["template"] in chosen:
            answer = row["completion"].removesuffix(STOP).strip()
            if answer:
                found[chosen[row["template"]]].append({"prompt": row["prompt"].strip(), "completion": answer, "template": row["template"]})
    for family, rows in found.items():
        for row, passage in zip(rows, passages(rows), strict=True):
            row["passage"] = f"{family}-{passage}"
    return found


def passages(rows: list[dict[str, str]]) -> list[int]:
    """A number for each row of a family, the same for those about the same."""
    by_template: dict[str, list[dict[str, str]]] = defaultdict(list)
    instances = []
    for row in rows:
        instances.append(len(by_template[row["template"]]))
        by_template[row["template"]].append(row)
    above = list(range(max(instances) + 1))

    def root(index: int) -> int:
        while above[index] != index:
            above[index] = above[above[index]]
            index = above[index]
        return index

    for template, own in by_template.items():
        words = [re.findall(r"\w+", row["prompt"].lower()) for row in own]
        counts = Counter(run for text in words for run in set(runs(text, OWN_RUN)))
        often = {run for run, n in counts.items() if n > OFTEN * len(own)}
        first: dict[str, int] = {}
        for index, (text, row) in enumerate(zip(words, own, strict=True)):
            shared = {run for run in runs(text, RUN) if not often & set(runs(run.split(), OWN_RUN))}
            for name in shared | ({row["completion"]} if template in NAMED else set()):
                one, other = sorted((root(first.setdefault(name, index)), root(index)))
                above[other] = one
    return [root(index) for index in instances]


def runs(words: list[str], size: int) -> Iterable[str]:
    """Every run of so many words."""
    return (" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for family, rows in families(source).items():
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (out / f"{family}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{family}: {len(rows)} rows, {len({row['passage'] for row in rows})} passages")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
