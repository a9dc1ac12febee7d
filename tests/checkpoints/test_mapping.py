import collections
import json
import re

import pytest

from openba_jax.checkpoints.formats.huggingface import HuggingFace
from openba_jax.checkpoints.layout import PART
from openba_jax.checkpoints.mapping import expand
from openba_jax.models.openba.huggingface import OpenBAHuggingFace
from openba_jax.models.openba.megatron import OpenBAMegatron
from openba_jax.models.openba.model import OpenBAModel

TABLES = {"hugging_face": OpenBAHuggingFace.rows, "megatron": OpenBAMegatron.rows}


@pytest.mark.parametrize("table", TABLES)
def test_every_parameter_is_mapped_exactly_once(table, variant):
    if table == "megatron":
        variant = variant.replace(tie_embeddings=True)
    axes = OpenBAModel(variant).axes
    entries = expand(TABLES[table], axes)
    ours = collections.Counter(leaf for entry in entries for leaf in entry.leaves)
    assert ours == collections.Counter(axes.leaves())
    theirs = collections.Counter(entry.theirs for entry in entries)
    assert set(theirs.values()) == {1}


@pytest.mark.parametrize("table", TABLES)
def test_layouts_name_the_axes_of_the_parameters(table, variant):
    axes = OpenBAModel(variant).axes
    for entry in expand(TABLES[table], axes):
        for leaf in entry.leaves:
            assert sorted(axes.paths[leaf.path]) == sorted(set(entry.layout.names) - {PART})
        assert (PART in entry.layout.names) == (len(entry.leaves) > 1)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_names_are_those_of_the_original(golden_dir, name):
    folder = golden_dir(f"model_{name}")
    source = HuggingFace().open(folder)
    info = json.loads((folder / "info.json").read_text())
    aliases = set(info["alias_keys_of_shared_embedding"])
    theirs = {entry.theirs for entry in expand(TABLES["hugging_face"], source.model.axes)}
    assert theirs == set(info["state_dict_keys_of_full_model"]) - aliases


def test_names_and_cuts_follow_the_key_map(shared_dir, tiny):
    key_map = json.loads((shared_dir / "reference" / "hf_key_map.json").read_text())
    axes = OpenBAModel(tiny).axes
    cuts = {entry.theirs: entry.layout.sharded_dim for entry in expand(TABLES["megatron"], axes)}
    cuts = {re.sub(r"layers\.\d+", "layers.N", name): dim for name, dim in cuts.items()}
    hugging_face = {
        re.sub(r"block\.\d+", "block.N", entry.theirs)
        for entry in expand(TABLES["hugging_face"], axes)
    }
    seen = 0
    for entry in key_map["entries"]:
        if "copied" in entry["megatron"] or "inv_freq" in entry["megatron"]:
            continue
        stacks = ["encoder", "decoder"] if entry["stacks"] == "both" else [entry["stacks"]]
        for stack in stacks:
            name, other = entry["megatron"], entry["hf"].split(" ")[0]
            if entry["scope"] == "model":
                name = name.removeprefix("model.").replace(".", "/")
            elif entry["scope"] == "layer":
                name = f"language_model/{stack}/layers.N.{name}"
                other = f"{stack}.block.N.{other}"
            else:
                name, other = f"language_model/{stack}/{name}", f"{stack}.{other}"
            assert cuts[name] == entry["tp_split_dim"], name
            assert other in hugging_face
            seen += 1
    assert seen == 38
