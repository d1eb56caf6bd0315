"""Recipes: one YAML file that says everything a run depends on."""

from caspi.recipe.loading import load_recipe, parse_recipe, show
from caspi.recipe.sections import Recipe

__all__ = ["Recipe", "load_recipe", "parse_recipe", "show"]
