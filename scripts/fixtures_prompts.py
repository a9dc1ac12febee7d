"""Makes tests/evaluation/data/prompts.json: prompts spelt from the table of the original's strings.

Run: python scripts/fixtures_prompts.py PROMPT_TEMPLATES.json tests/evaluation/data/prompts.json

The table is a transcript of the original's programs. Nothing of `openba_jax` is used here, so that
the prompts of the package are compared with others. The questions are made up.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

LETTERS = "ABCDE"
SENTINEL = "|*sent_id*|"

# Of the table: key of the set, of the version, and what the package calls both.
SETS = [
    ("v2", "MMLU", "mmlu", ""),
    ("v2", "CMMLU_and_CEval", "cmmlu", ""),
    ("v2", "CMMLU_and_CEval", "ceval", ""),
    ("v2", "ARC", "arc_c", ""),
    ("v2", "PIQA", "piqa", ""),
    ("v1", "MMLU", "mmlu", "v1_"),
    ("v1", "CMMLU", "cmmlu", "v1_"),
]
HARNESS = {
    "sciq": "sciq",
    "piqa": "piqa",
    "arc_c": "arc_easy_and_arc_challenge",
    "logiqa": "logiqa",
    "boolq": "boolq",
    "mmlu": "mmlu",
    "cmmlu": "cmmlu_and_ceval",
}


def answer_of(item: dict[str, Any]) -> str:
    """The text of the right option."""
    return item[f"res{LETTERS.index(item['ans']) + 1}"]


def filled(text: str, item: dict[str, Any], names: dict[str, str], arc: str = "") -> str:
    """One of the table's strings with the fields of a question in their places."""
    options = [item[f"res{n}"] for n in range(1, 6) if f"res{n}" in item]
    if arc:
        shown = "".join(f"{a}. {b} " for a, b in zip(LETTERS, options, strict=False))
        return f"{arc}Question: {item['question']} Options: {shown}Answer: "
    values = {"{q}": item["question"], "{question}": item["question"], "{ans}": item["ans"]}
    values["{anstext}"] = answer_of(item)
    values["{goal}"], values["{question.strip()}"] = item["question"], item["question"].strip()
    passage = item.get("passage", "")
    values |= {"{support.lstrip()}": passage.lstrip(), "{context}": passage, "{passage}": passage}
    values |= {f"{{o{n}}}": option for n, option in enumerate(options, 1)}
    values |= {f"{{{a}}}": option for a, option in zip("ABCD", options, strict=False)}
    values["{subj_zh}"] = names.get(item.get("subject", ""), "")
    pattern = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    return re.sub(pattern, lambda match: values[match[0]], text)


def numbered(text: str) -> str:
    """Sentinels from left to right."""
    parts = text.split(SENTINEL)
    return parts[0] + "".join(f"<extra_id_{k}>{part}" for k, part in enumerate(parts[1:]))


def prompt_of(
    table: dict[str, Any], template: str, demos: list[dict], item: dict, names: dict[str, str]
) -> tuple[str, list[str] | str]:
    """What encoder and decoder read, without their frames."""
    fields = table[template]
    arc = table.get("instruction", "") if "instruction" in table else ""
    query = fields.get("query", "")

    def demo_text(demo: dict) -> str:
        if arc:
            return filled("", demo, names, arc) + demo["ans"] + "\n "
        return filled(fields["demo"], demo, names)

    shown = "".join(map(demo_text, demos))
    intro = fields.get("intro_if_k_ge_1", "") if demos else ""
    tail = fields.get("tail_if_k_ge_1", "") if demos else ""
    encoder = intro + shown + tail + filled(query, item, names, arc)
    options = [item[f"res{n}"] for n in range(1, 6) if f"res{n}" in item]
    if template.startswith("r_ppl"):
        answers = "".join(f"{SENTINEL} {answer_of(demo)}" for demo in demos)
        return numbered(encoder), [numbered(f"{answers}{SENTINEL} {text}") for text in options]
    if template.startswith("ppl"):
        return encoder, options
    decoder = fields["decoder"]
    return encoder, decoder[0] if isinstance(decoder, list) else decoder


