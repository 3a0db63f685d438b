"""The mutants of broken/: small changes of the real templates, each of which a check must catch.

A file of broken/ holds a list of them:

    - name: a queue without a key
      stack: bus
      remove: [Resources.PricesQueue.Properties.KmsMasterKeyId]
      caught_by: queues_are_encrypted

`change` gives values that are there another one, `add` puts some where nothing is, `remove` takes some away, `text` replaces
one part of the file by another, `padding` adds a comment of so many bytes, `lines` so many lines. A part of a path is a key, the number of an
element of a list, or `[Key=Value]`, the element of which that is true. `caught_by` names every check that fails: tests that
take `stacks` and nothing else, guard rules, or cfn-lint, which is only asked about the mutants that name it.
"""

import importlib
import inspect
import pathlib

import yaml

from stacks import templates

FOLDER = pathlib.Path(__file__).parent / "broken"


def load():
    """All mutants, each with the name of its file."""
    mutants = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for mutant in yaml.load(path.read_text(), templates.Loader) or []:
            caught_by = mutant["caught_by"]
            mutant["caught_by"] = {caught_by} if isinstance(caught_by, str) else set(caught_by)
            mutants.append({**mutant, "file": path.name})
    return mutants


def _step(node, part):
    if isinstance(node, list):
        if part.startswith("["):
            key, _, value = part[1:-1].partition("=")
            found = [index for index, one in enumerate(node) if isinstance(one, dict) and str(one.get(key)) == value]
            assert len(found) == 1, f"{len(found)} elements are {part}"
            return found[0]
        return int(part)
    return part


def _parts(path):
    """`A.[Key=a.b].C` → A, [Key=a.b], C"""
    parts, depth = [""], 0
    for letter in path:
        depth += (letter == "[") - (letter == "]")
        if letter == "." and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _parent(template, path):
    *parts, last = _parts(path)
    for part in parts:
        template = template[_step(template, part)]
    return template, _step(template, last)


def _is_there(node, key):
    return 0 <= key < len(node) if isinstance(node, list) else key in node


def mutate(stacks, mutant):
    """The stacks with a mutant in place of one template. A mutant that changes nothing is an error."""
    stack = mutant["stack"]
    if "text" in mutant:
        before, after = mutant["text"]
        assert stacks.texts[stack].count(before) >= 1, f"{before!r} is not in the template"
        return stacks.rewritten(stack, stacks.texts[stack].replace(before, after, 1))
    if "lines" in mutant:
        return stacks.rewritten(stack, stacks.texts[stack] + "#\n" * mutant["lines"])
    if "padding" in mutant:
        return stacks.rewritten(stack, stacks.texts[stack] + "# " + "." * mutant["padding"] + "\n")

    def change(template):
        for path, value in mutant.get("change", {}).items():
            node, key = _parent(template, path)
            assert _is_there(node, key), f"{path} is not there"
            assert node[key] != value, f"{path} is that already"
            node[key] = value
        for path, value in mutant.get("add", {}).items():
            node, key = _parent(template, path)
            if isinstance(node, list):
                assert key == len(node), f"{path} is not the end of the list"
                node.append(value)
            else:
                assert key not in node, f"{path} is there"
                node[key] = value
        for path in mutant.get("remove", []):
            node, key = _parent(template, path)
            assert _is_there(node, key), f"{path} is not there"
            del node[key]

    return stacks.changed(stack, change)


def checks(file=None):
    """Every test of this folder that looks at the stacks and nothing else. Those of a module that takes its time are asked
    about the mutants of some files only: `MUTANTS = {"iam.yaml"}` in it says which."""
    found = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        if file is not None and file not in getattr(module, "MUTANTS", {file}):
            continue
        for name, function in vars(module).items():
            if name.startswith("test_") and inspect.isfunction(function) and function.__module__ == path.stem:
                if list(inspect.signature(function).parameters) == ["stacks"]:
                    assert name not in found, f"two tests have the name {name}"
                    found[name] = function
    return found
