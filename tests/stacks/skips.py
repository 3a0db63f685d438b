"""What public rules have against the templates and is not done: files of rules, each with a reason and the resources."""

import yaml


def problems(found, path):
    """Lines about findings (triples of rule, resource and text) that the file does not skip, and about skips without a
    reason or a finding. A skip without `resources` is for all."""
    skipped = yaml.safe_load(path.read_text()) or {}
    needed, lines = set(), set()
    for rule, resource, text in found:
        skip = skipped.get(rule)
        if skip is not None and "resources" not in skip:
            needed.add((rule, None))
        elif skip is not None and resource in skip["resources"]:
            needed.add((rule, resource))
        else:
            lines.add(f"{rule} {resource}: {text}")
    for rule, skip in skipped.items():
        if not skip.get("reason"):
            lines.add(f"{rule} is skipped without a reason")
        for resource in skip.get("resources", [None]):
            if (rule, resource) not in needed:
                lines.add(f"{rule} is skipped{f' for {resource}' if resource else ''}, and need not be")
    return sorted(lines)