def question(text: str, options: list[str], ans: str, **more: str) -> dict[str, Any]:
    """A question in OpenBA's format."""
    return {"question": text, "ans": ans, **more} | {f"res{n}": o for n, o in enumerate(options, 1)}


ENGLISH = [
    question("Which is  the largest?", ["a flea", "{o1} or {answer}", "an ox", "a cat"], "C"),
    question("How many legs has a spider? ", ["four", "six", "ten", "eight"], "D"),
    question("What is 7 x 8?", ["54", "56", "58", "64"], "B"),
]
CHINESE = [
    question("水的沸点是____。", ["50度", "100度", "150度", "200度"], "B", subject="agronomy"),
    question(
        "一年有几个月？", ["十个月", "十一个月", "十二个月", "十三个月"], "C", subject="agronomy"
    ),
    question("太阳从哪边升起？", ["东边", "西边", "南边", "北边"], "A", subject="agronomy"),
]
SCIENCE = [
    question("What melts ice?", ["heat", "cold", "darkness"], "A"),
    question("What do plants need?", ["light", "salt", "wind", "sand", "iron"], "A"),
    question("What falls?", ["a stone", "smoke", "a song", "light"], "A"),
]
SOLUTIONS = [
    question("How to open a jar", ["Turn the lid.", "Sing to it."], "A"),
    question("dry a plate", ["Use water.", "Use a towel."], "B"),
    question("To keep soup warm,", ["cover it.", "stir in ice."], "A"),
]
PASSAGES = [
    question("is water wet", ["no", "yes"], "B", passage="  Water\nwets what it touches."),
    question("is fire cold", ["no", "yes"], "A", passage="Fire is hot."),
]
READING = [
    question("Who left?", ["Ann", "Bob", "Cy", "Di"], "B", passage=" Bob left.  Ann stayed."),
    question("Who stayed?", ["Ann", "Bob", "Cy", "Di"], "A", passage="Bob left."),
]
QUESTIONS = {
    "mmlu": ENGLISH,
    "cmmlu": CHINESE,
    "ceval": [{**each, "subject": "law"} for each in CHINESE],
    "arc_c": SCIENCE,
    "piqa": SOLUTIONS,
    "sciq": READING,
    "logiqa": READING,
    "boolq": PASSAGES,
}


def subject_names(templates: dict[str, Any], benchmark: str) -> dict[str, str]:
    """What subjects are called in prompts."""
    if benchmark == "ceval":
        return {name: names[1] for name, names in templates["ceval_subjects"].items()}
    return templates["cmmlu_subject_names_zh"] if benchmark == "cmmlu" else {}


def main(source: str, target: str) -> None:
    """Writes the fixture."""
    templates = json.loads(Path(source).read_text(encoding="utf-8"))
    cases = []
    for version, key, benchmark, prefix in SETS:
        table = templates[version][key]
        item, *demos = QUESTIONS[benchmark]
        for name, fields in table.items():
            if not isinstance(fields, dict):
                continue
            counts = (0, len(demos)) if name[-1] != "0" or name.endswith("10") else (0,)
            for count in counts:
                names = subject_names(templates, benchmark)
                encoder, decoder = prompt_of(table, name, demos[:count], item, names)
                cases.append(
                    {
                        "benchmark": benchmark,
                        "template": prefix + name,
                        "item": item,
                        "demos": demos[:count],
                        "encoder": encoder,
                        "decoder": decoder,
                    }
                )
    for benchmark, key in HARNESS.items():
        fields = templates["lm_eval"][key]
        item, *demos = QUESTIONS[benchmark]
        letters = fields["choices"] == ["A", "B", "C", "D"]
        for count in (0, len(demos)):
            encoder = ""
            for each in [*demos[:count], item]:
                encoder += filled(fields["doc_to_text"], each, {})
                if each is not item:
                    encoder += f" {each['ans'] if letters else answer_of(each)}\n\n"
            options = [item[f"res{n}"] for n in range(1, 6) if f"res{n}" in item]
            cases.append(
                {
                    "benchmark": benchmark,
                    "template": "harness",
                    "item": item,
                    "demos": demos[:count],
                    "encoder": encoder,
                    "decoder": list("ABCD") if letters else options,
                }
            )
    Path(target).write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
