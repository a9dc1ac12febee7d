"""Writes corpus, instruction pairs and questions to a folder, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from examples.facts import corpus
from examples.facts.tables import RELATIONS
from openba_jax.errors import UserError

FACTS_PER_RELATION = 24
DOCUMENTS = 20_000
INSTRUCTIONS = 10_000


def write(
    output_dir: str | os.PathLike[str],
    *,
    seed: int = 0,
    relations: Sequence[str] = (),
    facts_per_relation: int = FACTS_PER_RELATION,
    documents: int = DOCUMENTS,
    instructions: int = INSTRUCTIONS,
    choice_share: float = 0.5,
    held_out: int = 0,
) -> dict[str, int]:
    """Writes `corpus.jsonl`, `instructions.jsonl` and `questions/*.json` to `output_dir`.

    The bytes depend on nothing but the arguments. A folder that already holds these very files is
    left as it is.

    Args:
      output_dir: a folder that is empty, missing, or written before with the same arguments.
      seed: of everything random.
      relations: names of the relations to tell of; empty tells of all.
      facts_per_relation: at most so many facts of each relation, the best known first.
      documents: lines of the corpus; see `corpus.documents`.
      instructions: number of instruction pairs; see `corpus.instructions`.
      choice_share: share of the instruction pairs that list four options.
      held_out: question wordings kept for the four-choice questions alone; 0 shares all.

    Returns:
      Counts: `facts`, `documents`, `characters` (of the documents), `instructions`, `questions`.

    Raises:
      UserError: an argument is out of range, or the folder holds something else.
    """
    if facts_per_relation < 1:
        raise UserError(f"facts_per_relation={facts_per_relation} must be at least 1.")
    if instructions < 0:
        raise UserError(f"instructions={instructions} must not be negative.")
    if not 0 <= choice_share <= 1:
        raise UserError(f"choice_share={choice_share} must be between 0 and 1.")
    known = {relation.name: relation for relation in RELATIONS}
    unknown = sorted(set(relations) - set(known))
    if unknown:
        raise UserError(f"no relation is called {unknown[0]}; known are {', '.join(known)}.")
    chosen = [known[name].first(facts_per_relation) for name in relations or known]
    told = corpus.documents(chosen, seed=seed, count=documents)
    taught = corpus.instructions(
        chosen, seed=seed, count=instructions, choice_share=choice_share, held_out=held_out
    )
    asked = corpus.questions(chosen, seed=seed, held_out=held_out)

    files = {"corpus.jsonl": _lines(told), "instructions.jsonl": _lines(taught)}
    for name, items in asked.items():
        files[f"questions/{name}"] = json.dumps(items, ensure_ascii=False, indent=1) + "\n"
    _write_folder(Path(output_dir), {name: text.encode() for name, text in files.items()})
    return {
        "facts": sum(len(relation.facts) for relation in chosen),
        "documents": len(told),
        "characters": sum(len(record["text"]) for record in told),
        "instructions": len(taught),
        "questions": sum(map(len, asked.values())),
    }


def _lines(records: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the files beside the folder and renames; a folder with the same files is kept."""
    folder = folder.resolve()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        if folder.exists() and any(folder.iterdir()):
            if not _holds(folder, files):
                raise UserError(
                    f"{folder} holds something else than these arguments give; "
                    "name another output_dir, or empty it."
                )
            return
        for name, content in files.items():
            path = beside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        beside.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    """Whether the folder holds these files, byte for byte, and nothing else."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found == files.keys() and all(
        (folder / name).read_bytes() == content for name, content in files.items()
    )
