"""Reading a recipe: YAML or a dict, with overrides, into a `Resolved` recipe that knows its sources.

Enters: a file or a mapping, and `path=value` overrides. Leaves: a `Resolved`, which holds the
recipe, the folder its paths are relative to, and for each value where it came from. All faults are
raised together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from luthier.errors import Fault, RecipeError
from luthier.recipe.sections import Recipe
from luthier.registry import METHOD_OPTIONS, RETENTION_OPTIONS, REWARD_OPTIONS, STAGE_OPTIONS, TASK_OPTIONS, nearest


@dataclass(frozen=True)
class Resolved:
    """A recipe with the origin of its values.

    `sources` maps dotted paths to `file`, `flag`, or what a value was inferred from; a path that is
    absent has its default. `inferred` holds the values that replace `auto`.
    """

    recipe: Recipe
    folder: Path
    name: str
    sources: dict[str, str] = field(default_factory=dict)
    inferred: dict[str, Any] = field(default_factory=dict)

    def values(self) -> list[tuple[str, Any, str]]:
        """(path, value, source) of every value, inferred ones in place of `auto`."""
        found = []
        for path, value in leaves(self.recipe.model_dump(mode="json")).items():
            above = next((s for p, s in self.sources.items() if path.startswith(f"{p}.")), "default")
            found.append((path, self.inferred.get(path, value), self.sources.get(path, above)))
        return found

    def infer(self, path: str, value: Any, because: str) -> None:
        """Record what an `auto` became and why."""
        self.inferred[path] = value
        self.sources[path] = f"inferred: {because}"


def load_recipe(source: str | Path | Mapping[str, Any] | Recipe, *, overrides: Sequence[str] = ()) -> Resolved:
    """Read and check a recipe.

    `overrides` are `section.key=value` with YAML values. Raises RecipeError with every fault.
    """
    if isinstance(source, Recipe):
        raw, folder, name, origin = source.model_dump(mode="json", exclude_unset=True), Path.cwd(), "recipe", "python"
    elif isinstance(source, Mapping):
        raw, folder, name, origin = _copy(source), Path.cwd(), "recipe", "python"
    else:
        raw, folder, name, origin = _read(Path(source)), Path(source).resolve().parent, Path(source).stem, "file"
    sources = dict.fromkeys(leaves(raw), origin)
    faults: list[Fault] = []
    for text in overrides:
        try:
            path, value = _override(text)
            changed = _put(raw, path, value)
        except ValueError as error:
            faults.append(Fault(str(error), "--set", "write --set section.key=value; in a list section.0.key=value"))
            continue
        sources = {k: v for k, v in sources.items() if not k.startswith(f"{changed}.")}
        sources.update(dict.fromkeys([changed] if changed != path else leaves({path: value}), "flag"))
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError([*faults, *_faults(error, raw)]) from None
    if faults:
        raise RecipeError(faults)
    return Resolved(recipe, folder, recipe.output.name or name, sources)


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every value written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value, for everything that is not a non-empty mapping."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found.update(leaves(value, f"{path}."))
        else:
            found[path] = value
    return found


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) for key, value in tree.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _copy(value)
    return [_copied(v) for v in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice and reads 3e-4 as a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
        seen[key] = 1
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_FLOAT = __import__("re").compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else None
        raise RecipeError([Fault("no such recipe", str(path), f"did you mean {path.parent / near}?" if near else None)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([Fault(f"cannot be read: {error}", str(path), "a recipe is a UTF-8 YAML file")]) from None
    raw = parse_yaml(text, where=str(path))
    if not isinstance(raw, dict):
        raise RecipeError([Fault("a recipe is a mapping of sections", str(path), "start with `data:`")])
    return raw


def parse_yaml(text: str, *, where: str) -> Any:
    """YAML as recipes have it: plain values, no key twice, 3e-4 a number. Raises RecipeError with the line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise RecipeError([Fault(f"not YAML: {error.problem}", f"{where}:{line}")]) from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        remedy = "put texts with braces or odd dates in quotes"
        raise RecipeError([Fault(f"not YAML: {str(error).splitlines()[0]}", where, remedy)]) from None


