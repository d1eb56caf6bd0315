"""From YAML and `--set` to a Recipe, with messages that a person can act on."""

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from caspi.errors import RecipeError
from caspi.recipe.augmentation import Augmentation
from caspi.recipe.sections import Recipe
from caspi.recipe.sources import Source


def load_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `key.path=value` overrides, check the whole, and make its paths absolute.

    Raises:
        RecipeError: the file is not there or not YAML, or a key, value or combination is wrong.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: no recipe to read here ({error.strerror}); expected a YAML file") from error
    try:
        values = yaml.safe_load(content)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys such as `data:` and `training:`, found {type(values).__name__}")
    values.setdefault("name", path.stem)
    for override in overrides:
        _apply(values, override)
    return parse_recipe(values, base=path.absolute().parent)


def parse_recipe(values: Mapping[str, Any], *, base: Path | None = None) -> Recipe:
    """Check a recipe's values. Relative source paths and model folders are taken from `base`, if given.

    Raises:
        RecipeError: one line for each wrong key or value, with its dotted name.
    """
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(problem) for problem in _roots(error.errors()))) from error
    return recipe if base is None else _with_absolute_paths(recipe, base)


def show(recipe: Recipe) -> str:
    """The resolved whole as YAML: what `caspi recipe show` prints and MLflow keeps. It loads as a recipe again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _apply(values: dict[str, Any], override: str) -> None:
    """Set `a.b=c` in nested dictionaries; `a.0.b=c` reaches into lists. The value is read as YAML."""
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise RecipeError(f"--set {override}: expected key.path=value, for instance --set training.epochs=1")
    *parents, last = key.strip().split(".")
    place: Any = values
    for parent in parents:
        if isinstance(place, list):
            place = _item(place, parent, override)
        else:
            if place.get(parent) is None:
                place[parent] = {}
            place = place[parent]
        if not isinstance(place, dict | list):
            raise RecipeError(f"--set {override}: {parent} is a value, not a section")
    parsed = yaml.safe_load(value)
    if isinstance(parsed, str):
        # YAML 1.1 takes 2e-4 for a word, since it lacks a dot; people write learning rates that way.
        with contextlib.suppress(ValueError):
            parsed = float(parsed)
    if isinstance(place, list):
        _item(place, last, override)
        place[int(last)] = parsed
    else:
        place[last] = parsed


def _item(place: list[Any], index: str, override: str) -> Any:
    if not index.isdigit() or int(index) >= len(place):
        raise RecipeError(f"--set {override}: {index} is not an item of a list of {len(place)}")
    return place[int(index)]


def _roots(problems: Sequence[Any]) -> list[Any]:
    """Without complaints about a list that only follow from those about its items."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem, place in zip(problems, places, strict=True)
        if not any(other[: len(place)] == place and len(other) > len(place) for other in places)
    ]


def _explain(problem: Any) -> str:
    """`training.batches.max_mikro_batch_s: unknown; did you mean max_micro_batch_s?`"""
    place = [part for part in problem["loc"] if part not in _SOURCE_KINDS]
    dotted = ".".join(str(part) for part in place) or "recipe"
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = _known_keys(problem["loc"][:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        return f"{dotted}: unknown; " + (f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}")
    if kind == "missing":
        return f"{dotted}: missing; every recipe needs it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        found = problem.get("ctx", {}).get("tag")
        near = difflib.get_close_matches(str(found), _SOURCE_KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{dotted}.kind: {found or 'missing'}; expected one of {', '.join(_SOURCE_KINDS)}{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f"{dotted}: {message}" if dotted != "recipe" else message
    return f"{dotted}: found {problem['input']!r}; {message[0].lower()}{message[1:]}"


# `Source` is Annotated[A | B | ..., discriminator], and each of them says its kind as a Literal of one word.
_SOURCE_KINDS = tuple(get_args(model.model_fields["kind"].annotation)[0] for model in get_args(get_args(Source)[0]))


def _known_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at `location`, by walking the models."""
    model: Any = Recipe
    for part in location:
        if isinstance(part, int):
            continue
        if part in _SOURCE_KINDS:
            model = next(kind for kind in model if get_args(kind.model_fields["kind"].annotation) == (part,))
            continue
        annotation = model.model_fields[part].annotation
        models = list(_models_in(annotation))
        model = models[0] if len(models) == 1 else models
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _with_absolute_paths(recipe: Recipe, base: Path) -> Recipe:
    """Paths in a recipe are relative to the recipe's own folder, wherever the command is run."""
    data = recipe.data.model_copy(update={"sources": _sources_from(recipe.data.sources, base)})
    if data.evaluation_sets:
        sets = data.evaluation_sets
        sets = sets.model_copy(update={"sources": _sources_from(sets.sources, base)})
        data = data.model_copy(update={"evaluation_sets": sets})
    if data.meaning:
        meaning = data.meaning.model_copy(update={"model": _model_from(data.meaning.model, base)})
        data = data.model_copy(update={"meaning": meaning})
    model = recipe.model
    if model.init != "toy":
        model = model.model_copy(update={"init": _model_from(model.init, base)})
    training = recipe.training.model_copy(
        update={"augmentation": _augmentation_from(recipe.training.augmentation, base)}
    )
    return recipe.model_copy(update={"data": data, "model": model, "training": training})


def _model_from(name: str, base: Path) -> str:
    """An absolute folder, beside the recipe or, as with `--set model.init=RUN/model`, from where the command runs.

    What is no folder in either place is a Hub id or a URI, and stays as it is.
    """
    folders = [place.absolute() for place in (base / name, Path(name)) if place.is_dir()]
    return str(folders[0]) if folders else name


def _augmentation_from(augmentation: Augmentation, base: Path) -> Augmentation:
    noise, reverberation = augmentation.noise, augmentation.reverberation
    return augmentation.model_copy(
        update={
            "noise": noise.model_copy(update={"recordings": _path_from(noise.recordings, base)}),
            "reverberation": reverberation.model_copy(update={"rooms": _path_from(reverberation.rooms, base)}),
        }
    )


def _path_from(path: str | None, base: Path) -> str | None:
    """An absolute path, or the URL that it is."""
    return path if path is None or "://" in path else str(base / path)


def _sources_from(sources: tuple[Source, ...], base: Path) -> tuple[Source, ...]:
    """Sources whose paths are absolute, or URLs."""

    def absolute(source: Source) -> Source:
        paths = {field: getattr(source, field) for field in source.path_fields}
        return source.model_copy(update={field: _path_from(path, base) for field, path in paths.items()})

    return tuple(absolute(source) for source in sources)