def _override(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ValueError(f"{text!r} is not of the form section.key=value")
    try:
        return path.strip(), yaml.load(value, _Loader)  # noqa: S506  (a SafeLoader)
    except (yaml.YAMLError, ValueError, TypeError):
        return path.strip(), value


SHORT = {"model": "name", "data": "train", "task": "type", "method": "type", "retention": "type", "mend": "type"}
"""What the short form of a section, a bare name, stands for."""


def _put(tree: dict[str, Any], path: str, value: Any) -> str:
    """Set a dotted path, in lists by number, turning short forms such as `model: name` into sections; the path whose value is another now.

    Raises ValueError for a place that a list has not.
    """
    keys = path.split(".")
    node: Any = tree
    for depth, key in enumerate(keys):
        if isinstance(node, list):
            return _put_in_list(node, keys, depth, value)
        if depth == len(keys) - 1:
            node[key] = value
            break
        child = node.get(key)
        if isinstance(child, str):
            child = {SHORT.get(key, key): child}
        node[key] = node = child if isinstance(child, (dict, list)) else {}
    return path


def _put_in_list(items: list[Any], keys: Sequence[str], depth: int, value: Any) -> str:
    whole, rest = ".".join(keys[:depth]), ".".join(keys[depth + 1 :])
    place = int(keys[depth]) if keys[depth].isdecimal() else len(items)
    if place >= len(items):
        raise ValueError(f"{whole} is a list with the places {', '.join(map(str, range(len(items)))) or 'none'}, not {keys[depth]!r}")
    if not rest:
        items[place] = value
    elif isinstance(items[place], (dict, str)):
        items[place] = {"type": items[place]} if isinstance(items[place], str) else items[place]
        _put(items[place], rest, value)
    else:
        raise ValueError(f"{whole}.{place} is no section, so that it has no {rest}")
    return whole


def _faults(error: ValidationError, raw: Mapping[str, Any]) -> list[Fault]:
    """Each pydantic complaint as a fault with its dotted path and a remedy; unions said once."""
    found: dict[str, Fault] = {}
    remedy: str | None
    chosen = _chosen(raw)
    for item in error.errors():
        path, remedy = _path(item["loc"], chosen), None
        if item["type"] == "extra_forbidden":
            *parents, key = path.split(".")
            known = _fields(parents, chosen)
            guess = nearest(key, known)
            remedy = f"did you mean {'.'.join([*parents, guess])}?" if guess else f"known here: {', '.join(known)}"
            fault = Fault(f"unknown key {key!r}", path, remedy)
        elif item["type"] == "missing":
            fault = Fault("is missing", path, f"add {path}")
        else:
            message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
            remedy = _description(path.split("."), chosen)
            fault = Fault(f"{message} (got {item['input']!r})"[:300], path or "recipe", remedy)
        earlier = found.get(path)
        if earlier is None:
            found[path] = fault
        elif earlier.message != fault.message:
            found[path] = Fault(f"{earlier.message.rsplit(' (got', 1)[0]}, or {fault.message}", path, fault.remedy)
    return list(found.values())


Chosen = Mapping[str, type[BaseModel]]
"""The options classes that stand under `task`, `method` and `retention`, and under `task.rewards.0`, `data.clean.0` and so on."""


def _chosen(raw: Mapping[str, Any]) -> Chosen:
    """The options of task, method and retention that a recipe names; of the default ones where it names none."""
    found = {}
    for key, known, default in (
        ("task", TASK_OPTIONS, "classification"),
        ("method", METHOD_OPTIONS, "full"),
        ("retention", RETENTION_OPTIONS, "none"),
    ):
        section = raw.get(key)
        name = section.get("type") if isinstance(section, Mapping) else section
        found[key] = known.load(name if isinstance(name, str) and name in known.names() else default)
    task = raw.get("task")
    rewards = task.get("rewards") if isinstance(task, Mapping) else None
    for i, reward in enumerate(rewards if isinstance(rewards, list) else [rewards]):
        name = reward.get("type") if isinstance(reward, Mapping) else reward
        if isinstance(name, str) and name in REWARD_OPTIONS.names():
            found[f"task.rewards.{i}"] = REWARD_OPTIONS.load(name)
    data = raw.get("data")
    stages = data.get("clean") if isinstance(data, Mapping) else None
    for i, stage in enumerate(stages if isinstance(stages, list) else []):
        name = stage.get("type") if isinstance(stage, Mapping) else stage
        if isinstance(name, str) and name in STAGE_OPTIONS.names():
            found[f"data.clean.{i}"] = STAGE_OPTIONS.load(name)
    return found


def _path(location: Sequence[Any], chosen: Chosen) -> str:
    """The dotted path of a pydantic location, without the names of union members and validators."""
    path: list[str] = []
    for part in map(str, location):
        if part in _fields(path, chosen) or not _is_tag(part):
            path.append(part)
    return ".".join(path)


def _is_tag(part: str) -> bool:
    return any(c in part for c in "[(-") or part in ("int", "float", "str", "bool", "auto", "constrained-int", "constrained-float")


def _model_at(path: Sequence[str], chosen: Chosen) -> type[BaseModel] | None:
    """The section class at a dotted path."""
    current: Any = Recipe
    for depth, part in enumerate(path, 1):
        here = ".".join(path[:depth])
        if here in chosen and part.isdecimal():
            current = chosen[here]
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            return None
        found = current.model_fields[part].annotation
        inner = [a for a in get_args(found) if isinstance(a, type) and issubclass(a, BaseModel)]
        current = chosen[here] if here in chosen else inner[0] if inner else found
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _fields(path: Sequence[str], chosen: Chosen) -> list[str]:
    model = _model_at(path, chosen)
    return list(model.model_fields) if model else []


def _description(path: Sequence[str], chosen: Chosen) -> str | None:
    model = _model_at(path[:-1], chosen)
    if model is None or path[-1] not in model.model_fields:
        return None
    return model.model_fields[path[-1]].description
